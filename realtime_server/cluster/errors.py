"""Errors of the log on NATS."""

from __future__ import annotations

from realtime_core.errors import ServerError

__all__ = ["LogError"]


class LogError(ServerError):
    """NATS cannot be reached, or does not do what was asked; it may soon."""
