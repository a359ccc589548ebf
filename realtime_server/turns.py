"""Turns: how work of unknown length lets others have theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, TypeVar

from .dispatch import SLICE

__all__ = ["Turn", "in_turns"]

T = TypeVar("T")


class Turn:
    """A slice of time, after which it is somebody else's turn."""

    __slots__ = ("_loop", "_until")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + SLICE

    @property
    def is_over(self) -> bool:
        return self._loop.time() >= self._until

    async def give_way(self) -> None:
        """Let the others have their turn, if this one is over."""
        if self.is_over:
            await asyncio.sleep(0)
            self._until = self._loop.time() + SLICE


async def in_turns(steps: Generator[Any, None, T]) -> T:
    """Go through steps, and let others have their turn in between; return what they return."""
    turn = Turn()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await turn.give_way()
