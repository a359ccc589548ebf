"""Turns: what clients ask for shares a slice of time in each round."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Generator

import pytest

from realtime_server.fanout.turns import Turns, in_turns

STEP = 0.0005
"""Seconds of processor time."""


def steps(count: int) -> Generator[None, None, int]:
    for _ in range(count):
        until = time.thread_time() + STEP
        while time.thread_time() < until:
            pass
        yield
    return count


@pytest.mark.slow
async def test_many_who_ask_for_much_have_one_slice_of_a_round_together() -> None:
    longest = 0.0
    working = [asyncio.create_task(in_turns(steps(20), Turns.shared())) for _ in range(40)]
    before = time.thread_time()
    while not all(one.done() for one in working):
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, before = max(longest, now - before), now
    assert [one.result() for one in working] == [20] * 40
    # A slice, a step beyond it, and room for a collection of garbage; each with its own: 0.2 s.
    assert longest < 0.03


async def test_who_asks_alone_does_not_wait() -> None:
    loop = asyncio.get_running_loop()
    rounds = 0

    def count() -> None:
        nonlocal rounds
        rounds += 1
        loop.call_soon(count)

    loop.call_soon(count)
    assert await in_turns(steps(0), Turns.shared()) == 0
    assert rounds == 0


async def test_those_who_wait_come_in_the_order_in_which_they_asked() -> None:
    began: list[int] = []

    def noting(number: int) -> Generator[None, None, None]:
        began.append(number)
        yield from steps(6)

    await asyncio.gather(*(in_turns(noting(number), Turns.shared()) for number in range(20)))
    assert began == list(range(20))


@pytest.mark.parametrize("is_told", [False, True])
async def test_a_turn_of_one_who_goes_is_another_ones(is_told: bool) -> None:
    turns = Turns.shared()
    await turns.begin()
    until = time.monotonic() + 0.01
    while time.monotonic() < until:
        pass
    gone, next_one = asyncio.create_task(turns.begin()), asyncio.create_task(turns.begin())
    await asyncio.sleep(0)
    if is_told:
        # The slice ends in this round, and the first is told so.
        await asyncio.sleep(0)
    gone.cancel()
    async with asyncio.timeout(10):
        await next_one
    # And everything is as at the beginning.
    await in_turns(steps(1), Turns.shared())


async def test_a_slice_that_took_long_is_followed_by_two_rounds_without_one() -> None:
    turns = Turns.shared()
    began: list[int] = []
    number = 0

    async def ask() -> None:
        await turns.begin()
        began.append(number)
        turns.rest()

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    async with asyncio.timeout(10):
        while len(began) < len(asking):
            await asyncio.sleep(0)
            number += 1
    assert [later - one for one, later in itertools.pairwise(began)] == [3, 3, 3]
    await asyncio.gather(*asking)
