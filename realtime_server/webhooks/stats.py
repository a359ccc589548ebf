"""The figures that ``/metrics`` shows about webhooks."""

from __future__ import annotations

import attrs

__all__ = ["EndpointStats", "WebhookStats"]


@attrs.frozen
class EndpointStats:
    """The figures of one endpoint."""

    name: str
    delivered: int
    retries: int
    dead: int
    filter_errors: int
    waiting_bytes: int
    oldest_seconds: float
    """Seconds since the commit of the request that has waited longest, by this machine's clock; 0
    if none waits."""
    disabled: bool


@attrs.frozen
class WebhookStats:
    """The figures of all endpoints. The defaults are those of a server without webhooks."""

    connected: bool = False
    """Whether changes are read for webhooks."""
    lag_bytes: int = 0
    """WAL between what the database has written and what their slot may let go of."""
    gaps: int = 0
    """How often changes may have been lost to webhooks."""
    endpoints: tuple[EndpointStats, ...] = ()
