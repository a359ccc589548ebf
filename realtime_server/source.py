"""The source of both modes: how the server reads its database.

Attaching, slots, gaps, the bound on what a slot may hold back, warm standbys and retries are the
library's; here they are only told what the configuration says.
"""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

from realtime_core import PgoutputSource

from .addresses import resolve_dsn
from .config import SETTING_NAMES, ServerConfig

__all__ = ["ServerSource", "make_source"]

ServerSource: TypeAlias = PgoutputSource


def make_source(config: ServerConfig) -> ServerSource:
    """Return what reads the configured publications. It attaches in the background."""
    max_lag = config.max_replication_lag_mb * 1_000_000
    return PgoutputSource(
        partial(resolve_dsn, config),
        publications=config.publications,
        slot=config.slot_name,
        temporary=config.temporary_slot,
        boundaries=True,
        on_gap="continue",
        persistent=True,
        # Nobody said that the slot may be dropped, unless there is a bound.
        max_lag_bytes=max_lag or None,
        on_lag="gap" if max_lag else "warn",
        replace_slot=bool(max_lag),
        backoff=(
            config.db_reconnect_backoff_min / 1000,
            config.db_reconnect_backoff_max / 1000,
        ),
        setting_names=SETTING_NAMES,
    )
