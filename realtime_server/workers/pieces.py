"""Pieces: the contents of frames, each behind its length, from whatever bytes come."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from realtime_core.errors import ServerError

__all__ = ["MAX_FRAME", "Pieces", "unreadable"]

MAX_FRAME: Final = 1 << 31
"""The most bytes of a frame: a row may have 1 GB, and PostgreSQL writes it as up to twice that."""

_LENGTH: Final = Struct("!I")
"""How many bytes follow, in four."""


class Pieces:
    """Puts frames together."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes; yield the contents that they complete. Exhaust the iterator.

        Raises:
            ServerError: if they are no frames: the other process runs another version.
        """
        buffer: bytes | bytearray = data
        if self._data:
            # What is not whole waits here, since it may come in thousands of pieces.
            self._data += data
            buffer = self._data
        at = 0
        try:
            while len(buffer) - at >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer, at)
                if not 0 < length <= MAX_FRAME:
                    raise unreadable(f"a frame has {length} bytes")
                start = at + _LENGTH.size
                if len(buffer) < start + length:
                    return
                at = start + length
                yield bytes(buffer[start:at])
        finally:
            if buffer is data:
                self._data += data[at:]
            else:
                del self._data[:at]


def unreadable(problem: str) -> ServerError:
    """Return the error that a link between supervisor and worker cannot be read."""
    return ServerError(
        f"the link between supervisor and worker cannot be read ({problem}): run one version of "
        "the server in all of its processes, and start it anew"
    )
