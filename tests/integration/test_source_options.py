"""What a source can be told to stream, and how to reach the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from realtime_core import (
    ConfigError,
    Insert,
    LogicalMessage,
    PgoutputSource,
    SourceError,
    StreamOptions,
    TransactionTooLargeError,
    ensure_slot,
)
from realtime_core.sources import _side_task, _stream, catalog
from realtime_core.sources._heartbeat import Heartbeat
from realtime_core.sources._lag import LagGuard
from realtime_core.sources.stream_options import StreamSettings
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.source_helpers import (
    confirmed,
    ids,
    insert,
    open_source,
    soon,
    take,
    wal_position,
)
from tests.proxy import Proxy
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]

MANY = 3000
MANY_BYTES = 1_000_000
# A row of it makes a transaction large enough to be streamed.
BULK = f"insert into item select g, repeat('x', 200) from generate_series(1, {MANY}) g"


@pytest.fixture
def small_work_mem(table: Database) -> str:
    """A DSN whose walsender streams whatever is larger than 64 kB."""
    return make_conninfo(table.dsn, options="-c logical_decoding_work_mem=64kB")


class WatchedSource(PgoutputSource[Any]):
    """A source that says how far it is ahead of its consumer."""

    @property
    def decoded_ahead(self) -> int:
        return len(self._queue)


@pytest.mark.parametrize("streaming", ["on", "parallel"])
async def test_large_transactions_are_streamed_and_handed_over_lazily(
    table: Database, small_work_mem: str, tmp_path: Path, streaming: Literal["on", "parallel"]
) -> None:
    if streaming == "parallel":
        table.server.needs(16, "streaming='parallel'")
    slot = unique_name("slot")
    source = WatchedSource(
        small_work_mem,
        publications=["shop"],
        slot=slot,
        streaming=streaming,
        max_memory=10_000,
        spill_directory=tmp_path,
    )
    async with source:
        with table.connect() as connection:
            connection.execute("begin")
            connection.execute(BULK)
            connection.execute("savepoint s")
            connection.execute(
                "insert into item select g, 'gone' from generate_series(5001, 5500) g"
            )
            connection.execute("rollback to s")
            insert(table, 9001)
            # The one that commits first comes first, though the other arrives before it.
            assert ids(await take(source, 1)) == [9001]
            streamed = (
                "select stream_bytes > 100000 from pg_stat_replication_slots where slot_name = %s"
            )
            connection.execute("commit")
        events = await take(source, 10)
        # No more is made of it than is asked for.
        assert source.decoded_ahead <= _stream._CHUNK
        events += await take(source, MANY - 10)
        assert ids(events) == list(range(1, MANY + 1))
        insert(table, 9002)
        (last,) = await take(source, 1)
        assert ids([last]) == [9002]
        assert isinstance(last, Insert)
        source.ack(last)
        await eventually(lambda: table.execute(streamed, (slot,)) == [(True,)])
    assert confirmed(table, slot) > last.transaction.commit_lsn


async def test_a_streamed_transaction_that_was_cut_off_is_neither_lost_nor_repeated(
    table: Database, small_work_mem: str
) -> None:
    options: StreamOptions = {"slot": unique_name("slot"), "backoff": (0.01, 0.05)}
    source = PgoutputSource(
        small_work_mem, publications=["shop"], streaming="on", max_memory=0, **options
    )
    async with source:
        table.execute(BULK)
        received = ids(await take(source, MANY // 2))
        kill = "select pg_terminate_backend(active_pid) from pg_replication_slots where active"
        table.execute(kill)
        received += ids(await take(source, MANY - MANY // 2))
        insert(table, 9001)
        assert received + ids(await take(source, 1)) == [*range(1, MANY + 1), 9001]


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("streaming", ["on", "parallel"])
async def test_an_abort_of_what_was_never_streamed_aborts_nothing(
    table: Database,
    small_work_mem: str,
    streaming: Literal["on", "parallel"],
    committed: bool,
) -> None:
    """PostgreSQL 18 sends one when a transaction that was to be streamed turns out as aborted."""
    if streaming == "parallel":
        table.server.needs(16, "streaming='parallel'")
    slot = unique_name("slot")
    await ensure_slot(table.dsn, slot)
    # All of it before anybody reads: then it is known of each part whether it was rolled back.
    with table.connect() as connection:
        connection.execute("begin")
        connection.execute("insert into item select g from generate_series(1, 30) g")
        connection.execute("savepoint s")
        for _ in range(2):
            connection.execute(BULK.replace("1,", "5001,").replace(f" {MANY})", " 8000)"))
            connection.execute("rollback to s")
        connection.execute("commit" if committed else "rollback")
    insert(table, 9001)
    expected = [*range(1, 31), 9001] if committed else [9001]
    for _ in range(2):
        async with PgoutputSource(
            small_work_mem, publications=["shop"], slot=slot, streaming=streaming
        ) as source:
            assert ids(await take(source, len(expected))) == expected


class Turns:
    """What another task gets of the event loop."""

    def __init__(self) -> None:
        self.taken = 0

    async def take(self) -> None:
        while True:
            self.taken += 1
            await asyncio.sleep(0)


async def test_others_get_their_turn_while_a_large_transaction_is_read(
    table: Database, small_work_mem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if its consumer waits for nothing."""
    turns = Turns()
    source = PgoutputSource(
        small_work_mem, publications=["shop"], streaming="on", max_memory=10_000
    )
    async with source:
        table.execute(BULK)
        received = ids(await take(source, 1))
        other = asyncio.create_task(turns.take())
        # Nor is that left to what changes cost: now each has its own turn.
        monkeypatch.setattr(_stream, "_TURN", -1)
        monkeypatch.setattr(_stream, "_FEW", 1)
        before = turns.taken
        while len(received) < MANY:
            received += ids([await anext(source)])
        assert received == list(range(1, MANY + 1))
        assert turns.taken - before >= MANY - _stream._CHUNK
        other.cancel()


async def test_others_get_their_turn_while_a_large_transaction_is_left_out(
    table: Database, small_work_mem: str
) -> None:
    source = PgoutputSource(
        small_work_mem,
        publications=["shop"],
        streaming="on",
        filter=f"or(id.eq.1,id.eq.{MANY})",
        boundaries=True,
    )
    turns = Turns()
    async with source:
        table.execute(BULK)
        assert ids(await take(source, 2)) == [1]
        other = asyncio.create_task(turns.take())
        before = turns.taken
        assert ids(await take(source, 1)) == [MANY]
        assert turns.taken - before >= MANY // _stream._CHUNK - 1
        other.cancel()


async def test_a_batch_of_a_streamed_transaction_is_bounded(
    table: Database, small_work_mem: str
) -> None:
    source = PgoutputSource(small_work_mem, publications=["shop"], streaming="on")
    async with source:
        table.execute(BULK)
        received: list[int] = []
        async for batch in source.batches():
            assert len(batch) <= _stream._CHUNK
            received += ids(batch)
            if len(received) == MANY:
                break
        assert received == list(range(1, MANY + 1))
        # Whole, it is beyond the bound; nothing of the next one is touched.
        table.execute(BULK.replace("1,", f"{MANY + 1},").replace(f" {MANY})", f" {2 * MANY})"))
        with pytest.raises(TransactionTooLargeError):
            await soon(anext(source.transactions(50_000)))
        whole = await soon(anext(source.transactions(10_000_000)))
        assert ids(getattr(whole, "changes", ())) == list(range(MANY + 1, 2 * MANY + 1))


async def test_messages_come_where_they_are_asked_for(table: Database) -> None:
    slots = [unique_name("slot") for _ in range(2)]
    async with (
        open_source(table, slot=slots[0], messages=True) as talking,
        open_source(table, slot=slots[1]) as silent,
    ):
        with table.connect() as connection, connection.transaction():
            connection.execute("insert into item values (1, 'x')")
            connection.execute("select pg_logical_emit_message(true, 'in', 'one')")
        table.execute("select pg_logical_emit_message(false, 'out', 'two')")
        insert(table, 2)
        first, second, third, fourth = await take(talking, 4)
        assert isinstance(second, LogicalMessage)
        assert isinstance(third, LogicalMessage)
        assert (second.prefix, second.content, second.index) == ("in", b"one", 1)
        assert (third.prefix, third.content, third.transaction) == ("out", b"two", None)
        assert ids([first, fourth]) == [1, 2]
        assert ids(await take(silent, 2)) == [1, 2]


@pytest.mark.parametrize("streaming", ["off", "on"])
async def test_messages_that_are_not_transactional_leave_positions_as_they_are(
    table: Database, small_work_mem: str, streaming: Literal["off", "on"]
) -> None:
    options: dict[str, Any] = {"publications": ["shop"], "streaming": streaming}
    async with (
        PgoutputSource(small_work_mem, messages="nontransactional", **options) as talking,
        PgoutputSource(small_work_mem, **options) as silent,
    ):
        with table.connect() as connection, connection.transaction():
            connection.execute("select pg_logical_emit_message(true, 'in', 'one')")
            connection.execute(BULK)
            connection.execute("select pg_logical_emit_message(true, 'in', 'two')")
            connection.execute("select pg_logical_emit_message(false, 'out', 'three')")
            connection.execute("insert into item values (0, 'last')")
        table.execute("select pg_logical_emit_message(true, 'in', 'alone')")
        table.execute("select pg_logical_emit_message(false, 'out', 'four')")
        insert(table, MANY + 1)
        theirs = await take(silent, MANY + 2)
        ours = await take(talking, MANY + 4)
    said = [event for event in ours if isinstance(event, LogicalMessage)]
    assert [(each.prefix, each.content) for each in said] == [("out", b"three"), ("out", b"four")]
    rows = [event for event in ours if isinstance(event, Insert)]
    assert [row.position for row in rows] == [
        event.position for event in theirs if isinstance(event, Insert)
    ]


async def test_what_was_replicated_itself_can_be_left_out(table: Database) -> None:
    table.server.needs(16, "origin='none'")
    origin = unique_name("origin")
    table.execute("select pg_replication_origin_create(%s)", (origin,))
    try:
        async with (
            open_source(table, slot=unique_name("slot")) as everything,
            open_source(table, slot=unique_name("slot"), origin="none") as own,
        ):
            with table.connect() as connection:
                connection.execute("select pg_replication_origin_session_setup(%s)", (origin,))
                connection.execute("insert into item values (1, 'replicated')")
                connection.execute("select pg_replication_origin_session_reset()")
            insert(table, 2)
            first, second = await take(everything, 2)
            assert isinstance(first, Insert)
            assert isinstance(second, Insert)
            assert (first.transaction.origin, second.transaction.origin) == (origin, None)
            assert ids(await take(own, 1)) == [2]
    finally:
        table.execute("select pg_replication_origin_drop(%s)", (origin,))


async def test_several_publications_are_one_stream(table: Database) -> None:
    table.execute("create table other (id int primary key)")
    table.execute('create publication "Other, ""quoted""" for table other')
    async with open_source(table, publications=["shop", 'Other, "quoted"']) as source:
        insert(table, 1)
        table.execute("insert into other values (2)")
        assert ids(await take(source, 2)) == [1, 2]


def test_choices_that_are_none_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        PgoutputSource(
            publications=["shop"],
            origin="some",  # type: ignore[arg-type]
            streaming="maybe",  # type: ignore[arg-type]
            max_memory=-1,
        )
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError) as caught:
        PgoutputSource(
            publications=["shop"],
            on_gap="ignore",  # type: ignore[typeddict-item]
            slot_in_use="steal",  # type: ignore[typeddict-item]
            on_lag="panic",  # type: ignore[typeddict-item]
            failover=True,
            sender_timeout=-1,
            max_lag_bytes=0,
            lag_interval=0,
            backoff=(1, float("inf")),
        )
    assert len(caught.value.problems) == 8


async def test_a_server_that_is_too_old_for_an_option_says_so(
    table: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = catalog.server_facts

    async def old(connection: object) -> catalog.ServerFacts:
        return attrs.evolve(await real(connection), version=150004)  # type: ignore[arg-type]

    monkeypatch.setattr(catalog, "server_facts", old)
    for options, said in (
        ({"streaming": "parallel"}, "PostgreSQL 15 does not know streaming='parallel'"),
        ({"origin": "none"}, "PostgreSQL 15 does not know origin='none'"),
        ({"failover": True, "slot": "etl"}, "PostgreSQL 15 has no failover slots"),
    ):
        with pytest.raises(SourceError, match=said):
            async with open_source(table, **options):  # type: ignore[arg-type]
                pass


async def test_libpq_finds_the_server_by_its_own_means(
    table: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = conninfo_to_dict(table.dsn)
    # A service file, the environment, and several hosts of which the first is not there.
    service = tmp_path / "services"
    service.write_text(f"[shop]\ndbname={table.name}\nuser={parameters['user']}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    monkeypatch.setenv("PGAPPNAME", "by libpq's own means")
    dsn = (
        f"service=shop host=127.0.0.1,127.0.0.1 port=1,{parameters['port']}"
        " target_session_attrs=read-write"
    )
    async with PgoutputSource(dsn, publications=["shop"]) as source:
        insert(table, 1)
        assert ids(await take(source, 1)) == [1]
        query = (
            "select application_name from pg_stat_replication r"
            " join pg_replication_slots s on s.active_pid = r.pid where s.database = %s"
        )
        assert table.execute(query, (table.name,)) == [("by libpq's own means",)]


async def test_a_session_of_its_own_sender_timeout_outlives_a_blocked_loop(
    table: Database,
) -> None:
    dsn = make_conninfo(table.dsn, options="-c wal_sender_timeout=200ms")
    async with PgoutputSource(
        dsn, publications=["shop"], slot=unique_name("slot"), sender_timeout=30
    ) as source:
        insert(table, 1)
        assert ids(await take(source, 1)) == [1]
        query = "select active_pid from pg_replication_slots where database = %s"
        before = table.execute(query, (table.name,))
        # Not in an await: nothing can be sent meanwhile.
        time.sleep(1)  # noqa: ASYNC251
        insert(table, 2)
        assert ids(await take(source, 1)) == [2]
        assert table.execute(query, (table.name,)) == before
        assert source.stats().reconnects == 0


async def test_auto_ack_acknowledges_what_was_dealt_with(table: Database) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot, auto_ack=True) as source:
        for number in (1, 2, 3):
            insert(table, number)
        assert ids(await take(source, 2)) == [1, 2]
    # Both were dealt with when the block was left; the third was not handed over.
    with contextlib.suppress(ZeroDivisionError):
        async with open_source(table, slot=slot, auto_ack=True) as source:
            assert ids(await take(source, 1)) == [3]
            raise ZeroDivisionError
    async with open_source(table, slot=slot, auto_ack=True) as source:
        assert ids(await take(source, 1)) == [3]


async def test_stats_say_what_was_done_and_where_it_stands(table: Database) -> None:
    slot = unique_name("slot")
    source = PgoutputSource(table.dsn, publications=["shop"], slot=slot)
    assert not source.stats().connected
    async with source:
        insert(table, 1, 2)
        insert(table, 3)
        events = await take(source, 3)
        stats = source.stats()
        assert stats.connected
        assert (stats.changes, stats.reconnects, stats.gaps) == (3, 0, 0)
        assert stats.bytes_received > 100
        last = events[-1]
        assert isinstance(last, Insert)
        # Its Commit may still be on the way.
        assert stats.received_lsn > stats.confirmed_lsn
        assert last.transaction.commit_lsn > stats.confirmed_lsn
        assert stats.lag_bytes == stats.received_lsn - stats.confirmed_lsn
        # By the server's clock, whatever ours says.
        assert 0 <= stats.lag_seconds < 60
        await eventually_counted(source, transactions=2, unacknowledged=2)
        source.ack(last)
        await eventually_counted(source, transactions=2, unacknowledged=0)
        stats = source.stats()
        assert stats.confirmed_lsn > last.transaction.commit_lsn
        assert stats.lag_seconds == 0
    assert not source.stats().connected


async def eventually_counted(source: PgoutputSource, **expected: int) -> None:
    """Read until the last Commit and the keepalive behind it have come, and nothing else."""
    reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
    await eventually(
        lambda: all(getattr(source.stats(), name) == value for name, value in expected.items())
    )
    await eventually(lambda: source.stats().lag_seconds == 0)
    reading.cancel()
    await asyncio.wait({reading})


async def test_tls_with_a_checked_certificate(pg17: Server, tmp_path: Path) -> None:
    """What libpq's sslmode and sslrootcert do for any connection, they do here."""
    key, certificate = tmp_path / "server.key", tmp_path / "server.crt"
    make_certificate(key, certificate)
    embedded = pg17.embedded
    for path in (key, certificate):
        target = embedded.data_dir / path.name
        target.write_bytes(path.read_bytes())
        owner = embedded.data_dir.stat()
        os.chown(target, owner.st_uid, owner.st_gid)
        target.chmod(0o600)
    database = Database(pg17, unique_name("test"))
    pg17.create_database(database.name)
    try:
        with pg17.setting("ssl", "on"):
            database.execute("create table item (id int primary key, name text)")
            database.execute("create publication shop for table item")
            strict = make_conninfo(
                database.dsn, host="127.0.0.1", sslmode="verify-full", sslrootcert=str(certificate)
            )
            await eventually(lambda: database.execute("show ssl") == [("on",)])
            async with PgoutputSource(strict, publications=["shop"]) as source:
                # Large enough that the encrypting library holds some of it back.
                database.execute(BULK)
                assert ids(await take(source, MANY)) == list(range(1, MANY + 1))
                query = (
                    "select ssl from pg_stat_ssl join pg_replication_slots on pid = active_pid"
                    " where database = %s"
                )
                assert database.execute(query, (database.name,)) == [(True,)]
            wrong = make_conninfo(strict, sslrootcert="/nonexistent/root.crt")
            with pytest.raises(SourceError, match="root certificate"):
                async with PgoutputSource(wrong, publications=["shop"]):
                    pass
    finally:
        database.drop()


def make_certificate(key: Path, certificate: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )


async def test_a_heartbeat_that_cannot_be_written_is_said_once(
    table: Database, caplog: pytest.LogCaptureFixture
) -> None:
    function = "function pg_logical_emit_message(bool, text, text, bool)"
    if table.server.version < 17:
        function = "function pg_logical_emit_message(bool, text, text)"
    role = unique_name("role")
    table.execute(f"create role {role}")
    table.execute(f"revoke execute on {function} from public")
    asked = 0

    def slot() -> str:
        nonlocal asked
        asked += 1
        return "etl"

    dsn = make_conninfo(table.dsn, options=f"-c role={role}")
    settings = StreamSettings(dsn=dsn, heartbeat_interval=0.001)
    heartbeat = Heartbeat(settings, slot, lambda: 0)
    heartbeat.start()
    try:
        await eventually(lambda: asked > 5)
        assert caplog.text.count("cannot write a heartbeat for slot 'etl': the role lacks a") == 1
        table.execute(f"grant execute on {function} to public")
        before = wal_position(table)
        await eventually(lambda: wal_position(table) > before)
        assert caplog.text.count("cannot write a heartbeat") == 1
    finally:
        await heartbeat.aclose()
        table.execute(f"drop role {role}")


class OpenHeartbeat(Heartbeat):
    """A heartbeat that shows when it asks the server."""

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def take_turn(self) -> None:
        self._seen = 0
        await self._turn()


class OpenLagGuard(LagGuard):
    """A check of the lag that shows when it asks the server."""

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def take_turn(self) -> None:
        await self._turn()


def heartbeat(dsn: str) -> OpenHeartbeat:
    settings = StreamSettings(dsn=dsn, heartbeat_interval=0.01)
    return OpenHeartbeat(settings, lambda: "etl", lambda: 0)


def lag_guard(dsn: str) -> OpenLagGuard:
    settings = StreamSettings(dsn=dsn, max_lag_bytes=1, lag_interval=0.01, on_lag="warn")
    return OpenLagGuard(settings, lambda: "etl", lambda: None)


@pytest.mark.parametrize(
    ("make", "said"),
    [(heartbeat, "cannot write a heartbeat"), (lag_guard, "cannot check the lag")],
)
async def test_what_is_asked_beside_the_stream_does_not_wait_for_a_server_that_is_silent(
    table: Database,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[str], OpenHeartbeat | OpenLagGuard],
    said: str,
) -> None:
    caplog.set_level("INFO", "realtime.source")
    async with Proxy() as proxy:
        asks = make(proxy.lead_to(table.dsn))
        proxy.stall_later(MANY_BYTES)
        await asks.take_turn()
        assert proxy.until_stall is not None
        # The answer is the last that comes.
        until_answer = MANY_BYTES - proxy.until_stall
        proxy.stall_later(until_answer)
        with monkeypatch.context() as patched:
            patched.setattr(_side_task, "_SILENT", 0.1)
            await asks.take_turn()
        assert f"{said} of slot 'etl'" in caplog.text or f"{said} for slot 'etl'" in caplog.text
        proxy.flow()
        proxy.stall_later(until_answer)
        asks.start()
        await eventually(lambda: proxy.is_stalled and asks.is_connected)
        async with asyncio.timeout(4):
            await asks.aclose()
        assert caplog.text.count(said) == 1
