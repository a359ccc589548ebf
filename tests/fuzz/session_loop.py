"""An event loop without a network, whose time is turned by hand, and that watches what takes long.

Whatever asyncio's loop would do in one go, a callback or a task's step up to where it waits, is
done here in the same order, and timed: that is how long others have to wait. What it takes in all
until nothing is left to do is a message's cost. Nothing ever sleeps.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVar

import attrs

__all__ = ["Cost", "SessionLoop"]

T = TypeVar("T")

_MOST_STEPS = 200_000
"""Of what follows from one message: more is a loop that has no end."""


@attrs.frozen
class Cost:
    """Seconds of the processor's."""

    total: float = 0.0
    longest: float = 0.0
    """The most of it without giving way."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.total + other.total, max(self.longest, other.longest))


class SessionLoop(asyncio.AbstractEventLoop):
    """Runs callbacks and tasks until nothing is left to do.

    Args:
        clock: seconds, for the server.
        cpu: seconds of the processor's. To ask for them takes long: where ``clock`` is another one,
            that tells what is longest without giving way, or a little more.
    """

    def __init__(self, clock: Callable[[], float], cpu: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._cpu = cpu or clock
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0
        self._offset = 0.0
        self.problems: list[dict[str, Any]] = []
        """What nobody caught."""

    # What the test does.

    @contextmanager
    def running(self) -> Iterator[None]:
        """Be the running loop."""
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def settle(self) -> Cost:
        """Do what is to be done now, and what follows from it; return what it cost.

        Raises:
            RuntimeError: if it has no end.
        """
        clock, ready = self._clock, self._ready
        longest = 0.0
        steps = 0
        started = self._cpu()
        while ready:
            steps += 1
            if steps > _MOST_STEPS:
                raise RuntimeError("it goes on and on")
            handle = ready.popleft()
            if handle.cancelled():
                continue
            begin = clock()
            handle._run()
            taken = clock() - begin
            if taken > longest:
                longest = taken
            # Who gives way for a while, as Dispatch does, waits for a timer of this length.
            if not ready and self._timers and self._timers[0][0] - self.time() < 0.01:
                self.advance(0.01)
        total = self._cpu() - started
        return Cost(total, min(longest, total))

    def advance(self, seconds: float) -> bool:
        """Turn the time on; say whether something is due then, and is to be done."""
        self._offset += seconds
        now = self.time()
        timers = self._timers
        while timers and (timers[0][0] <= now or timers[0][2].cancelled()):
            handle = heapq.heappop(timers)[2]
            if not handle.cancelled():
                self._ready.append(handle)
        return bool(self._ready)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> tuple[T, Cost]:
        """Run a coroutine, which must not wait for anything but others' turns, to its end."""
        task = self.create_task(coroutine)
        cost = self.settle()
        return task.result(), cost

    @property
    def waiting(self) -> list[asyncio.TimerHandle]:
        """The timers that are set."""
        return [handle for _, _, handle in self._timers if not handle.cancelled()]

    # What asyncio asks for.

    def time(self) -> float:
        return self._offset + self._clock()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Any = None
    ) -> asyncio.Task[T]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(context)

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Told of a timer that is not wanted any more; it is left out when it would be due."""
