"""The figures that ``/metrics`` shows about webhooks."""

from __future__ import annotations

import attrs

__all__ = ["EndpointStats", "WebhookStats"]


@attrs.frozen
class EndpointStats:
    """One endpoint, as it is now."""

    name: str
    delivered: int
    retries: int
    dead: int
    filter_errors: int
    waiting_bytes: int
    oldest_seconds: float
    """Since the commit of what has waited longest, by this machine's clock; 0 for nothing."""
    disabled: bool


@attrs.frozen
class WebhookStats:
    """All of them. The defaults are those of a server without webhooks."""

    connected: bool = False
    """Whether changes are read for them."""
    lag_bytes: int = 0
    """WAL between what the database has written and what their slot may let go of."""
    gaps: int = 0
    """How often changes may have been lost to them."""
    endpoints: tuple[EndpointStats, ...] = ()
