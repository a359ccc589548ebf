"""Topics: which of a change's names a channel listens to.

A change goes to four kinds of topic, in this order: ``realtime:<schema>``, ``realtime:*``,
``realtime:<schema>:<table>`` and ``realtime:<schema>:<table>:<filter>``. The first three are
compared as whole strings. The fourth has a filter expression of :mod:`realtime_core.filters`;
``column=eq.rest`` whose rest is not in that language is taken literally, as in the original.

Names may have colons. What can be read as a filter is one, in every way in which the rest can be
schema and table; what cannot be belongs to the table's name, if there is such a table.
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
"""Of a topic, what cannot be a filter: up to the third colon, and to what only filters have."""
MOST_SPLITS: Final = 4
"""Colons at which a topic is split. Enough for odd names; without a bound, a long value of colons
would cost its square."""


@attrs.frozen
class TableFilter:
    """The fourth kind of topic, taken apart."""

    schema: str
    table: str
    filter: Filter


@attrs.frozen
class Topic:
    """A joined topic."""

    name: str
    filters: tuple[TableFilter, ...]
    """Usually none or one. More when a colon may belong to a name or to the filter."""
    problem: TopicError | None = attrs.field(default=None, eq=False, repr=False)
    """Why what follows the table is no filter: what to say unless it belongs to a table's name."""
    columns: frozenset[str] = attrs.field(init=False, eq=False, repr=False)
    """Those that its filters read."""

    @columns.default
    def _columns(self) -> frozenset[str]:
        return frozenset().union(*(item.filter.columns for item in self.filters))

    @classmethod
    def parse(cls, name: str) -> Topic:
        """Read a topic that begins with ``realtime:``.

        Raises:
            TopicError: if its filters cost too much.
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
    """Return a topic without the filter that it may have, whose values are not the log's."""
    found = _NAMES.match(topic)
    assert found is not None
    return topic if found.end() == len(topic) else f"{found[0]}…"


def _filters(text: str) -> Iterator[TableFilter]:
    """Split at each colon that may end a table's name: names can have colons, filters too."""
    end = text.find(":")
    for _ in range(MOST_SPLITS):
        end = text.find(":", end + 1)
        if end < 0:
            break
        filter = _filter(text[end + 1 :])
        if filter is not None:
            yield from (TableFilter(*names, filter) for names in _names(text[:end]))


def _names(text: str) -> Iterator[tuple[str, str]]:
    """Return what schema and table may be called, the shortest schema first."""
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
