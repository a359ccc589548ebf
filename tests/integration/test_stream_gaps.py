"""What clients see of a lost connection to PostgreSQL: a gap said, or nothing at all.

"Gaps are said" in the architecture; section 8 of the specification for slots.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from realtime_core import Insert, PgoutputSource, Position
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, unique_name
from tests.integration.conftest import until_streaming
from tests.server_helpers import DEADLINE, PhoenixClient, dev_config, open_client
from tests.waiting import eventually, eventually_sync

pytestmark = pytest.mark.integration


@pytest.fixture
def shop(database: Database) -> Database:
    database.execute("create table item (id int8 primary key)")
    database.execute("create publication shop for table item")
    return database


@contextlib.asynccontextmanager
async def serving(database: Database, **settings: str) -> AsyncIterator[int]:
    """Serve a database; give the port."""
    async with RealtimeServer(dev_config(database.dsn, **settings)) as server:
        await until_streaming(database)
        yield server.port


HOLDER = "select active_pid from pg_replication_slots where database = current_database()"


def holder(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(f"{HOLDER} and active")


def kill_walsenders(database: Database) -> None:
    database.execute(f"select pg_terminate_backend(pid) from ({HOLDER}) as slots (pid)")


async def break_stream(database: Database) -> None:
    """Kill the walsender; return when another one streams."""
    before = holder(database)
    assert before
    kill_walsenders(database)
    await eventually(lambda: holder(database) not in ([], before))
    await until_streaming(database)


def insert(database: Database, *ids: int) -> None:
    database.execute("insert into item values " + ", ".join(f"({number})" for number in ids))


def id_of(frame: Any) -> int:
    return int(frame["payload"]["record"]["id"])


async def receive_id(client: PhoenixClient) -> int:
    return id_of(await client.receive())


class PositionText:
    """Equals the text of any position; remembers the one it met."""

    position: Position | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str) or "@" not in other:
            return False
        self.position = Position.parse(other)
        return True

    __hash__ = None  # type: ignore[assignment]


def gap(channel: str, after: object, until: object, reason: str) -> dict[str, Any]:
    return {
        "channel": channel,
        "extension": "postgres_changes",
        "status": "ok",
        "message": f"Gap: {reason}",
        "gap": {"after": after, "until": until, "reason": reason},
    }


async def test_a_temporary_slots_reconnect_is_told_to_every_channel(
    shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(shop))
        # Somebody else reads the same changes, and so knows their positions.
        witness = await stack.enter_async_context(
            PgoutputSource(shop.dsn, publications=["shop"], slot=unique_name("witness"))
        )
        v1 = await stack.enter_async_context(open_client(port, "1.0.0"))
        v2 = await stack.enter_async_context(open_client(port, "2.0.0"))
        await v1.join("realtime:public:item", "realtime:*")
        await v2.join("realtime:public:item:id=eq.1", "realtime:elsewhere")
        insert(shop, 1)
        async with asyncio.timeout(DEADLINE):
            change = await anext(witness)
        assert isinstance(change, Insert)
        assert [await receive_id(v1), await receive_id(v1)] == [1, 1]
        assert (await v2.receive())[2] == "realtime:public:item:id=eq.1"

        before = holder(shop)
        shop.execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots"
            " where database = current_database() and temporary"
        )
        until = PositionText()
        after = str(change.position)
        told = {
            topic: gap(topic.removeprefix("realtime:"), after, until, "temporary_slot")
            for topic in (
                "realtime:public:item",
                "realtime:*",
                "realtime:public:item:id=eq.1",
                "realtime:elsewhere",
            )
        }
        frames = [await v1.receive(), await v1.receive()]
        assert sorted(frames, key=lambda frame: frame["topic"]) == [
            {"topic": topic, "event": "system", "ref": None, "payload": told[topic]}
            for topic in ("realtime:*", "realtime:public:item")
        ]
        frames = [await v2.receive(), await v2.receive()]
        assert sorted(frames, key=lambda frame: str(frame[2])) == [
            [None, None, topic, "system", told[topic]]
            for topic in ("realtime:elsewhere", "realtime:public:item:id=eq.1")
        ]
        assert until.position is not None
        assert until.position > change.position
        assert "changes may be lost: temporary_slot" in caplog.text
        assert holder(shop) != before
        # Once each, and changes go on behind it.
        insert(shop, 2)
        assert [await receive_id(v1), await receive_id(v1)] == [2, 2]
        assert await v2.drain() == []


async def test_before_the_first_change_a_gap_begins_nowhere(shop: Database) -> None:
    async with serving(shop) as port, open_client(port) as client:
        await client.join("realtime:public:item")
        await break_stream(shop)
        assert await client.receive() == {
            "topic": "realtime:public:item",
            "event": "system",
            "ref": None,
            "payload": gap("public:item", None, PositionText(), "temporary_slot"),
        }
        insert(shop, 1)
        assert await receive_id(client) == 1


async def test_every_reconnect_of_a_temporary_slot_is_a_gap(shop: Database) -> None:
    slot = unique_name("named")
    async with (
        serving(shop, SLOT_NAME=slot.upper(), TEMPORARY_SLOT="true") as port,
        open_client(port) as client,
    ):
        await client.join("realtime:*")
        held = shop.execute("select slot_name, temporary from pg_replication_slots where active")
        assert (slot, True) in held
        for number in range(5):
            await break_stream(shop)
            assert (await client.receive())["event"] == "system"
            insert(shop, number)
            assert await receive_id(client) == number


async def test_with_a_permanent_slot_there_is_no_gap_and_nothing_is_lost_or_repeated(
    shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "realtime.source")
    slot = unique_name("permanent")
    async with (
        serving(shop, SLOT_NAME=slot) as port,
        open_client(port, "1.0.0") as v1,
        open_client(port, "2.0.0") as v2,
    ):
        await v1.join("realtime:public:item")
        await v2.join("realtime:public:item")
        done = asyncio.Event()
        written = 0
        received = [0]

        def may_write() -> bool:
            # Always some rows on the way, and not more than can soon be read.
            return 2 * written - received[0] < 500 or done.is_set()

        def write() -> int:
            nonlocal written
            with shop.connect() as connection:
                while not done.is_set():
                    eventually_sync(may_write)
                    connection.execute(
                        "insert into item select generate_series(%s::int8, %s::int8)",
                        (written, written + 9),
                    )
                    written += 10
            return written

        async def collect(client: PhoenixClient) -> list[Any]:
            frames: list[Any] = []
            while not (done.is_set() and len(frames) >= written and writing.done()):
                frames.append(await client.receive())
                received[0] += 1
            return frames

        writing = asyncio.create_task(asyncio.to_thread(write))
        collecting = [asyncio.create_task(collect(client)) for client in (v1, v2)]
        for _ in range(8):
            before, arrived = holder(shop), received[0]
            kill_walsenders(shop)
            await eventually(lambda: holder(shop) not in ([], before))  # noqa: B023
            await eventually(lambda: received[0] > arrived)  # noqa: B023
        done.set()
        rows = await writing
        # One more, that nobody waits for the last one in vain.
        insert(shop, rows)
        first, second = await asyncio.gather(*collecting)
    expected = list(range(rows))
    assert [id_of(frame) for frame in first][:rows] == expected
    assert [int(frame[4]["record"]["id"]) for frame in second][:rows] == expected
    assert {frame["event"] for frame in first} == {"INSERT"}
    assert "stream interrupted" in caplog.text


async def test_a_crash_of_postgresql_is_survived_with_a_permanent_slot(
    shop: Database,
) -> None:
    async with (
        serving(shop, SLOT_NAME=unique_name("permanent")) as port,
        open_client(port) as client,
    ):
        await client.join("realtime:public:item")
        insert(shop, 1)
        assert await receive_id(client) == 1
        # As in a crash: a shutdown in good order would wait for the server, whose event
        # loop waits here. In this thread: PostgreSQL ends with the one that starts it.
        shop.server.restart("immediate")
        insert(shop, 2)
        assert await receive_id(client) == 2
        assert await client.drain() == []


async def test_a_permanent_slot_that_somebody_dropped_is_a_gap(shop: Database) -> None:
    slot = unique_name("permanent")
    # The server reads messages of its own otherwise, and so the gap would begin behind one.
    settings = {"SLOT_NAME": slot, "REPLAY_WAL_MB": "0"}
    async with serving(shop, **settings) as port, open_client(port, "2.0.0") as client:
        await client.join("realtime:public:item")
        drop_slot = f"""
            do $$
            begin
                perform pg_terminate_backend(active_pid) from pg_replication_slots
                    where slot_name = '{slot}';
                for attempt in 1..1000 loop
                    begin
                        perform pg_drop_replication_slot('{slot}');
                        return;
                    exception when object_in_use then perform pg_sleep(0.01);
                    end;
                end loop;
            end $$
        """
        # The connection is opened before the server's event loop can run again.
        shop.execute(drop_slot)
        assert await client.receive() == [
            None,
            None,
            "realtime:public:item",
            "system",
            gap("public:item", None, PositionText(), "slot_missing"),
        ]
        insert(shop, 1)
        assert (await client.receive())[4]["record"] == {"id": "1"}


async def test_a_slot_beyond_the_bound_is_made_anew_while_running_and_told(
    shop: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    impatient = partial(PgoutputSource, lag_interval=0.1)
    monkeypatch.setattr("realtime_server.config.database.source.PgoutputSource", impatient)
    slot = unique_name("permanent")
    settings = {"SLOT_NAME": slot, "MAX_REPLICATION_LAG_MB": "2"}
    async with serving(shop, **settings) as port, open_client(port) as client:
        await client.join("realtime:public:item")
        insert(shop, 1)
        assert await receive_id(client) == 1
        # A server that does not keep up: it acknowledges nothing.
        with monkeypatch.context() as stuck:
            stuck.setattr(PgoutputSource, "ack", lambda self, upto: None)
            insert(shop, 2)
            assert await receive_id(client) == 2
            shop.execute(
                "create table bulk as select n, repeat('x', 100) from generate_series(1, 30000) n"
            )
            told = await client.receive()
        reason = {"reason": "lag", "after": PositionText(), "until": PositionText()}
        assert (told["event"], told["payload"]["gap"]) == ("system", reason)
        assert f"slot '{slot}' retains " in caplog.text
        insert(shop, 3)
        assert await receive_id(client) == 3


async def test_without_a_bound_no_slot_is_dropped(shop: Database) -> None:
    slot = unique_name("permanent")
    shop.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    insert(shop, 1)
    shop.execute("create table bulk as select n, repeat('x', 100) from generate_series(1, 30000) n")
    async with serving(shop, SLOT_NAME=slot) as port, open_client(port) as client:
        await client.join("realtime:public:item")
        insert(shop, 2)
        frames = [await client.receive()]
        while id_of(frames[-1]) != 2:
            frames.append(await client.receive())
        assert {frame["event"] for frame in frames} == {"INSERT"}


async def test_a_permanent_slot_moves_when_changes_were_handed_out_and_is_kept(
    shop: Database,
) -> None:
    slot = unique_name("permanent")
    confirmed = "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots"
    async with serving(shop, SLOT_NAME=slot) as port, open_client(port) as client:
        await client.join("realtime:public:item")
        with shop.connect() as connection, connection.transaction():
            connection.execute("insert into item values (1)")
            # Behind the row and before the commit.
            query = "select pg_current_wal_insert_lsn()::text"
            ((target,),) = connection.execute(query).fetchall()
        assert await receive_id(client) == 1
        where = f"{confirmed} where slot_name = '{slot}'"
        await eventually(lambda: shop.execute(where, (target,)) == [(True,)], within=60)
    kept = shop.execute(
        "select slot_name, plugin, temporary, active from pg_replication_slots"
        " where database = current_database()"
    )
    assert kept == [(slot, "pgoutput", False, False)]


async def test_a_temporary_slot_has_a_name_of_its_own_and_goes_with_the_server(
    shop: Database,
) -> None:
    slots = "select slot_name from pg_replication_slots where database = current_database()"
    async with serving(shop), serving(shop):
        await eventually(lambda: len(shop.execute(slots)) == 2)
        names = [name for (name,) in shop.execute(slots)]
        assert all(re.fullmatch("realtime_[0-9a-f]{16}", name) for name in names)
    await eventually(lambda: shop.execute(slots) == [])


async def test_several_publications_with_odd_names_are_one_stream(shop: Database) -> None:
    shop.execute("create table other (id int8 primary key)")
    shop.execute("""create publication "it's, ""odd"" 漢" for table other""")
    async with (
        serving(shop, PUBLICATIONS='["shop", "it\'s, \\"odd\\" 漢"]') as port,
        open_client(port) as client,
    ):
        await client.join("realtime:*")
        insert(shop, 1)
        shop.execute("insert into other values (2)")
        assert [await receive_id(client), await receive_id(client)] == [1, 2]
