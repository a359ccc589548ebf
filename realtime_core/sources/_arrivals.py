"""Arrivals: payloads that have come from the server, kept until it is worth waking the reader.

Theory of operation. PostgreSQL sends each message of a transaction by itself, but all of them
within a moment, because the transaction has committed already. Each message may make the socket
readable once more. If each of them also woke the reader, and every task behind it, a change would
cost several times as much. So the reader is only woken when the last message shows that its
transaction has come to its end, when enough has come to make a batch, or when the server wants an
answer.

The rest of a transaction may take long to come, as when a publication has few rows of a large
transaction. So the reader is also woken when nothing new has come for a moment. A timer for each
transaction would cost as much as waking the reader. So there is one timer at a time, which is not
stopped when a transaction ends: when it fires, it checks whether anything has waited since it was
started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

from ..replication.protocol import TAG_XLOG_DATA, XLOG_DATA_HEADER, Payload

__all__ = ["Arrivals", "ExpectsMore"]

ExpectsMore: TypeAlias = Callable[[memoryview], bool]
"""Takes an output plugin's message; returns whether more of its transaction is about to come."""

_MOMENT: Final = 0.025
"""Seconds of the timer: payloads wait for the rest of their transaction for one to two times as
long, if nothing new comes. Acknowledgements wait as long for each other."""
_MANY: Final = 64
"""How many payloads are read at once, whatever is about to come."""
_MUCH: Final = 64 * 1024
"""How many bytes of payloads are read at once."""


class Arrivals:
    """The payloads of CopyData that the reader has not taken yet.

    Args:
        wake: called when the reader shall take them.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.payloads: list[Payload] = []
        """The payloads. Append those that have come, and call :meth:`look` after the last one."""
        self.expects_more: ExpectsMore | None = None
        """The output plugin's function; None if there is none, and then nothing is waited for."""
        self.is_due = False
        """Whether the reader shall take the payloads now."""
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # Whether anything has come since the timer was started.
        self._is_fresh = False

    def look(self) -> None:
        """Decide whether to wake the reader now or to wait for more payloads."""
        if self._is_worth_reading():
            self.hurry()
        else:
            self._is_fresh = True
            if self._timer is None:
                self._timer = self._loop.call_later(_MOMENT, self._look_again)

    def hurry(self) -> None:
        """Wake the reader because there is an error to raise, even without payloads."""
        self.is_due = True
        self._wake()

    def take(self) -> list[Payload]:
        """Return all payloads, perhaps none, and delete them here."""
        payloads, self.payloads = self.payloads, []
        self.is_due = False
        return payloads

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_worth_reading(self) -> bool:
        payloads, expects_more = self.payloads, self.expects_more
        if expects_more is None or len(payloads) >= _MANY:
            return True
        for payload in reversed(payloads):
            if payload[0] == TAG_XLOG_DATA:
                return (
                    not expects_more(memoryview(payload)[XLOG_DATA_HEADER:])
                    or sum(map(len, payloads)) >= _MUCH
                )
            if payload[-1]:
                # This is a keepalive that wants an answer, or no valid message at all.
                return True
        # There are only keepalives, which can wait and be read together with other messages.
        return False

    def _look_again(self) -> None:
        self._timer = None
        if self.payloads and not self.is_due:
            if self._is_fresh:
                self._is_fresh = False
                self._timer = self._loop.call_later(_MOMENT, self._look_again)
            else:
                self.hurry()
