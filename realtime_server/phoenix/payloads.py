"""What clients put into their payloads."""

from __future__ import annotations

import math
from typing import Any

import orjson

__all__ = ["access_token", "has_config", "size_of"]


def size_of(payload: Any) -> float:
    """Return a payload's bytes as JSON without white space; infinity if it is nested too deeply."""
    try:
        # Only a binary frame's payload has bytes, and only at its one place.
        return len(orjson.dumps(payload, default=lambda value: "x" * len(value)))
    except TypeError:
        return math.inf


def has_config(payload: Any) -> bool:
    """Tell a join of today's clients from one of the first generation's.

    Those send ``{}``, ``[]``, null, or an object with a ``user_token``.
    """
    return isinstance(payload, dict) and "config" in payload


def access_token(payload: Any) -> Any:
    """Return the token of an ``access_token`` message as it came, None if it has none."""
    return payload.get("access_token") if isinstance(payload, dict) else None
