"""SubscriptionSpec: what a join asks for, and whether the tables of the database allow it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from functools import cache
from itertools import islice
from typing import TypeVar

import attrs

from realtime_core import FilterError
from realtime_core.filters import EnumOrders, Filter, has_regex

from ..config.database.tables import Table
from ..errors import NotPublishedError, NotThereError, RefusedError, place_of, quoted
from ..phoenix.joins import ANY, Binding
from ..phoenix.messages import CHANNEL_PREFIX
from ..phoenix.reasons import ReplyReason, RlsReason, TableReason
from .allowed_topics import OWN_SCHEMA
from .topic_parser import MOST_SPLITS, Topic

__all__ = [
    "SubscriptionSpec",
    "check_columns",
    "check_spec",
    "possible",
    "warn_of_missing_re2",
    "specs_of",
]

logger = logging.getLogger("realtime.catalog")

T = TypeVar("T")


@attrs.frozen
class SubscriptionSpec:
    """Which changes a join asks for, in one of the ways in which it can be read."""

    schema: str | None
    """None for all schemas."""
    table: str | None
    """None for all tables."""
    filter: Filter | None = None
    """The filter that the rows must pass; None for all rows."""
    action: str = "*"
    """``INSERT``, ``UPDATE``, ``DELETE``, or ``*`` for all."""
    select: frozenset[str] | None = None
    """The columns to show; None for all."""
    otherwise: RefusedError | None = attrs.field(default=None, eq=False, repr=False)
    """Why the join is refused if there is no such table; None for the usual reason."""

    def __str__(self) -> str:
        """Return the names of schema and table, without the rest."""
        schema = "*" if self.schema is None else self.schema
        return f"{schema}.{'*' if self.table is None else self.table}"

    @property
    def selected(self) -> tuple[str, ...] | None:
        """The columns to show, as a row of ``realtime.subscription`` has them."""
        return None if self.select is None else tuple(sorted(self.select))


def specs_of(
    topic: Topic, bindings: tuple[Binding, ...] | None
) -> list[tuple[SubscriptionSpec, ...]]:
    """Return what a join asks for: for each item, all the ways in which it can be read.

    Names may have colons, so that a topic may be read in several ways. One of them must be
    possible.

    Args:
        topic: that is joined.
        bindings: of a join with ``config``; None: the topic itself says what is asked for.
    """
    return _of_topic(topic) if bindings is None else [(_of_binding(one),) for one in bindings]


def _of_topic(topic: Topic) -> list[tuple[SubscriptionSpec, ...]]:
    if topic.filters:
        return [
            tuple(SubscriptionSpec(item.schema, item.table, item.filter) for item in topic.filters)
        ]
    name = topic.name.removeprefix(CHANNEL_PREFIX)
    if name == ANY:
        return [(SubscriptionSpec(None, None),)]
    if not name:
        return []
    if ":" not in name:
        return [(SubscriptionSpec(name, None),)]
    # A colon may belong to the schema's name or to the table's.
    splits = islice((place for place, letter in enumerate(name) if letter == ":"), MOST_SPLITS)
    return [
        tuple(
            SubscriptionSpec(name[:place], name[place + 1 :], otherwise=topic.problem)
            for place in splits
        )
    ]


def _of_binding(binding: Binding) -> SubscriptionSpec:
    return SubscriptionSpec(
        None if binding.schema == ANY else binding.schema,
        None if binding.table == ANY else binding.table,
        binding.filter,
        binding.event,
        binding.select,
    )


def possible(
    alternatives: Iterable[SubscriptionSpec], check: Callable[[SubscriptionSpec], T]
) -> list[tuple[SubscriptionSpec, T]]:
    """Return the possible ways to read what a join asks for, each with the result of ``check``.

    Args:
        alternatives: all ways to read the item.
        check: raises RefusedError if one is not possible.

    Raises:
        RefusedError: the first that ``check`` raised, if none is possible. If none of the tables
            exists, the one of :attr:`SubscriptionSpec.otherwise` takes its place.
    """
    found = []
    problem: RefusedError | None = None
    for spec in alternatives:
        try:
            found.append((spec, check(spec)))
        except NotPublishedError as exc:
            problem = problem or exc
        except NotThereError as exc:
            problem = problem or spec.otherwise or exc
        except RefusedError as exc:
            problem = problem or exc
    if problem is not None and not found:
        raise problem
    return found


def check_spec(spec: SubscriptionSpec) -> None:
    """Check what can be checked without knowing the tables.

    Raises:
        RefusedError: if the spec can never get a change.
    """
    if spec.schema == OWN_SCHEMA:
        raise RefusedError(ReplyReason.OWN_SCHEMA.told(schema=OWN_SCHEMA))
    if spec.filter is not None and spec.filter.uses_regex and not has_regex():
        warn_of_missing_re2()
        raise RefusedError(ReplyReason.NO_REGEX.told())


@cache
def warn_of_missing_re2() -> None:
    """Log once that google-re2 is missing, which only the operator can install."""
    logger.warning(
        "joins whose filter has match or imatch are refused: google-re2 is not installed; "
        "pip install google-re2"
    )


def check_table(spec: SubscriptionSpec, table: Table | None) -> Table:
    """Return the table that a spec is for.

    Raises:
        NotThereError: if there is no such table, or none whose changes come under this name.
        RefusedError: if its changes cannot be sent as its publication asks for.
    """
    if table is None:
        raise NotThereError(TableReason.NOT_THERE.told(table=spec))
    if table.published is None:
        if table.is_partition or table.is_partitioned:
            raise NotPublishedError(TableReason.NOT_PUBLISHED_UNDER_ITS_NAME.told(table=spec))
        raise NotPublishedError(TableReason.NOT_PUBLISHED.told(table=spec))
    if table.has_row_filter:
        raise RefusedError(RlsReason.ROW_FILTER.told(table=spec))
    return table


def check_columns(
    spec: SubscriptionSpec, table: Table, columns: Collection[str], enums: EnumOrders
) -> None:
    """Check the columns that a spec names.

    Args:
        spec: for this table.
        table: its table.
        columns: that may be named.
        enums: the declared orders of enum types, by schema and name.

    Raises:
        RefusedError: if a column does not exist, or the filter does not fit its type.
    """
    if spec.filter is not None:
        _check_names("filter", spec.filter.columns, columns)
        try:
            spec.filter.compile(table.relation, enums=enums)
        except FilterError as exc:
            raise RefusedError(
                ReplyReason.FILTER.told(filter=quoted(exc.text), problem=exc),
                logged=f"its filter cannot be used, {place_of(exc)}",
            ) from exc
    _check_names("select", spec.select or (), columns)


def _check_names(use: str, wanted: Collection[str], allowed: Collection[str]) -> None:
    # A column that does not exist and one that may not be seen get the same answer.
    for column in sorted(set(wanted) - set(allowed)):
        raise RefusedError(ReplyReason.COLUMN.told(use=use, column=column))
