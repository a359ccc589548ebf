"""Broadcasts by HTTP: what is in the requests that stock clients send, without I/O.

A batch is ``{"messages": [{"topic", "event", "payload", "private"?}, …]}``, where the payload is an
object. A single one has topic and event in its path, and its payload, any JSON or any bytes, in the
body. Topics are written without ``realtime:``. A batch is sent whole, or nothing of it is. It is
read in steps, so that other work can run in between.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

import orjson

from .binary import MAX_NAME_BYTES
from .broadcasts import Broadcast, RoomName, is_name
from .join_shape import flag
from .json_text import behind, check_json, end_of, read_value, start_of
from .messages import CHANNEL_PREFIX

__all__ = ["MAX_MESSAGES", "HttpRefusal", "Messages", "read_names", "read_single", "reading_batch"]

MAX_MESSAGES: Final = 1000
"""Broadcasts of one batch."""

Messages: TypeAlias = list[tuple[RoomName, Broadcast]]
"""Rooms, and what is broadcast there."""

_MOST_TOLD: Final = 3
_BLANK: Final = "can't be blank"
_INVALID: Final = "is invalid"
_TOO_LARGE: Final = "Payload size exceeds tenant limit"


class HttpRefusal(Exception):
    """A request that is not carried out.

    Attributes:
        status: of the response.
        body: of the response, which is JSON.
    """

    def __init__(self, status: HTTPStatus, body: Mapping[str, Any]) -> None:
        super().__init__(status.phrase)
        self.status = status
        self.body = orjson.dumps(body)


def _bad_request(message: str) -> HttpRefusal:
    return HttpRefusal(HTTPStatus.BAD_REQUEST, {"message": message})


def _invalid(errors: Mapping[str, Any], message: str) -> HttpRefusal:
    body = {"errors": errors, "message": message}
    return HttpRefusal(HTTPStatus.UNPROCESSABLE_ENTITY, body)


def read_names(path: str) -> tuple[str, str] | None:
    """Return topic and event of the part of a path behind ``/api/broadcast``.

    Args:
        path: as it was sent: percent-encoded, where a name may have encoded slashes.

    Returns:
        Both names; None if the path has another form.

    Raises:
        HttpRefusal: if a name is empty, or not UTF-8.
    """
    match path.split("/"):
        case ["", topic, "events", event]:
            return _decoded(topic, "topic"), _decoded(event, "event")
        case _:
            return None


def _decoded(name: str, what: str) -> str:
    try:
        text = unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        raise _bad_request(f"The {what} in the path is not UTF-8") from None
    if not text:
        raise _invalid({what: [_BLANK]}, f"{what} {_BLANK}")
    return text


def read_single(
    names: tuple[str, str],
    content_type: str,
    query: Mapping[str, str],
    body: bytes,
    *,
    max_bytes: int,
) -> Messages:
    """Read a request for one broadcast.

    Args:
        names: its topic and event.
        content_type: empty: JSON.
        query: the parameters of the request.
        body: its payload.
        max_bytes: of event and payload.

    Raises:
        HttpRefusal: if it cannot be sent.
    """
    topic, event = names
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("", "application/json", "application/octet-stream"):
        raise HttpRefusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            {"error": "Unsupported Media Type. Use application/json or application/octet-stream"},
        )
    is_private = flag(query.get("private", "false"))
    if not isinstance(is_private, bool):
        raise _invalid({"private": [_INVALID]}, f"private {_INVALID}")
    if flag(query.get("persist", "false")) is not False or "persist[ttl]" in query:
        why = "is not available: this server does not store broadcasts"
        if not is_private:
            why = "can only be used on private channels"
        raise _invalid({"persist": [why]}, f"persist {why}")
    is_json = kind != "application/octet-stream"
    if is_json:
        _check(body)
    broadcast = Broadcast(event, body, is_json)
    if broadcast.size > max_bytes:
        raise _invalid({"payload": [_TOO_LARGE]}, f"{_TOO_LARGE} (MAX_PAYLOAD_BYTES: {max_bytes})")
    if not is_json:
        for name, text in (("topic", CHANNEL_PREFIX + topic), ("event", event)):
            if len(text.encode()) > MAX_NAME_BYTES:
                why = f"should be at most {MAX_NAME_BYTES} bytes where the payload is bytes"
                raise _invalid({name: [why]}, f"{name} {why}")
    return [(RoomName(CHANNEL_PREFIX + topic, is_private), broadcast)]


def reading_batch(body: bytes, *, max_bytes: int) -> Generator[None, None, Messages]:
    """Read a request for several broadcasts, and yield now and then.

    Args:
        body: of the request.
        max_bytes: of event and payload of each.

    Returns:
        The broadcasts.

    Raises:
        HttpRefusal: if one of them cannot be sent.
    """
    _check(body)
    yield
    try:
        return (yield from _reading_batch(body.decode(), max_bytes))
    except RecursionError:
        raise _bad_request("The body is nested too deeply") from None


def _check(body: bytes) -> None:
    try:
        check_json(body)
    except ValueError:
        raise _bad_request("The body is not JSON") from None


def _reading_batch(text: str, max_bytes: int) -> Generator[None, None, Messages]:
    # Each value is read once: to read one of a mebibyte takes long enough.
    sent: list[_Message] | None = None
    at = start_of(text)
    is_object = text[at] == "{"
    at = start_of(text, at + 1)
    while is_object and text[at] != "}":
        name, at = read_value(text, at)
        at = start_of(text, start_of(text, at) + 1)
        if name != "messages":
            at = end_of(text, at)
        elif text[at] != "[":
            raise _invalid({"messages": [_INVALID]}, "messages is no list")
        else:
            # The last one counts of those that have the same name.
            sent = []
            at = start_of(text, at + 1)
            while text[at] != "]":
                if len(sent) == MAX_MESSAGES:
                    why = f"should have at most {MAX_MESSAGES} item(s)"
                    raise _invalid({"messages": [why]}, f"messages {why}")
                sent.append(_Message(text, at, max_bytes))
                at = behind(text, sent[-1].end)
                yield
            at += 1
        at = behind(text, at)
        yield
    if sent is None:
        raise _invalid({"messages": [_BLANK]}, f"messages {_BLANK}")
    if any(message.errors for message in sent):
        told = [
            f"messages[{place}].{name} {' and '.join(problems)}"
            for place, message in enumerate(sent)
            for name, problems in message.errors.items()
        ]
        errors = {"messages": [message.errors for message in sent]}
        raise _invalid(errors, "; ".join(told[:_MOST_TOLD]))
    return [message.sent() for message in sent]


class _Message:
    """One message of a batch."""

    def __init__(self, text: str, at: int, max_bytes: int) -> None:
        self.errors: dict[str, list[str]] = {}
        values: dict[str, Any] = {}
        self._payload = ""
        if text[at] == "{":
            at = start_of(text, at + 1)
            while text[at] != "}":
                name, at = read_value(text, at)
                begin = start_of(text, start_of(text, at) + 1)
                values[name], at = read_value(text, begin)
                if name == "payload":
                    self._payload = text[begin:at]
                at = behind(text, at)
            self.end = at + 1
        else:
            self.end = end_of(text, at)
        self._topic = self._name(values, "topic")
        self._event = self._name(values, "event")
        if values.get("payload") is None:
            self.errors["payload"] = [_BLANK]
        elif not isinstance(values["payload"], dict):
            self.errors["payload"] = [_INVALID]
        elif "event" not in self.errors and self._broadcast().size > max_bytes:
            self.errors["payload"] = [_TOO_LARGE]
        private = flag(values.get("private"))
        if private is not None and not isinstance(private, bool):
            self.errors["private"] = [_INVALID]
        self._is_private = private is True

    def _name(self, values: Mapping[str, Any], name: str) -> str:
        value = values.get(name)
        if value is None or value == "":
            self.errors[name] = [_BLANK]
        elif not is_name(value):
            self.errors[name] = [_INVALID]
        else:
            return str(value)
        return ""

    def _broadcast(self) -> Broadcast:
        return Broadcast(self._event, self._payload.encode())

    def sent(self) -> tuple[RoomName, Broadcast]:
        """Return the room, and what is broadcast there."""
        return RoomName(CHANNEL_PREFIX + self._topic, self._is_private), self._broadcast()
