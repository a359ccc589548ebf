"""LateStart: what channels miss that were joined before the server read changes.

A slot that is there keeps what is committed meanwhile. But a server that shares a log with others
begins at its end, and a temporary slot, or a new one, is made only then.
"""

from __future__ import annotations

import enum
from typing import Final, Protocol

import attrs

from realtime_core import LSN, Position, SourceStats
from realtime_core.positions import LAST_INDEX

from ..config import ServerConfig

__all__ = ["BeginningFeed", "LateStart", "late_start", "patience"]

_PATIENCE: Final = 1.0
"""Seconds for which a join waits until changes are read, ..."""
_PATIENCE_WITH_NATS: Final = 8.0
"""... and where NATS has to answer, which may take seconds to elect a leader. Clients give a join
up after ten."""


class LateReason(enum.Enum):
    """Why a channel does not get the changes before its first one."""

    LATE_START = "late_start"
    """Its join was answered before the server read changes."""


@attrs.frozen
class LateStart:
    """The gap of a channel whose join was answered before the server read changes."""

    until: Position
    """The position from which on none is missing."""
    after: None = None
    """The channel has got nothing before."""
    reason: LateReason = LateReason.LATE_START


class BeginningFeed(Protocol):
    """Changes that another server or process reads."""

    @property
    def begin(self) -> tuple[int, int, int] | None:
        """Generation, LSN and index behind which they begin; None until it is known."""
        ...


def patience(config: ServerConfig) -> float:
    """Return for how many seconds a join waits for the server to read changes for the first
    time."""
    return _PATIENCE if config.nats_url is None else _PATIENCE_WITH_NATS


def late_start(
    config: ServerConfig, stats: SourceStats, feed: BeginningFeed | None
) -> LateStart | None:
    """Return what channels miss that were joined before the server read changes.

    Args:
        config: of the server.
        stats: of the source, which is attached.
        feed: what brings its changes; None if this process reads them itself.

    Returns:
        Their gap; None if they miss nothing, as the slot was there and has kept everything.
    """
    is_temporary = config.slot_name is None or config.temporary_slot
    if config.nats_url is None and not is_temporary and not stats.slot_created:
        return None
    lsn, index = int(stats.confirmed_lsn), 0
    if feed is not None and feed.begin is not None:
        _, lsn, index = feed.begin
        lsn, index = (lsn + 1, 0) if index == LAST_INDEX else (lsn, index + 1)
    return LateStart(Position(LSN(lsn), index, stats.stream))
