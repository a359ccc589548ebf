"""PromptFuture: a future that resumes the task which awaits it at once.

asyncio's own futures resume a task in the next iteration of the event loop. An iteration takes a
tenth of the time that a change takes, and where changes come one by one it is needed for each. So
a callback of the event loop which finds that a task can go on resumes it right there.

One task cannot be resumed within another one. So where what a callback does may let several tasks
go on, one after the other, it is called by :func:`promptly`, which resumes them behind it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, TypeVarTuple

__all__ = ["PromptFuture", "promptly"]

Ts = TypeVarTuple("Ts")


class _Behind(threading.local):
    """What is resumed behind the callback that runs; None while none runs. Each thread may have an
    event loop."""

    futures: deque[PromptFuture] | None = None


_behind: Final = _Behind()


class PromptFuture(asyncio.Future[None]):
    """A future for one task, which awaits it and nothing else."""

    _resume: Callable[[Any], object] | None = None
    _context: Context | None = None

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        """Remember the function that resumes the task."""
        self._resume = fn
        self._context = context
        if self.done():
            self._resume_soon()

    def resume(self) -> None:
        """Resume the task.

        Called from a callback of the event loop, as its last statement: when this returns, the task
        has come to its next wait, or has ended. Below :func:`promptly` the task is resumed behind
        the callback, and where a task calls this otherwise, in the next iteration.
        """
        if self.done():
            return
        self.set_result(None)
        if self._resume is None:
            return
        if _behind.futures is not None:
            _behind.futures.append(self)
        elif asyncio.current_task(self.get_loop()) is None:
            promptly(self._resume_now)
        else:
            self._resume_soon()

    def set_exception(self, exception: type | BaseException, /) -> None:
        """Raise an exception in the task, in the next iteration of the event loop."""
        super().set_exception(exception)
        self._resume_soon()

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the wait, in the next iteration; return False if the future is done already."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._resume_soon()
        return cancelled

    def _resume_now(self) -> None:
        assert self._context is not None
        assert self._resume is not None
        self._context.run(self._resume, self)

    def _resume_soon(self) -> None:
        if self._resume is not None:
            self.get_loop().call_soon(self._resume, self, context=self._context)


def promptly(callback: Callable[[*Ts], object], *arguments: *Ts) -> None:
    """Call a function, and resume the tasks behind it that it lets go on.

    They are resumed in this order, with those that they let go on themselves. It is for callbacks
    of the event loop; where a task runs, the tasks are resumed in the next iteration.

    Args:
        callback: calls :meth:`PromptFuture.resume`, or has others call it.
        arguments: of the function.
    """
    if _behind.futures is not None or asyncio.current_task() is not None:
        callback(*arguments)
        return
    futures: deque[PromptFuture] = deque()
    _behind.futures = futures
    try:
        callback(*arguments)
        while futures:
            futures.popleft()._resume_now()
    finally:
        _behind.futures = None
        for future in futures:
            future._resume_soon()
