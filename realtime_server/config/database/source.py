"""The sources of both modes and of the webhooks: how the server reads its database.

Attaching, slots, gaps, the bound on what a slot may hold back, warm standbys and retries are the
library's; here they are only told what the configuration says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Literal, Protocol

from realtime_core import (
    Event,
    PgoutputSource,
    Position,
    RawPgoutputSource,
    SourceStats,
    Wal2JsonSource,
)
from realtime_core.sources.stream_options import AskStart, StreamOptions

from .. import SETTING_NAMES, OutputPlugin, ReplicationMode, ServerConfig
from .addresses import resolve_dsn

__all__ = [
    "ServerSource",
    "make_leader_source",
    "make_raw_source",
    "make_source",
    "make_webhook_source",
    "make_second_slot_source",
    "setting_names",
]


class ServerSource(Protocol):
    """What the modes need of a :class:`~realtime_core.ChangeSource`. It yields batches of events,
    with the boundaries of transactions, and a cancelled step loses nothing."""

    enum_orders: dict[tuple[str, str], tuple[str, ...]]
    """The labels of enum types in their declared order, by schema and name."""

    async def __aenter__(self) -> Any: ...

    async def aclose(self) -> None: ...

    async def attached(self) -> None:
        """Wait until changes are being read."""
        ...

    def batches(self) -> AsyncIterator[list[Event]]: ...

    def ack(self, upto: Event | Position) -> None: ...

    def stats(self) -> SourceStats: ...


def setting_names(config: ServerConfig) -> Mapping[str, str]:
    """Return what errors shall call a source's settings."""
    if config.replication_mode is ReplicationMode.STREAM:
        # It has no other choice.
        return SETTING_NAMES
    return {**SETTING_NAMES, "plugin": "OUTPUT_PLUGIN"}


def make_source(config: ServerConfig) -> ServerSource:
    """Make the source of the configured publications' changes. It attaches in the background.

    With wal2json, which STREAM mode does not have, it yields the changes of all tables; RLS mode
    leaves out what is not published.
    """
    options = _options(config, config.slot_name, setting_names(config))
    options["temporary"] = config.temporary_slot
    dsn = partial(resolve_dsn, config)
    if config.output_plugin is OutputPlugin.PGOUTPUT:
        return PgoutputSource(
            dsn,
            publications=config.stream_publications,
            messages=_messages(config),
            **options,
        )
    return Wal2JsonSource(dsn, **options)


def make_raw_source(config: ServerConfig) -> RawPgoutputSource:
    """Return what reads the same as :func:`make_source`, with rows as bytes, for several workers.

    It attaches in the background.
    """
    options = _options(config, config.slot_name, setting_names(config))
    options["temporary"] = config.temporary_slot
    return RawPgoutputSource(
        partial(resolve_dsn, config),
        publications=config.stream_publications,
        messages=_messages(config),
        **options,
    )


def make_leader_source(config: ServerConfig, start_at: AskStart) -> RawPgoutputSource:
    """Return what reads the same for several machines, if no other one does.

    It waits until the slot is free. An error ends it, unless that passes by itself.

    Args:
        config: of the server.
        start_at: returns where the log ends, once the slot is held.
    """
    options = _options(config, config.slot_name, setting_names(config))
    options["persistent"] = False
    options["slot_in_use"] = "wait"
    options["start_at"] = start_at
    return RawPgoutputSource(
        partial(resolve_dsn, config),
        publications=config.stream_publications,
        messages=_messages(config),
        **options,
    )


def make_second_slot_source(config: ServerConfig) -> PgoutputSource[Event]:
    """Return what reads what the second slot has kept for replay; it acknowledges nothing."""
    return PgoutputSource(
        partial(resolve_dsn, config),
        publications=config.stream_publications,
        slot=config.replay_slot,
        messages=_messages(config),
        boundaries=True,
        start_at=None,
        setting_names={**setting_names(config), "slot": "SLOT_NAME"},
    )


def make_webhook_source(config: ServerConfig) -> PgoutputSource[Event]:
    """Return the source of webhooks' changes: the same publications, from a slot of its own.

    It uses pgoutput whatever OUTPUT_PLUGIN says, since pgoutput applies publications.
    """
    names = {**SETTING_NAMES, "slot": "WEBHOOK_SLOT_NAME"}
    options = _options(config, config.webhook_slot, names)
    dsn = partial(resolve_dsn, config)
    return PgoutputSource(dsn, publications=config.publications, **options)


def _messages(config: ServerConfig) -> bool | Literal["nontransactional"]:
    """Return which messages of the WAL are read: those that are broadcast may be in transactions,
    and the journal of replay is in none. Positions are the same with these as without."""
    if config.broadcast_messages:
        return True
    return "nontransactional" if config.keeps_journal else False


def _options(
    config: ServerConfig, slot: str | None, setting_names: Mapping[str, str]
) -> StreamOptions:
    max_lag = config.max_replication_lag_mb * 1_000_000
    return StreamOptions(
        slot=slot,
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
        setting_names=setting_names,
    )
