"""Binary frames of ``vsn=2.0.0``, in which binding clients push broadcasts.

A frame of kind 3 has a header of seven bytes: the kind, the lengths of what follows, and how the
payload is encoded. What follows is in the second line::

    kind  join_ref  ref  topic  event  metadata  encoding
    join_ref ref topic event metadata payload

Lengths are in bytes, texts are UTF-8, the metadata is a JSON object or empty, and the payload
takes the rest: JSON if the encoding is 1, any bytes if it is 0. The frame carries the same
message as the text frame ``[join_ref, ref, topic, "broadcast", {"type": "broadcast", "event":
event, "payload": payload}]``.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from ..errors import FrameError
from .messages import BROADCAST, Message
from .reasons import CloseReason

__all__ = ["decode_binary"]

_HEADER: Final = 7
_USER_PUSH: Final = 3
_BYTES: Final = 0
_JSON: Final = 1


def decode_binary(data: bytes) -> Message:
    """Read a binary frame.

    In the message, the payload's member ``payload`` is a JSON value, or bytes.

    Raises:
        FrameError: if it is none; it has the code and reason to close the connection with.
    """
    if not data or data[0] != _USER_PUSH:
        kind = f"kind {data[0]}" if data else "nothing in it"
        raise FrameError.of(CloseReason.BINARY_KIND, kind=kind)
    if len(data) < _HEADER:
        raise FrameError.of(CloseReason.BINARY_HEADER)
    *lengths, encoding = data[1:_HEADER]
    if encoding not in (_BYTES, _JSON):
        raise FrameError.of(CloseReason.BINARY_ENCODING, encoding=encoding)
    end = _HEADER
    parts = []
    for length in lengths:
        parts.append(data[end : end + length])
        end += length
    if end > len(data):
        raise FrameError.of(CloseReason.BINARY_LENGTHS)
    try:
        join_ref, ref, topic, event = (part.decode() for part in parts[:4])
    except UnicodeDecodeError as exc:
        raise FrameError.of(CloseReason.BINARY_NAMES) from exc
    payload: dict[str, Any] = {"type": BROADCAST, "event": event}
    payload["payload"] = _json(data[end:], "payload") if encoding == _JSON else data[end:]
    if parts[4]:
        payload["meta"] = _json(parts[4], "metadata")
    return Message(topic, BROADCAST, payload, ref or None, join_ref or None)


def _json(data: bytes, what: str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise FrameError.of(CloseReason.BINARY_JSON, part=what) from exc
