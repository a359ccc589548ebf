"""Writes pgoutput messages, protocol 1: what PostgreSQL does, the other way round.

A plain reference for the decoder's tests, and a way for later tests to make a stream
without a server. It writes what it is told, so it can make wrong messages, too.

Layouts: "Logical Replication Message Formats" in the PostgreSQL documentation.
"""

from __future__ import annotations

from struct import pack

from realtime_core import UNCHANGED
from realtime_core.pgoutput import (
    BeginMessage,
    CommitMessage,
    DeleteMessage,
    Fields,
    InsertMessage,
    LogicalMessageMessage,
    Message,
    OriginMessage,
    RelationMessage,
    TruncateMessage,
    TypeMessage,
    UpdateMessage,
)
from realtime_core.records import Field


def encode(message: Message) -> bytes:
    """Return the message's bytes, as the payload of an XLogData carries them."""
    match message:
        case BeginMessage(final_lsn, commit_time, xid):
            return b"B" + pack("!QqI", final_lsn, commit_time, xid)
        case CommitMessage(flags, commit_lsn, end_lsn, commit_time):
            return b"C" + pack("!BQQq", flags, commit_lsn, end_lsn, commit_time)
        case OriginMessage(lsn, name):
            return b"O" + pack("!Q", lsn) + string(name)
        case RelationMessage(oid, namespace, name, identity, columns):
            head = b"R" + pack("!I", oid) + string(namespace) + string(name) + identity.encode()
            return (
                head
                + pack("!h", len(columns))
                + b"".join(
                    pack("!B", column.flags)
                    + string(column.name)
                    + pack("!Ii", column.type_oid, column.type_modifier)
                    for column in columns
                )
            )
        case TypeMessage(oid, namespace, name):
            return b"Y" + pack("!I", oid) + string(namespace) + string(name)
        case InsertMessage(oid, new):
            return b"I" + pack("!I", oid) + b"N" + tuple_data(new)
        case UpdateMessage(oid, old, old_is_key, new):
            before = b"" if old is None else (b"K" if old_is_key else b"O") + tuple_data(old)
            return b"U" + pack("!I", oid) + before + b"N" + tuple_data(new)
        case DeleteMessage(oid, old, old_is_key):
            return b"D" + pack("!I", oid) + (b"K" if old_is_key else b"O") + tuple_data(old)
        case TruncateMessage(options, oids):
            return b"T" + pack(f"!iB{len(oids)}I", len(oids), options, *oids)
        case LogicalMessageMessage(flags, lsn, prefix, content):
            head = b"M" + pack("!BQ", flags, lsn) + string(prefix)
            return head + pack("!i", len(content)) + content


def string(text: str) -> bytes:
    """A NUL-terminated string."""
    return text.encode() + b"\0"


def tuple_data(fields: Fields) -> bytes:
    """A TupleData."""
    return pack("!h", len(fields)) + b"".join(_field(field) for field in fields)


def _field(field: Field) -> bytes:
    match field:
        case None:
            return b"n"
        case str():
            data = field.encode()
            return b"t" + pack("!i", len(data)) + data
        case bytes():
            return b"b" + pack("!i", len(field)) + field
        case _:
            assert field is UNCHANGED
            return b"u"
