"""Makes what lets clients come back over restarts and to other servers, from the settings."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from realtime_core import SourceStats

from ..config import ServerConfig
from ..config.database.addresses import resolve_dsn
from ..config.database.connections import Dsn
from ..config.database.source import make_second_slot_source
from .change_log import ChangeLog
from .channel_starts import ChannelStarts
from .continuity import Continuity
from .durable import Durable
from .journal import MOST_CHANNELS, Journal
from .late_records import take_what_is_known_late
from .ledger import Ledger
from .memberships import Memberships
from .one_of_several import slots_left_out
from .past import Shared
from .records import PREFIX, Seal, digest
from .second_slot import SecondSlot
from .second_slot_past import SecondSlotPast
from .standing import LivePlaces
from .standings import Standings
from .stream_origin import StreamOrigin
from .wal_messages import WalMessages

__all__ = ["make_continuity"]

_MEGABYTE: Final = 1_000_000
_A_CHANNEL: Final = 1000
"""Bytes that have to be kept for each channel that the journal may have: sixteen times what a
snapshot of it takes."""


def make_continuity(
    config: ServerConfig,
    *,
    secret: bytes,
    attached: Callable[[], Awaitable[None]],
    stats: Callable[[], SourceStats],
    live: LivePlaces,
    standings: Standings,
    memberships: Memberships,
    channel_starts: ChannelStarts,
    log: ChangeLog,
    clock: Callable[[], float],
    share: Shared | None = None,
) -> Continuity:
    """Return what lets clients come back to a server with a journal.

    Args:
        config: of the server.
        secret: the key of the journal's records.
        attached: waits until the stream runs.
        stats: returns the stream's counts and positions.
        live: where the live hub stands.
        standings: where the channels stand.
        memberships: whose channels are here, and whose away.
        channel_starts: begins channels.
        log: the changes that clients may have missed.
        clock: of the memberships and the log.
        share: what makes the process one of several that have one slot; None: it has the slot for
            itself.
    """
    assert config.slot_name is not None
    window = config.replay_window / 1000
    # Messages in transactions count in places.
    names = (*sorted(config.stream_publications), *(["messages"] * config.broadcast_messages))
    origin = StreamOrigin(stats, config.db_name, *names)
    seal = Seal(
        secret,
        b"",
        digest(config.slot_name) if share is None else share.slot,
        secrets.token_bytes(8),
    )
    journal = Journal(
        seal, clock=time.time, most=min(MOST_CHANNELS, _kept_bytes(config) // _A_CHANNEL)
    )
    ledger = Ledger(
        journal,
        live,
        standings,
        memberships.absences,
        shared=memberships.shared_sessions,
        taken_places=memberships.taken_places,
        clock=clock,
        wall_clock=time.time,
    )
    memberships.on_change = standings.note
    journal.on_new = partial(take_what_is_known_late, memberships)
    dsn = partial(resolve_dsn, config)
    past = (None if share is None else share.past) or _second_slot_past(config, dsn, share)
    channel_starts.catch_up.older.read_older = past.read_older
    durable = Durable(
        journal,
        WalMessages(dsn, PREFIX),
        past,
        window=window,
        stream=origin.stream,
        reconnects=lambda: stats().reconnects,
        before_write=ledger.telling,
        on_expired=ledger.expired,
        passed=None if share is None else share.passed,
    )
    new_log = partial(
        ChangeLog, max_bytes=config.replay_memory_mb * _MEGABYTE, window=window, clock=clock
    )
    return Continuity(
        durable,
        channel_starts,
        log,
        new_log,
        attached=attached,
        stats=stats,
        origin=origin,
        begin=None if share is None else share.begin,
        left_out=slots_left_out(config) if share is None else share.left_out,
    )


def _kept_bytes(config: ServerConfig) -> int:
    """Return how many bytes may be kept for clients that come back, where the journal is."""
    if config.nats_url is not None:
        return config.log_max_bytes
    most = config.max_replication_lag_mb or config.replay_wal_mb
    return _MEGABYTE * min(config.replay_wal_mb, most)


def _second_slot_past(config: ServerConfig, dsn: Dsn, share: Shared | None) -> SecondSlotPast:
    assert config.slot_name is not None
    assert config.replay_slot is not None
    second_slot = SecondSlot(
        dsn,
        slot=config.slot_name,
        name=config.replay_slot,
        max_bytes=_kept_bytes(config),
        clock=time.monotonic,
    )
    return SecondSlotPast(
        second_slot,
        partial(make_second_slot_source, config),
        keeps=share is None or share.keeps_slot,
        passed=None if share is None else share.passed,
    )
