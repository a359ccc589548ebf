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
from ._held import HeldTransaction, HoldableMessage
from ._relations import RelationCache
from ._rows import new_record, old_record
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

__all__ = ["Assembler", "assemble"]

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
        max_memory: int = 64 * 1024 * 1024,
        spill_store: SpillStore | None = None,
    ) -> None:
        if max_memory < 0:
            raise ConfigError(f"max_memory is {max_memory}: give bytes, 0 to hold none in memory")
        self._stream = stream
        self._max_memory = max_memory
        self._store = spill_store or FileSpillStore()
        self._relations = RelationCache()
        self._transaction: Transaction | None = None
        self._index = 0
        # Begin is handed over with the next message, which may be the transaction's origin.
        self._begun = False
        self._broken = False

        # Streamed transactions by xid, prepared ones by gid, and the one that messages go to
        # now: inside a stream block, or between Begin Prepare and Prepare.
        self._streamed: dict[int, HeldTransaction] = {}
        self._prepared: dict[str, HeldTransaction] = {}
        self._holding: HeldTransaction | None = None
        self._memory = 0

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
        self._held: dict[type[Message], _Handler] = {
            InsertMessage: self._hold,
            UpdateMessage: self._hold,
            DeleteMessage: self._hold,
            RelationMessage: self._describe_held,
            TypeMessage: self._name_type_held,
            TruncateMessage: self._hold,
            LogicalMessageMessage: self._logical_message_held,
            OriginMessage: self._origin_held,
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
            self._broken = True
            self.close()
            raise

    def close(self) -> None:
        """Drop what is held, and its spill files."""
        for held in (*self._streamed.values(), *self._prepared.values()):
            held.close()
        if self._holding is not None:
            self._holding.close()
        self._streamed.clear()
        self._prepared.clear()
        self._memory = 0

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
        within = self._transaction or self._holding
        if within is not None:
            raise DecodeError(f"{type(message).__name__} within transaction {within.xid}")

    def _begin(self, message: BeginMessage) -> Assembled:
        self._outside(message)
        self._transaction = self._new_transaction(
            message.xid, message.final_lsn, message.commit_time
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

    # Held transactions

    def _now_holding(self) -> HeldTransaction:
        assert self._holding is not None
        return self._holding

    def _start_holding(self, held: HeldTransaction) -> None:
        self._holding = held
        self._handlers = self._held

    def _stop_holding(self, message: Message) -> HeldTransaction:
        held = self._holding
        if held is None:
            raise DecodeError(f"{type(message).__name__} without its beginning")
        self._holding = None
        self._handlers = self._direct
        return held

    def _hold(self, message: HoldableMessage) -> Assembled:
        self._memory += self._now_holding().hold(message)
        while self._memory > self._max_memory:
            everyone = {*self._streamed.values(), *self._prepared.values(), self._now_holding()}
            largest = max(everyone, key=lambda held: held.memory)
            self._memory -= largest.spill()
        return ()

    def _logical_message_held(self, message: LogicalMessageMessage) -> Assembled:
        # One that is not transactional waits for nobody.
        return self._hold(message) if message.flags & 1 else self._logical_message(message)

    def _describe_held(self, message: RelationMessage) -> Assembled:
        self._now_holding().relations.add_relation(message)
        return ()

    def _name_type_held(self, message: TypeMessage) -> Assembled:
        self._now_holding().relations.add_type(message)
        return ()

    def _origin_held(self, message: OriginMessage) -> Assembled:
        self._now_holding().origin = message.name
        return ()

    def _stream_start(self, message: StreamStartMessage) -> Assembled:
        self._outside(message)
        held = self._streamed.get(message.xid)
        if message.first_segment:
            if held is not None:
                raise DecodeError(f"transaction {message.xid} is streamed from its start again")
            held = HeldTransaction(message.xid, RelationCache(self._relations), self._store)
            self._streamed[message.xid] = held
        if held is None:
            raise DecodeError(f"the start of streamed transaction {message.xid} is missing")
        self._start_holding(held)
        return ()

    def _stream_stop(self, message: StreamStopMessage) -> Assembled:
        held = self._stop_holding(message)
        if held.gid is not None:
            raise DecodeError(f"Stream Stop within prepared transaction {held.gid!r}")
        return ()

    def _stream_commit(self, message: StreamCommitMessage) -> Assembled:
        self._outside(message)
        held = self._take_streamed(message.xid)
        self._relations.absorb(held.relations)
        transaction = self._new_transaction(
            message.xid, message.commit_lsn, message.commit_time, origin=held.origin
        )
        return self._hand_over(held, transaction, message.end_lsn)

    def _stream_abort(self, message: StreamAbortMessage) -> Assembled:
        self._outside(message)
        if message.subxid == message.xid:
            self._drop(self._take_streamed(message.xid))
        elif message.xid in self._streamed:
            self._streamed[message.xid].abort(message.subxid)
        else:
            raise DecodeError(f"abort in streamed transaction {message.xid}, which never began")
        return ()

    def _begin_prepare(self, message: BeginPrepareMessage) -> Assembled:
        self._outside(message)
        # Not a stream: what is described here is said once for everybody.
        self._start_holding(
            HeldTransaction(message.xid, self._relations, self._store, gid=message.gid)
        )
        return ()

    def _prepare(self, message: PrepareMessage) -> Assembled:
        held = self._stop_holding(message)
        if (held.xid, held.gid) != (message.xid, message.gid):
            raise DecodeError(
                f"Prepare of {message.gid!r}, transaction {message.xid}, within that of "
                f"{held.gid!r}, transaction {held.xid}"
            )
        self._keep_prepared(message.gid, held)
        return ()

    def _stream_prepare(self, message: StreamPrepareMessage) -> Assembled:
        self._outside(message)
        # What it has described is said again to the others, whether it will commit or not.
        self._keep_prepared(message.gid, self._take_streamed(message.xid))
        return ()

    def _keep_prepared(self, gid: str, held: HeldTransaction) -> None:
        former = self._prepared.pop(gid, None)
        if former is not None:
            self._drop(former)
        self._prepared[gid] = held

    def _commit_prepared(self, message: CommitPreparedMessage) -> Assembled:
        self._outside(message)
        held = self._take_prepared(message)
        transaction = self._new_transaction(
            message.xid, message.commit_lsn, message.commit_time, gid=message.gid
        )
        if held is None:
            # Prepared before this stream began: its rows were sent then, to somebody else.
            return (Begin(transaction), Commit(transaction, message.end_lsn, 0))
        transaction = attrs.evolve(transaction, origin=held.origin)
        return self._hand_over(held, transaction, message.end_lsn)

    def _rollback_prepared(self, message: RollbackPreparedMessage) -> Assembled:
        self._outside(message)
        held = self._take_prepared(message)
        if held is not None:
            self._drop(held)
        return ()

    def _take_prepared(
        self, message: CommitPreparedMessage | RollbackPreparedMessage
    ) -> HeldTransaction | None:
        held = self._prepared.pop(message.gid, None)
        if held is not None and held.xid != message.xid:
            raise DecodeError(
                f"{message.gid!r} ends as transaction {message.xid}, but was prepared as {held.xid}"
            )
        return held

    def _take_streamed(self, xid: int) -> HeldTransaction:
        held = self._streamed.pop(xid, None)
        if held is None:
            raise DecodeError(f"the end of streamed transaction {xid}, which never began")
        return held

    def _drop(self, held: HeldTransaction) -> None:
        self._memory -= held.memory
        held.close()

    def _hand_over(
        self, held: HeldTransaction, transaction: Transaction, end_lsn: LSN
    ) -> Iterator[Change | Begin | Commit]:
        self._memory -= held.memory
        return self._whole(held.replay(transaction, end_lsn))

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
        *,
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
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError as exc:
        raise DecodeError(f"commit time {microseconds} µs since 2000 is out of range") from exc
