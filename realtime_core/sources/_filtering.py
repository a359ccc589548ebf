"""RowFilter: decides which row changes a source with a filter hands over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

from ..changes import Begin, Change, Commit, Delete, Insert, Relation, Update
from ..errors import FilterError, FilterMatchError
from ..filters import CompiledFilter, EnumOrders, Filter, parse_filter
from ..records import Record

__all__ = ["RowFilter", "filter_problems"]

logger = logging.getLogger("realtime.source")

T = TypeVar("T")

_ANY: Final = "*"
_MOST_RELATIONS: Final = 1000
"""How many compiled filters are kept."""


def filter_problems(filters: str | Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each problem of a source's ``filter`` option."""
    for table, text in _by_table(filters).items():
        if table != _ANY and "." not in table:
            yield f"filter is for {table!r}, which is not 'schema.table' or '*'"
        try:
            parse_filter(text)
        except FilterError as exc:
            yield f"filter {text!r}: {exc}"


class RowFilter:
    """Filters by table, each compiled when the table's first change comes.

    Args:
        filters: one filter for all tables, or filters by ``schema.table``, where the one for ``*``
            is for all other tables.
        enums: the declared orders of enum types; the source may change it later.
    """

    def __init__(self, filters: str | Mapping[str, str], enums: EnumOrders) -> None:
        self._filters: dict[str, Filter] = {
            table: parse_filter(text) for table, text in _by_table(filters).items()
        }
        self._enums = enums
        # By relation: a table that is described again is another relation.
        self._compiled: dict[Relation, CompiledFilter | None] = {}
        self.left_out = 0
        """How many changes did not pass."""
        self.errors = 0
        """How many of them were left out because the filter could not be evaluated."""

    def passes(self, event: Change | Begin | Commit) -> bool:
        """Return whether an event is handed over; everything but row changes is.

        Raises:
            FilterError: if the filter for a change's table does not fit it.
        """
        if not isinstance(event, Insert | Update | Delete):
            return True
        compiled = self._for(event.relation)
        return compiled is None or self._passes(compiled.passes, event)

    def passes_row(self, relation: Relation, record: Record) -> bool:
        """Return whether a row of a snapshot is handed over.

        Raises:
            FilterError: if the filter for its table does not fit it.
        """
        compiled = self._for(relation)
        return compiled is None or self._passes(compiled, record)

    def _passes(self, passes_filter: Callable[[T], bool], item: T) -> bool:
        try:
            passes = passes_filter(item)
        except FilterMatchError as exc:
            self.errors += 1
            if self.errors == 1:
                logger.error(
                    "the filter cannot be evaluated for a change, which is left out, as later ones "
                    "will be: %s",
                    exc.problem,
                )
            passes = False
        self.left_out += not passes
        return passes

    def _for(self, relation: Relation) -> CompiledFilter | None:
        try:
            return self._compiled[relation]
        except KeyError:
            pass
        wanted = self._filters.get(str(relation), self._filters.get(_ANY))
        compiled = None if wanted is None else wanted.compile(relation, enums=self._enums)
        if len(self._compiled) >= _MOST_RELATIONS:
            self._compiled.clear()
        self._compiled[relation] = compiled
        return compiled


def _by_table(filters: str | Mapping[str, str]) -> Mapping[str, str]:
    return {_ANY: filters} if isinstance(filters, str) else filters
