"""Attachment: whether the server reads changes, and callbacks for when it does.

Before a server reads changes for the first time it may be that nobody keeps what is committed
meanwhile: it begins at the end of the log that it shares with others, or with a slot that is made
only then. So a join without ``config``, whose client is told nothing but the reply, is answered
when that has begun; or after a while all the same, and then it is told of a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from realtime_core import SourceStats
from realtime_core.errors import RealtimeError

from ..config import ServerConfig
from ..phoenix.joins import JoinConfig
from .late_start import LateStart
from .turns import Turn, in_turn

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
        patience: seconds for which a join without ``config`` waits until that has begun.
        late_start: returns what those miss whose join was answered before, once it has begun; None
            if the slot has kept everything.
    """

    def __init__(
        self,
        is_attached: Callable[[], bool],
        attached: Callable[[], Coroutine[Any, Any, object]],
        *,
        patience: float = 1.0,
        late_start: Callable[[], LateStart | None] = lambda: None,
    ) -> None:
        self._is_attached = is_attached
        self._attached = attached
        self._patience = patience
        self.late_start = late_start
        """Returns what those miss whose join was answered before changes were read for the first
        time; None if that is nothing."""
        self._has_begun = False
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

    @property
    def has_begun(self) -> bool:
        """Whether changes are being read, or were before: what is committed from now on comes, or
        there is a gap that everybody is told of."""
        self._has_begun = self._has_begun or self._is_attached()
        return self._has_begun

    async def begin(self) -> None:
        """Call those that wait, as changes are being read; before the first is handed out.

        Thousands may have joined meanwhile, and to answer a join takes a tenth of a millisecond: so
        others have their turn in between.
        """
        self._has_begun = True
        await self._tell_all()

    def patience_of(self, config: JoinConfig | None) -> float | None:
        """Return for how many seconds a join may wait; None if it is answered now.

        Args:
            config: of the join; None if it has none.
        """
        if config is None:
            return None if self.has_begun else self._patience
        return None if self or not config.bindings else config.wait

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
        await self._tell_all()

    async def _tell_all(self) -> None:
        async for wait in in_turn(list(self._waiting), Turn()):
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
