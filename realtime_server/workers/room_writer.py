"""RoomWriter: writes what is sent within one turn of the event loop to a link in one piece."""

from __future__ import annotations

import asyncio

from ..cluster.carrier import MAX_WAITING_BYTES

__all__ = ["RoomWriter"]


class RoomWriter:
    """One direction of a link for rooms, with a bound on what waits in it.

    Args:
        writer: the link.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether the other end does not read what is sent: nothing more is to be written."""
        waiting = self._writer.transport.get_write_buffer_size()
        return self._bytes + waiting > MAX_WAITING_BYTES

    def write(self, frame: bytes) -> None:
        """Write a frame, in this turn of the event loop or the next."""
        if not self._frames:
            self._loop.call_soon(self._flush)
        self._frames.append(frame)
        self._bytes += len(frame)

    def close(self) -> None:
        """Close the link."""
        self._frames.clear()
        self._writer.close()

    def _flush(self) -> None:
        frames, self._frames = self._frames, []
        self._bytes = 0
        if frames and not self._writer.is_closing():
            self._writer.write(frames[0] if len(frames) == 1 else b"".join(frames))
