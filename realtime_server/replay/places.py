"""Places: points in the stream of changes.

A place is what :class:`~realtime_core.Position` says without naming the stream: tuples are made and
compared for each batch of changes, and all places of a server are of one stream.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from realtime_core import Commit, Delete, Event, Idle, Insert, LogicalMessage, Truncate, Update
from realtime_core.positions import LAST_INDEX

__all__ = ["BEFORE", "Place", "place_behind_gap", "place_of"]

Place: TypeAlias = tuple[int, ...]
"""The LSN of a transaction's commit, and the index of one of its changes, or ``LAST_INDEX`` for the
transaction's end. The place of a gap in the stream has a third number. It is right behind the place
of what came before the gap, since a channel that has all changes before the gap has still to be
told of the gap. A place whose third number is left out is never too high."""

BEFORE: Final[Place] = (0, -1)
"""The place before everything."""

_CHANGES: Final = frozenset((Insert, Update, Delete, Truncate))
_WITH_POSITION: Final = frozenset((LogicalMessage, Idle))


def place_of(event: Event) -> Place | None:
    """Return the place of an event; None for a Begin and for a Gap.

    The place of a Commit is the end of its transaction. A Begin has no place. The place of a Gap
    follows from what came before the gap: see :func:`place_behind_gap`.
    """
    kind = type(event)
    if kind in _CHANGES:
        change: Insert = event  # type: ignore[assignment]
        return (change.transaction.commit_lsn, change.index)
    if kind is Commit:
        commit: Commit = event  # type: ignore[assignment]
        return (commit.transaction.commit_lsn, LAST_INDEX)
    if kind in _WITH_POSITION:
        other: Idle = event  # type: ignore[assignment]
        return (other.position.lsn, other.position.index)
    return None


def place_behind_gap(end: Place) -> Place:
    """Return the place of a gap in the stream.

    Args:
        end: the place of what came before the gap.
    """
    lsn, index, *gaps = end
    return (lsn, index, *(number + 1 for number in gaps or (0,)))
