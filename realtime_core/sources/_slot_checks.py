"""Checks of a replication slot: whether a source may use it, and whether changes were lost.

The texts of the errors for a lost slot are here, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

from psycopg import AsyncConnection

from ..changes import GapReason
from ..errors import SlotInUseError, SlotLostError, SlotUnavailableError, SourceError
from ..lsn import LSN
from ..positions import Position
from ..replication.commands import quote_literal
from . import catalog
from ._sessions import plain_connection
from .catalog import SlotStatus
from .stream_options import Dsn

__all__ = [
    "check_kind",
    "check_slot",
    "end_of_skips",
    "gap_reason",
    "log_when_slow",
    "slot_dropped",
    "slot_lost",
]

logger = logging.getLogger("realtime.source")

T = TypeVar("T")

_PATIENCE: Final = 5.0
"""Seconds after which a log line says what a new slot, a lock or a stream waits for, and then again
and again."""
_PAUSE: Final = 0.1
"""Seconds between two checks whether old write transactions have ended."""

_CAUSES: Final = {
    GapReason.TEMPORARY_SLOT: "the temporary slot has ended with its connection",
    GapReason.SLOT_MISSING: "the slot does not exist any more",
    GapReason.SLOT_MOVED: "the slot's position is beyond what this source has acknowledged",
    GapReason.SLOT_INVALIDATED: "PostgreSQL has invalidated the slot",
    GapReason.WAL_REMOVED: "WAL that the slot needs was removed",
    GapReason.SLOT_OLDER_THAN_PUBLICATION: "the slot is older than a publication",
    GapReason.NEW_TIMELINE: "a standby was promoted that had not received all changes",
    GapReason.OTHER_CLUSTER: "another cluster answers at this address",
    GapReason.START_BEHIND_SLOT: "the slot was acknowledged beyond start_at",
    GapReason.LAG: "more WAL than max_lag_bytes had piled up",
    GapReason.LOG_BEHIND: "the log that several servers share did not have them any more",
    GapReason.OTHER_PUBLICATIONS: "the servers that share a log read other publications now",
}
_PRECAUTIONS: Final = {
    GapReason.TEMPORARY_SLOT: "use a permanent slot, slot=",
    GapReason.SLOT_MISSING: "use a slot that nobody else drops, and failover=True with standbys",
    GapReason.SLOT_MOVED: "use a slot that nobody else reads or advances",
    GapReason.SLOT_INVALIDATED: "remove the cause that pg_replication_slots.invalidation_reason "
    "names",
    GapReason.WAL_REMOVED: "raise max_slot_wal_keep_size",
    GapReason.SLOT_OLDER_THAN_PUBLICATION: "make publications first, and change them with ALTER "
    "PUBLICATION",
    GapReason.NEW_TIMELINE: "set synchronized_standby_slots",
    GapReason.OTHER_CLUSTER: "check the address",
    GapReason.START_BEHIND_SLOT: "store a position before it is acknowledged",
    GapReason.LAG: "have a consumer that keeps up, or raise max_lag_bytes",
    GapReason.LOG_BEHIND: "have the log keep more",
    GapReason.OTHER_PUBLICATIONS: "set the same PUBLICATIONS on all of them",
}


# The output plugins that there are sources for.
_KNOWN: Final = ("pgoutput", "wal2json")


def check_kind(
    slot: SlotStatus, *, plugin: str, database: str, names: Mapping[str, str] | None = None
) -> None:
    """Raise SlotUnavailableError if a slot is physical, or has another plugin or database.

    Args:
        slot: the slot.
        plugin: the output plugin that it has to have.
        database: the database that it has to belong to.
        names: the names of the application's settings for ``slot`` and ``plugin``.
    """
    found = None
    remedies = [f"choose another {_called('slot name', 'slot', names)}"]
    if slot.slot_type != "logical":
        found = "is a physical one"
    elif slot.database != database:
        found = f"belongs to database {slot.database!r}, not {database!r}"
    elif slot.plugin != plugin:
        found = f"uses the output plugin {slot.plugin!r}, not {plugin}"
        drop = f"SELECT pg_drop_replication_slot({quote_literal(slot.name)})"
        remedies.insert(0, f"drop it with {drop}, and the changes in it are lost")
        if names is not None and "plugin" in names and slot.plugin in _KNOWN:
            remedies.insert(0, f"set {names['plugin']}={slot.plugin} to go on with it")
    if found is not None:
        raise SlotUnavailableError(
            slot.name, f"slot {slot.name!r} {found}; {', or '.join(remedies)}"
        )


def _called(words: str, name: str, names: Mapping[str, str] | None) -> str:
    """Return the name of the application's setting; ``words`` if it has given none."""
    return words if names is None else names.get(name, words)


def check_slot(
    slot: SlotStatus,
    *,
    plugin: str,
    database: str,
    temporary: bool,
    names: Mapping[str, str] | None = None,
) -> None:
    """Check that a source may use an existing slot.

    Args:
        slot: the slot.
        plugin: the output plugin that it has to have.
        database: the database that it has to belong to.
        temporary: whether the source wants a temporary slot.
        names: the names of the application's settings for ``slot`` and ``plugin``.

    Raises:
        SlotUnavailableError: if it is physical or permanent, or has another plugin or database.
        SlotInUseError: if another process uses it.
    """
    name = slot.name
    check_kind(slot, plugin=plugin, database=database, names=names)
    if temporary and not slot.temporary:
        called = _called("slot name", "slot", names)
        raise SlotUnavailableError(
            name, f"slot {name!r} is a permanent one, not temporary; choose another {called}"
        )
    if slot.active_pid is not None or slot.temporary:
        raise SlotInUseError(name, slot.active_pid)


def gap_reason(
    slot: SlotStatus | None, *, temporary: bool, acknowledged: LSN | None, start: LSN | None
) -> GapReason | None:
    """Return the reason why changes may have been lost, if the slot shows one.

    Args:
        slot: the slot as it is now, None if it does not exist.
        temporary: whether the source uses a temporary slot.
        acknowledged: the LSN up to which this source has acknowledged; None if it attaches for
            the first time.
        start: the consumer's own checkpoint, if it has one and the source attaches for the first
            time.
    """
    if slot is None:
        if acknowledged is None and start is None:
            return None
        return GapReason.TEMPORARY_SLOT if temporary else GapReason.SLOT_MISSING
    if slot.is_lost:
        if slot.invalidation_reason in (None, "wal_removed"):
            return GapReason.WAL_REMOVED
        return GapReason.SLOT_INVALIDATED
    # PostgreSQL starts at the slot's position, and does not report that this is a later one.
    if acknowledged is not None and slot.confirmed_flush_lsn > acknowledged:
        return GapReason.SLOT_MOVED
    if start is not None and slot.confirmed_flush_lsn > start + 1:
        return GapReason.START_BEHIND_SLOT
    return None


def slot_lost(
    name: str,
    reason: GapReason,
    after: Position | None,
    *,
    may_continue: bool,
    may_replace: bool,
) -> SlotLostError:
    """Return the error for a gap, which says which settings let the source go on.

    Args:
        name: name of the slot.
        reason: why changes may have been lost.
        after: the last position handed over.
        may_continue: whether the settings allow to go on with a Gap.
        may_replace: whether the settings allow to drop the slot, or that is not necessary.
    """
    since = "" if after is None else f" since {after}"
    options = [] if may_continue else ["on_gap='continue'"]
    options += [] if may_replace else ["replace_slot=True"]
    step = f"to go on with a Gap, set {' and '.join(options)}"
    if not may_replace:
        step += f", which drops the slot, or run SELECT pg_drop_replication_slot('{name}')"
    return SlotLostError(
        name,
        f"changes{since} may be lost ({reason.value}): {_CAUSES[reason]}; {step}; to "
        f"prevent it, {_PRECAUTIONS[reason]}",
        reason,
    )


def slot_dropped(name: str, reason: GapReason, exc: SourceError) -> SlotLostError:
    """Return the error for a slot that was dropped and cannot be recreated.

    No Gap will report the loss, so this error does.

    Args:
        name: name of the slot.
        reason: why it was dropped.
        exc: why it could not be recreated.
    """
    return SlotLostError(
        name,
        f"changes may be lost ({reason.value}): {_CAUSES[reason]}; slot {name!r} was dropped, "
        f"and cannot be recreated: {exc}",
        reason,
    )


async def end_of_skips(
    connection: AsyncConnection[Any],
    name: str,
    answers_soon: Callable[[], AbstractContextManager[None]],
) -> LSN:
    """Return an LSN: all that commits behind it was written when the publications existed.

    Wait until the transactions have ended that were writing when the publications were checked.

    Args:
        connection: the connection that checked them.
        name: name of the slot, for the log.
        answers_soon: makes a context in which the server has to answer a query.
    """
    with answers_soon():
        xid = await catalog.current_xid(connection)
    loop = asyncio.get_running_loop()
    mention = loop.time() + _PATIENCE
    while True:
        with answers_soon():
            end = await catalog.wal_end_behind(connection, xid)
            if end is not None:
                return end
            if loop.time() >= mention:
                writers = await catalog.writers_before(connection, xid)
                logger.warning(
                    "streaming from slot %r waits for write transactions to end that may have "
                    "begun before the publication was created: %s",
                    name,
                    ", ".join(map(str, writers)) or "none can be seen now",
                )
                mention = loop.time() + _PATIENCE
        await asyncio.sleep(_PAUSE)


async def log_when_slow(
    waiting: Awaitable[T], *, dsn: Dsn, name: str, pid: int, is_lock: bool = False
) -> T:
    """Wait until a slot is created, or tables are locked; log whom that waits for if it takes long.

    A slot waits for all write transactions that are running, in any database.

    Args:
        waiting: does it.
        dsn: connection string of the database, or a function that returns it.
        name: name of the slot.
        pid: process ID of the server process that does it.
        is_lock: whether it locks the tables of a snapshot.
    """
    watching = asyncio.create_task(_mention_blockers(dsn, name, pid, is_lock))
    try:
        return await waiting
    finally:
        watching.cancel()
        await asyncio.wait({watching})


async def _mention_blockers(dsn: Dsn, name: str, pid: int, is_lock: bool) -> None:
    while True:
        await asyncio.sleep(_PATIENCE)
        try:
            async with plain_connection(dsn, name) as connection:
                found = await catalog.blockers(connection, pid)
                facts = await catalog.server_facts(connection)
        except SourceError as exc:
            who = f"they cannot be listed ({exc})"
        except Exception:
            # A function that returns the DSN may raise anything. Nobody awaits this task, so an
            # exception that escaped would silently end the log lines.
            logger.exception("cannot ask what slot %r waits for", name)
            who = "they cannot be listed"
        else:
            who = ", ".join(map(str, found)) or "none can be seen now"
            if facts.in_recovery and not is_lock:
                who = "a standby waits until the primary reports that there are none: run SELECT "
                who += "pg_log_standby_snapshot() on the primary"
        if is_lock:
            logger.warning(
                "the tables of a snapshot are not locked yet: PostgreSQL waits for those that are "
                "altering them: %s",
                who,
            )
        else:
            logger.warning(
                "slot %r is not created yet: PostgreSQL waits for write transactions to end: %s",
                *(name, who),
            )
