"""Assembler: messages to changes.

It knows the relations and types described so far and the transaction under way. In
protocol 1 everything between Begin and Commit is committed already, so each change goes on
as soon as its message arrives and memory stays constant whatever the transaction's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs

from ..changes import (
    Begin,
    Change,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Relation,
    ReplicaIdentity,
    Transaction,
    Truncate,
    Update,
)
from ..errors import DecodeError, UnknownRelationError, UnknownTypeError
from ..oids import BUILTIN_TYPES
from ..positions import StreamIdentity
from ..records import UNCHANGED, Column, Record
from .messages import (
    BeginMessage,
    CommitMessage,
    DeleteMessage,
    Fields,
    InsertMessage,
    LogicalMessageMessage,
    Message,
    OriginMessage,
    RelationColumn,
    RelationMessage,
    TruncateMessage,
    TypeMessage,
    UpdateMessage,
)

__all__ = ["Assembler"]

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


class Assembler:
    """Turns the messages of one connection into changes, in commit order.

    After a :exc:`~realtime_core.errors.DecodeError` it refuses further messages: what it
    knows may be wrong. Make a new one for each connection, as PostgreSQL describes every
    relation again.

    Args:
        stream: goes into each position; None for a stream without a known source.
    """

    def __init__(self, stream: StreamIdentity | None = None) -> None:
        self._stream = stream
        self._relations: dict[int, Relation] = {}
        self._types: dict[int, tuple[str, str]] = {}
        self._transaction: Transaction | None = None
        self._index = 0
        # Begin is handed over with the next message, which may be the transaction's origin.
        self._begun = False
        self._broken = False

    @property
    def in_transaction(self) -> bool:
        """Whether a Begin has come without its Commit."""
        return self._transaction is not None

    def feed(self, message: Message) -> Sequence[Change | Begin | Commit]:
        """Take the next message; return what it completes, in order.

        Begin comes out together with what the message after it completes, since that one may
        be the transaction's Origin.

        Raises:
            UnknownRelationError: if a row's relation was never described.
            UnknownTypeError: if a column's type was not.
            DecodeError: if the message cannot come at this place, or does not fit its
                relation.
        """
        if self._broken:
            raise DecodeError("this assembler met an error before: start with a new one")
        try:
            if self._begun:
                return self._feed_first(message)
            return self._feed(message)
        except DecodeError:
            self._broken = True
            raise

    def _feed_first(self, message: Message) -> Sequence[Change | Begin | Commit]:
        """Take the message after Begin, and hand over both."""
        self._begun = False
        if isinstance(message, OriginMessage):
            self._feed(message)
            return (Begin(self._open(message)),)
        transaction = self._open(message)
        return (Begin(transaction), *self._feed(message))

    def _feed(self, message: Message) -> Sequence[Change | Begin | Commit]:
        match message:
            case InsertMessage(oid, new):
                relation = self._relation(oid)
                return (Insert(*self._place(message), relation, _record(relation, new)),)
            case UpdateMessage():
                return (self._update(message),)
            case DeleteMessage(oid, old, old_is_key):
                relation = self._relation(oid)
                record = _old_record(relation, old, old_is_key)
                return (Delete(*self._place(message), relation, record),)
            case BeginMessage():
                self._begin(message)
            case CommitMessage():
                return (self._commit(message),)
            case RelationMessage():
                self._relations[message.relation_oid] = self._describe(message)
            case TypeMessage(oid, namespace, name):
                self._types[oid] = (namespace or "pg_catalog", name)
            case OriginMessage():
                transaction = self._open(message)
                self._transaction = attrs.evolve(transaction, origin=message.name)
            case TruncateMessage(options, oids):
                relations = tuple(self._relation(oid) for oid in oids)
                place = self._place(message)
                return (Truncate(*place, relations, bool(options & 1), bool(options & 2)),)
            case LogicalMessageMessage():
                return (self._logical_message(message),)
        return ()

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

    def _relation(self, oid: int) -> Relation:
        relation = self._relations.get(oid)
        if relation is None:
            raise UnknownRelationError(oid)
        return relation

    def _begin(self, message: BeginMessage) -> None:
        if self._transaction is not None:
            raise DecodeError(
                f"Begin of transaction {message.xid} within transaction {self._transaction.xid}"
            )
        self._transaction = Transaction(
            message.xid, message.final_lsn, _time(message.commit_time), None, self._stream
        )
        self._index = 0
        self._begun = True

    def _commit(self, message: CommitMessage) -> Commit:
        transaction = self._open(message)
        if message.commit_lsn != transaction.commit_lsn:
            raise DecodeError(
                f"Commit at {message.commit_lsn}, but the transaction under way commits at "
                f"{transaction.commit_lsn}"
            )
        self._transaction = None
        return Commit(transaction, message.end_lsn, self._index)

    def _update(self, message: UpdateMessage) -> Update:
        relation = self._relation(message.relation_oid)
        new, old = message.new, message.old
        old_record = None
        if old is not None:
            old_record = _old_record(relation, old, message.old_is_key)
            if not message.old_is_key and UNCHANGED in new and len(old) == len(new):
                # Under FULL the old row has every value, unchanged TOAST included.
                new = tuple(
                    before if after is UNCHANGED else after
                    for before, after in zip(old, new, strict=True)
                )
        return Update(*self._place(message), relation, _record(relation, new), old_record)

    def _logical_message(self, message: LogicalMessageMessage) -> LogicalMessage:
        transaction, index = None, 0
        if message.flags & 1:
            transaction, index = self._place(message)
        return LogicalMessage(
            message.lsn, message.prefix, message.content, transaction, index, self._stream
        )

    def _describe(self, message: RelationMessage) -> Relation:
        schema = message.namespace or "pg_catalog"
        columns = tuple(
            self._column(column, f"{schema}.{message.name}") for column in message.columns
        )
        identity = ReplicaIdentity(message.replica_identity)
        return Relation(message.relation_oid, schema, message.name, identity, columns)

    def _column(self, column: RelationColumn, relation: str) -> Column:
        oid = column.type_oid
        # A Type message wins: information_schema's types have fixed OIDs too.
        schema, name = self._types.get(oid) or ("pg_catalog", BUILTIN_TYPES.get(oid, ""))
        if not name:
            raise UnknownTypeError(oid, column=column.name, relation=relation)
        return Column(column.name, oid, name, schema, column.type_modifier, bool(column.flags & 1))


def _record(relation: Relation, fields: Fields) -> Record:
    if len(fields) != len(relation.columns):
        raise DecodeError(
            f"a row of {relation} has {len(fields)} fields, its relation {len(relation.columns)} "
            "columns"
        )
    return Record(relation.shape, fields)


def _old_record(relation: Relation, fields: Fields, is_key: bool) -> Record:
    record = _record(relation, fields)
    if not is_key:
        return record
    # A key tuple has all columns, the others as null: "not sent" must not look like NULL.
    return Record(relation.key_shape, tuple(fields[place] for place in relation.key_places))


def _time(microseconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError as exc:
        raise DecodeError(f"commit time {microseconds} µs since 2000 is out of range") from exc
