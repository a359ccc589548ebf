"""Encoder: writes the events of a raw stream as pgoutput messages again.

What it writes is a plain stream, without stream blocks and prepared transactions, which any decoder
of pgoutput reads: a :class:`ChangeDecoder` makes the changes of it that a :class:`PgoutputSource`
would have yielded. The rows are the bytes that came. Everything around them is written anew, so
two things get lost, which no event has: the LSN of an Origin message, and that a transaction was
prepared.

Layouts: "Logical Replication Message Formats" in the PostgreSQL documentation.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Final

from ..changes import Begin, Commit, LogicalMessage, RawRows, Relation, Transaction, Truncate
from ..oids import BUILTIN_TYPES

__all__ = ["Encoder", "encode_relation"]

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_BEGIN: Final = Struct("!cQqI")
_COMMIT: Final = Struct("!cBQQq")
_ORIGIN: Final = Struct("!cQ")
_RELATION: Final = Struct("!cI")
_IDENTITY: Final = Struct("!ch")
_COLUMN_TYPE: Final = Struct("!Ii")
_TYPE: Final = Struct("!cI")
_TRUNCATE: Final = Struct("!cIB")
_OID: Final = Struct("!I")
_MESSAGE: Final = Struct("!cBQ")


class Encoder:
    """Writes the events of one stream, in order, for one reader that begins where this does.

    Example::

        encoder = Encoder()
        async for event in source:   # a RawPgoutputSource with boundaries=True
            for message in encoder.encode(event):
                ...
    """

    def __init__(self) -> None:
        # The relations that were described, by OID, as they were described last.
        self._described: dict[int, Relation] = {}

    def encode(self, event: Begin | RawRows | Truncate | LogicalMessage | Commit) -> list[bytes]:
        """Return the messages of an event, and before them those that describe its relations.

        A relation is described at its first event, and again when it was described anew.

        Raises:
            TypeError: if it is another event: a Gap and an Idle have no message, and neither has a
                change whose row was decoded.
            ValueError: if its transaction has no commit time.
        """
        match event:
            case RawRows(relation=relation, messages=messages):
                return [*self._describe(relation), *messages]
            case Begin(transaction):
                return _begin(transaction)
            case Commit(transaction, end_lsn):
                time = _time(transaction)
                return [_COMMIT.pack(b"C", 0, transaction.commit_lsn, end_lsn, time)]
            case Truncate(relations=relations, cascade=cascade, restart_identity=restart):
                described = [each for relation in relations for each in self._describe(relation)]
                options = cascade + 2 * restart
                oids = b"".join(_OID.pack(relation.oid) for relation in relations)
                return [*described, _TRUNCATE.pack(b"T", len(relations), options) + oids]
            case LogicalMessage():
                return [_message(event)]
        raise TypeError(
            f"{type(event).__name__} has no pgoutput message: encode() takes Begin, RawRows, "
            "Truncate, LogicalMessage and Commit"
        )

    def _describe(self, relation: Relation) -> list[bytes]:
        if self._described.get(relation.oid) is relation:
            return []
        self._described[relation.oid] = relation
        return encode_relation(relation)


def encode_relation(relation: Relation) -> list[bytes]:
    """Return the messages that describe a relation: Type for each type that needs it, and Relation.

    They are the same bytes for relations that are described in the same way.

    Args:
        relation: a relation that was decoded from pgoutput.
    """
    types = {
        column.type_oid: (column.type_schema, column.type_name)
        for column in relation.columns
        if BUILTIN_TYPES.get(column.type_oid) != column.type_name
        or column.type_schema != "pg_catalog"
    }
    messages = [
        _TYPE.pack(b"Y", oid) + _namespace(schema) + _string(name)
        for oid, (schema, name) in types.items()
    ]
    parts = [
        _RELATION.pack(b"R", relation.oid),
        _namespace(relation.schema),
        _string(relation.table),
        _IDENTITY.pack(relation.replica_identity.value.encode(), len(relation.columns)),
    ]
    for column in relation.columns:
        parts += (
            b"\1" if column.is_key else b"\0",
            _string(column.name),
            _COLUMN_TYPE.pack(column.type_oid, column.type_modifier),
        )
    return [*messages, b"".join(parts)]


def _begin(transaction: Transaction) -> list[bytes]:
    lsn = transaction.commit_lsn
    messages = [_BEGIN.pack(b"B", lsn, _time(transaction), transaction.xid)]
    if transaction.origin is not None:
        messages.append(_ORIGIN.pack(b"O", 0) + _string(transaction.origin))
    return messages


def _message(message: LogicalMessage) -> bytes:
    is_transactional = message.transaction is not None
    content = message.content
    head = _MESSAGE.pack(b"M", is_transactional, message.lsn) + _string(message.prefix)
    return head + _OID.pack(len(content)) + content


def _time(transaction: Transaction) -> int:
    if transaction.commit_time is None:
        raise ValueError(f"transaction {transaction.xid} has no commit time, and needs one")
    return (transaction.commit_time - _EPOCH) // _MICROSECOND


def _namespace(schema: str) -> bytes:
    """Return a schema's name as PostgreSQL writes it: it leaves out that of its own schema."""
    return b"\0" if schema == "pg_catalog" else _string(schema)


def _string(text: str) -> bytes:
    return text.encode() + b"\0"
