"""PromptFuture: a future that resumes the task which awaits it at once.

asyncio's own futures resume a task in the next iteration of the event loop. An iteration takes a
tenth of the time that a change takes, and where changes come one by one it is needed for each. So
a callback of the event loop which finds that a task can go on resumes it right there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

__all__ = ["PromptFuture"]


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
        """Resume the task; when this returns, the task has come to its next wait, or has ended.

        Call it from a callback of the event loop, not from a task, and as the last statement.
        """
        if self.done():
            return
        self.set_result(None)
        if self._resume is None or self._context is None:
            return
        if asyncio.current_task(self.get_loop()) is None:
            self._context.run(self._resume, self)
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

    def _resume_soon(self) -> None:
        if self._resume is not None:
            self.get_loop().call_soon(self._resume, self, context=self._context)
