"""OpenTransaction: makes the changes of the transaction between its Begin and its Commit.

PostgreSQL sends one such transaction at a time, after it has committed. So each change is handed
over as its message comes, and only their number is kept.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from ..changes import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    RawRows,
    Transaction,
    Truncate,
    Update,
)
from ..errors import DecodeError
from ..lsn import LSN
from ..positions import StreamIdentity
from ._relations import RelationCache
from ._rows import RawRow, new_record, old_record
from .messages import (
    CommitMessage,
    DeleteMessage,
    InsertMessage,
    LogicalMessageMessage,
    Message,
    OriginMessage,
    TruncateMessage,
    UpdateMessage,
)

__all__ = ["OpenTransaction", "make_transaction"]

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


class OpenTransaction:
    """Makes changes of the messages between Begin and Commit.

    Each method that takes a message returns the events to hand over for it.

    Args:
        relations: the relations that the stream has described.
        stream: the stream's identity, which goes into each position.
    """

    __slots__ = ("_relations", "begin_is_due", "changes", "stream", "transaction")

    def __init__(self, relations: RelationCache, stream: StreamIdentity | None) -> None:
        self._relations = relations
        self.stream = stream
        """The stream's identity."""
        self.transaction: Transaction | None = None
        """The transaction; None when a Begin or the start of a stream block comes next."""
        self.changes = 0
        """How many changes it has had so far, which is the index of the next one."""
        self.begin_is_due = False
        """Whether its Begin is still to be handed over. It waits for the next message, which may be
        the transaction's origin."""

    def begin(self, xid: int, commit_lsn: LSN, commit_time: int) -> None:
        """Open a transaction.

        Raises:
            DecodeError: if Python has no such commit time.
        """
        self.transaction = make_transaction(self.stream, xid, commit_lsn, commit_time)
        self.changes = 0
        self.begin_is_due = True

    def take_begin(self, message: Message | RawRow) -> Begin:
        """Return the transaction's Begin, when the message behind it has come.

        Args:
            message: that message; an OriginMessage gives the transaction its origin.
        """
        self.begin_is_due = False
        transaction = self._current(message)
        if isinstance(message, OriginMessage):
            transaction = self.transaction = Transaction(
                transaction.xid,
                transaction.commit_lsn,
                transaction.commit_time,
                message.name,
                transaction.stream,
                transaction.gid,
            )
        return Begin(transaction)

    def commit(self, message: CommitMessage) -> tuple[Commit]:
        transaction = self._current(message)
        if message.commit_lsn != transaction.commit_lsn:
            raise DecodeError(
                f"Commit at {message.commit_lsn}, but the transaction under way commits at "
                f"{transaction.commit_lsn}"
            )
        self.transaction = None
        return (Commit(transaction, message.end_lsn, self.changes),)

    def insert(self, message: InsertMessage) -> tuple[Insert]:
        relation = self._relations.get(message.relation_oid)
        record = new_record(relation, message.new)
        return (Insert(*self._place(message), relation, record),)

    def update(self, message: UpdateMessage) -> tuple[Update]:
        relation = self._relations.get(message.relation_oid)
        old, is_key = message.old, message.old_is_key
        before = None if old is None else old_record(relation, old, is_key)
        after = new_record(relation, message.new, old, is_key)
        return (Update(*self._place(message), relation, after, before),)

    def delete(self, message: DeleteMessage) -> tuple[Delete]:
        relation = self._relations.get(message.relation_oid)
        record = old_record(relation, message.old, message.old_is_key)
        return (Delete(*self._place(message), relation, record),)

    def raw_row(self, message: RawRow) -> tuple[RawRows]:
        relation = self._relations.get(message.relation_oid)
        return (RawRows(*self._place(message), relation, (message.data,)),)

    def truncate(self, message: TruncateMessage) -> tuple[Truncate]:
        relations = tuple(self._relations.get(oid) for oid in message.relation_oids)
        options = message.options
        place = self._place(message)
        return (Truncate(*place, relations, bool(options & 1), bool(options & 2)),)

    def logical_message(self, message: LogicalMessageMessage) -> tuple[LogicalMessage]:
        """Take a message of ``pg_logical_emit_message``; one that is not transactional may come
        outside of a transaction, too."""
        transaction, index = None, 0
        if message.flags & 1:
            transaction, index = self._place(message)
        return (
            LogicalMessage(
                message.lsn, message.prefix, message.content, transaction, index, self.stream
            ),
        )

    def origin(self, message: OriginMessage) -> tuple[()]:
        """Check an Origin that does not come right behind the Begin: see :meth:`take_begin`."""
        transaction = self._current(message)
        if transaction.origin != message.name:
            raise DecodeError(
                f"Origin {message.name!r} comes too late: transaction {transaction.xid} was handed "
                f"over with origin {transaction.origin!r}"
            )
        return ()

    def _current(self, message: Message | RawRow) -> Transaction:
        if self.transaction is None:
            raise DecodeError(f"{type(message).__name__} outside of a transaction")
        return self.transaction

    def _place(self, message: Message | RawRow) -> tuple[Transaction, int]:
        """Return the transaction, and the index of its next change."""
        transaction = self._current(message)
        index = self.changes
        self.changes = index + 1
        return transaction, index


def make_transaction(
    stream: StreamIdentity | None,
    xid: int,
    commit_lsn: LSN,
    commit_time: int,
    origin: str | None = None,
    gid: str | None = None,
) -> Transaction:
    """Make a transaction, its time given as in messages: in microseconds since 2000-01-01 UTC.

    Raises:
        DecodeError: if Python has no such time.
    """
    try:
        time = _EPOCH + timedelta(0, 0, commit_time)
    except OverflowError as exc:
        raise DecodeError(f"commit time {commit_time} µs since 2000 is out of range") from exc
    return Transaction(xid, commit_lsn, time, origin, stream, gid)
