"""Frames of the link between a supervisor and a worker: bytes in, frames out.

A frame is its length, in four bytes, and its content, of which the first byte says the kind. A
worker says when it is ready for changes. The supervisor sends envelopes, each with a sequence
number, and before them, once its source is attached, where they begin. The orders of enum types
come with that, and again when they have changed. A worker sends the number up to which it has
handed everything out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Any, Final, TypeAlias

import attrs

from .in_flight import Behind
from .pieces import MAX_FRAME, Pieces, unreadable

__all__ = [
    "MAX_FRAME",
    "AttachedFrame",
    "EnumOrders",
    "EnumsFrame",
    "EnvelopeFrame",
    "Frame",
    "FrameBuffer",
    "HandedOutFrame",
    "ReadyFrame",
    "encode_frame",
]

EnumOrders: TypeAlias = Mapping[tuple[str, str], tuple[str, ...]]
"""The labels of enum types in their declared order, by schema and name."""

_LENGTH: Final = Struct("!I")
_NUMBERED: Final = Struct("!cQ")
_ENVELOPE: Final = b"E"
_BEHIND_HOLE: Final = b"G"
_HANDED_OUT: Final = b"H"
_NUMBERED_KINDS: Final = frozenset((_ENVELOPE, _BEHIND_HOLE, _HANDED_OUT))
_ATTACHED: Final = b"A"
_ENUMS: Final = b"O"
_READY: Final = b"R"
_PLACE: Final = Struct("!QqQQQ")
"""LSN, index, gaps, generation and the number in the log. The index before a transaction's first
change is -1. When the log was made stands behind it."""


@attrs.define
class EnvelopeFrame:
    """An envelope, for a worker."""

    sequence: int
    """The envelope's number, which grows by one with each envelope of a supervisor."""
    data: bytes
    is_behind_hole: bool = False
    """Whether what stands between it and the envelope before it is lost."""


@attrs.define
class HandedOutFrame:
    """How far a worker has come, for the supervisor."""

    sequence: int
    """The number of the last envelope that was handed to every outbox."""


@attrs.define
class AttachedFrame:
    """The supervisor's source was attached: what is committed from now on comes, or a gap does."""

    begin: Behind
    """What comes with the envelopes is behind this."""


@attrs.define
class EnumsFrame:
    """The orders of enum types from here on, for a worker."""

    orders: EnumOrders


@attrs.define
class ReadyFrame:
    """A worker takes changes from now on, for the supervisor."""


Frame: TypeAlias = EnvelopeFrame | HandedOutFrame | AttachedFrame | EnumsFrame | ReadyFrame


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of a frame."""
    match frame:
        case EnvelopeFrame(sequence, data, is_behind_hole):
            head = _NUMBERED.pack(_BEHIND_HOLE if is_behind_hole else _ENVELOPE, sequence)
            return b"".join((_LENGTH.pack(len(head) + len(data)), head, data))
        case HandedOutFrame(sequence):
            return _LENGTH.pack(_NUMBERED.size) + _NUMBERED.pack(_HANDED_OUT, sequence)
        case AttachedFrame(begin):
            place = _PLACE.pack(
                *(begin.lsn, begin.index, begin.gaps, begin.generation, begin.sequence)
            )
            content = _ATTACHED + place + begin.log.encode()
            return _LENGTH.pack(len(content)) + content
        case EnumsFrame(orders):
            listed = [[schema, name, *labels] for (schema, name), labels in orders.items()]
            content = _ENUMS + json.dumps(listed).encode()
            return _LENGTH.pack(len(content)) + content
        case ReadyFrame():
            return _LENGTH.pack(len(_READY)) + _READY


class FrameBuffer:
    """Puts frames together from whatever pieces of bytes come."""

    def __init__(self) -> None:
        self._pieces = Pieces()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes; yield the frames that they complete. Exhaust the iterator.

        Raises:
            ServerError: if they are no frames: the other process runs another version.
        """
        return map(_read, self._pieces.feed(data))


def _read(content: bytes) -> Frame:
    kind = content[:1]
    if kind in _NUMBERED_KINDS and len(content) >= _NUMBERED.size:
        _, sequence = _NUMBERED.unpack_from(content)
        if kind != _HANDED_OUT:
            return EnvelopeFrame(sequence, content[_NUMBERED.size :], kind == _BEHIND_HOLE)
        if len(content) == _NUMBERED.size:
            return HandedOutFrame(sequence)
    log_at = len(_ATTACHED) + _PLACE.size
    if kind == _ATTACHED and len(content) >= log_at:
        log = content[log_at:].decode(errors="replace")
        lsn, index, gaps, generation, sequence = _PLACE.unpack_from(content, len(_ATTACHED))
        return AttachedFrame(Behind(lsn, index, gaps, generation, sequence, log))
    if kind == _ENUMS:
        try:
            listed: list[list[Any]] = json.loads(content[len(_ENUMS) :])
            return EnumsFrame({(item[0], item[1]): tuple(item[2:]) for item in listed})
        except (ValueError, TypeError, IndexError) as exc:
            raise unreadable(str(exc)) from exc
    if content == _READY:
        return ReadyFrame()
    raise unreadable(f"a frame of kind {kind!r} and {len(content)} bytes")
