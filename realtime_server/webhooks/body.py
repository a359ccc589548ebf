"""Bodies: a transaction's changes as the original's JSON, in parts of bounded size.

``{"commit_timestamp": …, "changes": […]}``, each change as a socket's payload of the original has
it. A transaction that does not fit into one body goes in numbered parts, so that it can be sent
while the rest of it is still being read.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

import attrs

from realtime_core import Position, Transaction

from ..fanout.payloads.row_payload import commit_timestamp

__all__ = ["Bodies", "Body", "message_id"]


@attrs.frozen
class Body:
    """The body of one request, and its place in its transaction.

    Attributes:
        content: the body as JSON.
        transaction: the transaction of the changes.
        first: the first change's place in the transaction.
        last: the last change's place.
        part: the body's number among the transaction's bodies, from 1.
        is_last: whether it is the transaction's last body.
    """

    content: bytes = attrs.field(repr=False)
    transaction: Transaction
    first: int
    last: int
    part: int
    is_last: bool

    @property
    def position(self) -> Position:
        """The position of the last change."""
        return Position(self.transaction.commit_lsn, self.last, self.transaction.stream)

    @property
    def commit_time(self) -> datetime:
        return _commit_time(self.transaction)


class Bodies:
    """Makes the bodies of one transaction for one endpoint.

    Args:
        transaction: the transaction whose changes are added.
        most: bytes of a body; a change that is larger alone has one of its own all the same.
    """

    def __init__(self, transaction: Transaction, most: int) -> None:
        self._transaction = transaction
        self._most = most
        time = commit_timestamp(_commit_time(transaction))
        self._head = b'{"commit_timestamp":"' + time + b'","changes":['
        self._tail = b"]}"
        self._changes: list[bytes] = []
        self._first = self._last = 0
        self._part = 0
        self._size = 0

    @property
    def room(self) -> int:
        """Bytes of a change that still fits into an empty body."""
        return self._most - len(self._head) - len(self._tail)

    def add(self, change: bytes, index: int) -> Body | None:
        """Add a change; return the part that it did not fit into.

        Args:
            change: the change as JSON.
            index: its place in the transaction.
        """
        finished = None
        if self._changes and self._size + len(change) + 1 > self.room:
            finished = self._finish(is_last=False)
        if not self._changes:
            self._first = index
        self._last = index
        self._changes.append(change)
        self._size += len(change) + 1
        return finished

    def end(self) -> Body | None:
        """Return the last part, None if there was no change."""
        return self._finish(is_last=True) if self._changes else None

    def _finish(self, *, is_last: bool) -> Body:
        self._part += 1
        content = self._head + b",".join(self._changes) + self._tail
        self._changes.clear()
        self._size = 0
        return Body(content, self._transaction, self._first, self._last, self._part, is_last)


def message_id(body: Body, *, name: str, endpoint: str) -> str:
    """Return what names a request, the same at each attempt and after each restart.

    It is made of what does not change: the cluster, the commit, which of its changes these are,
    and the endpoint. The commit's time is in it because a promoted standby may come to the same
    LSN with another transaction; the timeline is not, because it may have the same one.
    """
    transaction = body.transaction
    cluster = 0 if transaction.stream is None else transaction.stream.system_identifier
    parts = (
        str(cluster),
        str(transaction.commit_lsn),
        body.commit_time.isoformat(),
        f"{body.first}-{body.last}",
        name,
        endpoint,
    )
    return f"msg_{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:32]}"


def _commit_time(transaction: Transaction) -> datetime:
    time = transaction.commit_time
    assert time is not None  # pgoutput always has it
    return time
