"""RecordFilter: which messages of the WAL may be records, for a server that passes them on.

Every role of the database may write messages with the journal's prefix, which must not take the
room of changes. Those that are signed with this server's secret are all passed on. A server that
only reads the database may have another secret than those whose records they are, so of the others
some bytes are passed on within some time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from realtime_core import LogicalMessage

from .journal_reader import may_be_record
from .records import PREFIX
from .signatures import is_signed

__all__ = ["RecordFilter"]

logger = logging.getLogger("realtime.replay")


class RecordFilter:
    """Decides on one message after the other.

    Args:
        secret: the key of the records' signatures, as far as it is known here.
        most: how many bytes of messages with other signatures are passed on ...
        within: ... within so many seconds.
        clock: seconds, which only grow.
    """

    def __init__(
        self, secret: bytes, *, most: float, within: float, clock: Callable[[], float]
    ) -> None:
        self._secret = secret
        self._most = self._left = most
        self._rate = most / within
        self._clock = clock
        self._counted_at = clock()
        self._has_said = False

    def __call__(self, message: LogicalMessage) -> bool:
        """Return whether a message is passed on."""
        if not may_be_record(message):
            return False
        if is_signed(self._secret, message.content):
            return True
        now = self._clock()
        self._left = min(self._left + (now - self._counted_at) * self._rate, self._most)
        self._counted_at = now
        size = len(message.content)
        if size > self._left:
            if not self._has_said:
                self._has_said = True
                logger.warning(
                    "many messages with the prefix %r are not signed with this server's secret, "
                    "and are left out of the log, as will be others: somebody else writes them, or "
                    "the servers have not the same REPLAY_SECRET, or else DB_PASSWORD and "
                    "JWT_SECRET",
                    PREFIX,
                )
            return False
        self._left -= size
        return True
