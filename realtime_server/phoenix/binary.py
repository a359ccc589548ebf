"""Binary frames of ``vsn=2.0.0``, in which binding clients push broadcasts, and get some.

A frame begins with a header of one byte each: the kind, the lengths of what follows, and in kinds 3
and 4 how the payload is encoded. What follows is in the second line::

    3  join_ref ref topic event metadata  encoding
    join_ref ref topic event metadata payload

    4  topic event metadata  encoding
    topic event metadata payload

    0  join_ref ref topic event
    join_ref ref topic event payload

Lengths are in bytes, texts are UTF-8, the metadata is a JSON object or empty, and the payload takes
the rest: JSON if the encoding is 1, any bytes if it is 0. Kind 3 is what realtime-js pushes each
broadcast in; 4 brings one to a client. Kind 0 is Phoenix's own binary push, which this server
answers with an error: no client could be sent what is in it.
"""

from __future__ import annotations

from typing import Final

from ..errors import FrameError
from .broadcasts import BinaryPush
from .messages import BROADCAST, Message
from .reasons import CloseReason

__all__ = ["MAX_NAME_BYTES", "decode_binary", "encode_binary"]

MAX_NAME_BYTES: Final = 255
"""Bytes of a topic, or an event, in a binary frame."""

_PUSH: Final = 0
_USER_PUSH: Final = 3
_USER_BROADCAST: Final = 4
_HEADERS: Final = {_PUSH: 5, _USER_PUSH: 7}
"""Bytes of the header, by kind."""
_BYTES: Final = 0
_JSON: Final = 1


def decode_binary(data: bytes) -> Message:
    """Read a binary frame.

    The message's payload is a :class:`~.broadcasts.BinaryPush`, or bytes in kind 0.

    Raises:
        FrameError: if it is none; it has the code and reason to close the connection with.
    """
    header = _HEADERS.get(data[0]) if data else None
    if header is None:
        kind = f"kind {data[0]}" if data else "nothing in it"
        raise FrameError.of(CloseReason.BINARY_KIND, kind=kind)
    if len(data) < header:
        raise FrameError.of(CloseReason.BINARY_HEADER)
    is_push = data[0] == _PUSH
    length, encoding = (0, _BYTES) if is_push else (data[5], data[6])
    if encoding not in (_BYTES, _JSON):
        raise FrameError.of(CloseReason.BINARY_ENCODING, encoding=encoding)
    # Each by itself: a loop takes twice the time, and each broadcast comes through here.
    ref_at = header + data[1]
    topic_at = ref_at + data[2]
    event_at = topic_at + data[3]
    metadata_at = event_at + data[4]
    payload_at = metadata_at + length
    if payload_at > len(data):
        raise FrameError.of(CloseReason.BINARY_LENGTHS)
    try:
        join_ref = data[header:ref_at].decode()
        ref = data[ref_at:topic_at].decode()
        topic = data[topic_at:event_at].decode()
        event = data[event_at:metadata_at].decode()
    except UnicodeDecodeError as exc:
        raise FrameError.of(CloseReason.BINARY_NAMES) from exc
    payload = data[payload_at:]
    if is_push:
        return Message(topic, event, payload, ref or None, join_ref or None)
    push = BinaryPush(event, data[metadata_at:payload_at], payload, encoding == _JSON)
    return Message(topic, BROADCAST, push, ref or None, join_ref or None)


def encode_binary(topic: str, event: str, payload: bytes, metadata: bytes = b"") -> bytes:
    """Return a broadcast of bytes as the content of a binary frame.

    Args:
        topic: the room's.
        event: what is broadcast.
        payload: its bytes.
        metadata: a JSON object, or nothing.

    Raises:
        ValueError: if any but the payload is longer than :data:`MAX_NAME_BYTES`.
    """
    parts = topic.encode(), event.encode(), metadata
    header = bytes((_USER_BROADCAST, *map(len, parts), _BYTES))
    return b"".join((header, *parts, payload))
