"""A standby is promoted: with a failover slot nothing is lost, without one the loss is said."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from realtime_core import (
    Event,
    Gap,
    GapReason,
    Idle,
    Insert,
    PgoutputSource,
    Position,
    SlotLostError,
    ensure_slot,
)
from realtime_core.sources import _slot_checks
from realtime_server.demo.embedded import EmbeddedPostgres
from tests.fix_postgres import DEBIAN_BINDIR, Database, Server, execute, unique_name
from tests.integration.source_helpers import ids, insert, soon, take
from tests.proxy import Proxy
from tests.waiting import eventually, eventually_sync

pytestmark = [pytest.mark.integration, pytest.mark.pg17]

STANDBY = "standby_1"


class Pair:
    """A primary, a standby that follows it, and what is done to them."""

    def __init__(self, primary: Server, database: Database, standby: EmbeddedPostgres) -> None:
        self.primary = primary
        self.database = database
        self._standby = standby
        self.on_standby = Database(Server(standby.dsn), database.name)

    def caught_up(self) -> bool:
        """Whether the standby has replayed everything."""
        ((lsn,),) = self.primary.execute("select pg_current_wal_lsn()::text")
        query = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
        return execute(self._standby.dsn, query, (lsn,)) == [(True,)]

    def has_synchronized(self, slot: str) -> bool:
        """Have the slots copied, as sync_replication_slots does twice a minute."""
        try:
            execute(self._standby.dsn, "select pg_sync_replication_slots()")
        except psycopg.errors.ObjectNotInPrerequisiteState:
            # The slot is further on than what has come of the WAL.
            return False
        query = "select synced and not temporary from pg_replication_slots where slot_name = %s"
        return execute(self._standby.dsn, query, (slot,)) == [(True,)]

    def promote(self) -> None:
        execute(self._standby.dsn, "select pg_promote()")
        query = "select pg_is_in_recovery()"
        eventually_sync(lambda: execute(self._standby.dsn, query) == [(False,)])


@contextmanager
def pair_of_servers(*, synchronized: bool) -> Iterator[Pair]:
    if not (DEBIAN_BINDIR / "postgres").exists():
        pytest.skip(f"PostgreSQL 17 is not installed in {DEBIAN_BINDIR}")
    with EmbeddedPostgres(DEBIAN_BINDIR) as embedded:
        primary = Server(embedded.dsn, embedded)
        database = Database(primary, unique_name("test"))
        primary.execute(f"create database {database.name}")
        database.execute("create table item (id int primary key, name text)")
        database.execute("create publication shop for table item")
        primary.execute("select pg_create_physical_replication_slot(%s, true)", (STANDBY,))
        if synchronized:
            primary.execute(f"alter system set synchronized_standby_slots = '{STANDBY}'")
            primary.execute("select pg_reload_conf()")
        with follower(embedded) as standby:
            yield Pair(primary, database, standby)


@contextmanager
def follower(primary: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """Run a standby of it."""
    # Where the primary's user may write, and under a path that it may enter.
    owner = primary.data_dir.stat()
    folder = primary.socket_dir / "standby"
    folder.mkdir(mode=0o700)
    os.chown(folder, owner.st_uid, owner.st_gid)
    user = (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else (None, None)
    subprocess.run(
        [
            *(DEBIAN_BINDIR / "pg_basebackup", "-D", folder, "-X", "stream", "-c", "fast"),
            *("-h", primary.host, "-p", str(primary.port), "-U", "postgres"),
        ],
        check=True,
        capture_output=True,
        cwd=primary.socket_dir,
        user=user[0],
        group=user[1],
    )
    (folder / "standby.signal").touch()
    os.chown(folder / "standby.signal", owner.st_uid, owner.st_gid)
    conninfo = f"host={primary.host} port={primary.port} user=postgres dbname=postgres"
    settings = {
        "hot_standby_feedback": "on",
        "primary_conninfo": conninfo,
        "primary_slot_name": STANDBY,
        # The primary's own, which came along.
        "synchronized_standby_slots": "",
    }
    # Not on the command line, where ALTER SYSTEM could not change it.
    with (folder / "postgresql.auto.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    with EmbeddedPostgres(DEBIAN_BINDIR, folder) as standby:
        yield standby


async def test_nothing_is_lost_with_a_failover_slot() -> None:
    slot = unique_name("slot")
    with pair_of_servers(synchronized=True) as pair:
        async with Proxy() as proxy:
            source = PgoutputSource(
                proxy.lead_to(pair.database.dsn),
                publications=["shop"],
                slot=slot,
                failover=True,
                backoff=(0.01, 0.1),
                messages=True,
                status_interval=0.05,
            )
            async with source:
                events: list[Event] = []
                while not pair.has_synchronized(slot):
                    # It has to pass what the standby's base backup began with. The snapshot says
                    # that no older transaction runs, and the message takes the slot past it without
                    # being a transaction, behind whose beginning the slot would stay.
                    pair.primary.execute("select pg_log_standby_snapshot()")
                    pair.database.execute("select pg_logical_emit_message(false, 'test', '')")
                    source.ack(*await take(source, 1))
                    await eventually(pair.caught_up)
                # These the old primary has sent or not; the new one has them.
                for number in range(30):
                    insert(pair.database, number)
                events += await take(source, 5)
                await eventually(pair.caught_up)
                proxy.refusing = True
                proxy.cut()
                pair.promote()
                proxy.lead_to(pair.on_standby.dsn)
                proxy.refusing = False
                insert(pair.on_standby, 30)
                events += await take(source, 26)
                assert ids(events) == list(range(31))
                assert source.stats().gaps == 0
                positions = [event.position for event in events if isinstance(event, Insert)]
                assert positions == sorted(positions)
                source.ack(positions[-1])


async def test_a_slot_that_did_not_come_along_is_a_gap(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = unique_name("slot")
    with pair_of_servers(synchronized=False) as pair:
        await read_from_standby(pair, caplog, monkeypatch)
        async with Proxy() as proxy:
            dsn = proxy.lead_to(pair.database.dsn)
            options = {"publications": ["shop"], "slot": slot, "backoff": (0.01, 0.1)}
            source = PgoutputSource(dsn, on_gap="continue", **options)  # type: ignore[arg-type]
            async with source:
                insert(pair.database, 1)
                (event,) = await take(source, 1)
                await eventually(pair.caught_up)
                proxy.lead_to(pair.on_standby.dsn)
                pair.promote()
                proxy.cut()
                (gap,) = await take(source, 1)
                assert isinstance(gap, Gap)
                assert isinstance(event, Insert)
                assert (gap.reason, gap.after) == (GapReason.SLOT_MISSING, event.position)
                insert(pair.on_standby, 2)
                assert ids(await take(source, 1)) == [2]


async def read_from_standby(
    pair: Pair, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot on a standby takes a word from the primary, and then streams like any other."""
    monkeypatch.setattr(_slot_checks, "_PATIENCE", 0.1)
    source = PgoutputSource(pair.on_standby.dsn, publications=["shop"], heartbeat_interval=0.01)
    opening = asyncio.create_task(source.__aenter__())
    await eventually(
        lambda: "pg_log_standby_snapshot() on the primary" in caplog.text or opening.done()
    )

    def has_opened() -> bool:
        pair.primary.execute("select pg_log_standby_snapshot()")
        return opening.done()

    await eventually(has_opened)
    await opening
    insert(pair.database, 0)
    assert ids(await take(source, 1)) == [0]
    await eventually(lambda: "the server is a standby, which writes nothing" in caplog.text)
    await source.aclose()


async def test_a_new_primary_that_is_behind_us_is_a_gap() -> None:
    """What was handed over never happened, as far as the new timeline knows."""
    slot = unique_name("slot")
    with pair_of_servers(synchronized=False) as pair:
        async with Proxy() as proxy:
            dsn = proxy.lead_to(pair.database.dsn)
            source = PgoutputSource(
                dsn,
                publications=["shop"],
                slot=slot,
                start_at=None,
                on_gap="continue",
                backoff=(0.01, 0.1),
            )
            async with source:
                insert(pair.database, 1)
                await rows(source, 1)
                await eventually(pair.caught_up)
                # The standby stops to follow, and the primary goes on without it.
                await stop_following(pair)
                insert(pair.database, 2)
                (lost,) = await rows(source, 1)
                assert isinstance(lost, Insert)
                pair.promote()
                await ensure_slot(pair.on_standby.dsn, slot)
                proxy.lead_to(pair.on_standby.dsn)
                proxy.cut()
                (gap,) = await rows(source, 1)
                assert isinstance(gap, Gap)
                assert (gap.reason, gap.after) == (GapReason.NEW_TIMELINE, lost.position)
                insert(pair.on_standby, 3)
                # The same LSNs mean something else now: acknowledging the old moves nothing.
                source.ack(lost)
                (event,) = await rows(source, 1)
                assert ids([event]) == [3]
                source.ack(event)
                # And back to the former primary, which never heard of that.
                proxy.lead_to(pair.database.dsn)
                proxy.cut()
                (gap,) = await rows(source, 1)
                assert isinstance(gap, Gap)
                assert gap.reason is GapReason.NEW_TIMELINE
            # A consumer that comes back with the old checkpoint is told, too.
            with pytest.raises(SlotLostError, match="new_timeline"):
                async with PgoutputSource(
                    pair.on_standby.dsn, publications=["shop"], slot=slot, start_at=lost.position
                ):
                    pass
            start = Position.parse(str(event.position)) if isinstance(event, Insert) else None
            async with PgoutputSource(
                pair.on_standby.dsn, publications=["shop"], slot=slot, start_at=start
            ) as again:
                insert(pair.on_standby, 4)
                assert ids(await rows(again, 1)) == [4]


async def rows(source: PgoutputSource, count: int) -> list[object]:
    found: list[object] = []
    while len(found) < count:
        event = await soon(anext(source))
        if not isinstance(event, Idle):
            found.append(event)
    return found


async def stop_following(pair: Pair) -> None:
    """Cut the standby off from the primary."""
    dsn = pair.on_standby.server.dsn
    execute(dsn, "alter system set primary_conninfo = 'host=127.0.0.1 port=1'")
    execute(dsn, "select pg_reload_conf()")
    follows = "select 1 from pg_replication_slots where slot_name = %s and active"
    await eventually(lambda: not pair.primary.execute(follows, (STANDBY,)))
