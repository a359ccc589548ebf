"""Checks whether a stream can go on from a checkpoint that a consumer has stored.

A checkpoint that is a function is asked once the slot is held. Until then another process may hold
the slot, and move both the checkpoint and the slot. So the slot is looked at once more behind that,
on a connection of its own, because the one that streams takes no SQL.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Final

from ..changes import GapReason
from ..errors import ConnectionLostError, PositionMismatchError
from ..positions import LAST_INDEX, Position, StreamIdentity
from ..replication.timelines import switch_point
from . import catalog
from ._argument_errors import check_start
from ._sessions import plain_connection
from ._slot_checks import gap_reason
from .catalog import SlotStatus
from .stream_options import AskStart, StreamSettings

__all__ = ["ask", "check_stream", "held_slot", "is_history", "reason_against"]

_PATIENCE: Final = 30.0
"""Seconds within which a server has to answer a query."""


async def ask(function: AskStart) -> Position | None:
    """Ask the function that was given as ``start_at`` for the consumer's checkpoint.

    Raises:
        TypeError: if it is neither a Position nor None.
    """
    answer = function()
    start = await answer if inspect.isawaitable(answer) else answer
    check_start(start, is_answer=True)
    return start


async def held_slot(settings: StreamSettings, name: str) -> SlotStatus:
    """Return the state of the slot, which a connection of this source holds.

    Raises:
        SourceError: if the server does not say.
    """
    try:
        async with (
            asyncio.timeout(_PATIENCE),
            plain_connection(settings.dsn, name, names=settings.setting_names) as connection,
        ):
            slot = await catalog.slot(connection, name)
    except TimeoutError as exc:
        raise ConnectionLostError(
            f"the server has not told the state of slot {name!r} within {_PATIENCE:g} s"
        ) from exc
    if slot is None:
        raise ConnectionLostError(f"slot {name!r} was dropped while it was attached")
    return slot


def check_stream(start: Position | None, stream: StreamIdentity) -> None:
    """Raise PositionMismatchError if a checkpoint belongs to another stream."""
    if start is None or start.stream is None:
        return
    theirs, ours = start.stream, stream
    if theirs.system_identifier != ours.system_identifier:
        raise PositionMismatchError(
            f"start_at is {start}, a position in the WAL of cluster "
            f"{theirs.system_identifier}, but this server belongs to cluster "
            f"{ours.system_identifier}; check the address, or leave start_at out to begin at "
            "the slot's position"
        )
    if theirs != ours and start.index != LAST_INDEX:
        raise PositionMismatchError(
            f"start_at is {start}, stored from a stream of {_listed(theirs)}, but this source "
            f"streams {_listed(ours)}, where a transaction has other changes; choose the same "
            "as before, or, if all of that transaction is done with, go on from its end with "
            "start_at=position.end_of_transaction()"
        )


def is_history(history: str, stream: StreamIdentity, timeline: int, last: int) -> bool:
    """Return whether everything taken on another timeline belongs to a stream's history.

    Args:
        history: the text of the history file of the stream's timeline.
        stream: the stream.
        timeline: the other timeline.
        last: the LSN up to which changes were taken there.
    """
    if stream.timeline < timeline:
        # This is the former primary, which does not have the newer timeline.
        return False
    until = switch_point(history, timeline)
    return until is not None and last < until


def reason_against(
    start: Position,
    stream: StreamIdentity,
    history: str,
    slot: SlotStatus | None,
    *,
    temporary: bool,
) -> GapReason | None:
    """Return the reason why changes behind a checkpoint may have been lost; None if none were.

    Args:
        start: the checkpoint.
        stream: the stream.
        history: the text of the history file of the stream's timeline; empty for the first one.
        slot: the slot; None if it was created just now.
        temporary: whether it is a temporary one.
    """
    made_on = start.stream
    if (
        made_on is not None
        and made_on.timeline != stream.timeline
        and not is_history(history, stream, made_on.timeline, start.lsn)
    ):
        return GapReason.NEW_TIMELINE
    return gap_reason(slot, temporary=temporary, acknowledged=None, start=start.lsn)


def _listed(stream: StreamIdentity) -> str:
    return ", ".join(map(repr, stream.publications))
