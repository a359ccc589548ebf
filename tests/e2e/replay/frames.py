"""Where WebSocket frames begin and end in the bytes that a server or a client sends."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Frame", "FrameSplitter", "text_frame"]

_HEAD_END = b"\r\n\r\n"
_IS_MASKED = 0x80


class Frame(NamedTuple):
    """One frame with its header, or the head of the handshake's request or response."""

    data: bytes
    payload: bytes
    """Unmasked."""
    opcode: int | None
    """None: it is the head."""

    @property
    def is_message(self) -> bool:
        """Whether it is a text or a binary frame."""
        return self.opcode in (1, 2)


class FrameSplitter:
    """Splits what one side sends; the bytes of a frame that is not whole wait for the rest."""

    def __init__(self) -> None:
        self._data = b""
        self._in_head = True

    def feed(self, data: bytes) -> list[Frame]:
        """Take more bytes; return the frames that are whole now."""
        data = self._data + data
        frames: list[Frame] = []
        start = 0
        while bounds := self._bounds(data, start):
            payload, end = bounds
            whole, text = data[start:end], data[payload:end]
            if self._in_head:
                frames.append(Frame(whole, b"", None))
                self._in_head = False
            else:
                if data[start + 1] & _IS_MASKED:
                    text = _unmasked(text, data[payload - 4 : payload])
                frames.append(Frame(whole, text, data[start] & 0x0F))
            start = end
        self._data = data[start:]
        return frames

    def _bounds(self, data: bytes, start: int) -> tuple[int, int] | None:
        """Return where the payload of the frame at ``start`` begins and ends; None if it is not
        whole."""
        if self._in_head:
            found = data.find(_HEAD_END, start)
            return None if found < 0 else (start, found + len(_HEAD_END))
        if len(data) < start + 2:
            return None
        length, payload = data[start + 1] & 0x7F, start + 2
        if length >= 126:
            payload += 2 if length == 126 else 8
            length = int.from_bytes(data[start + 2 : payload], "big")
        if data[start + 1] & _IS_MASKED:
            payload += 4
        end = payload + length
        return (payload, end) if payload <= len(data) and end <= len(data) else None


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def text_frame(text: bytes) -> bytes:
    """Return a server's frame with a text of at most 125 bytes."""
    assert len(text) < 126
    return bytes((0x81, len(text))) + text
