"""How long the end of a task is waited for."""

from __future__ import annotations

import asyncio

import pytest

from realtime_server.fanout import cancellation
from realtime_server.fanout.cancellation import cancel_within


async def test_what_ends_in_time_is_not_cancelled() -> None:
    tasks = {asyncio.create_task(asyncio.sleep(0, number)) for number in range(3)}
    await cancel_within(tasks, 60)
    assert {task.result() for task in tasks} == {0, 1, 2}


async def test_nobody_is_waited_for() -> None:
    await cancel_within((), 60)


async def test_what_does_not_end_is_cancelled_until_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cancellation, "_CANCEL_INTERVAL", 0.01)
    refused = 0

    async def hang() -> None:
        nonlocal refused
        while refused < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                refused += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await cancel_within({task}, 0.01)
    assert task.cancelled()
    assert refused == 2
