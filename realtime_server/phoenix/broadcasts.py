"""Broadcasts: what a client pushes to all members of a room, and in what bytes they get it.

A push is an object with a string ``event``; its ``payload`` is any JSON, or any bytes in a binary
frame. Nothing else of it goes on. The payload's bytes are relayed as they came. What is no JSON
(RFC 8259) is never relayed as JSON: stock clients end at it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import orjson

from ..errors import BroadcastError
from .json_text import check_json, members
from .messages import BROADCAST
from .reasons import BroadcastReason

__all__ = [
    "BinaryPush",
    "Broadcast",
    "RoomName",
    "broadcast_json",
    "is_name",
    "read_binary_push",
    "read_text_push",
]

_TYPE: Final = f'{{"type":"{BROADCAST}","event":'.encode()


class RoomName(NamedTuple):
    """Names a room. Each topic has two, one for private channels, which never hear each other."""

    topic: str
    """With ``realtime:``."""
    is_private: bool = False
    """Whether policies decide who may read and write there."""


class Broadcast(NamedTuple):
    """What goes to all members of a room."""

    event: str
    payload: bytes
    """A JSON text, or any bytes."""
    is_json: bool = True
    meta: bytes = b""
    """A JSON object that goes beside the payload, of messages that the database has; empty: none
    does."""

    @property
    def size(self) -> int:
        """Bytes of the event and the payload."""
        return len(self.event.encode()) + len(self.payload)


class BinaryPush(NamedTuple):
    """What a binary frame of kind 3 has besides topic and refs."""

    event: str
    metadata: bytes
    """A JSON object, or empty; it is not checked yet."""
    payload: bytes
    is_json: bool
    """Whether the payload is meant to be JSON; it is not checked yet."""


def read_text_push(text: str, at: int) -> Broadcast:
    """Read a broadcast that was pushed as text.

    Args:
        text: of the frame, which is JSON.
        at: where in it the message's payload begins.

    Raises:
        BroadcastError: if it is none.
    """
    if text[at] != "{":
        raise BroadcastError(BroadcastReason.NO_EVENT)
    event: Any = None
    payload = "{}"
    try:
        # The last one counts of those that have the same name, as it does for all clients.
        for name, value, begin, end in members(text, at):
            if name == "event":
                event = value
            elif name == "payload":
                payload = text[begin:end]
    except RecursionError as exc:
        raise BroadcastError(BroadcastReason.NO_JSON) from exc
    if not is_name(event):
        raise BroadcastError(BroadcastReason.NO_EVENT)
    return Broadcast(event, payload.encode())


def read_binary_push(push: BinaryPush) -> Broadcast:
    """Read a broadcast that was pushed in a binary frame.

    Raises:
        BroadcastError: if it is none, or asks to be stored.
    """
    if push.metadata:
        try:
            metadata = orjson.loads(push.metadata)
        except orjson.JSONDecodeError as exc:
            raise BroadcastError(BroadcastReason.METADATA) from exc
        if not isinstance(metadata, dict):
            raise BroadcastError(BroadcastReason.METADATA)
        if metadata.get("persist"):
            raise BroadcastError(BroadcastReason.PERSIST)
    if push.is_json:
        try:
            check_json(push.payload)
        except ValueError as exc:
            raise BroadcastError(BroadcastReason.NO_JSON) from exc
    return Broadcast(push.event, push.payload, push.is_json)


def is_name(value: Any) -> bool:
    """Return whether a value is a text that can be written as UTF-8: without half a character."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def broadcast_json(broadcast: Broadcast) -> bytes:
    """Return a broadcast as the payload of a text frame, if its own payload is JSON."""
    event = orjson.dumps(broadcast.event)
    meta = b',"meta":' + broadcast.meta if broadcast.meta else b""
    return b"".join((_TYPE, event, b',"payload":', broadcast.payload, meta, b"}"))
