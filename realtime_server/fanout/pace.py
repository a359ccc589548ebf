"""Pace: whether the filters on a table take long for a row, so that others must have their turn.

Few filters of short values take microseconds, and to divide that would cost more than it. Very
many, or patterns that are looked for in long texts, take seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from realtime_core import Delete, Insert, Record, Relation, RowChange
from realtime_core.filters import Asked

__all__ = ["QUICK", "Pace", "pace_of"]

_MANY: Final = 500
"""Conditions, and lookups, of a row: each takes up to a microsecond of short values."""
_LONG: Final = 4096
"""Characters of a value: to look for a pattern in more of them takes up to 0.4 µs for each."""


@attrs.frozen(eq=False)
class Pace:
    """How the filters on one table are."""

    are_many: bool
    """Whether any row takes long."""
    columns: tuple[str, ...] = ()
    """In which a long value takes long."""
    places: tuple[int, ...] = ()
    """Of these columns in a whole row."""

    def takes_long(self, change: RowChange) -> bool:
        """Say whether to judge a change takes long."""
        if self.are_many:
            return True
        # By class, and places: this runs for every change.
        kind = type(change)
        if kind is not Delete:
            fields = change.record.fields  # type: ignore[union-attr]
            for place in self.places:
                field = fields[place]
                if type(field) is str and len(field) > _LONG:
                    return True
        if kind is Insert:
            return False
        old: Record | None = change.old_record  # type: ignore[union-attr]
        return old is not None and self._is_long(old)

    def _is_long(self, record: Record) -> bool:
        """Say so of an old row, which may be a key alone."""
        texts = (record.raw(name) for name in self.columns if name in record.shape.index)
        return any(isinstance(text, str) and len(text) > _LONG for text in texts)


QUICK: Final = Pace(are_many=False)
"""Of tables without filters, or of which none asks more than lookups."""


def pace_of(relation: Relation, asked: Iterable[Asked]) -> Pace:
    """Return the pace of a table's filters, from what each index of them asks."""
    all_asked = list(asked)
    are_many = sum(each.conditions for each in all_asked) > _MANY
    names = {name for each in all_asked for name in each.columns}
    if not are_many and not names:
        return QUICK
    # A filter that does not fit any more may have others.
    columns = tuple(name for name in relation.shape.names if name in names)
    return Pace(are_many, columns, tuple(relation.shape.index[name] for name in columns))
