"""Clients come back to another server of those that share a log, or after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from realtime_core import Insert
from realtime_server.cluster import node, nodes
from realtime_server.cluster.connection import NatsConnection
from realtime_server.replay.journal import Journal
from realtime_server.replay.places import Place
from realtime_server.replay.records import PREFIX
from realtime_server.replay.replay import Replay
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.replay_client import ReplayClient
from tests.integration.rls_stage import OWN
from tests.nats_server import NatsServer
from tests.rls_helpers import roles
from tests.server_helpers import dev_config
from tests.server_process import ServerProcess
from tests.tokens import SECRET, make_token
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

SETTINGS = {
    "REPLAY_SECRET": "the same for all servers".ljust(32, "."),
    "REPLAY_PING_INTERVAL": "50",
    "PUBLICATIONS": '["shop"]',
}
SESSION = "8f14e45f-ceea-467f-a1d0-"


@pytest.fixture
def item(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int primary key, data text)")
        database.execute("create publication shop for table item")
        yield database


@pytest.fixture
def shared(new_nats: Callable[..., NatsServer]) -> dict[str, str]:
    return {"NATS_URL": new_nats().url, "SLOT_NAME": unique_name("cluster"), **SETTINGS}


@contextlib.asynccontextmanager
async def serve(item: Database, shared: dict[str, str]) -> AsyncIterator[RealtimeServer]:
    async with RealtimeServer(dev_config(item.dsn, **shared)) as server:
        await eventually(lambda: server.why_not_ready() is None)
        yield server


@contextlib.asynccontextmanager
async def process(item: Database, shared: dict[str, str]) -> AsyncIterator[ServerProcess]:
    server = ServerProcess(item.dsn, patience=60, **shared)
    await asyncio.to_thread(server.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


async def cut(client: ReplayClient, *servers: RealtimeServer) -> None:
    """Break a client's connection when it has proven what it has, and wait until all servers know
    that it is away: who is back before that may be taken for two."""
    await eventually(lambda: not any(parts(server).needs.without_proof() for server in servers))
    others = [journal_of(server) for server in servers] if len(servers) > 1 else []
    await eventually(lambda: not others or any(one.slots for one in others))
    await client.cut()
    await eventually(lambda: not any(one.slots for one in others))


def journal_of(server: RealtimeServer) -> Journal:
    journal = parts(server).needs.journal
    assert isinstance(journal, Journal)
    return journal


def parts(server: RealtimeServer) -> Replay:
    assert server.replay is not None
    return server.replay


async def told_low(journal: Journal, behind: Place) -> Place:
    """Wait until all servers can know that whoever is joined has everything up to a place, and that
    this place is behind another one; return it."""
    await eventually(
        lambda: (
            (journal.told_low() or (0, -1)) > behind
            and not any(True for _ in journal.told_open())
            and journal.is_heard
            and not journal.is_due
        )
    )
    low = journal.told_low()
    assert low is not None
    return low


async def write(item: Database, *ids: int) -> None:
    for one in ids:
        await asyncio.to_thread(item.execute, "insert into item values (%s, 'x')", (one,))


async def come_back(client: ReplayClient, port: int) -> bool:
    """Come to a server; return whether that goes on where the former one ended."""
    client.port = port
    return (await client.come())["resumed"] is True


async def test_a_client_goes_on_at_every_server(item: Database, nats: NatsServer) -> None:
    shared = {"NATS_URL": nats.url, "SLOT_NAME": unique_name("cluster"), **SETTINGS}
    client = ReplayClient(0, session=f"{SESSION}a")
    async with serve(item, shared) as one:
        assert not await come_back(client, one.port)
        async with serve(item, shared) as two:
            await write(item, 1)
            await client.until(1)
            for number, server in enumerate((two, one, two)):
                await cut(client, one, two)
                await write(item, 2 + 2 * number)
                assert await come_back(client, server.port)
                await write(item, 3 + 2 * number)
                await client.until(3 + 2 * number)
            await cut(client, one, two)
            await write(item, 8)
        await write(item, 9)
        # This one was not there when the rows came, and finds them in the log.
        async with serve(item, shared) as three:
            assert await come_back(client, three.port)
            await write(item, 10)
            await client.until(10)
            # A page that is loaded anew gets nothing old.
            fresh = ReplayClient(three.port, session=f"{SESSION}new")
            assert not await come_back(fresh, three.port)
            await write(item, 11)
            await fresh.until(11)
            assert fresh.ids == [11]
            await fresh.close()
            await client.until(11)
            await client.close()
    assert client.ids == list(range(1, 12))
    assert client.gaps == []


async def test_rows_that_nobody_wanted_are_there_for_who_comes_from_another_server(
    item: Database, shared: dict[str, str]
) -> None:
    item.execute("create table other (id int primary key)")
    item.execute("alter publication shop add table other")
    client = ReplayClient(0, session=f"{SESSION}a")
    binding = {"event": "*", "schema": "public", "table": "other"}
    witness = ReplayClient(0, session=f"{SESSION}b", binding=binding)
    async with serve(item, shared) as one, serve(item, shared) as two:
        assert not await come_back(client, one.port)
        assert not await come_back(witness, two.port)
        # The first row behind a description is read.
        await write(item, 1)
        await client.until(1)
        journal = journal_of(two)
        await eventually(lambda: journal.slots and not parts(one).needs.without_proof())
        await client.cut()
        await eventually(lambda: not journal.slots)
        for number in range(2, 6):
            await write(item, number)
            await asyncio.to_thread(item.execute, "insert into other values (%s)", (number,))
        await witness.until(5)
        log = parts(two).log
        kept, _ = log.read(log.floor, 1000)
        assert [change for change in kept if isinstance(change, Insert)]
        assert not [
            change
            for change in kept
            if isinstance(change, Insert)
            and change.relation.table == "item"
            and change.record["id"] != 1
        ]
        writing = asyncio.create_task(write(item, *range(6, 30)))
        assert await come_back(client, two.port)
        await client.until(29)
        await writing
        await cut(client, two)
        await eventually(lambda: len(parts(two).memberships.absences))
        await write(item, 30)
        assert await come_back(client, two.port)
        await client.until(30)
        for each in (client, witness):
            await each.close()
    assert (client.ids, client.gaps) == (list(range(1, 31)), [])
    assert (witness.ids, witness.gaps) == (list(range(2, 6)), [])


async def test_whoever_is_back_at_another_server_at_once_has_one_place(
    item: Database, shared: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """The former server learns of the lost connection when the client is elsewhere already."""
    client = ReplayClient(0, session=f"{SESSION}a")
    async with serve(item, shared) as one, serve(item, shared) as two:
        assert not await come_back(client, one.port)
        # A client that comes back before others have heard of it begins anew.
        await eventually(lambda: bool(journal_of(two).slots))
        for number, server in enumerate((two, one, two, one), 1):
            await write(item, number)
            await client.until(number)
            await eventually(
                lambda: not any(parts(each).needs.without_proof() for each in (one, two))
            )
            await client.cut()
            assert await come_back(client, server.port)
            away = [parts(each).memberships.absences for each in (one, two)]
            await eventually(lambda away=away: not any(map(len, away)))  # type: ignore[misc]
        await client.close()
    assert client.gaps == []
    assert "several clients have the same session" not in caplog.text


async def test_who_comes_from_another_server_while_nats_is_away_gets_nothing_twice(
    item: Database, new_nats: Callable[..., NatsServer]
) -> None:
    nats = await asyncio.to_thread(new_nats)
    shared = {"NATS_URL": nats.url, "SLOT_NAME": unique_name("cluster"), **SETTINGS}
    client = ReplayClient(0, session=f"{SESSION}a")
    async with serve(item, shared) as one, serve(item, shared) as two:
        assert not await come_back(client, one.port)
        await eventually(lambda: bool(journal_of(two).slots))
        await write(item, 1)
        await client.until(1)
        await eventually(lambda: not parts(one).needs.without_proof())
        await asyncio.to_thread(nats.kill)
        await client.cut()
        coming = asyncio.create_task(come_back(client, two.port))
        await eventually(lambda: any(visit.standings for visit in parts(two).needs.visits))
        await asyncio.to_thread(nats.start)
        assert await coming
        await write(item, 2)
        await client.until(2)
        await client.close()
    assert (client.ids, client.gaps) == ([1, 2], [])


async def test_all_servers_may_stop_and_nats_start_again(
    item: Database, new_nats: Callable[..., NatsServer]
) -> None:
    nats = await asyncio.to_thread(new_nats)
    shared = {"NATS_URL": nats.url, "SLOT_NAME": unique_name("cluster"), **SETTINGS}
    client, away = (ReplayClient(0, session=f"{SESSION}{one}") for one in "ab")
    async with serve(item, shared) as server:
        for each in (client, away):
            assert not await come_back(each, server.port)
        await write(item, 1, 2)
        await client.until(2)
        await away.until(2)
        await cut(away, server)
        await write(item, 3)
        await client.until(3)
    with nats.down():
        await write(item, 4)
    for number in (5, 7):
        async with serve(item, shared) as server:
            await write(item, number)
            assert await come_back(client, server.port)
            await client.until(number)
        await write(item, number + 1)
    async with serve(item, shared) as server:
        for each in (client, away):
            assert await come_back(each, server.port)
            await each.until(8)
            assert (each.ids, each.gaps) == (list(range(1, 9)), [])
            await each.close()


async def test_a_kill_loses_nothing(item: Database, shared: dict[str, str]) -> None:
    client = ReplayClient(0, session=f"{SESSION}a")
    async with process(item, shared) as killed:
        assert not await come_back(client, killed.port)
        await write(item, 1, 2)
        await client.until(2)
        # The journal follows within a moment.
        await asyncio.sleep(1)
        killed.process.kill()
        await asyncio.to_thread(killed.process.wait)
    # This one leads, and ends; then the log has the row.
    async with serve(item, shared):
        await write(item, 3)
    async with serve(item, shared) as server:
        await write(item, 4)
        assert await come_back(client, server.port)
        await client.until(4)
        await client.close()
    assert list(dict.fromkeys(client.ids)) == [1, 2, 3, 4]
    assert client.gaps == []


async def test_the_others_are_told_of_a_server_that_was_killed(
    item: Database,
    shared: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for module in (node, nodes):
        monkeypatch.setattr(module, "HEARD_WITHIN", 3.0)
    # Servers look after the journal ten times within the window.
    shared["REPLAY_WINDOW"] = "10000"
    client = ReplayClient(0, session=f"{SESSION}a")
    async with serve(item, shared) as other, process(item, shared) as killed:
        assert not await come_back(client, killed.port)
        await eventually(lambda: journal_of(other).slots)
        killed.process.kill()
        await asyncio.to_thread(killed.process.wait)
        # It is back before the others are told.
        assert await come_back(client, other.port)
        assert journal_of(other).slots
        await eventually(lambda: not journal_of(other).slots)
        await write(item, 1)
        await client.until(1)
        # It does not look like two clients when it comes back again.
        await cut(client, other)
        await eventually(lambda: len(parts(other).memberships.absences))
        assert await come_back(client, other.port)
        await write(item, 2)
        await client.until(2)
        await client.close()
    assert (client.ids, client.gaps) == ([1, 2], [])
    assert "several clients have the same session" not in caplog.text


async def test_what_does_not_fit_into_memory_comes_from_the_log(
    item: Database, shared: dict[str, str]
) -> None:
    shared["REPLAY_MEMORY_MB"] = "1"
    away, witness = (ReplayClient(0, session=f"{SESSION}{one}") for one in "ab")
    async with serve(item, shared) as one:
        for each in (away, witness):
            assert not await come_back(each, one.port)
        await write(item, 1)
        await away.until(1)
        await cut(away, one)
        for number in range(10):
            query = (
                "insert into item select g, string_agg(md5((g * h)::text), '')"
                f" from generate_series({1000 * number + 2}, {1000 * number + 1001}) g,"
                " generate_series(1, 30) h group by g order by g"
            )
            await asyncio.to_thread(item.execute, query)
        await witness.until(10_001)
        assert parts(one).log.floor > (0, -1)
        async with serve(item, shared) as two:
            assert await come_back(away, two.port)
            await write(item, 10_002)
            await away.until(10_002)
            await away.close()
        await witness.close()
    assert (away.ids, away.gaps) == (list(range(1, 10_003)), [])


async def test_what_the_log_does_not_have_any_more_is_a_gap(
    item: Database, shared: dict[str, str]
) -> None:
    client, witness = (ReplayClient(0, session=f"{SESSION}{one}") for one in "ab")
    async with serve(item, shared) as one:
        for each in (client, witness):
            assert not await come_back(each, one.port)
        await write(item, 1)
        await client.until(1)
        await cut(client, one)
        await write(item, 2, 3)
        await witness.until(3)
        await witness.close()
        stream = f"realtime_{shared['SLOT_NAME']}"
        config = dev_config(item.dsn, **shared)
        async with await NatsConnection.open(config, name="test") as nats:
            answer = await nats.request(f"$JS.API.STREAM.INFO.{stream}")
            behind = json.loads(answer.data)["state"]["last_seq"] + 1
            # The first server tells everything again, as the second one begins.
            async with serve(item, shared) as two:
                await eventually(lambda: journal_of(two).has_channels)
            request = json.dumps({"seq": behind}).encode()
            await nats.request(f"$JS.API.STREAM.PURGE.{stream}", request)
    async with serve(item, shared) as three:
        assert not await come_back(client, three.port)
        assert client.gaps == ["replay_limit"]
        await write(item, 4)
        await client.until(4)
        await client.close()
    assert client.ids == [1, 4]


async def test_what_the_journal_has_lost_is_a_gap(
    item: Database, new_nats: Callable[..., NatsServer]
) -> None:
    """The log has lost that a client has gone, and has from later that all clients that are there
    have everything: whoever reads only that must not take the client for one of them."""
    nats = await asyncio.to_thread(new_nats)
    shared = {"NATS_URL": nats.url, "SLOT_NAME": unique_name("cluster"), **SETTINGS}
    shared["LOG_ACK_DELAY"] = "0"
    client, witness = (ReplayClient(0, session=f"{SESSION}{one}") for one in "ab")
    confirmed = "select confirmed_flush_lsn > %s from pg_replication_slots where slot_name = %s"
    async with serve(item, shared) as one:
        journal = journal_of(one)
        for each in (client, witness):
            assert not await come_back(each, one.port)
        await write(item, 1)
        for each in (client, witness):
            await each.until(1)
        low = await told_low(journal, (0, -1))
        copy = await asyncio.to_thread(nats.copy_store)
        await client.cut()
        await eventually(lambda: len(parts(one).memberships.absences))
        await write(item, 2, 3)
        await witness.until(3)
        ((end,),) = item.execute("select pg_current_wal_insert_lsn()")
        await write(item, 4)
        await eventually(lambda: item.execute(confirmed, (end, shared["SLOT_NAME"])) == [(True,)])
        low = await told_low(journal, low)
        await asyncio.to_thread(nats.set_back, copy)
        await write(item, 5)
        await witness.until(5)
        await told_low(journal, low)
        await witness.close()
    async with serve(item, shared) as two:
        await come_back(client, two.port)
        await write(item, 6)
        await client.until(6)
        await client.close()
    assert client.gaps == ["start_behind_slot"]
    assert client.ids[-2:] == [5, 6]


async def test_messages_of_others_do_not_drive_changes_out_of_the_log(
    item: Database, shared: dict[str, str]
) -> None:
    shared["LOG_MAX_BYTES"] = str(16 * 1024 * 1024)
    client, witness = (ReplayClient(0, session=f"{SESSION}{one}") for one in "ab")
    async with serve(item, shared) as one:
        for each in (client, witness):
            assert not await come_back(each, one.port)
        await write(item, 1)
        await client.until(1)
        await cut(client, one)
        await write(item, 2)
        # Every role may write them, as many as it likes.
        for prefix, size in (("of another", 1_000_000), (PREFIX, 1_000_000), (PREFIX, 65_536)):
            query = (
                "select count(pg_logical_emit_message(false, %s, repeat('x', %s)))"
                " from generate_series(1, 20000000 / %s)"
            )
            await asyncio.to_thread(item.execute, query, (prefix, size, size))
        await write(item, 3)
        await witness.until(3)
        await witness.close()
    async with serve(item, shared) as two:
        assert await come_back(client, two.port)
        await write(item, 4)
        await client.until(4)
        await client.close()
    assert (client.ids, client.gaps) == ([1, 2, 3, 4], [])


async def test_in_rls_mode_the_new_token_says_what_is_shown_of_what_was_missed(
    one_pg: Server, shared: dict[str, str]
) -> None:
    shared |= {"REPLICATION_MODE": "RLS", "SECURE_CHANNELS": "true", "JWT_SECRET": SECRET}
    with roles(one_pg, "reader") as (reader,), fresh_database(one_pg) as database:
        database.execute(
            "create table item (id int primary key, owner text);"
            " alter table item enable row level security;"
            f" create policy own on item using ({OWN});"
            f' grant select on item to "{reader}";'
            " create publication shop for table item"
        )

        async def write_for(*owners: str) -> None:
            query = "insert into item select coalesce(max(id), 0) + 1, %s from item"
            for owner in owners:
                await asyncio.to_thread(database.execute, query, (owner,))

        tokens = {sub: make_token({"role": reader, "sub": sub}) for sub in ("ann", "bob")}
        ann, bob = (ReplayClient(0, session=f"{SESSION}{one}", token=tokens[one]) for one in tokens)
        async with serve(database, shared) as one:
            for each in (ann, bob):
                assert not await come_back(each, one.port)
            await write_for("ann", "bob")
            await ann.until(1)
            await bob.until(2)
            await cut(ann, one)
            await cut(bob, one)
            async with serve(database, shared):
                await write_for("ann", "bob", "ann")
        # The row is another's by now.
        await asyncio.to_thread(database.execute, "update item set owner = 'bob' where id = 3")
        async with serve(database, shared) as three:
            for each in (ann, bob):
                assert await come_back(each, three.port)
            await write_for("ann", "bob")
            await ann.until(6)
            await bob.until(7)
            for each in (ann, bob):
                await each.close()
        assert [ann.gaps, bob.gaps] == [[], []]
        assert ann.ids == [1, 5, 6]
        # The present version of the row is that of its update.
        assert list(dict.fromkeys(bob.ids)) == [2, 4, 3, 7]
