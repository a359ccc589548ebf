"""The source of both modes: how the server reads its database.

Attaching, slots, gaps, the bound on what a slot may hold back, warm standbys and retries are the
library's; here they are only told what the configuration says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TypeAlias

from realtime_core import PgoutputSource, Wal2JsonSource
from realtime_core.sources.options import StreamOptions

from .. import SETTING_NAMES, OutputPlugin, ReplicationMode, ServerConfig
from .addresses import resolve_dsn

__all__ = ["ServerSource", "make_source", "setting_names"]

ServerSource: TypeAlias = PgoutputSource | Wal2JsonSource


def setting_names(config: ServerConfig) -> Mapping[str, str]:
    """Return what errors shall call a source's settings."""
    if config.replication_mode is ReplicationMode.STREAM:
        # It has no other choice.
        return SETTING_NAMES
    return {**SETTING_NAMES, "plugin": "OUTPUT_PLUGIN"}


def make_source(config: ServerConfig) -> ServerSource:
    """Return what reads the configured publications. It attaches in the background.

    With wal2json it reads all tables: what is not published has to be left out.
    """
    max_lag = config.max_replication_lag_mb * 1_000_000
    options = StreamOptions(
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
        setting_names=setting_names(config),
    )
    dsn = partial(resolve_dsn, config)
    if config.output_plugin is OutputPlugin.PGOUTPUT:
        return PgoutputSource(dsn, publications=config.publications, **options)
    return Wal2JsonSource(dsn, **options)
