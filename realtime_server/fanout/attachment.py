"""Attachment: whether the database's changes are being read, and who waits until they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from realtime_core.errors import RealtimeError

__all__ = ["Attachment", "Wait"]


class Wait:
    """Somebody who waits. Exactly one thing comes of it, unless it is cancelled."""

    def __init__(self, owner: Attachment, then: Callable[[bool], None]) -> None:
        self._owner = owner
        self._then = then
        self._timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """Wait no more. Doing so twice, or when the wait is over, is nothing."""
        if self._timer is not None:
            self._timer.cancel()
        self._owner._forget(self)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, within: float) -> None:
        self._timer = loop.call_later(within, self._end, False)

    def _end(self, attached: bool) -> None:
        self.cancel()
        self._then(attached)


class Attachment:
    """The state of a server's stream.

    Args:
        is_attached: whether changes are being read now.
        attached: returns when they are.
    """

    def __init__(
        self,
        is_attached: Callable[[], bool],
        attached: Callable[[], Coroutine[Any, Any, object]],
    ) -> None:
        self._is_attached = is_attached
        self._attached = attached
        # A dict for its order: who came first is told first.
        self._waiting: dict[Wait, None] = {}
        # Waits for all of them together.
        self._task: asyncio.Task[None] | None = None

    def __bool__(self) -> bool:
        return self._is_attached()

    def wait(self, then: Callable[[bool], None], *, within: float | None = None) -> Wait:
        """Call ``then`` with True when the stream is attached, with False if it is not in time.

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
            # The reading ends with the same error, or the server does; nobody waits for long then.
            return
        self._task = None
        for wait in list(self._waiting):
            # One of them may have cancelled another.
            if wait in self._waiting:
                wait._end(True)

    def _forget(self, wait: Wait) -> None:
        self._waiting.pop(wait, None)
        if not self._waiting and self._task is not None:
            self._task.cancel()
            self._task = None
