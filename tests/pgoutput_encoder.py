"""Writes pgoutput messages, protocols 1 to 4: what PostgreSQL does, the other way round.

A plain reference for the decoder's tests, and a way for later tests to make a stream
without a server. It writes what it is told, so it can make wrong messages, too.

Layouts: "Logical Replication Message Formats" in the PostgreSQL documentation.
"""

from __future__ import annotations

from struct import pack

from realtime_core import UNCHANGED
from realtime_core.pgoutput import (
    BeginMessage,
    BeginPrepareMessage,
    CommitMessage,
    CommitPreparedMessage,
    DeleteMessage,
    Fields,
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
        case RelationMessage(oid, namespace, name, identity, columns, xid):
            head = _tag(b"R", xid) + pack("!I", oid) + string(namespace) + string(name)
            return (
                head
                + identity.encode()
                + pack("!h", len(columns))
                + b"".join(
                    pack("!B", column.flags)
                    + string(column.name)
                    + pack("!Ii", column.type_oid, column.type_modifier)
                    for column in columns
                )
            )
        case TypeMessage(oid, namespace, name, xid):
            return _tag(b"Y", xid) + pack("!I", oid) + string(namespace) + string(name)
        case InsertMessage(oid, new, xid):
            return _tag(b"I", xid) + pack("!I", oid) + b"N" + tuple_data(new)
        case UpdateMessage(oid, old, old_is_key, new, xid):
            before = b"" if old is None else (b"K" if old_is_key else b"O") + tuple_data(old)
            return _tag(b"U", xid) + pack("!I", oid) + before + b"N" + tuple_data(new)
        case DeleteMessage(oid, old, old_is_key, xid):
            before = (b"K" if old_is_key else b"O") + tuple_data(old)
            return _tag(b"D", xid) + pack("!I", oid) + before
        case TruncateMessage(options, oids, xid):
            return _tag(b"T", xid) + pack(f"!iB{len(oids)}I", len(oids), options, *oids)
        case LogicalMessageMessage(flags, lsn, prefix, content, xid):
            head = _tag(b"M", xid) + pack("!BQ", flags, lsn) + string(prefix)
            return head + pack("!i", len(content)) + content
        case StreamStartMessage(xid, first_segment):
            return b"S" + pack("!IB", xid, first_segment)
        case StreamStopMessage():
            return b"E"
        case StreamCommitMessage(xid, flags, commit_lsn, end_lsn, commit_time):
            return b"c" + pack("!IBQQq", xid, flags, commit_lsn, end_lsn, commit_time)
        case StreamAbortMessage(xid, subxid, None, _):
            return b"A" + pack("!II", xid, subxid)
        case StreamAbortMessage(xid, subxid, abort_lsn, abort_time):
            return b"A" + pack("!IIQq", xid, subxid, abort_lsn, abort_time)
        case BeginPrepareMessage(prepare_lsn, end_lsn, time, xid, gid):
            return b"b" + pack("!QQqI", prepare_lsn, end_lsn, time, xid) + string(gid)
        case PrepareMessage(flags, lsn, end_lsn, time, xid, gid):
            return b"P" + pack("!BQQqI", flags, lsn, end_lsn, time, xid) + string(gid)
        case StreamPrepareMessage(flags, lsn, end_lsn, time, xid, gid):
            return b"p" + pack("!BQQqI", flags, lsn, end_lsn, time, xid) + string(gid)
        case CommitPreparedMessage(flags, lsn, end_lsn, time, xid, gid):
            return b"K" + pack("!BQQqI", flags, lsn, end_lsn, time, xid) + string(gid)
        case RollbackPreparedMessage(flags, prepared, rolled_back, prepare_time, time, xid, gid):
            head = b"r" + pack("!BQQqqI", flags, prepared, rolled_back, prepare_time, time, xid)
            return head + string(gid)
    raise TypeError(f"not a message: {message!r}")


def _tag(tag: bytes, xid: int | None) -> bytes:
    """The tag, and inside a stream the subtransaction's xid."""
    return tag if xid is None else tag + pack("!I", xid)


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
