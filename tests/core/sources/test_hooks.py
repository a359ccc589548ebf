"""HookCalls: hooks are told of what passes by, and harm nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realtime_core import Commit, Gap, Hooks, SourceStats
from realtime_core.sources._hook_calls import HookCalls
from tests.core.sources.test_queue import GAP, whole


class Noted(Hooks):
    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.told = asyncio.Event()

    def transaction(self, commit: Commit) -> None:
        self.calls.append(commit)

    def gap(self, gap: Gap) -> None:
        self.calls.append(gap)

    def lag(self, stats: SourceStats) -> None:
        self.calls.append(stats)
        self.told.set()


class Failing(Hooks):
    def transaction(self, commit: Commit) -> None:
        raise ZeroDivisionError


async def test_transactions_that_have_changes_and_gaps_are_told() -> None:
    hooks = Noted()
    events = [*whole(1, 2), None, *whole(2, 0), GAP]
    assert list(HookCalls(hooks).watching(events)) == events
    assert hooks.calls == [whole(1, 2)[-1], GAP]


async def test_the_lag_is_told_until_it_is_closed() -> None:
    hooks = Noted()
    calls = HookCalls(hooks)
    calls.start(0.001, lambda: SourceStats(lag_bytes=7))
    await asyncio.wait_for(hooks.told.wait(), 30)
    await calls.aclose()
    told = len(hooks.calls)
    await asyncio.sleep(0.005)
    assert hooks.calls == [SourceStats(lag_bytes=7)] * told


def test_a_hook_that_raises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    events = whole(1, 1) + whole(2, 1)
    assert list(HookCalls(Failing()).watching(events)) == events
    [record] = caplog.records
    assert record.getMessage() == "the hook transaction() has failed; this is logged once"
    assert record.exc_info is not None


def test_an_async_hook_is_refused() -> None:
    class Async(Hooks):
        async def gap(self, gap: Gap) -> None:  # type: ignore[override]
            pass

    with pytest.raises(TypeError, match=r"the hook gap\(\) is an async function"):
        HookCalls(Async())
