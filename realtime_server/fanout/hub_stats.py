"""HubStats: what a hub counts."""

from __future__ import annotations

import attrs

__all__ = ["HubStats"]


@attrs.frozen
class HubStats:
    """The counts of a hub."""

    subscriptions: int = 0
    """Subscriptions that there are now."""
    filter_misfits: int = 0
    """Subscriptions with a filter that turned out, after the join, not to fit its table."""
    filter_errors: int = 0
    """How often a filter could not be evaluated for a row; the row did not pass it then."""
    too_large: int = 0
    """Changes that were sent without their long values."""
