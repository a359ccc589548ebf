"""Assembler: messages to changes, in commit order.

It knows the relations and types described so far and the transactions under way. What
comes between Begin and Commit is committed already, so each change goes on as soon as its
message arrives and memory stays constant whatever the transaction's size. A streamed
transaction is still running, and a prepared one undecided: their changes are held, in
memory up to a bound and then in a spill file, until the commit hands them over or a
rollback drops them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import attrs

from ..changes import (
    Begin,
    Change,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Transaction,
    Truncate,
    Update,
)
from ..errors import ConfigError, DecodeError, SpillError
from ..lsn import LSN
from ..positions import StreamIdentity
from ._relations import RelationCache
from ._rows import new_record, old_record
from ._undecided import UndecidedTransactions
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

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

Assembled: TypeAlias = Iterable[Change | Begin | Commit]
_Handler: TypeAlias = Callable[[Any], Assembled]


class Assembler:
    """Turns the messages of one connection into changes, in commit order.

    After an error it refuses further messages: what it knows may be wrong, and what it held
    is dropped. Make a new one for each connection, as PostgreSQL describes every relation again.

    Args:
        stream: goes into each position; None for a stream without a known source.
        max_memory: bytes of streamed and prepared transactions that are held in memory,
            all together; what is beyond goes to the spill store.
        spill_store: None: nameless files in the system's temporary folder.

    Raises:
        ConfigError: if ``max_memory`` is negative.
    """

    def __init__(
        self,
        stream: StreamIdentity | None = None,
        *,
        max_memory: int = MAX_MEMORY,
        spill_store: SpillStore | None = None,
    ) -> None:
        if max_memory < 0:
            raise ConfigError(f"max_memory is {max_memory}: give bytes, 0 to hold none in memory")
        self._stream = stream
        self._relations = RelationCache()
        self._undecided = UndecidedTransactions(
            self._relations, max_memory, spill_store or FileSpillStore()
        )
        self._transaction: Transaction | None = None
        self._index = 0
        # Begin is handed over with the next message, which may be the transaction's origin.
        self._begun = False
        self._broken = False

        # By the message's class: a match statement would try one class after the other.
        frames: dict[type[Message], _Handler] = {
            BeginMessage: self._begin,
            CommitMessage: self._commit,
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
        self._direct: dict[type[Message], _Handler] = {
            InsertMessage: self._insert,
            UpdateMessage: self._update,
            DeleteMessage: self._delete,
            RelationMessage: self._describe,
            TypeMessage: self._name_type,
            TruncateMessage: self._truncate,
            LogicalMessageMessage: self._logical_message,
            OriginMessage: self._origin,
            **frames,
        }
        undecided = self._undecided
        self._held: dict[type[Message], _Handler] = {
            InsertMessage: undecided.hold,
            UpdateMessage: undecided.hold,
            DeleteMessage: undecided.hold,
            RelationMessage: undecided.describe,
            TypeMessage: undecided.name_type,
            TruncateMessage: undecided.hold,
            LogicalMessageMessage: self._logical_message_held,
            OriginMessage: undecided.set_origin,
            **frames,
        }
        self._handlers = self._direct

    @property
    def in_transaction(self) -> bool:
        """Whether a Begin has come without its Commit."""
        return self._transaction is not None

    def feed(self, message: Message) -> Assembled:
        """Take the next message; return what it completes, in order.

        Begin comes out together with what the message after it completes, since that one may
        be the transaction's Origin. A commit of a held transaction hands over all of it as an
        iterator that reads the spill as it goes: use it up before the next message.

        Raises:
            UnknownRelationError: if a row's relation was never described.
            UnknownTypeError: if a column's type was not.
            DecodeError: if the message cannot come at this place, or does not fit its
                relation.
            SpillError: if a held transaction cannot be stored.
        """
        if self._broken:
            raise DecodeError("this assembler met an error before: start with a new one")
        try:
            if self._begun:
                return self._feed_first(message)
            return self._handlers[type(message)](message)
        except Exception:
            self._give_up()
            raise

    def _give_up(self) -> None:
        self._broken = True
        self.close()

    def close(self) -> None:
        """Drop what is held, and its spill files."""
        self._undecided.close()

    def _feed_first(self, message: Message) -> Assembled:
        """Take the message after Begin, and hand over both."""
        self._begun = False
        if isinstance(message, OriginMessage):
            self._transaction = attrs.evolve(self._open(message), origin=message.name)
            return (Begin(self._transaction),)
        begin = Begin(self._open(message))
        return (begin, *self._handlers[type(message)](message))

    # Plain transactions

    def _open(self, message: Message) -> Transaction:
        if self._transaction is None:
            raise DecodeError(f"{type(message).__name__} outside of a transaction")
        return self._transaction

    def _place(self, message: Message) -> tuple[Transaction, int]:
        """Return the next place in the transaction under way."""
        transaction = self._open(message)
        index = self._index
        self._index = index + 1
        return transaction, index

    def _outside(self, message: Message) -> None:
        within = self._transaction or self._undecided.current
        if within is not None:
            raise DecodeError(f"{type(message).__name__} within transaction {within.xid}")

    def _begin(self, message: BeginMessage) -> Assembled:
        self._outside(message)
        self._transaction = Transaction(
            message.xid, message.final_lsn, _time(message.commit_time), None, self._stream
        )
        self._index = 0
        self._begun = True
        return ()

    def _commit(self, message: CommitMessage) -> Assembled:
        transaction = self._open(message)
        if message.commit_lsn != transaction.commit_lsn:
            raise DecodeError(
                f"Commit at {message.commit_lsn}, but the transaction under way commits at "
                f"{transaction.commit_lsn}"
            )
        self._transaction = None
        return (Commit(transaction, message.end_lsn, self._index),)

    def _insert(self, message: InsertMessage) -> Assembled:
        relation = self._relations.get(message.relation_oid)
        record = new_record(relation, message.new)
        return (Insert(*self._place(message), relation, record),)

    def _update(self, message: UpdateMessage) -> Assembled:
        relation = self._relations.get(message.relation_oid)
        old, is_key = message.old, message.old_is_key
        before = None if old is None else old_record(relation, old, is_key)
        after = new_record(relation, message.new, old, is_key)
        return (Update(*self._place(message), relation, after, before),)

    def _delete(self, message: DeleteMessage) -> Assembled:
        relation = self._relations.get(message.relation_oid)
        record = old_record(relation, message.old, message.old_is_key)
        return (Delete(*self._place(message), relation, record),)

    def _truncate(self, message: TruncateMessage) -> Assembled:
        relations = tuple(self._relations.get(oid) for oid in message.relation_oids)
        options = message.options
        place = self._place(message)
        return (Truncate(*place, relations, bool(options & 1), bool(options & 2)),)

    def _logical_message(self, message: LogicalMessageMessage) -> Assembled:
        transaction, index = None, 0
        if message.flags & 1:
            transaction, index = self._place(message)
        return (
            LogicalMessage(
                message.lsn, message.prefix, message.content, transaction, index, self._stream
            ),
        )

    def _describe(self, message: RelationMessage) -> Assembled:
        self._relations.add_relation(message)
        return ()

    def _name_type(self, message: TypeMessage) -> Assembled:
        self._relations.add_type(message)
        return ()

    def _origin(self, message: OriginMessage) -> Assembled:
        # The first one comes right after Begin: see _feed_first.
        transaction = self._open(message)
        if transaction.origin != message.name:
            raise DecodeError(
                f"Origin {message.name!r} too late: transaction {transaction.xid} was handed over "
                f"with {transaction.origin!r}"
            )
        return ()

    # Undecided transactions

    def _logical_message_held(self, message: LogicalMessageMessage) -> Assembled:
        # One that is not transactional waits for nobody.
        held = message.flags & 1
        return self._undecided.hold(message) if held else self._logical_message(message)

    def _stream_start(self, message: StreamStartMessage) -> Assembled:
        self._outside(message)
        self._undecided.start_block(message)
        self._handlers = self._held
        return ()

    def _stream_stop(self, message: StreamStopMessage) -> Assembled:
        self._undecided.stop_block(message)
        self._handlers = self._direct
        return ()

    def _stream_commit(self, message: StreamCommitMessage) -> Assembled:
        self._outside(message)
        held = self._undecided.take_streamed(message.xid)
        self._relations.absorb(held.relations)
        transaction = self._new_transaction(
            message.xid, message.commit_lsn, message.commit_time, held.origin
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
        transaction = self._new_transaction(
            message.xid, message.commit_lsn, message.commit_time, origin, message.gid
        )
        if held is None:
            # Prepared before this stream began: its rows were sent then, to somebody else.
            return (Begin(transaction), Commit(transaction, message.end_lsn, 0))
        return self._whole(held.replay(transaction, message.end_lsn))

    def _rollback_prepared(self, message: RollbackPreparedMessage) -> Assembled:
        self._outside(message)
        held = self._undecided.take_prepared(message)
        if held is not None:
            held.close()
        return ()

    def _whole(
        self, events: Iterator[Change | Begin | Commit]
    ) -> Iterator[Change | Begin | Commit]:
        try:
            yield from events
        except SpillError:
            self._broken = True
            raise

    def _new_transaction(
        self,
        xid: int,
        commit_lsn: LSN,
        commit_time: int,
        origin: str | None = None,
        gid: str | None = None,
    ) -> Transaction:
        return Transaction(xid, commit_lsn, _time(commit_time), origin, self._stream, gid)


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


def _time(microseconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(0, 0, microseconds)
    except OverflowError as exc:
        raise DecodeError(f"commit time {microseconds} µs since 2000 is out of range") from exc
