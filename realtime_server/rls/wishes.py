"""Wishes: what somebody wants to listen to, and the row that says it.

A row of ``realtime.subscription`` can say less than a filter can: it has the conditions that
all have to hold and that it has an operator for. What is left out makes it wider, never
narrower; the server itself goes by the whole filter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

import attrs

from realtime_core import Column, FilterError, Relation, ReplicaIdentity
from realtime_core.filters import (
    And,
    Comparison,
    EnumOrders,
    Filter,
    Node,
    Operator,
    Reference,
    Side,
)
from realtime_core.filters.nodes import references
from realtime_core.oids import BUILTIN_TYPES

from ..errors import RefusedError
from .tables import Table

__all__ = ["SubscriptionRow", "Wish", "condition", "row_of"]

# What a row can say, of all that the language can; the rest is left out, which widens it.
_EXPRESSIBLE: Final = {
    Operator.EQ: "eq",
    Operator.NEQ: "neq",
    Operator.LT: "lt",
    Operator.LTE: "lte",
    Operator.GT: "gt",
    Operator.GTE: "gte",
    Operator.IN: "in",
}


@attrs.frozen
class Wish:
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

    def __str__(self) -> str:
        """Return the tables, without what is asked of them."""
        return f"{self.schema or '*'}.{self.table or '*'}"

    @property
    def selected(self) -> tuple[str, ...] | None:
        """The same as a row has it."""
        return None if self.select is None else tuple(sorted(self.select))


@attrs.frozen
class SubscriptionRow:
    """A row of ``realtime.subscription``, without what all rows of a registration share."""

    entity: int
    filters: tuple[tuple[str, str, str], ...]
    action: str
    select: tuple[str, ...] | None


def row_of(wish: Wish, table: Table | None, role: str, enums: EnumOrders) -> SubscriptionRow:
    """Return the row of a wish for one table.

    Raises:
        RefusedError: if it cannot be, saying why.
    """
    name = f"{wish.schema}.{wish.table}"
    if table is None:
        raise RefusedError(f"there is no table {name}")
    if table.published is None:
        raise RefusedError(f"table {name} is not published; add it to the publication")
    columns = {column.name for column in table.visible(role)}
    if not columns:
        raise RefusedError(f"role {role!r} may not SELECT from {name}")
    filters: list[tuple[str, str, str]] = []
    if wish.filter is not None:
        _check_columns("filter", wish.filter.columns, columns)
        try:
            wish.filter.compile(_relation(table), enums=enums)
        except FilterError as exc:
            raise RefusedError(f"cannot filter by {exc.text!r}: {exc}") from exc
        if any(each.side is Side.OLD for each in _references(wish.filter)):
            raise RefusedError(
                "old. cannot be used here: a row's former values may have been another's"
            )
        filters = [item for node in _conjuncts(wish.filter.root) if (item := condition(node))]
    _check_columns("select", wish.select or (), columns)
    return SubscriptionRow(table.oid, tuple(filters), wish.action, wish.selected)


def _check_columns(use: str, wanted: Collection[str], allowed: Collection[str]) -> None:
    # What is not there and what may not be seen are answered alike.
    for column in sorted(set(wanted) - set(allowed)):
        raise RefusedError(f"invalid column for {use} {column}")


def _relation(table: Table) -> Relation:
    """Return the table as a row's change would describe it."""
    columns = []
    for column in table.columns:
        custom = table.types.get(column.type_oid)
        oid = column.type_oid if custom is None else custom.oid
        built_in = BUILTIN_TYPES.get(oid)
        columns.append(
            Column(
                column.name,
                column.type_oid,
                built_in or column.type_name,
                column.type_schema if built_in is None else "pg_catalog",
                -1,
                column.name in table.key_names,
            )
        )
    return Relation(table.oid, table.schema, table.name, ReplicaIdentity.DEFAULT, tuple(columns))


def _conjuncts(node: Node | None) -> Iterator[Node]:
    if isinstance(node, And):
        for item in node.items:
            yield from _conjuncts(item)
    elif node is not None:
        yield node


def _references(filter: Filter) -> Iterator[Reference]:
    return iter(()) if filter.root is None else references(filter.root)


def condition(node: Node) -> tuple[str, str, str] | None:
    """Return column, operator and value as a row has them, if it can."""
    if not isinstance(node, Comparison):
        return None
    reference, name = node.reference, _EXPRESSIBLE.get(node.operator)
    if name is None or reference.path or reference.side is not Side.ROW:
        return None
    if isinstance(node.value, str):
        return reference.column, name, node.value
    items = (value.replace("\\", "\\\\").replace('"', '\\"') for value in node.value)
    return reference.column, name, "{" + ",".join(f'"{item}"' for item in items) + "}"
