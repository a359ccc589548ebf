"""Decoder: decodes the bytes of one pgoutput message into one message object.

It does no I/O and knows nothing of transactions, which are the assembler's. It reads all messages
of protocols 1 to 4, each with its exact length: a byte too few or too many is a
:exc:`~realtime_core.errors.DecodeError`, never a wrong value.

It remembers two things from earlier messages: whether it stands inside a stream block (between
Stream Start and Stream Stop), where most messages carry the subtransaction's xid, and how many
columns each relation has.

Layouts: "Logical Replication Message Formats" in the PostgreSQL documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct, error
from typing import Final, TypeAlias

from ..errors import DecodeError, TruncatedMessageError, UnknownMessageError
from ._layouts import FIXED, PLAIN, WITH_XID, ReadWithXid, flag, left_over
from ._reader import FieldReader
from ._tuples import FieldsReader, fields_reader, read_tuple
from .messages import (
    DeleteMessage,
    Fields,
    InsertMessage,
    Message,
    RelationColumn,
    RelationMessage,
    StreamAbortMessage,
    StreamStartMessage,
    StreamStopMessage,
    UpdateMessage,
)

__all__ = ["Decoder"]

# The bound method takes 72 ns a call, int.from_bytes of a slice 154 ns.
_u32_at: Final = Struct("!I").unpack_from

_INSERT: Final = ord("I")
_UPDATE: Final = ord("U")
_DELETE: Final = ord("D")
_NEW: Final = ord("N")
_KEY: Final = ord("K")
_OLD: Final = ord("O")

_new: Final = object.__new__

_HEAD: Final = 8
"""How many bytes stand before the first field of a row, in a message without an xid."""

_IDENTITIES: Final = frozenset("dnfi")

# The kinds of rows, with the tag of their message and the kind of its first tuple. An update with
# an old tuple is a kind of its own.
_OLD_UPDATE: Final = -_UPDATE
_ROW_KINDS: Final = (
    (_INSERT, _INSERT, _NEW),
    (_UPDATE, _UPDATE, _NEW),
    (_OLD_UPDATE, _UPDATE, _KEY),
    (_OLD_UPDATE, _UPDATE, _OLD),
    (_DELETE, _DELETE, _KEY),
    (_DELETE, _DELETE, _OLD),
)
_RowPlan: TypeAlias = tuple[FieldsReader, int, int, bool]
"""The reader of a row's fields, the row's kind, its relation's OID, and whether its first tuple is
a key."""
_NO_WIDTH: Final[tuple[bytes, FieldsReader]] = (b"none", fields_reader(0))
_NO_ROWS: Final[dict[bytes, _RowPlan]] = {}


class Decoder:
    """Decodes the messages of one stream, in order.

    Example::

        decoder = Decoder()
        message = decoder.decode(payload)   # an XLogData's payload

    Args:
        abort_info: whether the stream was started with ``streaming 'parallel'``, which
            makes Stream Abort carry an LSN and a time. The protocol's version does not tell.
    """

    __slots__ = (
        "_abort_info",
        "_in_stream",
        "_plain",
        "_row_for",
        "_rows",
        "_tuples",
        "_with_xid",
    )

    def __init__(self, *, abort_info: bool = False) -> None:
        self._abort_info = abort_info
        self._in_stream = False
        # Rows are found by their message's first eight bytes: the tag, the relation's OID, the
        # first tuple's kind and its width. One lookup yields all that stands before the fields.
        self._rows: dict[bytes, _RowPlan] = {}
        self._tuples: dict[int, tuple[bytes, FieldsReader]] = {}
        # Inside a stream block this finds nothing, because an xid stands in the OID's place.
        self._row_for = self._rows.get
        # Messages that carry an xid inside a stream block.
        self._with_xid: dict[int, ReadWithXid] = {
            ord("I"): self._insert,
            ord("U"): self._update,
            ord("D"): self._delete,
            ord("R"): self._relation,
            **WITH_XID,
        }
        self._plain: dict[int, Callable[[FieldReader], Message]] = {
            ord("S"): self._stream_start,
            ord("E"): self._stream_stop,
            ord("A"): self._stream_abort,
            **PLAIN,
        }

    @property
    def in_stream(self) -> bool:
        """Whether the next message stands inside a stream block, where most carry an xid."""
        return self._in_stream

    def decode(self, data: bytes) -> Message:
        """Decode one message.

        Args:
            data: the whole payload of one XLogData.

        Raises:
            TruncatedMessageError: if the message ends too early.
            UnknownMessageError: if its first byte is the tag of no message.
            DecodeError: if it is wrong in any other way, or cannot come at this place.
        """
        try:
            row = self._row_for(data[:_HEAD])
            if row is None:
                return self._decode_any(data)
            read_fields, kind, oid, is_key = row
            fields, end = read_fields(data, _HEAD)
            if end != len(data):
                if kind != _OLD_UPDATE or data[end : end + 3] != b"N" + data[6:_HEAD]:
                    return self._decode_any(data)
                old = fields
                fields, end = read_fields(data, end + 3)
                if end != len(data):
                    raise left_over(data, end)
                return UpdateMessage(oid, old, is_key, fields, None)
            if kind == _INSERT:
                # Without calling the class this takes 0.07 µs instead of 0.11 µs.
                message = _new(InsertMessage)
                message.relation_oid = oid
                message.new = fields
                message.xid = None
                return message
            if kind == _UPDATE:
                return UpdateMessage(oid, None, False, fields, None)
            if kind == _DELETE:
                return DeleteMessage(oid, fields, is_key, None)
            return self._decode_any(data)
        except (error, IndexError) as exc:
            raise TruncatedMessageError(
                f"message {chr(data[0])!r} ends after {len(data)} bytes, too early"
            ) from exc
        except UnicodeDecodeError as exc:
            raise DecodeError(
                f"a field of message {chr(data[0])!r} is not UTF-8 ({exc.reason} at byte "
                f"{exc.start}): the database's encoding is probably SQL_ASCII; store UTF-8 "
                "or use a bytea column"
            ) from exc

    def _decode_any(self, data: bytes) -> Message:
        if not data:
            raise TruncatedMessageError("the message is empty")
        tag = data[0]
        read_fixed = FIXED.get(tag)
        if read_fixed is not None:
            return read_fixed(data)
        read = self._with_xid.get(tag)
        if read is not None:
            if self._in_stream:
                return read(data, 5, _u32_at(data, 1)[0])
            return read(data, 1, None)
        read_plain = self._plain.get(tag)
        if read_plain is None:
            raise UnknownMessageError(tag)
        reader = FieldReader(data, 1)
        message = read_plain(reader)
        reader.end()
        # Not before this line: a message that is refused must not change the decoder's state.
        if type(message) is StreamStartMessage:
            self._in_stream = True
            self._row_for = _NO_ROWS.get
        elif type(message) is StreamStopMessage:
            self._in_stream = False
            self._row_for = self._rows.get
        return message

    # Rows

    def _insert(self, data: bytes, offset: int, xid: int | None) -> Message:
        (oid,) = _u32_at(data, offset)
        if data[offset + 4] != _NEW:
            raise DecodeError(f"Insert has tuple {chr(data[offset + 4])!r}, expected 'N'")
        new, offset = self._read_tuple(data, offset + 5, oid)
        if offset != len(data):
            raise left_over(data, offset)
        return InsertMessage(oid, new, xid)

    def _update(self, data: bytes, offset: int, xid: int | None) -> Message:
        (oid,) = _u32_at(data, offset)
        offset += 4
        kind = data[offset]
        old: Fields | None = None
        if kind in (_KEY, _OLD):
            old, offset = self._read_tuple(data, offset + 1, oid)
        if data[offset] != _NEW:
            raise DecodeError(f"Update has tuple {chr(data[offset])!r}, expected 'K', 'O' or 'N'")
        new, offset = self._read_tuple(data, offset + 1, oid)
        if offset != len(data):
            raise left_over(data, offset)
        return UpdateMessage(oid, old, kind == _KEY, new, xid)

    def _delete(self, data: bytes, offset: int, xid: int | None) -> Message:
        (oid,) = _u32_at(data, offset)
        kind = data[offset + 4]
        if kind not in (_KEY, _OLD):
            raise DecodeError(f"Delete has tuple {chr(kind)!r}, expected 'K' or 'O'")
        old, offset = self._read_tuple(data, offset + 5, oid)
        if offset != len(data):
            raise left_over(data, offset)
        return DeleteMessage(oid, old, kind == _KEY, xid)

    # Messages that change the decoder's state

    def _relation(self, data: bytes, offset: int, xid: int | None) -> Message:
        reader = FieldReader(data, offset)
        oid, namespace, name = reader.u32(), reader.string(), reader.string()
        identity = reader.letter()
        if identity not in _IDENTITIES:
            raise DecodeError(f"relation {name!r} has unknown replica identity {identity!r}")
        columns = tuple(
            RelationColumn(reader.u8(), reader.string(), reader.u32(), reader.i32())
            for _ in range(reader.count16())
        )
        reader.end()
        self._expect_rows(oid, len(columns))
        return RelationMessage(oid, namespace, name, identity, columns, xid)

    def _expect_rows(self, oid: int, columns: int) -> None:
        """Prepare for a relation's rows.

        Rows of another width are read, too, but more slowly: blocks of streams that saw different
        versions of a table may be interleaved.
        """
        width, place = columns.to_bytes(2, "big"), oid.to_bytes(4, "big")
        former = self._tuples.get(oid)
        read = fields_reader(columns)
        self._tuples[oid] = width, read
        for kind, tag, tuple_kind in _ROW_KINDS:
            head = b"%c%b%c" % (tag, place, tuple_kind)
            if former is not None:
                del self._rows[head + former[0]]
            self._rows[head + width] = read, kind, oid, tuple_kind == _KEY

    def _read_tuple(self, data: bytes, offset: int, oid: int) -> tuple[Fields, int]:
        width, read = self._tuples.get(oid, _NO_WIDTH)
        if data[offset : offset + 2] == width:
            return read(data, offset + 2)
        return read_tuple(data, offset)

    def _stream_start(self, reader: FieldReader) -> Message:
        if self._in_stream:
            raise DecodeError("Stream Start within a stream block")
        return StreamStartMessage(reader.u32(), flag(reader))

    def _stream_stop(self, reader: FieldReader) -> Message:
        if not self._in_stream:
            raise DecodeError("Stream Stop outside of a stream block")
        return StreamStopMessage()

    def _stream_abort(self, reader: FieldReader) -> Message:
        xid, subxid = reader.u32(), reader.u32()
        if self._abort_info:
            return StreamAbortMessage(xid, subxid, reader.lsn(), reader.i64())
        return StreamAbortMessage(xid, subxid)
