"""The messages by which processes tell each other who is present in their rooms.

A room is named by a hash, in which it also is whether the room is private. What a process' own
members track in a room has a number, which each change raises, and a change names the number before
it. So whoever hears of changes sees when one is missing, and asks for all of it.

What comes may have been written by anybody who may publish there, so all of it is checked: clients
are sent it as it is.

It does no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from struct import Struct
from typing import Final, TypeAlias

import attrs

from ..fanout.presence_state import Entry
from ..phoenix.broadcasts import RoomName
from ..phoenix.presence_pushes import check_tracked
from .room_messages import NODE_BYTES

__all__ = [
    "BEATS",
    "Beat",
    "Bye",
    "Change",
    "Check",
    "Message",
    "RoomId",
    "Snapshot",
    "decode_presence",
    "encode_presence",
    "entry_size",
    "node_subject",
    "room_id",
    "room_subject",
]

BEATS: Final = "n"
"""The subject on which each process says that it is there."""

_ROOM_BYTES: Final = 16
_VERSION: Final = b"P1"
_HEAD: Final = Struct(f"!2sc{NODE_BYTES}s")
"""The version, the kind, and the sender."""
_CHANGE: Final = Struct(f"!{_ROOM_BYTES}sQQ")
_SNAPSHOT: Final = Struct(f"!{_ROOM_BYTES}sQ??")
_NUMBER: Final = Struct("!Q")
_STANDING: Final = Struct(f"!{_ROOM_BYTES}sQ")
_ENTRY: Final = Struct("!QHI16s")
"""The membership, the bytes of the key, 0 where it is gone, those of what it tracks, the ref."""
_REF: Final = re.compile(b"[A-Za-z0-9_-]{16}")
_NO_REF: Final = bytes(16)

RoomId: TypeAlias = bytes
"""A hash of a room's name."""
Changes: TypeAlias = Mapping[int, Entry | None]


@attrs.frozen
class Change:
    """What has changed of a process' members in a room."""

    node: bytes
    room: RoomId
    before: int
    """The number of the change before it; 0: there was nothing before."""
    number: int
    entries: Changes


@attrs.frozen
class Snapshot:
    """All that a process' members in a room track, or a part of it."""

    node: bytes
    room: RoomId
    number: int
    """The number of the last change in it; 0: there is nothing."""
    is_first: bool
    """Whether it is the first part."""
    is_last: bool
    entries: Changes


@attrs.frozen
class Check:
    """A question: where the number is another one now, a snapshot is wanted."""

    node: bytes
    rooms: Mapping[RoomId, int]
    """The numbers that the sender knows of."""


@attrs.frozen
class Beat:
    """A process is there."""

    node: bytes
    number: int
    """How many of these it has sent before."""
    rooms: Mapping[RoomId, int]
    """The numbers that have changed since."""


@attrs.frozen
class Bye:
    """A process ends."""

    node: bytes


Message: TypeAlias = Change | Snapshot | Check | Beat | Bye


def room_id(room: RoomName) -> RoomId:
    """Return what a room is called in messages."""
    name = (b"private " if room.is_private else b"public ") + room.topic.encode()
    return blake2b(name, digest_size=_ROOM_BYTES, person=b"presence").digest()


def room_subject(room: RoomId) -> str:
    """Return the subject on which it is said what changes in a room."""
    return f"p.{room.hex()}"


def node_subject(node: bytes) -> str:
    """Return the subject of what one process is asked and answered."""
    return f"n.{node.hex()}"


def encode_presence(message: Message) -> bytes:
    """Return the bytes of a message."""
    match message:
        case Change(node, room, before, number, entries):
            return b"".join(
                (_head(b"C", node), _CHANGE.pack(room, before, number), *_entries(entries))
            )
        case Snapshot(node, room, number, is_first, is_last, entries):
            part = _SNAPSHOT.pack(room, number, is_first, is_last)
            return b"".join((_head(b"S", node), part, *_entries(entries)))
        case Check(node, rooms):
            return b"".join((_head(b"?", node), *_standings(rooms)))
        case Beat(node, number, rooms):
            return b"".join((_head(b"B", node), _NUMBER.pack(number), *_standings(rooms)))
        case Bye(node):
            return _head(b"E", node)


def entry_size(entry: Entry | None) -> int:
    """Return how many bytes an entry takes in a message."""
    return _ENTRY.size + (0 if entry is None else len(entry.key) + len(entry.meta))


def decode_presence(data: bytes) -> Message:
    """Read what :func:`encode_presence` wrote.

    Raises:
        ValueError: if it is nothing like that.
    """
    if len(data) < _HEAD.size:
        raise ValueError("it is too short")
    version, kind, node = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise ValueError("it is of another version")
    at = _HEAD.size
    match kind:
        case b"C" if len(data) >= at + _CHANGE.size:
            room, before, number = _CHANGE.unpack_from(data, at)
            return Change(node, room, before, number, _read_entries(data, at + _CHANGE.size))
        case b"S" if len(data) >= at + _SNAPSHOT.size:
            room, number, is_first, is_last = _SNAPSHOT.unpack_from(data, at)
            entries = _read_entries(data, at + _SNAPSHOT.size)
            return Snapshot(node, room, number, is_first, is_last, entries)
        case b"?":
            return Check(node, _read_standings(data, at))
        case b"B" if len(data) >= at + _NUMBER.size:
            (number,) = _NUMBER.unpack_from(data, at)
            return Beat(node, number, _read_standings(data, at + _NUMBER.size))
        case b"E" if len(data) == at:
            return Bye(node)
    raise ValueError("it is of another kind, or too short")


def _head(kind: bytes, node: bytes) -> bytes:
    return _HEAD.pack(_VERSION, kind, node)


def _entries(entries: Changes) -> Iterator[bytes]:
    for membership, entry in entries.items():
        if entry is None:
            yield _ENTRY.pack(membership, 0, 0, _NO_REF)
        else:
            ref = entry.ref.encode()
            yield _ENTRY.pack(membership, len(entry.key), len(entry.meta), ref)
            yield entry.key
            yield entry.meta


def _read_entries(data: bytes, at: int) -> Changes:
    found: dict[int, Entry | None] = {}
    while at < len(data):
        if len(data) < at + _ENTRY.size:
            raise ValueError("it is too short")
        membership, key_size, meta_size, ref = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if not key_size:
            found[membership] = None
            continue
        key, at = data[at : at + key_size], at + key_size
        meta, at = data[at : at + meta_size], at + meta_size
        if at > len(data):
            raise ValueError("it is too short")
        found[membership] = _entry(key, meta, ref)
    return found


def _entry(key: bytes, meta: bytes, ref: bytes) -> Entry:
    check_tracked(key, meta)
    if _REF.fullmatch(ref) is None:
        raise ValueError("a ref is none")
    return Entry(key, meta, ref.decode())


def _standings(rooms: Mapping[RoomId, int]) -> Iterable[bytes]:
    return (_STANDING.pack(room, number) for room, number in rooms.items())


def _read_standings(data: bytes, at: int) -> dict[RoomId, int]:
    if (len(data) - at) % _STANDING.size:
        raise ValueError("it is too short")
    return dict(_STANDING.iter_unpack(data[at:]))
