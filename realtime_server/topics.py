"""Topics: which of a change's names a channel listens to.

A change goes to four kinds of topic, in this order: ``realtime:<schema>``, ``realtime:*``,
``realtime:<schema>:<table>`` and ``realtime:<schema>:<table>:<column>=eq.<value>``. The
first three are compared as whole strings. The fourth is looked up by column and value, so
that its cost does not grow with columns or subscribers.
"""

from __future__ import annotations

from typing import Final

import attrs

from .errors import TopicError

__all__ = ["ColumnFilter", "Topic"]

_EQUALS: Final = "=eq."
_MOST_SPLITS: Final = 4
"""Enough for odd names; without a bound, a long value of colons would cost its square."""


@attrs.frozen
class ColumnFilter:
    """The fourth kind of topic, taken apart."""

    table_topic: str
    """``realtime:<schema>:<table>``."""
    column: str
    value: str
    """Compared with the column's text, as a payload shows it."""


@attrs.frozen
class Topic:
    """A joined topic."""

    name: str
    filters: tuple[ColumnFilter, ...]
    """Usually none or one. More when a colon may belong to a name or to the value."""

    @classmethod
    def parse(cls, name: str) -> Topic:
        """Read a topic that begins with ``realtime:``.

        Raises:
            TopicError: if what follows the table is not ``column=eq.value``.
        """
        parts = name.split(":", 3)
        if len(parts) < 4:
            return cls(name, ())
        filters = tuple(_filters(name))
        if not filters:
            raise TopicError(
                f"cannot filter by {parts[3]!r}: this server filters by equality of one column, "
                f"as in realtime:{parts[1]}:{parts[2]}:id=eq.99"
            )
        return cls(name, filters)


def _filters(name: str) -> list[ColumnFilter]:
    """Split at each colon that may end a table's name: names can have colons, values too."""
    found = []
    end = name.find(":", name.index(":") + 1)
    for _ in range(_MOST_SPLITS):
        end = name.find(":", end + 1)
        if end < 0:
            break
        column, equals, value = name[end + 1 :].partition(_EQUALS)
        if column and equals:
            found.append(ColumnFilter(name[:end], column, value))
    return found
