"""What clients put into a join's payload."""

from __future__ import annotations

from typing import Any

__all__ = ["wanted_bindings"]


def wanted_bindings(payload: Any) -> list[Any]:
    """Return ``config.postgres_changes`` of a join; empty for a v1-style payload.

    Clients of the first generation send ``{}``, ``[]`` or null.
    """
    config = payload.get("config") if isinstance(payload, dict) else None
    bindings = config.get("postgres_changes") if isinstance(config, dict) else None
    return bindings if isinstance(bindings, list) else []
