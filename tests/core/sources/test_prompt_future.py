"""PromptFuture resumes tasks in the callback of the event loop that lets them go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from realtime_core.sources.prompt_future import PromptFuture, promptly


async def from_a_callback(call: Callable[[], object]) -> None:
    """Have the event loop call a function; return behind it, before anything else runs."""
    loop = asyncio.get_running_loop()
    called = PromptFuture()

    def run() -> None:
        try:
            call()
        finally:
            called.resume()

    loop.call_soon(run)
    await called


class Tasks:
    """Each waits, notes that it goes on, and lets the next one go on."""

    def __init__(self, count: int) -> None:
        self.futures = [PromptFuture() for _ in range(count)]
        self.gone_on: list[int] = []
        self.tasks = [asyncio.create_task(self._run(number)) for number in range(count)]

    async def _run(self, number: int) -> None:
        await self.futures[number]
        self.gone_on.append(number)
        if number + 1 < len(self.futures):
            self.futures[number + 1].resume()


async def test_tasks_go_on_one_behind_the_other_within_a_callback() -> None:
    tasks = Tasks(3)
    found: list[list[int]] = []

    def let_the_first_go_on() -> None:
        tasks.futures[0].resume()
        found.append(list(tasks.gone_on))

    await asyncio.sleep(0)
    await from_a_callback(lambda: promptly(let_the_first_go_on))
    assert (found, tasks.gone_on) == ([[]], [0, 1, 2])


async def test_without_promptly_they_do_so_as_well() -> None:
    tasks = Tasks(3)
    await asyncio.sleep(0)
    await from_a_callback(tasks.futures[0].resume)
    assert tasks.gone_on == [0, 1, 2]


async def test_within_a_task_they_go_on_in_the_next_iteration() -> None:
    tasks = Tasks(2)
    await asyncio.sleep(0)
    promptly(tasks.futures[0].resume)
    assert not tasks.gone_on
    await asyncio.gather(*tasks.tasks)
    assert tasks.gone_on == [0, 1]


async def test_an_error_of_the_callback_leaves_nobody_waiting() -> None:
    tasks = Tasks(2)
    errors: list[str] = []

    def fail() -> None:
        tasks.futures[0].resume()
        raise OSError("broken")

    def call() -> None:
        with pytest.raises(OSError, match="broken") as info:
            promptly(fail)
        errors.append(str(info.value))

    await asyncio.sleep(0)
    await from_a_callback(call)
    await asyncio.gather(*tasks.tasks)
    assert (errors, tasks.gone_on) == (["broken"], [0, 1])
    # The next callback begins anew.
    again = Tasks(1)
    await asyncio.sleep(0)
    await from_a_callback(lambda: promptly(again.futures[0].resume))
    assert again.gone_on == [0]


async def test_a_task_that_is_cancelled_before_its_turn_does_not_go_on() -> None:
    tasks = Tasks(1)

    def let_go_on_and_cancel() -> None:
        tasks.futures[0].resume()
        tasks.tasks[0].cancel()

    await asyncio.sleep(0)
    await from_a_callback(lambda: promptly(let_go_on_and_cancel))
    assert tasks.tasks[0].cancelled()
    assert not tasks.gone_on
