"""Arrivals: what came from the server and waits to be read, small transactions whole.

Theory of operation. PostgreSQL sends each message of a transaction by itself, and all of them
within a moment, as it is committed already. Each may be a wake-up of its own; if each also woke
the reader, and everybody behind it, a change would cost several times as much. So the last
message tells whether more is about to come, and then the reader is left alone. What is much is
not waited with, since it is a batch that is worth reading, nor what wants an answer.

The rest may be long in coming: a large transaction of which a publication lets few rows pass. So
nothing waits for longer than a moment without anything new. A timer for each transaction would
cost as much as a wake-up. There is one at a time, which is never stopped: it looks whether
anything waits that waited the last time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

from ..replication.protocol import TAG_XLOG_DATA, XLOG_DATA_HEADER

__all__ = ["Arrivals", "GoesOn"]

GoesOn: TypeAlias = Callable[[memoryview], bool]
"""Says of a plugin's message whether more of its transaction is about to come."""

_MOMENT: Final = 0.025
"""Seconds that pass, once or twice, until what waits is read without what it waits for.
Acknowledgements wait as long for each other."""
_MANY: Final = 64
"""Messages that are not waited with."""
_MUCH: Final = 64 * 1024
"""Bytes of them."""


class Arrivals:
    """The payloads of CopyData that nobody has read yet.

    Args:
        wake: called when they are to be read.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.payloads: list[memoryview] = []
        """Which to add to. When all are there that came, :meth:`look` at them."""
        self.goes_on: GoesOn | None = None
        """Of the output plugin; None: nobody knows, and nothing is waited for."""
        self.is_due = False
        """Whether they are to be read now."""
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # Whether anything came since the timer began.
        self._is_fresh = False

    def look(self) -> None:
        """Decide whether those that came are to be read now, or wait for others."""
        if self._is_worth_reading():
            self.hurry()
        else:
            self._is_fresh = True
            if self._timer is None:
                self._timer = self._loop.call_later(_MOMENT, self._look_again)

    def hurry(self) -> None:
        """Have them read, whatever there is: there is news besides them."""
        self.is_due = True
        self._wake()

    def take(self) -> list[memoryview]:
        """Hand all of them over, which may be none."""
        payloads, self.payloads = self.payloads, []
        self.is_due = False
        return payloads

    def close(self) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_worth_reading(self) -> bool:
        payloads, goes_on = self.payloads, self.goes_on
        if goes_on is None or len(payloads) >= _MANY:
            return True
        for payload in reversed(payloads):
            if payload[0] == TAG_XLOG_DATA:
                return not goes_on(payload[XLOG_DATA_HEADER:]) or sum(map(len, payloads)) >= _MUCH
            if payload[-1]:
                # A keepalive that wants an answer, or what is none at all.
                return True
        # Nothing but keepalives: they can wait for something to be read with.
        return False

    def _look_again(self) -> None:
        self._timer = None
        if self.payloads and not self.is_due:
            if self._is_fresh:
                self._is_fresh = False
                self._timer = self._loop.call_later(_MOMENT, self._look_again)
            else:
                self.hurry()
