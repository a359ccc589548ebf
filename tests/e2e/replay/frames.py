"""Where a server's WebSocket frames begin and end in the bytes that it sends."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Frame", "FrameSplitter", "text_frame"]

_HEAD_END = b"\r\n\r\n"


class Frame(NamedTuple):
    """One frame with its header, or the head of the handshake's response."""

    data: bytes
    is_message: bool
    """Whether it is a text or a binary frame."""


class FrameSplitter:
    """Splits what a server sends; the bytes of a frame that is not whole wait for the rest."""

    def __init__(self) -> None:
        self._data = b""
        self._in_head = True

    def feed(self, data: bytes) -> list[Frame]:
        """Take more bytes; return the frames that are whole now."""
        data = self._data + data
        frames: list[Frame] = []
        start = 0
        while end := self._end(data, start):
            opcode = data[start] & 0x0F
            frames.append(Frame(data[start:end], not self._in_head and opcode in (1, 2)))
            self._in_head = False
            start = end
        self._data = data[start:]
        return frames

    def _end(self, data: bytes, start: int) -> int:
        """Return where the frame that begins at ``start`` ends; 0 if it is not whole."""
        if self._in_head:
            found = data.find(_HEAD_END, start)
            return 0 if found < 0 else found + len(_HEAD_END)
        if len(data) < start + 2:
            return 0
        # A server masks nothing: RFC 6455, 5.1.
        length, payload = data[start + 1] & 0x7F, start + 2
        if length >= 126:
            payload += 2 if length == 126 else 8
            length = int.from_bytes(data[start + 2 : payload], "big")
        end = payload + length
        return end if payload <= len(data) and end <= len(data) else 0


def text_frame(text: bytes) -> bytes:
    """Return a server's frame with a text of at most 125 bytes."""
    assert len(text) < 126
    return bytes((0x81, len(text))) + text
