"""The messages by which processes tell each other what is broadcast in a room.

A message has the room in it, besides the subject that it is sent to: a subject has only a hash of
it, so that any name can be one, and nothing that watches NATS reads the names. The hash has in it
whether the room is private. What comes may have been written by anybody who may publish there, so
all of it is checked, JSON too: stock clients would end at what is none.

It does no I/O.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Final

import attrs

from ..phoenix.broadcasts import Broadcast, RoomName
from ..phoenix.json_text import check_json

__all__ = [
    "BROADCASTS",
    "NODE_BYTES",
    "RoomMessage",
    "broadcast_subject",
    "decode_broadcast",
    "encode_broadcast",
    "encoded_size",
]

NODE_BYTES: Final = 8
"""How many bytes the name of a process has."""

BROADCASTS: Final = "b."
"""What the subjects of broadcasts begin with."""

_VERSION: Final = b"B1"
_HEAD: Final = Struct(f"!2sB{NODE_BYTES}sII")
"""The kind and version, flags, the sender, and the bytes of the topic and of the event. Topic,
event and payload follow."""
_PRIVATE: Final = 1
_JSON: Final = 2
_MAX_NAME: Final = 255
"""How many bytes topic and event may have where the payload is bytes: a binary frame for clients
has no more."""


@attrs.frozen
class RoomMessage:
    """What was broadcast in a room of another process."""

    node: bytes
    """The process."""
    room: RoomName
    broadcast: Broadcast


@lru_cache(maxsize=4096)
def broadcast_subject(room: RoomName) -> str:
    """Return the subject that a room's broadcasts are sent to."""
    name = (b"private " if room.is_private else b"public ") + room.topic.encode()
    return BROADCASTS + blake2b(name, digest_size=16).hexdigest()


def encoded_size(room: RoomName, broadcast: Broadcast) -> int:
    """Return how many bytes :func:`encode_broadcast` returns."""
    return _HEAD.size + len(room.topic.encode()) + broadcast.size


def encode_broadcast(node: bytes, room: RoomName, broadcast: Broadcast) -> bytes:
    """Return the message of a broadcast.

    Args:
        node: the process that sends it, as ``NODE_BYTES`` bytes.
        room: where.
        broadcast: what goes to its members.
    """
    name, event = room.topic.encode(), broadcast.event.encode()
    flags = _PRIVATE * room.is_private | _JSON * broadcast.is_json
    head = _HEAD.pack(_VERSION, flags, node, len(name), len(event))
    return b"".join((head, name, event, broadcast.payload))


def decode_broadcast(subject: str, data: bytes) -> RoomMessage:
    """Read what :func:`encode_broadcast` wrote.

    Args:
        subject: that the message was sent to.
        data: the message.

    Raises:
        ValueError: if it is nothing like that.
    """
    if len(data) < _HEAD.size:
        raise ValueError("it is too short")
    version, flags, node, name_size, event_size = _HEAD.unpack_from(data)
    if version != _VERSION or flags & ~(_PRIVATE | _JSON):
        raise ValueError("it is of another version")
    event_at = _HEAD.size + name_size
    payload_at = event_at + event_size
    if payload_at > len(data):
        raise ValueError("it is too short")
    room = RoomName(data[_HEAD.size : event_at].decode(), bool(flags & _PRIVATE))
    event = data[event_at:payload_at].decode()
    if subject != broadcast_subject(room):
        raise ValueError("it is of another room")
    payload, is_json = data[payload_at:], bool(flags & _JSON)
    if is_json:
        check_json(payload)
    elif name_size > _MAX_NAME or event_size > _MAX_NAME:
        raise ValueError("its names are too long for bytes")
    return RoomMessage(node, room, Broadcast(event, payload, is_json))
