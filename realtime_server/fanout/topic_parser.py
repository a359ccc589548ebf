"""Topics: how the topic that a client joins is read.

A change goes to four kinds of topics, in this order: ``realtime:<schema>``, ``realtime:*``,
``realtime:<schema>:<table>`` and ``realtime:<schema>:<table>:<filter>``. The first three are
compared as whole strings. The fourth has a filter expression of :mod:`realtime_core.filters`. If
what follows ``column=eq.`` is not in that language, it is compared literally, as Supabase's server
does.

Schemas and tables may have colons in their names. So a topic with several colons is ambiguous: what
can be read as a filter is one, whichever of the remaining colons separates schema and table, and
what cannot be read as a filter belongs to the table's name, if there is such a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import attrs

from realtime_core import FilterError
from realtime_core.filters import Comparison, Filter, Operator, Reference, parse_filter

from ..errors import TopicError, place_of, quoted
from ..phoenix.joins import MAX_WEIGHT, TOO_MUCH
from ..phoenix.messages import CHANNEL_PREFIX
from ..phoenix.reasons import ReplyReason

__all__ = ["MOST_SPLITS", "TableFilter", "Topic", "shown_topic"]

_TEST: Final = re.compile(rf"=(?:not\.)?(?:{'|'.join(each.value for each in Operator)})\.")
_NAMES: Final = re.compile(r"(?:[^:=(]*:){0,2}[^:=(]*")
"""The part of a topic that cannot be its filter: it ends at the third colon, or at a character that
only filters have."""
MOST_SPLITS: Final = 4
"""Colons at which a topic may be split into table and filter. That is enough for odd names; without
a bound, the time to read a long value full of colons would grow with its square."""


@attrs.frozen
class TableFilter:
    """One way to read a topic that names a table and a filter."""

    schema: str
    table: str
    filter: Filter


@attrs.frozen
class Topic:
    """A topic that a client joins."""

    name: str
    filters: tuple[TableFilter, ...]
    """All ways to read it as a topic with a filter: usually none or one, more if a colon may belong
    to a name or to the filter."""
    problem: TopicError | None = attrs.field(default=None, eq=False, repr=False)
    """Why what follows the table is no filter. The client is told so, unless a table has such a
    name."""
    columns: frozenset[str] = attrs.field(init=False, eq=False, repr=False)
    """The columns that its filters read."""

    @columns.default
    def _columns(self) -> frozenset[str]:
        if not self.filters:
            return frozenset()
        return frozenset().union(*(item.filter.columns for item in self.filters))

    @classmethod
    def parse(cls, name: str) -> Topic:
        """Read a topic, which must begin with ``realtime:``.

        Raises:
            TopicError: if its filters have too many conditions.
        """
        parts = name.removeprefix(CHANNEL_PREFIX).split(":", 2)
        if len(parts) < 3:
            return cls(name, ())
        schema, table, text = parts
        if not text:
            problem = TopicError(ReplyReason.NO_FILTER.told(schema=schema, table=table))
            return cls(name, (), problem)
        filters = tuple(_filters(name.removeprefix(CHANNEL_PREFIX)))
        if not filters:
            try:
                parse_filter(text)
            except FilterError as exc:
                problem = TopicError(
                    ReplyReason.FILTER.told(filter=quoted(text), problem=exc),
                    logged=f"its filter cannot be used, {place_of(exc)}",
                )
                return cls(name, (), problem)
        if sum(item.filter.weight for item in filters) > MAX_WEIGHT:
            raise TopicError(
                ReplyReason.FILTER.told(filter=quoted(text), problem=TOO_MUCH),
                logged=f"its filter cannot be used: {TOO_MUCH}",
            )
        return cls(name, filters)


def shown_topic(topic: str) -> str:
    """Return a topic as the log may show it: without its filter, which may hold private values."""
    found = _NAMES.match(topic)
    assert found is not None
    return topic if found.end() == len(topic) else f"{found[0]}…"


def _filters(text: str) -> Iterator[TableFilter]:
    """Yield all ways to read a topic: names may have colons, and so may filters."""
    end = text.find(":")
    for _ in range(MOST_SPLITS):
        end = text.find(":", end + 1)
        if end < 0:
            break
        filter = _filter(text[end + 1 :])
        if filter is not None:
            yield from (TableFilter(*names, filter) for names in _names(text[:end]))


def _names(text: str) -> Iterator[tuple[str, str]]:
    """Yield all ways to read a text as schema and table, the shortest schema first."""
    for place, letter in enumerate(text):
        if letter == ":":
            yield text[:place], text[place + 1 :]


def _filter(text: str) -> Filter | None:
    if not text:
        return None
    try:
        return parse_filter(text)
    except FilterError:
        column, equals, value = text.partition("=eq.")
        if not (column and equals) or _TEST.search(column):
            return None
        return Filter(Comparison(Reference(column), Operator.EQ, value), text)
