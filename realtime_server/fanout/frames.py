"""Frames: messages, text or binary, as the bytes of WebSocket frames.

A server's frames are not masked, so the same bytes are sent to every client (RFC 6455, section
5.1). They are made once, when the first client needs them: plain, or deflated for the clients that
agreed on compression (RFC 7692). Each message is deflated by itself, without reference to earlier
ones, so that all clients can be sent the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, ClassVar, Final, Generic, TypeVar

__all__ = ["DEFLATE_WINDOW_BITS", "BinaryFrame", "Frame", "Frames", "TextFrame"]

T = TypeVar("T")

DEFLATE_WINDOW_BITS: Final = 15
"""Size of the window of deflated messages, as a power of two: a client needs one as large."""

_LENGTH_16: Final = Struct("!BBH")
_LENGTH_64: Final = Struct("!BBQ")
_FIN_TEXT: Final = 0x81
_FIN_BINARY: Final = 0x82
_RSV1: Final = 0x40
"""Set in the first byte of a frame that is deflated."""

_LEAST_DEFLATED: Final = 256
"""Bytes of a message from which on it is deflated. Replies are shorter, and would win little."""
_MEMORY_LEVEL: Final = 5
"""zlib's memLevel, from 1 to 9. To clear the tables of a higher level takes longer than to deflate
most messages."""
_EMPTY_BLOCK: Final = b"\x00\x00\xff\xff"


def _head(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return _LENGTH_16.pack(first, 126, size)
    return _LENGTH_64.pack(first, 127, size)


class Frame:
    """One message, as one frame; see :class:`TextFrame` and :class:`BinaryFrame`."""

    __slots__ = ("_deflated", "payload")

    first: ClassVar[int]
    """The first byte of the frame: FIN and the opcode."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._deflated: bytes | None = None

    @property
    def deflated(self) -> bytes:
        """The frame for clients that agreed on permessage-deflate; a short message is not
        deflated."""
        if self._deflated is None:
            self._deflated = self._deflate()
        return self._deflated

    def _deflate(self) -> bytes:
        payload = self.payload
        if len(payload) < _LEAST_DEFLATED:
            return _head(self.first, len(payload)) + payload
        compressor = zlib.compressobj(wbits=-DEFLATE_WINDOW_BITS, memLevel=_MEMORY_LEVEL)
        deflated = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        # RFC 7692, section 7.2.1: without the empty block at the end.
        deflated = deflated.removesuffix(_EMPTY_BLOCK)
        return _head(self.first | _RSV1, len(deflated)) + deflated


class TextFrame(Frame):
    """One text message, as one frame."""

    __slots__ = ()
    first = _FIN_TEXT


class BinaryFrame(Frame):
    """One binary message, as one frame."""

    __slots__ = ()
    first = _FIN_BINARY


class _LazyAttribute(Generic[T]):
    """An attribute that is computed when it is read first.

    Afterwards it is an ordinary attribute, as thousands of clients read it.
    :func:`functools.cached_property` does the same, but holds a lock, up to Python 3.11.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, instance: object, owner: type | None = None) -> T:
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


class Frames:
    """Messages that are sent together, in order.

    Args:
        frames: the messages.
        ordinal: the ordinal of the writes of these frames, see
            :mod:`realtime_server.replay.proofs`; 0: none.
        ping: a ping frame that goes behind them, with this ordinal; empty: none.
    """

    def __init__(self, frames: Sequence[Frame], ordinal: int = 0, ping: bytes = b"") -> None:
        self.count = len(frames)
        """How many messages these are."""
        self.ordinal = ordinal
        """The ordinal that the writes of these frames have; 0: none."""
        self.ping = ping
        """The ping frame behind the messages; empty: none."""
        self.frames = frames
        """The messages."""

    @classmethod
    def of(cls, payload: bytes, ordinal: int = 0) -> Frames:
        """Return a single text message as frames."""
        return cls((TextFrame(payload),), ordinal)

    @property
    def payloads(self) -> list[bytes]:
        """The messages without frames around them, and without the ping."""
        return [frame.payload for frame in self.frames]

    @_LazyAttribute
    def plain(self) -> bytes:
        """The bytes of all frames, for a client without compression."""
        parts: list[bytes] = []
        for frame in self.frames:
            payload = frame.payload
            parts += (_head(frame.first, len(payload)), payload)
        parts.append(self.ping)
        return b"".join(parts)

    @_LazyAttribute
    def deflated(self) -> bytes:
        """The bytes of all frames, for a client that agreed on permessage-deflate."""
        return b"".join([*(frame.deflated for frame in self.frames), self.ping])
