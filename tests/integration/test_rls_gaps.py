"""What clients see in RLS mode when PostgreSQL or its slot goes away: as in STREAM mode.

The source is the same and has tests of its own; here it is whether everybody is told, and
whether the check asks the server that the changes come from.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import attrs
import pytest
from psycopg.conninfo import make_conninfo

from realtime_core import PgoutputSource, Wal2JsonSource
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, unique_name
from tests.fix_rls import Stream
from tests.integration.conftest import fresh_database, until_streaming
from tests.integration.rls_stage import OWN, rls_config
from tests.integration.test_source_failover import pair_of_servers
from tests.integration.test_stream_gaps import break_stream, holder, id_of, kill_walsenders
from tests.proxy import Proxy
from tests.rls_helpers import roles
from tests.server_helpers import PhoenixClient, open_client
from tests.tokens import make_token
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.every_plugin]

TOPIC = "realtime:public:item"


@attrs.frozen
class Shop:
    """A database with a table by owner, and how it is read."""

    database: Database
    reader: str
    plugin: str
    slot: str = attrs.field(factory=lambda: unique_name("slot"))

    @contextlib.asynccontextmanager
    async def serving(self, **settings: str) -> AsyncIterator[int]:
        ours = {"OUTPUT_PLUGIN": self.plugin, "DB_RECONNECT_BACKOFF_MAX": "100", **settings}
        async with RealtimeServer(rls_config(self.database.dsn, **ours)) as server:
            await until_streaming(self.database)
            yield server.port

    def insert(self, *ids: int, owner: str = "ann") -> None:
        rows = ", ".join(f"({one}, '{owner}')" for one in ids)
        self.database.execute(f"insert into item values {rows}")


SET_UP = f"""
    create table item (id int8 primary key, owner text);
    alter table item enable row level security;
    create policy own on item using ({OWN});
"""


@pytest.fixture
def shop(stream: Stream) -> Iterator[Shop]:
    with roles(stream.server, "reader") as (reader,), fresh_database(stream.server) as database:
        database.execute(f"{SET_UP} grant select on item to {reader};")
        database.execute("create publication shop for table item")
        yield Shop(database, reader, stream.plugin)


@contextlib.asynccontextmanager
async def sitting(
    port: int, reader: str, sub: str = "ann", *topics: str
) -> AsyncIterator[PhoenixClient]:
    """Have a client of somebody who has joined topics."""
    token = make_token({"role": reader, "sub": sub})
    async with open_client(port, query=f"apikey={token}") as client:
        for topic in topics or (TOPIC,):
            await client.send(topic, "phx_join", {"user_token": token}, ref="1")
            assert (await client.receive())["payload"]["status"] == "ok"
        yield client


async def until_gap(client: PhoenixClient) -> Any:
    """Return the reason of the next gap; only changes may come before it."""
    while (frame := await client.receive())["event"] != "system":
        pass
    return frame["payload"]["gap"]["reason"]


async def test_a_walsender_that_is_terminated_loses_and_repeats_nothing(shop: Shop) -> None:
    async with (
        shop.serving(SLOT_NAME=shop.slot) as port,
        sitting(port, shop.reader) as client,
    ):
        got: list[int] = []

        async def collect() -> None:
            while True:
                got.append(id_of(await client.receive()))

        collecting = asyncio.create_task(collect())
        written = 0
        for _ in range(5):
            before = holder(shop.database)
            for _ in range(20):
                shop.insert(*range(written, written + 5))
                written += 5
            kill_walsenders(shop.database)
            await eventually(lambda: holder(shop.database) not in ([], before))  # noqa: B023
        await eventually(lambda: len(got) >= written)
        collecting.cancel()
        assert got == list(range(written))


async def test_a_dropped_slot_is_told_to_everybody(shop: Shop) -> None:
    async with (
        shop.serving(SLOT_NAME=shop.slot) as port,
        sitting(port, shop.reader, "ann", TOPIC, "realtime:*", f"{TOPIC}:id=eq.7") as ann,
        sitting(port, shop.reader, "bob", "realtime:elsewhere") as bob,
    ):
        # The connection is opened before the server's event loop can run again.
        shop.database.execute(
            f"""
            do $$
            begin
                perform pg_terminate_backend(active_pid, 10000) from pg_replication_slots
                    where slot_name = '{shop.slot}';
                perform pg_drop_replication_slot('{shop.slot}');
            end $$
            """
        )
        assert [await until_gap(ann) for _ in range(3)] == ["slot_missing"] * 3
        assert await until_gap(bob) == "slot_missing"
        shop.insert(1)
        assert [id_of(await ann.receive()), id_of(await ann.receive())] == [1, 1]


async def test_an_invalidated_slot_is_made_anew_where_that_is_allowed(shop: Shop) -> None:
    """MAX_REPLICATION_LAG_MB allows it."""
    database = shop.database
    async with (
        shop.serving(SLOT_NAME=shop.slot, MAX_REPLICATION_LAG_MB="1000") as port,
        sitting(port, shop.reader) as client,
    ):
        shop.insert(1)
        assert id_of(await client.receive()) == 1
        with database.server.setting("max_slot_wal_keep_size", "1MB"):
            status = f"select wal_status from pg_replication_slots where slot_name = '{shop.slot}'"
            # In one go, while the server's event loop waits.
            with database.connect() as connection:
                for _ in range(20):
                    connection.execute(
                        "select pg_switch_wal(), pg_logical_emit_message(true, '', '')"
                    )
                    connection.execute("checkpoint")
                    row = connection.execute(status).fetchone()
                    if row is None or row[0] == "lost":
                        break
        assert await until_gap(client) in ("wal_removed", "slot_invalidated")
        shop.insert(2)
        assert id_of(await client.receive()) == 2


async def test_a_slot_beyond_the_bound_is_made_anew_and_told(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in (PgoutputSource, Wal2JsonSource):
        monkeypatch.setattr(
            f"realtime_server.config.database.source.{source.__name__}",
            partial(source, lag_interval=0.1),
        )
    settings = {"SLOT_NAME": shop.slot, "MAX_REPLICATION_LAG_MB": "2"}
    async with shop.serving(**settings) as port, sitting(port, shop.reader) as client:
        shop.insert(1)
        assert id_of(await client.receive()) == 1
        # A server that does not keep up: it acknowledges nothing.
        with monkeypatch.context() as stuck:
            for source in (PgoutputSource, Wal2JsonSource):
                stuck.setattr(source, "ack", lambda self, upto: None)
            shop.insert(2)
            assert id_of(await client.receive()) == 2
            shop.database.execute(
                "select pg_logical_emit_message(false, 'x', repeat('x', 1000000))"
                " from generate_series(1, 4)"
            )
            assert await until_gap(client) == "lag"
        shop.insert(3)
        assert id_of(await client.receive()) == 3


async def test_a_restart_of_postgresql_with_a_temporary_slot_is_a_gap(shop: Shop) -> None:
    async with shop.serving() as port, sitting(port, shop.reader) as client:
        await break_stream(shop.database)
        assert await until_gap(client) == "temporary_slot"
        shop.database.server.restart("immediate")
        assert await until_gap(client) == "temporary_slot"
        shop.insert(1)
        assert id_of(await client.receive()) == 1


@pytest.mark.pg17
async def test_when_a_standby_takes_over_it_is_asked_who_may_see_a_row() -> None:
    """Connections to the former primary may be open still, which knows nothing of the new rows."""
    slot = unique_name("slot")
    with pair_of_servers(synchronized=False) as pair:
        pair.database.execute(
            f"drop table item; {SET_UP} create role reader; grant select on item to reader"
        )
        pair.database.execute("alter publication shop set table item")
        async with Proxy() as proxy:
            dsn = make_conninfo(proxy.lead_to(pair.database.dsn), sslmode="disable")
            config = rls_config(dsn, SLOT_NAME=slot, DB_RECONNECT_BACKOFF_MAX="100")
            async with RealtimeServer(config) as server:
                await eventually(lambda: server.is_attached)
                async with (
                    sitting(server.port, "reader") as ann,
                    sitting(server.port, "reader", "bob") as bob,
                ):
                    pair.database.execute("insert into item values (1, 'ann')")
                    assert id_of(await ann.receive()) == 1
                    await eventually(pair.caught_up)
                    pair.promote()
                    proxy.lead_to(pair.on_standby.dsn)
                    # Only the stream breaks.
                    pair.database.execute(
                        "select pg_terminate_backend(active_pid) from pg_replication_slots"
                        f" where slot_name = '{slot}'"
                    )
                    assert await until_gap(ann) == "slot_missing"
                    assert await until_gap(bob) == "slot_missing"
                    pair.on_standby.execute("insert into item values (2, 'ann'), (3, 'bob')")
                    assert id_of(await ann.receive()) == 2
                    assert id_of(await bob.receive()) == 3
