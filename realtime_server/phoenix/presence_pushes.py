"""Presence pushes: what a client tells the others of itself, and whether all of them can read it.

A push is an object with the ``event`` ``track`` or ``untrack``; the ``payload`` of the first is an
object, the member's metadata. The bytes of its values are kept as they came. Every client of the
room gets it as a part of the room's state, so what one of the stock clients could not read would
keep all others from that client: half a character, a number beyond a double, deep nesting.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from ..errors import PresenceError
from .json_text import members
from .messages import REF, REF_BEFORE
from .reasons import PresenceReason

__all__ = ["MAX_DEPTH", "check_tracked", "presence_key", "read_presence_push"]

MAX_DEPTH: Final = 100
"""How deep the arrays and objects of a payload may be nested. PyPI's client reads 200 levels, a few
of which are around the payload."""

_SET_BY_SERVER: Final = (REF, REF_BEFORE, "presence_ref")
"""Members that are left out. The last is what binding clients show a ref as: a program may track
what it was shown, and PyPI's client would take that for the ref."""


def read_presence_push(text: str, at: int, *, max_bytes: int) -> bytes | None:
    """Read a presence push.

    Args:
        text: of the frame, which is JSON.
        at: where in it the message's payload begins.
        max_bytes: of what is tracked.

    Returns:
        What its client tracks: a JSON object, without what the server adds; None: nothing any more.

    Raises:
        PresenceError: if it is none, or could not be shown to others.
    """
    try:
        return _read(text, at, max_bytes)
    except RecursionError as exc:
        raise PresenceError(PresenceReason.DEPTH) from exc


def _read(text: str, at: int, max_bytes: int) -> bytes | None:
    event: Any = None
    begin = end = 0
    if text[at] == "{":
        # The last one counts of those that have the same name, as it does for all clients.
        for name, value, value_begin, value_end in members(text, at):
            if name == "event":
                event = value
            elif name == "payload":
                begin, end = value_begin, value_end
    called = event.lower() if isinstance(event, str) else None
    if called == "untrack":
        return None
    if called != "track":
        raise PresenceError(PresenceReason.EVENT)
    if text[begin] != "{" or not end:
        raise PresenceError(PresenceReason.NO_OBJECT)
    if end - begin > max_bytes:
        raise PresenceError(PresenceReason.TOO_LARGE)
    return _meta(text, begin, text[begin:end], max_bytes)


def _meta(text: str, begin: int, payload: str, max_bytes: int) -> bytes:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as exc:
        raise PresenceError(PresenceReason.TEXT) from exc
    if payload.count("[") + payload.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise PresenceError(PresenceReason.DEPTH)
    kept = {
        name: text[value_begin:value_end]
        for name, _, value_begin, value_end in members(text, begin)
        if name not in _SET_BY_SERVER
    }
    pairs = (b"%b:%b" % (orjson.dumps(name), kept[name].encode()) for name in kept)
    meta = b"{" + b",".join(pairs) + b"}"
    if len(meta) > max_bytes:
        raise PresenceError(PresenceReason.TOO_LARGE)
    return meta


def _is_deeper(value: Any, most: int) -> bool:
    """Return whether a value is nested deeper than so many levels."""
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list)):
        return False
    return not most or any(_is_deeper(each, most - 1) for each in inner)


def check_tracked(key: bytes, meta: bytes) -> None:
    """Check what another process says that a member tracks, as its clients are sent it.

    Args:
        key: as :func:`presence_key` returns it.
        meta: as :func:`read_presence_push` returns it.

    Raises:
        ValueError: if these return nothing like that.
    """
    if not isinstance(orjson.loads(key), str):
        raise ValueError("a key is no text")
    value = orjson.loads(meta)
    if not isinstance(value, dict) or meta[-1:] != b"}" or not meta.startswith((b'{"', b"{}")):
        raise ValueError("what a member tracks is no object")
    if any(name in value for name in _SET_BY_SERVER):
        raise ValueError("what a member tracks has refs")
    if meta.count(b"[") + meta.count(b"{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise ValueError("what a member tracks is nested too deeply")


def presence_key(key: str) -> bytes:
    """Return a member's key as JSON, as it is in the room's state."""
    return orjson.dumps(key)
