"""Assembler: makes changes of messages, in commit order.

It knows the relations and types that the stream has described, and the transactions that have not
ended. A transaction between Begin and Commit has committed already, so each change is handed over
as soon as its message arrives, and memory stays constant whatever the transaction's size. A
streamed transaction is still running, and a prepared one undecided: their changes are held, in
memory up to a bound and then in a spill file, until the commit hands them over or a rollback
drops them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias, overload

from ..changes import Begin, Change, Commit, RawRows
from ..errors import ConfigError, DecodeError
from ..positions import StreamIdentity
from ._relations import RelationCache
from ._rows import RawRow
from ._transaction_changes import OpenTransaction, make_transaction
from ._undecided_transactions import UndecidedTransactions
from .messages import (
    BeginMessage,
    BeginPrepareMessage,
    CommitMessage,
    CommitPreparedMessage,
    DeleteMessage,
    InsertMessage,
    LogicalMessageMessage,
    Message,
    OriginMessage,
    PrepareMessage,
    RelationMessage,
    RollbackPreparedMessage,
    StreamAbortMessage,
    StreamCommitMessage,
    StreamPrepareMessage,
    StreamStartMessage,
    StreamStopMessage,
    TruncateMessage,
    TypeMessage,
    UpdateMessage,
)
from .spill import FileSpillStore, SpillStore

__all__ = ["MAX_MEMORY", "Assembler", "assemble"]

MAX_MEMORY: Final = 64 * 1024 * 1024
"""How many bytes of undecided transactions are held in memory unless a caller says otherwise."""

Assembled: TypeAlias = Iterable[Change | Begin | Commit]
# Raw rows come out where raw rows are fed, and nowhere else.
_Handler: TypeAlias = Callable[[Any], Iterable[Any]]


class Assembler:
    """Turns the messages of one connection into changes, in commit order.

    After an error it refuses further messages, because what it knows may be wrong, and drops the
    changes that it held. Make a new one for each connection: PostgreSQL describes every relation
    again.

    Args:
        stream: the stream's identity, which goes into each position; None if it is not known.
        max_memory: how many bytes of streamed and prepared transactions are held in memory, all
            of them together; what is beyond goes to the spill store.
        spill_store: takes the changes beyond ``max_memory``; None stands for nameless files in
            the system's temporary folder.
        transactional_messages: whether transactional messages are changes of their transactions;
            if not, they are dropped, and do not count in positions.

    Raises:
        ConfigError: if ``max_memory`` is negative.
    """

    def __init__(
        self,
        stream: StreamIdentity | None = None,
        *,
        max_memory: int = MAX_MEMORY,
        spill_store: SpillStore | None = None,
        transactional_messages: bool = True,
    ) -> None:
        if max_memory < 0:
            raise ConfigError(f"max_memory is {max_memory}: give bytes, 0 to hold none in memory")
        self._stream = stream
        # The decoders whose short cuts go around feed() read and set these three, too.
        self.relations = RelationCache()
        self.open_transaction = OpenTransaction(self.relations, stream)
        self.is_abandoned = False
        self._undecided = UndecidedTransactions(
            self.relations, max_memory, spill_store or FileSpillStore()
        )

        # Handlers are found by the message's class: a match statement would try one class after
        # the other. _direct is for messages outside of a stream block, _held for those in one.
        frames: dict[type[Message | RawRow], _Handler] = {
            BeginMessage: self._begin,
            CommitMessage: self.open_transaction.commit,
            StreamStartMessage: self._stream_start,
            StreamStopMessage: self._stream_stop,
            StreamCommitMessage: self._stream_commit,
            StreamAbortMessage: self._stream_abort,
            BeginPrepareMessage: self._begin_prepare,
            PrepareMessage: self._prepare,
            StreamPrepareMessage: self._stream_prepare,
            CommitPreparedMessage: self._commit_prepared,
            RollbackPreparedMessage: self._rollback_prepared,
        }
        self._direct: dict[type[Message | RawRow], _Handler] = {
            InsertMessage: self.open_transaction.insert,
            UpdateMessage: self.open_transaction.update,
            DeleteMessage: self.open_transaction.delete,
            RawRow: self.open_transaction.raw_row,
            RelationMessage: self._describe,
            TypeMessage: self._name_type,
            TruncateMessage: self.open_transaction.truncate,
            LogicalMessageMessage: (
                self.open_transaction.logical_message
                if transactional_messages
                else self._logical_message_alone
            ),
            OriginMessage: self.open_transaction.origin,
            **frames,
        }
        undecided = self._undecided
        self._held: dict[type[Message | RawRow], _Handler] = {
            InsertMessage: undecided.hold,
            UpdateMessage: undecided.hold,
            DeleteMessage: undecided.hold,
            RawRow: undecided.hold,
            RelationMessage: undecided.describe,
            TypeMessage: undecided.name_type,
            TruncateMessage: undecided.hold,
            LogicalMessageMessage: (
                self._logical_message_held
                if transactional_messages
                else self._logical_message_alone
            ),
            OriginMessage: undecided.set_origin,
            **frames,
        }
        self._handlers = self._direct

    @property
    def in_transaction(self) -> bool:
        """Whether a Begin has come without its Commit."""
        return self.open_transaction.transaction is not None

    @property
    def may_begin(self) -> bool:
        """Whether a Begin may come now: no other transaction, and no stream block, is under way."""
        return (
            self.open_transaction.transaction is None
            and self._undecided.current is None
            and not self.is_abandoned
        )

    @overload
    def feed(self, message: Message) -> Assembled: ...
    @overload
    def feed(self, message: RawRow) -> Iterable[RawRows | Begin]: ...

    def feed(self, message: Message | RawRow) -> Iterable[Any]:
        """Take the next message; return the events that it completes, in order.

        A Begin is returned together with the events of the message behind it, since that one may
        be the transaction's Origin. The commit of a held transaction returns an iterator over all
        of it, which reads spilled changes as it goes: exhaust it before the next message.

        Raises:
            UnknownRelationError: if a row's relation was never described.
            UnknownTypeError: if the type of a relation's column was never described.
            DecodeError: if the message cannot come at this place, or its row does not fit its
                relation.
            SpillError: if a held transaction cannot be stored.
        """
        if self.is_abandoned:
            raise DecodeError("this assembler met an error before: start with a new one")
        try:
            if self.open_transaction.begin_is_due:
                return self._feed_first(message)
            return self._handlers[type(message)](message)
        except Exception:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Drop the held changes, and refuse further messages, because a message failed."""
        self.is_abandoned = True
        self.close()

    def close(self) -> None:
        """Drop the changes of transactions that have not ended, and their spill files."""
        self._undecided.close()

    def _feed_first(self, message: Message | RawRow) -> Iterable[Any]:
        """Take the message after a Begin; return the events of both."""
        begin = self.open_transaction.take_begin(message)
        if isinstance(message, OriginMessage):
            return (begin,)
        return (begin, *self._handlers[type(message)](message))

    # Plain transactions

    def _begin(self, message: BeginMessage) -> Assembled:
        self._outside(message)
        self.open_transaction.begin(message.xid, message.final_lsn, message.commit_time)
        return ()

    def _describe(self, message: RelationMessage) -> Assembled:
        self.relations.add_relation(message)
        return ()

    def _name_type(self, message: TypeMessage) -> Assembled:
        self.relations.add_type(message)
        return ()

    def _outside(self, message: Message) -> None:
        """Raise DecodeError if the message stands within another transaction."""
        within = self.open_transaction.transaction or self._undecided.current
        if within is not None:
            raise DecodeError(f"{type(message).__name__} within transaction {within.xid}")

    # Undecided transactions

    def _logical_message_held(self, message: LogicalMessageMessage) -> Assembled:
        if message.flags & 1:
            return self._undecided.hold(message)
        # One that is not transactional does not wait for the transaction's end.
        return self.open_transaction.logical_message(message)

    def _stream_start(self, message: StreamStartMessage) -> Assembled:
        self._outside(message)
        self._undecided.start_block(message)
        self._handlers = self._held
        return ()

    def _logical_message_alone(self, message: LogicalMessageMessage) -> Assembled:
        """Hand over a message that is not transactional, and drop one that is."""
        return () if message.flags & 1 else self.open_transaction.logical_message(message)

    def _stream_stop(self, message: StreamStopMessage) -> Assembled:
        self._undecided.stop_block(message)
        self._handlers = self._direct
        return ()

    def _stream_commit(self, message: StreamCommitMessage) -> Assembled:
        self._outside(message)
        held = self._undecided.take_streamed(message.xid)
        self.relations.absorb(held.relations)
        transaction = make_transaction(
            self._stream, message.xid, message.commit_lsn, message.commit_time, held.origin
        )
        return self._whole(held.replay(transaction, message.end_lsn))

    def _stream_abort(self, message: StreamAbortMessage) -> Assembled:
        self._outside(message)
        self._undecided.abort(message)
        return ()

    def _begin_prepare(self, message: BeginPrepareMessage) -> Assembled:
        self._outside(message)
        self._undecided.begin_prepare(message)
        self._handlers = self._held
        return ()

    def _prepare(self, message: PrepareMessage) -> Assembled:
        self._undecided.prepare(message)
        self._handlers = self._direct
        return ()

    def _stream_prepare(self, message: StreamPrepareMessage) -> Assembled:
        self._outside(message)
        self._undecided.prepare_streamed(message)
        return ()

    def _commit_prepared(self, message: CommitPreparedMessage) -> Assembled:
        self._outside(message)
        held = self._undecided.take_prepared(message)
        origin = None if held is None else held.origin
        transaction = make_transaction(
            self._stream, message.xid, message.commit_lsn, message.commit_time, origin, message.gid
        )
        if held is None:
            # It was prepared before this stream began, and its rows were sent then.
            return (Begin(transaction), Commit(transaction, message.end_lsn, 0))
        return self._whole(held.replay(transaction, message.end_lsn))

    def _rollback_prepared(self, message: RollbackPreparedMessage) -> Assembled:
        self._outside(message)
        held = self._undecided.take_prepared(message)
        if held is not None:
            held.close()
        return ()

    def _whole(self, events: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from events
        except Exception:
            self.abandon()
            raise


def assemble(messages: Iterable[Message]) -> Iterator[Change | Begin | Commit]:
    """Assemble a whole stream of messages: a plain generator, for scripts.

    Raises:
        DecodeError, SpillError: as :meth:`Assembler.feed` does.
    """
    assembler = Assembler()
    try:
        for message in messages:
            yield from assembler.feed(message)
    finally:
        assembler.close()
