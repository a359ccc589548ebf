"""Payloads: what the server reads from the payloads of clients' messages."""

from __future__ import annotations

import math
from typing import Any

import orjson

__all__ = ["access_token", "asks_for_private", "config_text", "has_config", "size_of"]


def size_of(payload: Any) -> float:
    """Return a payload's size in bytes, as JSON without white space.

    It is infinite if the payload is nested too deeply to be written.
    """
    try:
        return len(orjson.dumps(payload))
    except TypeError:
        return math.inf


def has_config(payload: Any) -> bool:
    """Return whether a join has a ``config``, as those of binding clients have.

    Topic clients send ``{}``, ``[]``, null, or an object with a ``user_token``.
    """
    return isinstance(payload, dict) and "config" in payload


def config_text(payload: Any) -> bytes | None:
    """Return the ``config`` of a join as JSON without white space; None if there is none, or if it
    is nested too deeply to be written."""
    if not has_config(payload):
        return None
    try:
        return orjson.dumps(payload["config"])
    except TypeError:
        return None


def asks_for_private(payload: Any) -> bool:
    """Return whether a join may ask for a private channel; whether it does is read with the rest
    of its ``config``."""
    config = payload["config"] if has_config(payload) else None
    return isinstance(config, dict) and config.get("private") not in (None, False)


def access_token(payload: Any) -> Any:
    """Return the token of an ``access_token`` message as the client sent it, None if it has
    none."""
    return payload.get("access_token") if isinstance(payload, dict) else None
