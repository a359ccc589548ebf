"""What waits for its transaction's rest, and for how long; test_connection.py has it at work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from realtime_core.sources._arrivals import Arrivals

KEEPALIVE = b"k" + bytes(17)
URGENT = b"k" + bytes(16) + b"\1"


def xlog(message: bytes) -> bytes:
    return b"w" + bytes(24) + message


class ManualLoop:
    """Has one timer, which fires when a test says so."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []

    def call_later(self, _: float, callback: Callable[[], None]) -> Any:
        self.timers.append(callback)
        return asyncio.TimerHandle(0, callback, (), asyncio.get_running_loop())

    def fire(self) -> None:
        [callback] = self.timers
        self.timers.clear()
        callback()


class ManualArrivals(Arrivals):
    """Arrivals whose timers fire when the test says so."""

    def __init__(self, wake: Callable[[], None], loop: ManualLoop) -> None:
        super().__init__(wake)
        self._loop = loop  # type: ignore[assignment]


class Stage:
    """Arrivals of a plugin whose transactions end with a C."""

    def __init__(self) -> None:
        self.wakes = 0
        self.loop = ManualLoop()
        self.arrivals = ManualArrivals(self._wake, self.loop)
        self.arrivals.expects_more = lambda message: bytes(message[:1]) in (b"B", b"I")

    def _wake(self) -> None:
        self.wakes += 1

    def come(self, *payloads: bytes) -> None:
        self.arrivals.payloads += map(memoryview, payloads)
        self.arrivals.look()


@pytest.fixture
async def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize(
    "payloads",
    [
        [xlog(b"B"), xlog(b"C")],
        [KEEPALIVE, xlog(b"B"), xlog(b"I"), xlog(b"C")],
        [xlog(b"C"), KEEPALIVE],
        [xlog(b"M")],
        [xlog(b"")],
        [URGENT],
        [xlog(b"B"), URGENT],
        [xlog(b"B"), URGENT, KEEPALIVE],
        [b"?!"],
        [xlog(b"I")] * 64,
        [xlog(b"I"), xlog(b"I" * 65536)],
    ],
    ids=str,
)
async def test_what_is_whole_or_much_or_wants_an_answer_is_read_at_once(
    stage: Stage, payloads: list[bytes]
) -> None:
    stage.come(*payloads)
    assert stage.arrivals.is_due
    assert stage.wakes == 1
    assert stage.arrivals.take() == payloads
    assert not stage.arrivals.is_due
    assert stage.arrivals.take() == []
    assert not stage.loop.timers


@pytest.mark.parametrize(
    "payloads",
    [
        [xlog(b"B")],
        [xlog(b"C"), xlog(b"B"), xlog(b"I")],
        [xlog(b"B"), KEEPALIVE],
        [KEEPALIVE],
        [KEEPALIVE, KEEPALIVE],
        [xlog(b"I")] * 63,
    ],
    ids=str,
)
async def test_what_goes_on_waits_until_nothing_new_has_come_for_a_moment(
    stage: Stage, payloads: list[bytes]
) -> None:
    stage.come(*payloads)
    assert not stage.arrivals.is_due
    # The timer may have begun long before.
    stage.loop.fire()
    assert not stage.arrivals.is_due
    stage.loop.fire()
    assert stage.arrivals.is_due
    assert stage.wakes == 1
    assert stage.arrivals.take() == payloads


async def test_what_goes_on_waits_as_long_as_more_comes(stage: Stage) -> None:
    for _ in range(10):
        stage.come(xlog(b"I"))
        stage.loop.fire()
        assert not stage.arrivals.is_due
    stage.come(xlog(b"C"))
    assert len(stage.arrivals.take()) == 11


async def test_one_timer_serves_all_transactions_and_ends_with_them(stage: Stage) -> None:
    for _ in range(10):
        stage.come(xlog(b"B"))
        stage.come(xlog(b"C"))
        assert len(stage.arrivals.take()) == 2
        assert len(stage.loop.timers) == 1
    stage.loop.fire()
    assert not stage.loop.timers
    assert not stage.arrivals.is_due


async def test_without_a_plugin_nothing_waits(stage: Stage) -> None:
    stage.arrivals.expects_more = None
    stage.come(xlog(b"B"))
    assert stage.arrivals.is_due
