"""What a source on a real server tells its hooks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from realtime_core import Commit, Gap, Hooks, PgoutputSource, SourceError, SourceStats
from realtime_core.positions import StreamIdentity
from tests.fix_postgres import Database, unique_name
from tests.integration.source_helpers import (
    drop_slot_of,
    insert,
    kill_walsenders,
    open_source,
    take,
)
from tests.integration.test_docs import assert_prints_what_it_says
from tests.waiting import eventually

pytestmark = pytest.mark.integration


class Noted(Hooks):
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.lags: list[SourceStats] = []

    def attached(self, stream: StreamIdentity, database: str, slot: str) -> None:
        self.calls.append(("attached", stream.publications, database, slot))

    def lost(self, error: SourceError) -> None:
        self.calls.append(("lost",))

    def gap(self, gap: Gap) -> None:
        self.calls.append(("gap", gap.reason.value))

    def transaction(self, commit: Commit) -> None:
        self.calls.append(("transaction", commit.changes))

    def lag(self, stats: SourceStats) -> None:
        self.lags.append(stats)


class Failing(Hooks):
    """All of its methods raise."""

    def attached(self, *what: Any) -> None:
        raise ZeroDivisionError

    lost = gap = transaction = lag = attached


@pytest.fixture
def shop(database: Database) -> Database:
    database.execute("create table item (id int primary key, name text)")
    database.execute("create publication shop for table item")
    return database


def test_the_howtos_program_prints_what_it_says(database: Database, tmp_path: Path) -> None:
    page, program = "docs/howto/hooks.md", tmp_path / "watched.py"
    assert_prints_what_it_says(page, "watched", database, program)


async def go_through(database: Database, slot: str, hooks: Hooks) -> list[Any]:
    """Have everything happen that hooks are told of; return the events."""
    async with open_source(
        database, slot=slot, on_gap="continue", replace_slot=True, hooks=hooks, lag_interval=0.05
    ) as source:
        insert(database, 1, 2)
        events = await take(source, 2)
        source.ack(events[-1])
        reading = asyncio.ensure_future(take(source, 1))
        kill_walsenders(database)
        await eventually(lambda: source.stats().reconnects == 1)
        insert(database, 3)
        events += await reading
        reading = asyncio.ensure_future(take(source, 1))
        drop_slot_of(database, slot)
        events += await reading
        insert(database, 4)
        events += await take(source, 1)
        stats = source.stats()
        assert (stats.gaps, stats.reconnects) == (1, 2)
        await asyncio.sleep(0.06)
    return events


async def test_hooks_are_told_what_happens(shop: Database) -> None:
    hooks, slot = Noted(), unique_name("slot")
    await go_through(shop, slot, hooks)
    attached = ("attached", ("shop",), shop.name, slot)
    assert hooks.calls == [
        *(attached, ("transaction", 2), ("lost",)),
        *(attached, ("transaction", 1), ("lost",)),
        *(attached, ("gap", "slot_missing"), ("transaction", 1)),
    ]
    assert hooks.lags[-1].transactions == 3


async def test_hooks_that_raise_change_nothing(
    shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    events = await go_through(shop, unique_name("slot"), Failing())
    assert [type(event).__name__ for event in events] == [*["Insert"] * 3, "Gap", "Insert"]
    failures = [record.args for record in caplog.records if "the hook" in record.msg]
    assert sorted(failures) == [  # type: ignore[type-var]
        *(("attached",), ("gap",), ("lag",), ("lost",), ("transaction",))
    ]


def test_a_source_without_an_event_loop_has_hooks_too(shop: Database) -> None:
    hooks = Noted()
    options: Any = {"slot": unique_name("slot"), "hooks": hooks}
    with PgoutputSource.sync(shop.dsn, publications=["shop"], **options) as source:
        insert(shop, 1)
        source.ack(next(source))
    assert [call[0] for call in hooks.calls] == ["attached", "transaction"]
