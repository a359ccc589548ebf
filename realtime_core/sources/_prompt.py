"""PromptFuture: a future that resumes who awaits it at once, and not with the loop's next turn.

asyncio's own futures schedule what waits for them. A turn of the loop takes as long as a tenth of
what a change costs by itself, and where the next change comes later than that, all of it is paid
for each. So a callback of the loop that finds that a task can go on lets it go on there and then.
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
        """Remember how the task is resumed."""
        self._resume = fn
        self._context = context
        if self.done():
            self._resume_soon()

    def resume(self) -> None:
        """Let the task go on; when this returns, it has come to its next wait.

        To be called by the event loop, not by a task, and as the last thing that is done.
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
        """Raise an exception where it is awaited, with the loop's next turn."""
        super().set_exception(exception)
        self._resume_soon()

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the wait, with the loop's next turn; return False when it is over."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._resume_soon()
        return cancelled

    def _resume_soon(self) -> None:
        if self._resume is not None:
            self.get_loop().call_soon(self._resume, self, context=self._context)
