"""Turns: how work that takes long lets other work run on the event loop in between.

Work for many clients, such as matching rows with filters, has a :class:`Turn` of its own: a slice
of time, after which the event loop runs whatever else is ready. Work that single clients ask for,
such as joins, shares one slice (:class:`Turns`). Otherwise each of a hundred clients with large
joins would have a slice in each round of the event loop, and everybody else would wait for a
hundred.

Work that cannot await, because it knows no event loop, is a generator that yields wherever it may
be interrupted: see :data:`Steps`, and :func:`in_turns`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

__all__ = [
    "SLICE",
    "Steps",
    "Turn",
    "Turns",
    "call_later",
    "in_turn",
    "in_turns",
    "run_steps",
]

T = TypeVar("T")

Steps: TypeAlias = Iterator[float]
"""Work that is done in steps, so that the event loop can serve others in between.

Each ``next()`` does one step and returns for how many seconds the caller must pause before it asks
for the next one: usually 0, which lets others have one round of the event loop. The work is done
when the iterator ends. Whoever began it must bring it to its end, as :func:`run_steps` does.
"""

SLICE: Final = 0.005
"""Seconds that work may run before it lets others have their turn."""

_SHARED_SLICE: Final = 0.002
"""Seconds of each round of the event loop for all that single clients ask for. It is short because
a change takes several rounds on its way from the database to a client."""


class Turn:
    """A slice of time for one piece of work, after which other work has its turn."""

    __slots__ = ("_loop", "_until")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + SLICE

    @property
    def is_over(self) -> bool:
        """Whether the slice has been used up."""
        return self._loop.time() >= self._until

    async def give_way(self) -> None:
        """Let other work run, and begin another slice, if this one is over."""
        if self.is_over:
            await asyncio.sleep(0)
            self._until = self._loop.time() + SLICE


class Turns:
    """The slices of time that all requests of single clients share, first come, first served.

    Of those who wait one begins in each round of the event loop. After a step that took long
    (:meth:`rest`) there are two rounds in which nobody does.
    """

    def __init__(self) -> None:
        # Until when the current slice lasts, on the event loop's clock.
        self._until = 0.0
        self._is_under_way = False
        # Whether there is to be one more round without a slice.
        self._rests = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        # Whether the first of those that waited was told that it is its turn, and has not begun.
        self._is_told = False

    @staticmethod
    def shared() -> Turns:
        """Return the turns that all requests on the running event loop share."""
        loop = asyncio.get_running_loop()
        turns = _of_loops.get(loop)
        if turns is None:
            turns = _of_loops[loop] = Turns()
        return turns

    async def begin(self) -> None:
        """Wait for a turn, which comes at once if nobody else is waiting."""
        if not self._waiting and not self._is_told and self._has_time():
            self._start()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        while True:
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._is_told = False
                    self._tell_the_next()
                raise
            self._is_told = False
            if self._has_time():
                break
            # Those that came before have used the slice up. It is still the first that waits.
            turn = asyncio.get_running_loop().create_future()
            self._waiting.appendleft(turn)
        self._start()
        # There may be time for more than one.
        self._tell_the_next()

    async def give_way(self) -> None:
        """Return at once while the slice lasts; after that, wait for the next turn."""
        if not self._is_under_way or not self._has_time():
            await self.begin()

    def rest(self) -> None:
        """End the current slice, of which a single step took long, and leave out one more round.

        What others have sent meanwhile needs two rounds: one to be read, and one to be answered.
        """
        if self._is_under_way:
            self._rests = True
            self._until = 0.0

    def _has_time(self) -> bool:
        return not self._is_under_way or asyncio.get_running_loop().time() < self._until

    def _start(self) -> None:
        if not self._is_under_way:
            loop = asyncio.get_running_loop()
            self._is_under_way = True
            self._until = loop.time() + _SHARED_SLICE
            loop.call_soon(self._end)

    def _end(self) -> None:
        """End the slice, one round after it began, or two; the next one begins a round later."""
        if self._rests:
            self._rests = False
            asyncio.get_running_loop().call_soon(self._end)
            return
        self._is_under_way = False
        self._tell_the_next()

    def _tell_the_next(self) -> None:
        while self._waiting and not self._is_told:
            turn = self._waiting.popleft()
            if not turn.done():
                self._is_told = True
                turn.set_result(None)


_of_loops: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Turns]] = WeakKeyDictionary()


async def in_turn(items: Iterable[T], turn: Turn) -> AsyncIterator[T]:
    """Iterate over items, and let other work run between two of them when the slice is over."""
    for item in items:
        await turn.give_way()
        yield item


async def in_turns(steps: Generator[Any, None, T], turn: Turn | Turns) -> T:
    """Run a generator to its end, and let other work run in between; return what it returns.

    Args:
        steps: yields wherever it may be interrupted; what it yields is ignored.
        turn: the work's own slice of time, or the shared one. With the shared one, the first step
            waits for a turn, too.
    """
    while True:
        await turn.give_way()
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def call_later(seconds: float, function: Callable[[], None]) -> None:
    """Call a function after so many seconds; 0: in the next round of the running event loop."""
    loop = asyncio.get_running_loop()
    if seconds:
        loop.call_later(seconds, function)
    else:
        loop.call_soon(function)


async def run_steps(steps: Steps) -> None:
    """Do all steps, and pause after each for as long as it says.

    A cancellation takes effect after the last step: the remaining ones are done without a pause.
    Half of the clients may have got something already that the others are still to get.
    """
    try:
        for seconds in steps:
            await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        for _ in steps:
            pass
        raise
