"""Captures: decodes files that hold what a replication slot sent.

The first bytes of a file tell which form it has:

* messages behind their lengths (32 bits, big-endian): pgoutput messages, wal2json texts, or whole
  CopyData payloads;
* the output of pg_recvlogical, which writes a line feed after each message. wal2json's texts are
  JSON, so their end is known. A pgoutput message may have line feeds in it, but its fields tell
  its length: if it is cut too early it is truncated, if it is cut too late bytes are left over,
  so exactly one cut decodes;
* lines of hexadecimal digits (``\\x42…``), which psql prints for
  ``pg_logical_slot_peek_binary_changes``.

Each of them may be compressed with gzip.
"""

from __future__ import annotations

import gzip
import io
import re
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from struct import Struct
from typing import BinaryIO, Final, Protocol, TypeAlias

from ..changes import Begin, Change, Commit
from ..errors import DecodeError, TruncatedMessageError
from ..pgoutput import Assembler, Decoder, Message
from ..replication.protocol import XLogData, parse_copy_data
from ..wal2json import Wal2JsonDecoder, parse_file

__all__ = ["Capture", "open_file"]

Decoded: TypeAlias = Iterable[Change | Begin | Commit]

_LENGTH: Final = Struct("!I")
_PGOUTPUT_TAGS: Final = b"BCORYIUDTMSEcAbPpKr"
_COPY_DATA_TAGS: Final = b"wk"
_GZIP: Final = b"\x1f\x8b"
_HEX: Final = b"\\x"
_BLOCK: Final = 64 * 1024
_SHORT_ABORT: Final = 9
"""Size in bytes of a Stream Abort without LSN and time."""


def open_file(path: str) -> AbstractContextManager[BinaryIO]:
    """Open a capture, ``-`` for standard input.

    Raises:
        OSError: if it cannot be opened.
    """
    return nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb")


class Capture:
    """An iterable over the events of one file, in order. Iterate over it once.

    Args:
        file: a file that is open in binary mode; it may be a pipe.

    Raises:
        DecodeError: while iterating, if the file is no capture, or ends within a message or
            transaction.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.messages = 0
        """How many messages were begun; in the output of wal2json, how many events were found."""

    def __iter__(self) -> Iterator[Change | Begin | Commit]:
        file, head = _look(self._file)
        if head.startswith(_GZIP):
            file, head = _look(gzip.GzipFile(fileobj=file))  # type: ignore[arg-type]
        if head.lstrip().startswith(b"{"):
            yield from self._counted(parse_file(file, boundaries=True))
        elif head.startswith(_HEX):
            yield from self._payloads(_hex_lines(file))
        elif head and head[0] in _PGOUTPUT_TAGS:
            yield from self._messages(file)
        else:
            yield from self._payloads(_framed(file))

    def _counted(self, events: Decoded) -> Iterator[Change | Begin | Commit]:
        for event in events:
            self.messages += 1
            yield event

    def _payloads(self, payloads: Iterator[bytes]) -> Iterator[Change | Begin | Commit]:
        """Decode messages whose ends are known; the first one tells which plugin they are of."""
        plugin: _Plugin | None = None
        in_copy_data = False
        for payload in payloads:
            self.messages += 1
            if not payload:
                raise TruncatedMessageError("the message is empty")
            if self.messages == 1:
                in_copy_data = payload[0] in _COPY_DATA_TAGS
            if in_copy_data:
                message = parse_copy_data(payload)
                if not isinstance(message, XLogData):
                    continue
                payload = message.payload
            if plugin is None:
                plugin = _plugin(payload)
            yield from plugin.feed(payload)
        if plugin is not None:
            plugin.end()

    def _messages(self, file: BinaryIO) -> Iterator[Change | Begin | Commit]:
        plugin, splitter = _Pgoutput(), _Splitter(file)
        while True:
            self.messages += 1
            message = splitter.next(plugin.decode)
            if message is None:
                break
            yield from plugin.assembler.feed(message)
        plugin.end()


class _Plugin(Protocol):
    """Decodes the messages of one output plugin."""

    def feed(self, payload: bytes) -> Decoded: ...

    def end(self) -> None: ...


class _Pgoutput:
    def __init__(self) -> None:
        self.assembler = Assembler()
        self._decoder = Decoder()
        # A Stream Abort has an LSN and a time if the stream was started with "parallel". Its
        # length tells which decoder reads it, and it depends on no other message.
        self._abort_decoder = Decoder(abort_info=True)

    def decode(self, payload: bytes) -> Message:
        if payload[:1] == b"A" and len(payload) > _SHORT_ABORT:
            return self._abort_decoder.decode(payload)
        return self._decoder.decode(payload)

    def feed(self, payload: bytes) -> Decoded:
        return self.assembler.feed(self.decode(payload))

    def end(self) -> None:
        cut = self.assembler.in_transaction
        self.assembler.close()
        if cut:
            raise TruncatedMessageError("the file ends within a transaction: its Commit is missing")


class _Wal2Json:
    def __init__(self) -> None:
        decoder = Wal2JsonDecoder()
        self.feed = decoder.feed_chunk
        self.end = decoder.end


def _plugin(payload: bytes) -> _Plugin:
    if payload.lstrip().startswith(b"{"):
        return _Wal2Json()
    if payload[:1] and payload[0] in _PGOUTPUT_TAGS:
        return _Pgoutput()
    raise _not_a_capture()


def _not_a_capture() -> DecodeError:
    return DecodeError(
        "not a capture: give what pg_recvlogical wrote, messages behind their 32-bit lengths, or "
        "lines of hexadecimal digits"
    )


# Splitting a file into messages


def _framed(file: BinaryIO) -> Iterator[bytes]:
    first = True
    while head := file.read(_LENGTH.size):
        if len(head) < _LENGTH.size:
            raise _cut_off()
        (length,) = _LENGTH.unpack(head)
        payload = file.read(length)
        if len(payload) < length:
            # In a file of another form the first four bytes make a large number.
            raise _not_a_capture() if first else _cut_off()
        first = False
        yield payload


def _cut_off() -> TruncatedMessageError:
    return TruncatedMessageError("the file ends within a message")


def _hex_lines(file: BinaryIO) -> Iterator[bytes]:
    for line in file:
        digits = line.strip()
        if not digits:
            continue
        try:
            yield bytes.fromhex(digits.removeprefix(_HEX).decode("ascii"))
        except ValueError as exc:
            raise DecodeError("a line is not \\x and hexadecimal digits") from exc


class _Decode(Protocol):
    def __call__(self, payload: bytes, /) -> Message: ...


class _Splitter:
    """Splits the output of pg_recvlogical into pgoutput's messages.

    A message nearly always ends at the next line feed. If it does not, twice the length is tried
    until it is not too short any more, and the line feeds in between are bisected. So a long
    message costs a few attempts, and not one for each of its line feeds.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._data = bytearray()
        self._start = 0
        self._at_end = False

    def next(self, decode: _Decode) -> Message | None:
        """Return the next message, None at the end.

        Raises:
            DecodeError: if no cut makes a message.
        """
        too_short = -1
        while (end := self._line_feed(too_short)) is not None:
            try:
                return self._take(decode, end)
            except TruncatedMessageError:
                too_short = end
            except DecodeError:
                if too_short < 0:
                    raise
                return self._take(decode, self._bisect(decode, too_short + 1, end))
        if self._start < len(self._data):
            raise _cut_off()
        return None

    def _take(self, decode: _Decode, end: int) -> Message:
        message = decode(self._cut(end))
        self._start += end + 1
        return message

    def _cut(self, end: int) -> bytes:
        return bytes(self._data[self._start : self._start + end])

    def _bisect(self, decode: _Decode, least: int, most: int) -> int:
        """Return the first length that is not too short, one before a line feed or ``most``."""
        between = re.finditer(b"\n", self._data[self._start + least : self._start + most])
        ends = [*(least + found.start() for found in between), most]

        def is_long_enough(end: int) -> bool:
            try:
                decode(self._cut(end))
            except TruncatedMessageError:
                return False
            except DecodeError:
                pass
            return True

        # The last one is known to be long enough.
        return ends[bisect_left(ends[:-1], True, key=is_long_enough)]

    def _line_feed(self, too_short: int) -> int | None:
        """Return the length up to the line feed to try next, None if there is none.

        That is the first line feed behind twice ``too_short`` bytes. If there is none, it is the
        last one behind ``too_short``, before this waits for more bytes, and at the end of the file.
        """
        least = max(2 * too_short, 0)
        waited = False
        while (found := self._data.find(b"\n", self._start + least)) < 0:
            if self._at_end or not waited:
                found = self._data.rfind(b"\n", self._start + too_short + 1)
                if found >= 0 or self._at_end:
                    break
            waited = True
            del self._data[: self._start]
            self._start = 0
            block = self._file.read1(_BLOCK)  # type: ignore[attr-defined]
            self._at_end = not block
            self._data += block
        return found - self._start if found >= 0 else None


def _look(file: BinaryIO) -> tuple[BinaryIO, bytes]:
    """Return a file's first bytes, and a file that can still be read from its beginning."""
    head = file.read(16)
    return io.BufferedReader(_Chained(head, file)), head  # type: ignore[type-var]


class _Chained(io.RawIOBase):
    """A file with some bytes put before it.

    It returns the bytes that there are and does not wait for more, so it does not block a pipe.
    """

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head = head
        self._read = getattr(file, "read1", file.read)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        part = self._head[: len(buffer)] or self._read(len(buffer))
        self._head = self._head[len(part) :]
        buffer[: len(part)] = part
        return len(part)
