"""Wishes: what a join asks for, held against the tables that there are."""

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
from .topic_rules import OWN_SCHEMA
from .topics import MOST_SPLITS, Topic

__all__ = [
    "SubscriptionSpec",
    "check_columns",
    "check_spec",
    "possible",
    "tell_of_regex",
    "specs_of",
]

logger = logging.getLogger("realtime.catalog")

T = TypeVar("T")


@attrs.frozen
class SubscriptionSpec:
    """What somebody wants to listen to."""

    schema: str | None
    """None for all of them."""
    table: str | None
    """None for all of them."""
    filter: Filter | None = None
    action: str = "*"
    """``INSERT``, ``UPDATE``, ``DELETE``, or ``*`` for all."""
    select: frozenset[str] | None = None
    """The columns to show; None for all."""
    otherwise: RefusedError | None = attrs.field(default=None, eq=False, repr=False)
    """What is wrong with the wish if there is no such table."""

    def __str__(self) -> str:
        """Return the tables, without what is asked of them."""
        schema = "*" if self.schema is None else self.schema
        return f"{schema}.{'*' if self.table is None else self.table}"

    @property
    def selected(self) -> tuple[str, ...] | None:
        """The columns to show, as a row of ``realtime.subscription`` has them."""
        return None if self.select is None else tuple(sorted(self.select))


def specs_of(
    topic: Topic, bindings: tuple[Binding, ...] | None
) -> list[tuple[SubscriptionSpec, ...]]:
    """Return what a join asks for, each in all the ways in which it can be read.

    One of the ways has to be possible.

    Args:
        topic: that is joined.
        bindings: of a join with ``config``; None: the topic itself says what is wanted.
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
    ways: Iterable[SubscriptionSpec], check: Callable[[SubscriptionSpec], T]
) -> list[tuple[SubscriptionSpec, T]]:
    """Return the ways to read a wish that are possible, and what checking them gave.

    Raises:
        RefusedError: the first one, if none is. Where there is none of the tables, what is wrong
            otherwise.
    """
    found = []
    problem: RefusedError | None = None
    for wish in ways:
        try:
            found.append((wish, check(wish)))
        except NotPublishedError as exc:
            problem = problem or exc
        except NotThereError as exc:
            problem = problem or wish.otherwise or exc
        except RefusedError as exc:
            problem = problem or exc
    if problem is not None and not found:
        raise problem
    return found


def check_spec(wish: SubscriptionSpec) -> None:
    """Look at what a wish asks for, whatever tables there are.

    Raises:
        RefusedError: if nothing can ever come of it.
    """
    if wish.schema == OWN_SCHEMA:
        raise RefusedError(ReplyReason.OWN_SCHEMA.told(schema=OWN_SCHEMA))
    if wish.filter is not None and wish.filter.uses_regex and not has_regex():
        tell_of_regex()
        raise RefusedError(ReplyReason.NO_REGEX.told())


@cache
def tell_of_regex() -> None:
    """Tell the operator, who can mend it, and once."""
    logger.warning(
        "joins whose filter has match or imatch are refused: google-re2 is not installed; "
        "pip install google-re2"
    )


def check_table(wish: SubscriptionSpec, table: Table | None) -> Table:
    """Return the table that a wish is for.

    Raises:
        NotThereError: if there is none whose changes come under its name.
        RefusedError: if its changes cannot be told as the publication wants it.
    """
    if table is None:
        raise NotThereError(TableReason.NOT_THERE.told(table=wish))
    if table.published is None:
        if table.is_partition or table.is_partitioned:
            raise NotPublishedError(TableReason.NOT_PUBLISHED_UNDER_ITS_NAME.told(table=wish))
        raise NotPublishedError(TableReason.NOT_PUBLISHED.told(table=wish))
    if table.has_row_filter:
        raise RefusedError(RlsReason.ROW_FILTER.told(table=wish))
    return table


def check_columns(
    wish: SubscriptionSpec, table: Table, columns: Collection[str], enums: EnumOrders
) -> None:
    """Look at what a wish says of a table's columns.

    Args:
        wish: for this table.
        table: its table.
        columns: that may be looked at.
        enums: the declared orders of enum types, by schema and name.

    Raises:
        RefusedError: if it does not fit them.
    """
    if wish.filter is not None:
        _check_names("filter", wish.filter.columns, columns)
        try:
            wish.filter.compile(table.relation, enums=enums)
        except FilterError as exc:
            raise RefusedError(
                ReplyReason.FILTER.told(filter=quoted(exc.text), problem=exc),
                logged=f"its filter cannot be used, {place_of(exc)}",
            ) from exc
    _check_names("select", wish.select or (), columns)


def _check_names(use: str, wanted: Collection[str], allowed: Collection[str]) -> None:
    # What is not there and what may not be seen are answered alike.
    for column in sorted(set(wanted) - set(allowed)):
        raise RefusedError(ReplyReason.COLUMN.told(use=use, column=column))
