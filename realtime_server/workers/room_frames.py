"""Frames of the link by which rooms span workers: bytes in, frames out.

A worker says which subjects it listens to, and what goes to the others that do. The supervisor
sends each what the others say, and whether servers on other machines can be reached.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from .pieces import unreadable

__all__ = [
    "IGNORE",
    "LAST",
    "LISTEN",
    "MESSAGE",
    "STANDING",
    "RoomFrame",
    "decode_room_frame",
    "decode_standing",
    "encode_room_frame",
    "encode_standing",
]

LISTEN: Final = ord("L")
"""A worker listens to a subject from now on."""
IGNORE: Final = ord("I")
"""A worker listens to a subject no more."""
MESSAGE: Final = ord("M")
"""A message to a subject."""
LAST: Final = ord("E")
"""A message that goes to others when the worker that sends this has ended."""
STANDING: Final = ord("S")
"""Whether other machines can be reached; see :func:`encode_standing`."""

_HEAD: Final = Struct("!IBB")
"""The bytes that follow this length, the kind, and the bytes of the subject; subject and data
follow."""
_BEHIND_LENGTH: Final = 2
_STANDING: Final = Struct("!?Q")
_KINDS: Final = frozenset((LISTEN, IGNORE, MESSAGE, LAST, STANDING))


class RoomFrame(NamedTuple):
    """One frame."""

    kind: int
    subject: str
    data: bytes


def encode_room_frame(kind: int, subject: str, data: bytes = b"") -> bytes:
    """Return the bytes of a frame."""
    name = subject.encode()
    head = _HEAD.pack(_BEHIND_LENGTH + len(name) + len(data), kind, len(name))
    return b"".join((head, name, data))


def decode_room_frame(content: bytes) -> RoomFrame:
    """Read a frame.

    Args:
        content: its bytes behind the length.

    Raises:
        ServerError: if it is none: the other process runs another version.
    """
    behind = _BEHIND_LENGTH + content[1] if len(content) >= _BEHIND_LENGTH else len(content) + 1
    if behind > len(content) or content[0] not in _KINDS:
        raise unreadable(f"a frame of rooms has {len(content)} bytes")
    return RoomFrame(content[0], content[_BEHIND_LENGTH:behind].decode(), content[behind:])


def encode_standing(max_bytes: int, *, is_away: bool) -> bytes:
    """Return the frame that says whether other machines can be reached.

    Args:
        max_bytes: how many bytes a message may have.
        is_away: whether some of the others cannot be reached.
    """
    return encode_room_frame(STANDING, "", _STANDING.pack(is_away, max_bytes))


def decode_standing(data: bytes) -> tuple[bool, int]:
    """Return whether others are away, and how many bytes a message may have."""
    is_away, max_bytes = _STANDING.unpack(data)
    return is_away, max_bytes
