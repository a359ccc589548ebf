"""What clients put into their payloads."""

from __future__ import annotations

from typing import Any

import orjson

__all__ = ["access_token", "has_config", "size_of", "wanted_bindings"]


def size_of(payload: Any) -> int:
    """Return a payload's bytes as JSON without white space."""
    return len(orjson.dumps(payload))


def has_config(payload: Any) -> bool:
    """Tell a join of today's clients from one of the first generation's.

    Those send ``{}``, ``[]``, null, or an object with a ``user_token``.
    """
    return isinstance(payload, dict) and "config" in payload


def wanted_bindings(payload: Any) -> list[Any]:
    """Return ``config.postgres_changes`` of a join; empty if there is none."""
    config = payload.get("config") if isinstance(payload, dict) else None
    bindings = config.get("postgres_changes") if isinstance(config, dict) else None
    return bindings if isinstance(bindings, list) else []


def access_token(payload: Any) -> Any:
    """Return the token of an ``access_token`` message as it came, None if it has none."""
    return payload.get("access_token") if isinstance(payload, dict) else None
