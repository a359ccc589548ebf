"""Attachment: whether the server reads changes, and callbacks for when it does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from realtime_core import SourceStats
from realtime_core.errors import RealtimeError

from ..config import ServerConfig

__all__ = ["Attachment", "Wait", "why_not_ready"]

_MEGABYTE: Final = 1_000_000


class Wait:
    """A callback that is called once: when the server reads changes, or when that takes too
    long."""

    def __init__(self, owner: Attachment, then: Callable[[bool], None]) -> None:
        self._owner = owner
        self._then = then
        self._timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """Do not call the callback any more. After the call, and twice, this does nothing."""
        if self._timer is not None:
            self._timer.cancel()
        self._owner._forget(self)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, within: float) -> None:
        self._timer = loop.call_later(within, self._end, False)

    def _end(self, attached: bool) -> None:
        self.cancel()
        self._then(attached)


class Attachment:
    """Whether a server is attached to its database's changes.

    Args:
        is_attached: returns whether changes are being read now.
        attached: returns when they are being read.
    """

    def __init__(
        self,
        is_attached: Callable[[], bool],
        attached: Callable[[], Coroutine[Any, Any, object]],
    ) -> None:
        self._is_attached = is_attached
        self._attached = attached
        # A dict for its order: callbacks are called in the order in which they came.
        self._waiting: dict[Wait, None] = {}
        # Waits on behalf of all of them.
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many callbacks have still to be called."""
        return len(self._waiting)

    def __bool__(self) -> bool:
        return self._is_attached()

    def wait(self, then: Callable[[bool], None], *, within: float | None = None) -> Wait:
        """Call ``then`` with True when the server reads changes, or with False after a time.

        Args:
            then: called from the event loop, never from here.
            within: seconds; None: however long it takes.
        """
        loop = asyncio.get_running_loop()
        wait = Wait(self, then)
        self._waiting[wait] = None
        if within is not None:
            wait._set_timer(loop, within)
        if self._task is None:
            self._task = loop.create_task(self._wait_for_all())
        return wait

    async def _wait_for_all(self) -> None:
        try:
            await self._attached()
        except (RealtimeError, RuntimeError):
            # The server ends with the same error soon.
            return
        self._task = None
        for wait in list(self._waiting):
            # A callback may have cancelled another wait.
            if wait in self._waiting:
                wait._end(True)

    def _forget(self, wait: Wait) -> None:
        self._waiting.pop(wait, None)
        if not self._waiting and self._task is not None:
            self._task.cancel()
            self._task = None


def why_not_ready(stats: SourceStats, config: ServerConfig) -> str | None:
    """Return why clients would not get changes now, None if they would; for ``/ready``.

    Args:
        stats: what the source of the changes counts.
        config: says how far behind the stream may be.
    """
    most = config.ready_max_lag_mb
    if not stats.connected:
        return "the database's changes are not being read"
    if most and stats.lag_bytes > most * _MEGABYTE:
        lag = f"{stats.lag_bytes / _MEGABYTE:.0f}"
        return f"the stream is {lag} MB behind, at most {most} are good (READY_MAX_LAG_MB)"
    return None
