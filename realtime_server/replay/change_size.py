"""The size of changes: about how many bytes they take as objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from realtime_core import Delete, Event, Insert, Update
from realtime_core.records import Field

__all__ = ["CHANGE_BYTES", "estimated_size", "size_of"]

CHANGE_BYTES: Final = 500
"""Bytes of a change as objects, besides the characters of its values."""
_FEW: Final = 4
"""Changes that are all looked at: large ones do not come together with many others."""
_EVERY: Final = 8
"""Of so many changes one is looked at. To look at all of them takes half of the log's time."""


def estimated_size(changes: Sequence[Event], turn: int) -> int:
    """Return about how many bytes changes take as objects, by a look at every eighth of them.

    Over eight estimates each place in a batch is looked at once, and counts eight times. So the sum
    of many estimates is about what all changes take, wherever in the batches the large ones are.

    Args:
        changes: in their order; if they are few, all are looked at.
        turn: the number of the estimate: each one has the next.
    """
    if len(changes) <= _FEW:
        return size_of(changes)
    some = changes[turn % _EVERY :: _EVERY]
    return CHANGE_BYTES * (len(changes) - _EVERY * len(some)) + _EVERY * size_of(some)


def size_of(changes: Iterable[Event]) -> int:
    """Return about how many bytes changes take as objects."""
    size = 0
    rows: list[Sequence[Field]] = []
    for change in changes:
        size += CHANGE_BYTES
        if isinstance(change, Insert):
            rows.append(change.record.fields)
        elif isinstance(change, Delete):
            rows.append(change.old_record.fields)
        elif isinstance(change, Update):
            rows.append(change.record.fields)
            if change.old_record is not None:
                rows.append(change.old_record.fields)
    try:
        # A loop over the fields takes five times as long.
        return size + sum(map(len, filter(None, chain.from_iterable(rows))))  # type: ignore[arg-type]
    except TypeError:
        # Not all of them are texts or NULL.
        return size + sum(len(one) for row in rows for one in row if isinstance(one, (str, bytes)))
