"""Serializers: messages as the frames of both versions of the protocol.

``vsn=1.0.0``: an object ``{"topic", "event", "payload", "ref"}``, to which clients may add
``"join_ref"``. ``vsn=2.0.0``: an array ``[join_ref, ref, topic, event, payload]``; besides, clients
push broadcasts in binary frames, and get those that are bytes so.

The envelope of a change comes in two halves, between which a payload that was rendered once is put
as bytes.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final, Protocol

import orjson

from ..errors import FrameError
from .binary import decode_binary
from .json_text import items, load_leniently, members, start_of
from .messages import BROADCAST, PRESENCE, Message, Ref
from .reasons import CloseReason
from .usual_pushes import usual_v1, usual_v2

__all__ = ["SERIALIZERS", "Serializer", "V1Serializer", "V2Serializer"]


class Serializer(Protocol):
    """One version of the wire format. It has no state, so one instance serves all sockets."""

    tells_join_ref: ClassVar[bool]
    """Whether messages to clients say to which of their joins they belong."""
    takes_bytes: ClassVar[bool]
    """Whether clients can be sent broadcasts in binary frames."""

    def decode(self, data: str | bytes) -> Message:
        """Read a WebSocket message, text (str) or binary (bytes).

        Raises:
            FrameError: if it is no Phoenix message; it has the code and reason to close the
                connection with.
        """
        ...

    def payload_at(self, data: str) -> int:
        """Return where the payload of a text frame begins, which has been read.

        Raises:
            RecursionError: if something is nested too deeply.
        """
        ...

    def encode(self, message: Message) -> bytes:
        """Return a message as the content of a text frame."""
        ...

    def envelope(self, topic: str, event: str) -> tuple[bytes, bytes]:
        """Return what goes before and after the payload of a message from the server."""
        ...


def _load(data: str) -> tuple[Any, bool]:
    """Read a text frame; return what is in it, and whether only a message for a room may be written
    so: with half a character, or a number beyond a double."""
    try:
        return orjson.loads(data), False
    except orjson.JSONDecodeError as exc:
        try:
            return load_leniently(data), True
        except ValueError:
            raise FrameError.of(CloseReason.NO_JSON) from exc


def _message(
    topic: Any, event: Any, payload: Any, ref: Any, join_ref: Any, *, is_lenient: bool
) -> Message:
    if not (isinstance(topic, str) and isinstance(event, str)):
        raise FrameError.of(CloseReason.NO_STRINGS)
    message = Message(topic, event, payload, _ref(ref), _ref(join_ref))
    if is_lenient and not (event in (BROADCAST, PRESENCE) and _can_be_answered(message)):
        raise FrameError.of(CloseReason.NO_JSON)
    return message


def _can_be_answered(message: Message) -> bool:
    """Return whether topic and refs can be written as UTF-8."""
    try:
        f"{message.topic}{message.ref}{message.join_ref}".encode()
    except UnicodeEncodeError:
        return False
    return True


def _ref(value: Any) -> Ref:
    # A bool is an int in Python, but not a number in JSON.
    if value is None or (isinstance(value, (str, int, float)) and not isinstance(value, bool)):
        return value
    raise FrameError.of(CloseReason.REF)


def _load_exact(data: str) -> Any:
    """Read a frame again with :mod:`json`: orjson reads integers beyond 64 bits as floats."""
    try:
        return json.loads(data)
    # int() takes at most 4300 digits, and nesting may be too deep for json.
    except (ValueError, RecursionError) as exc:
        raise FrameError.of(CloseReason.REF_TOO_LARGE) from exc


def _number(ref: Ref) -> Any:
    """Return a ref as orjson can write it, which takes integers of up to 64 bits."""
    if isinstance(ref, int) and not -(2**63) <= ref < 2**64:
        return orjson.Fragment(str(ref))
    return ref


class V1Serializer:
    """Reads and writes messages as ``vsn=1.0.0`` has them, and connections without ``vsn``: JSON
    objects.

    Clients may send a join_ref, as Phoenix's own client does. Messages to them have none.
    """

    tells_join_ref: ClassVar[bool] = False
    takes_bytes: ClassVar[bool] = False

    def decode(self, data: str | bytes) -> Message:
        if isinstance(data, bytes):
            raise FrameError.of(CloseReason.BINARY_IN_V1)
        if (usual := usual_v1(data)) is not None:
            return usual
        frame, is_lenient = _load(data)
        if not isinstance(frame, dict) or not frame.keys() >= {"topic", "event", "payload"}:
            raise FrameError.of(CloseReason.NO_OBJECT)
        ref, join_ref = frame.get("ref"), frame.get("join_ref")
        if isinstance(ref, float) or isinstance(join_ref, float):
            exact = _load_exact(data)
            ref, join_ref = exact.get("ref"), exact.get("join_ref")
        return _message(
            frame["topic"], frame["event"], frame["payload"], ref, join_ref, is_lenient=is_lenient
        )

    def payload_at(self, data: str) -> int:
        at = 0
        for name, _, begin, _ in members(data, start_of(data)):
            if name == "payload":
                at = begin
        return at

    def encode(self, message: Message) -> bytes:
        return orjson.dumps(
            {
                "topic": message.topic,
                "event": message.event,
                "ref": _number(message.ref),
                "payload": message.payload,
            }
        )

    def envelope(self, topic: str, event: str) -> tuple[bytes, bytes]:
        names = orjson.dumps({"topic": topic, "event": event, "ref": None})
        return names[:-1] + b',"payload":', b"}"


class V2Serializer:
    """Reads and writes messages as ``vsn=2.0.0`` has them: JSON arrays, or binary from clients."""

    tells_join_ref: ClassVar[bool] = True
    takes_bytes: ClassVar[bool] = True

    def decode(self, data: str | bytes) -> Message:
        if isinstance(data, bytes):
            return decode_binary(data)
        if (usual := usual_v2(data)) is not None:
            return usual
        frame, is_lenient = _load(data)
        if not isinstance(frame, list) or len(frame) != 5:
            raise FrameError.of(CloseReason.NO_ARRAY)
        join_ref, ref, topic, event, payload = frame
        if isinstance(ref, float) or isinstance(join_ref, float):
            join_ref, ref, *_ = _load_exact(data)
        return _message(topic, event, payload, ref, join_ref, is_lenient=is_lenient)

    def payload_at(self, data: str) -> int:
        *_, (_, at, _) = items(data, start_of(data))
        return at

    def encode(self, message: Message) -> bytes:
        refs = [_number(message.join_ref), _number(message.ref)]
        return orjson.dumps([*refs, message.topic, message.event, message.payload])

    def envelope(self, topic: str, event: str) -> tuple[bytes, bytes]:
        return orjson.dumps([None, None, topic, event])[:-1] + b",", b"]"


_V1: Final = V1Serializer()

SERIALIZERS: Final[dict[str | None, Serializer]] = {
    None: _V1,
    "1.0.0": _V1,
    "2.0.0": V2Serializer(),
}
"""The serializers by the query parameter ``vsn`` of the handshake."""
