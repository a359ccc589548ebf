"""Pace: whether the filters of a table take long to evaluate for a row.

If it does, the work is done in steps, so that others have their turn in between. A few filters on
short values take microseconds, and steps would cost more than that. Very many filters, or patterns
that are searched for in long texts, take seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from realtime_core import Delete, Insert, Record, Relation, RowChange
from realtime_core.filters import Workload

__all__ = ["MESSAGES", "QUICK", "UNWANTED", "Pace", "pace_of"]

_MANY: Final = 500
"""Conditions and lookups for one row, from which on they take long: each takes up to a microsecond
for short values."""
_LONG: Final = 4096
"""Characters of a value, from which on it takes long to search it for a pattern: up to 0.4 µs for
each."""


@attrs.frozen(eq=False)
class Pace:
    """Which changes of one table take long to filter: all, or those with a long value."""

    are_many: bool
    """Whether there are so many that each row takes long."""
    columns: tuple[str, ...] = ()
    """The columns in which a long value takes long."""
    places: tuple[int, ...] = ()
    """The positions of these columns in a whole row."""

    def takes_long(self, change: RowChange) -> bool:
        """Return whether it takes long to evaluate the filters for a change."""
        if self.are_many:
            return True
        # By class and position, as this runs for every change.
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
        """Return the same for an old row, which may consist of key columns only."""
        texts = (record.raw(name) for name in self.columns if name in record.shape.index)
        return any(isinstance(text, str) and len(text) > _LONG for text in texts)


QUICK: Final = Pace(are_many=False)
"""The pace of tables without filters, or with so few that no row takes long."""

UNWANTED: Final = Pace(are_many=False)
"""The pace of tables whose rows nobody has asked for."""

MESSAGES: Final = Pace(are_many=False)
"""The pace of ``realtime.messages`` and its partitions, whose rows are broadcast."""


def pace_of(relation: Relation, workloads: Iterable[Workload]) -> Pace:
    """Return how long a table's filters take to evaluate.

    Args:
        relation: the table.
        workloads: what each index of filters has to evaluate for a row of the table.
    """
    workloads = list(workloads)
    are_many = sum(each.conditions for each in workloads) > _MANY
    names = {name for each in workloads for name in each.columns}
    if not are_many and not names:
        return QUICK
    # A filter that does not fit the table any more may read columns that the table has not.
    columns = tuple(name for name in relation.shape.names if name in names)
    return Pace(are_many, columns, tuple(relation.shape.index[name] for name in columns))
