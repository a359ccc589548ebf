"""A loop's time that stands still until a test lets it pass: nothing is late on a busy machine."""

from __future__ import annotations

import asyncio

import pytest

__all__ = ["StoppedClock", "stop_the_clock"]


class StoppedClock:
    """The time of the running loop."""

    def __init__(self) -> None:
        self.now = asyncio.get_running_loop().time()

    async def pass_by(self, seconds: float) -> None:
        """Let time go on, and what is due then happen."""
        self.now += seconds
        for _ in range(2):
            await asyncio.sleep(0)


def stop_the_clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    """Stop the running loop's clock, until the end of the test."""
    clock = StoppedClock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock.now)
    return clock
