"""Which slot a source streams from, and what it means for what was read so far."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ..changes import GapReason
from ..errors import SlotInUseError, SlotLostError, SlotUnavailableError
from ..lsn import LSN
from ._connection import ReplicationConnection
from .catalog import Slot

__all__ = ["check_slot", "create_slot", "gap_reason"]

logger = logging.getLogger("realtime.source")

_PATIENCE: Final = 5.0
"""Seconds after which a slot that cannot be made yet is mentioned."""


def check_slot(slot: Slot, *, database: str, temporary: bool) -> None:
    """Raise unless an existing slot is one that we may stream from now.

    Raises:
        SlotUnavailableError: if it is of another kind, plugin or database.
        SlotInUseError: if somebody streams from it.
        SlotLostError: if WAL that it needs is gone.
    """
    name = slot.name
    found = None
    if slot.slot_type != "logical":
        found = "is a physical one"
    elif slot.database != database:
        found = f"belongs to database {slot.database!r}, not {database!r}"
    elif slot.plugin != "pgoutput":
        found = f"uses the output plugin {slot.plugin!r}, not pgoutput"
    if found is not None:
        raise SlotUnavailableError(name, f"slot {name!r} {found}; choose another slot name")
    if slot.active_pid is not None or temporary:
        raise SlotInUseError(name, slot.active_pid)
    if slot.wal_status == "lost":
        raise SlotLostError(
            name,
            f"slot {name!r} is lost: PostgreSQL has removed WAL that it needs "
            "(max_slot_wal_keep_size); drop it with SELECT pg_drop_replication_slot(…) to "
            "start anew",
        )


def gap_reason(slot: Slot | None, *, temporary: bool, acknowledged: LSN) -> GapReason | None:
    """Say whether a source that was attached before has missed something.

    Args:
        slot: as it is now, None if it is gone.
        temporary: whether it was a temporary one.
        acknowledged: up to where the source has acknowledged.
    """
    if slot is None:
        return GapReason.TEMPORARY_SLOT if temporary else GapReason.SLOT_MISSING
    # PostgreSQL would start there without a word.
    if slot.confirmed_flush_lsn > acknowledged:
        return GapReason.SLOT_MOVED
    return None


async def create_slot(connection: ReplicationConnection, name: str, *, temporary: bool) -> LSN:
    """Make the slot; return from where it streams.

    PostgreSQL waits for every write transaction that is running; after a while that is said.

    Raises:
        SourceError: if it cannot be made.
    """
    loop = asyncio.get_running_loop()
    mention = loop.call_later(
        _PATIENCE,
        logger.warning,
        "slot %r is not made yet: PostgreSQL waits for write transactions to end; "
        "SELECT pid, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL shows them",
        name,
    )
    try:
        return await connection.create_slot(temporary=temporary)
    finally:
        mention.cancel()
