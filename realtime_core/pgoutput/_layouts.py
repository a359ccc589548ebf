"""The layouts of messages that are read without regard to earlier messages.

Rows, relations and stream blocks depend on earlier messages, or change how later ones are read:
:class:`~realtime_core.pgoutput.Decoder` reads them. Inside a stream block some messages begin
with an xid, which the decoder has read already.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, TypeAlias

from ..errors import DecodeError, TruncatedMessageError
from ..lsn import LSN
from ._reader import FieldReader, new_lsn
from .messages import (
    BeginMessage,
    BeginPrepareMessage,
    CommitMessage,
    CommitPreparedMessage,
    LogicalMessageMessage,
    Message,
    OriginMessage,
    PrepareMessage,
    RollbackPreparedMessage,
    StreamCommitMessage,
    StreamPrepareMessage,
    TruncateMessage,
    TypeMessage,
)

__all__ = ["BEGIN", "COMMIT", "FIXED", "PLAIN", "WITH_XID", "ReadWithXid", "flag", "left_over"]

BEGIN: Final = Struct("!xQqI")
"""The fields of Begin: the commit record's LSN, the commit time, the xid."""
COMMIT: Final = Struct("!xBQQq")
"""The fields of Commit: flags, the commit record's LSN, the LSN of that record's end, the commit
time."""

ReadWithXid: TypeAlias = Callable[[bytes, int, int | None], Message]
"""Takes a message, the offset of its first field behind the tag and the xid, and the xid (None
outside of a stream block)."""


def left_over(data: bytes, offset: int) -> DecodeError:
    return DecodeError(f"{len(data) - offset} bytes left over at the end of the message")


def flag(reader: FieldReader) -> bool:
    value = reader.u8()
    if value > 1:
        raise DecodeError(f"a flag is 0 or 1, not {value}")
    return bool(value)


# Every transaction has a Begin and a Commit: with a Reader they would take 2.0 µs, not 0.5 µs.


def _begin(data: bytes) -> Message:
    _check_size(data, BEGIN.size)
    final_lsn, commit_time, xid = BEGIN.unpack(data)
    return BeginMessage(new_lsn(LSN, final_lsn), commit_time, xid)


def _commit(data: bytes) -> Message:
    _check_size(data, COMMIT.size)
    flags, commit_lsn, end_lsn, commit_time = COMMIT.unpack(data)
    return CommitMessage(flags, new_lsn(LSN, commit_lsn), new_lsn(LSN, end_lsn), commit_time)


def _check_size(data: bytes, size: int) -> None:
    if len(data) < size:
        raise TruncatedMessageError(f"message ends after {len(data)} bytes, it has {size}")
    if len(data) > size:
        raise left_over(data, size)


FIXED: Final[dict[int, Callable[[bytes], Message]]] = {ord("B"): _begin, ord("C"): _commit}
"""Readers of the messages that have one size only, by tag."""


def _origin(reader: FieldReader) -> Message:
    return OriginMessage(reader.lsn(), reader.string())


def _type(data: bytes, offset: int, xid: int | None) -> Message:
    reader = FieldReader(data, offset)
    message = TypeMessage(reader.u32(), reader.string(), reader.string(), xid)
    reader.end()
    return message


def _truncate(data: bytes, offset: int, xid: int | None) -> Message:
    reader = FieldReader(data, offset)
    count, options = reader.count32(), reader.u8()
    oids = tuple(reader.u32() for _ in range(count))
    reader.end()
    return TruncateMessage(options, oids, xid)


def _message(data: bytes, offset: int, xid: int | None) -> Message:
    reader = FieldReader(data, offset)
    message = LogicalMessageMessage(reader.u8(), reader.lsn(), reader.string(), reader.sized(), xid)
    reader.end()
    return message


def _stream_commit(reader: FieldReader) -> Message:
    return StreamCommitMessage(reader.u32(), reader.u8(), reader.lsn(), reader.lsn(), reader.i64())


def _begin_prepare(reader: FieldReader) -> Message:
    return BeginPrepareMessage(
        reader.lsn(), reader.lsn(), reader.i64(), reader.u32(), reader.string()
    )


def _prepare(reader: FieldReader) -> Message:
    return PrepareMessage(
        reader.u8(), reader.lsn(), reader.lsn(), reader.i64(), reader.u32(), reader.string()
    )


def _stream_prepare(reader: FieldReader) -> Message:
    return StreamPrepareMessage(
        reader.u8(), reader.lsn(), reader.lsn(), reader.i64(), reader.u32(), reader.string()
    )


def _commit_prepared(reader: FieldReader) -> Message:
    return CommitPreparedMessage(
        reader.u8(), reader.lsn(), reader.lsn(), reader.i64(), reader.u32(), reader.string()
    )


def _rollback_prepared(reader: FieldReader) -> Message:
    return RollbackPreparedMessage(
        reader.u8(),
        reader.lsn(),
        reader.lsn(),
        reader.i64(),
        reader.i64(),
        reader.u32(),
        reader.string(),
    )


WITH_XID: Final[dict[int, ReadWithXid]] = {ord("Y"): _type, ord("T"): _truncate, ord("M"): _message}
"""Readers of the messages that carry an xid inside a stream block, by tag."""
PLAIN: Final[dict[int, Callable[[FieldReader], Message]]] = {
    ord("O"): _origin,
    ord("c"): _stream_commit,
    ord("b"): _begin_prepare,
    ord("P"): _prepare,
    ord("p"): _stream_prepare,
    ord("K"): _commit_prepared,
    ord("r"): _rollback_prepared,
}
"""Readers of all other messages, by tag."""
