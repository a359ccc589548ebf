"""Attachment: whether the database's changes are being read, and who waits until they are.

The source tells no one when it attaches, so it is asked now and then, and only while
somebody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["Attachment", "Wait"]

_INTERVAL: Final = 0.05
"""Seconds between two looks."""


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
        self._owner._waiting.pop(self, None)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, within: float) -> None:
        self._timer = loop.call_later(within, self._end, False)

    def _end(self, attached: bool) -> None:
        self.cancel()
        self._then(attached)


class Attachment:
    """The state of a server's stream.

    Args:
        is_attached: whether changes are being read now.
    """

    def __init__(self, is_attached: Callable[[], bool]) -> None:
        self._is_attached = is_attached
        # A dict for its order: who came first is told first.
        self._waiting: dict[Wait, None] = {}
        self._next_look: asyncio.Handle | None = None

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
        if self._next_look is None:
            self._next_look = loop.call_soon(self._look)
        return wait

    def _look(self) -> None:
        self._next_look = None
        if self._is_attached():
            for wait in list(self._waiting):
                # One of them may have cancelled another.
                if wait in self._waiting:
                    wait._end(True)
        if self._waiting:
            loop = asyncio.get_running_loop()
            self._next_look = loop.call_later(_INTERVAL, self._look)
