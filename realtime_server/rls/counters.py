"""Counters: how many rows RLS mode has checked, and how many changes it could not send."""

from __future__ import annotations

import attrs

__all__ = ["Counters"]


@attrs.define
class Counters:
    """The counts of checks and of failures since the server started."""

    checks: int = 0
    """How many rows were looked up, each for one viewer."""
    errors: int = 0
    """How many changes a viewer did not get because a policy raised an error."""
    timeouts: int = 0
    """How many changes a viewer did not get because a policy ran too long."""
    given_up: int = 0
    """How many changes a viewer did not get because they waited too long for a slow policy, because
    their channel's token was replaced, or because their table was dropped or replaced."""
    waiting_bytes: int = 0
    """How many bytes the changes take that wait now for slow policies."""
