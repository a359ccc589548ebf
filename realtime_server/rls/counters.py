"""Counters: what RLS mode has asked, and what went wrong."""

from __future__ import annotations

import attrs

__all__ = ["Counters"]


@attrs.define
class Counters:
    """What has happened since the start."""

    checks: int = 0
    """Rows looked up in a viewer's name."""
    errors: int = 0
    """Changes that a viewer did not get because a policy raised an error."""
    timeouts: int = 0
    """Changes that a viewer did not get because a policy ran too long."""
    given_up: int = 0
    """Changes that a viewer did not get because they waited in vain for a policy that is slow, or
    because their table was gone."""
    waiting_bytes: int = 0
    """What the changes take that wait now for policies that are slow."""
