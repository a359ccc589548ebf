"""WebSocket frames as clients send them, and what they may do to them."""

from __future__ import annotations

import zlib
from random import Random
from typing import Final

__all__ = ["BINARY", "TEXT", "deflated", "fragments", "frame", "odd_frames"]

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
_DEFLATED: Final = 0x40


def frame(payload: bytes, opcode: int = TEXT, *, first: int = 0x80) -> bytes:
    """Return a frame, with a mask of zeros; ``first`` has the bits besides the opcode."""
    size = len(payload)
    if size < 126:
        head = bytes((first | opcode, 0x80 | size))
    elif size < 65_536:
        head = bytes((first | opcode, 0xFE)) + size.to_bytes(2)
    else:
        head = bytes((first | opcode, 0xFF)) + size.to_bytes(8)
    return head + b"\0\0\0\0" + payload


def deflated(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a frame as permessage-deflate has it."""
    compressor = zlib.compressobj(wbits=-15, level=1)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return frame(data.removesuffix(b"\0\0\xff\xff"), opcode, first=0x80 | _DEFLATED)


def fragments(payload: bytes, size: int, opcode: int = TEXT) -> bytes:
    """Return a message in fragments of so many bytes."""
    parts = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    frames = [frame(part, CONTINUATION, first=0) for part in parts]
    frames[0] = frame(parts[0], opcode, first=0)
    return b"".join(frames) + frame(b"", CONTINUATION)


def odd_frames(random: Random) -> bytes:
    """Return what few clients send: control frames, and what is no frame."""
    match random.randrange(9):
        case 0:
            return frame(random.randbytes(random.choice((0, 4, 125))), 9)
        case 1:
            return frame(random.randbytes(random.choice((0, 4, 125))), 10)
        case 2:
            return frame(random.choice((b"", b"\x03\xe8", b"\x03\xe8bye", b"\x00", b"\xff\xff")), 8)
        case 3:
            return frame(b"x" * 126, 9)
        case 4:
            return frame(b"{}", random.choice((3, 7, 11, 15)))
        case 5:
            return frame(b"{}", CONTINUATION)
        case 6:
            return frame(b"{}", first=0x80 | random.choice((0x10, 0x20, _DEFLATED)))
        case 7:
            # Not masked, and a length that is never reached.
            return random.choice((b"\x81\x02{}", b"\x81\xfe\xff\xff\0\0\0\0"))
        case _:
            return random.randbytes(random.randint(1, 60))
