"""Rows: what ``realtime.subscription`` says of a wish.

A row of ``realtime.subscription`` can say less than a filter can: it has the conditions that
all have to hold and that it has an operator for. What is left out makes it wider, never
narrower; the server itself goes by the whole filter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

import attrs

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
from realtime_core.filters.nodes import Not, Or, references

from ..config.database.tables import Table
from ..errors import NotThereError, RefusedError
from ..fanout.subscription_specs import SubscriptionSpec, check_columns, check_table
from ..phoenix.reasons import RlsReason

__all__ = ["SubscriptionRow", "condition", "note_of", "row_of"]

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
class SubscriptionRow:
    """A row of ``realtime.subscription``, without what all rows of a registration share."""

    entity: int
    filters: tuple[tuple[str, str, str], ...]
    action: str
    select: tuple[str, ...] | None


def row_of(
    wish: SubscriptionSpec, table: Table | None, role: str, enums: EnumOrders
) -> SubscriptionRow:
    """Return the row of a wish for one table.

    Raises:
        RefusedError: if it cannot be, saying why.
    """
    if table is None or not table.selectable.get(role):
        # One that is hidden is not to be told from one that is not there.
        raise NotThereError(
            RlsReason.NOT_THERE.told(table=wish, role=role),
            logged=f"there is no table {wish} that its role may SELECT from",
        )
    check_table(wish, table)
    columns = {column.name for column in table.visible(role)}
    if not columns:
        raise RefusedError(
            RlsReason.NO_COLUMN.told(table=wish, role=role),
            logged=f"no column of {wish} that its role may SELECT is published",
        )
    check_columns(wish, table, columns, enums)
    filters: list[tuple[str, str, str]] = []
    if wish.filter is not None:
        if any(each.side is Side.OLD for each in _references(wish.filter)):
            raise RefusedError(RlsReason.OLD.told())
        filters = [
            item
            for node in _conjuncts(wish.filter.root)
            if not _lists_arrays(node, table) and (item := condition(node))
        ]
    return SubscriptionRow(table.oid, tuple(filters), wish.action, wish.selected)


def note_of(wish: SubscriptionSpec, table: Table | None, *, asks_for_deleted: bool) -> str | None:
    """Return what whoever wants this of a table should know, though it can be had.

    Args:
        wish: for this table.
        table: its table.
        asks_for_deleted: whether deleted rows of which all is known are shown to those who could
            see them.
    """
    filter = wish.filter
    if wish.action != "DELETE" or filter is None or filter.root is None:
        return None
    if table is None or not table.has_rls:
        return None
    # Each partition has an identity of its own.
    if asks_for_deleted and (table.is_full or table.is_partitioned):
        return None
    key = table.key_names
    if _can_be(filter.root, True, key):
        return None
    named = f"the primary key ({', '.join(key)})" if key else "a primary key, which it has not,"
    return (
        f"no DELETE of {wish} passes the filter {filter.text!r}: where row level security is on, "
        f"it goes by {named} alone"
    )


def _can_be(node: Node, truth: bool, known: Collection[str]) -> bool:
    """Say whether it can come out so, if some columns are known and the others are not."""
    match node:
        case Not(item):
            return _can_be(item, not truth, known)
        case And(items) | Or(items):
            needs_all = isinstance(node, And) == truth
            found = (_can_be(item, truth, known) for item in items)
            return all(found) if needs_all else any(found)
        case Comparison():
            return node.reference.column in known


def _conjuncts(node: Node | None) -> Iterator[Node]:
    if isinstance(node, And):
        for item in node.items:
            yield from _conjuncts(item)
    elif node is not None:
        yield node


def _lists_arrays(node: Node, table: Table) -> bool:
    """Say whether it is ``in`` on an array: an array of arrays has all of one length."""
    return (
        isinstance(node, Comparison)
        and node.operator is Operator.IN
        and any(
            column.name == node.reference.column and column.type_sql.endswith("[]")
            for column in table.columns
        )
    )


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
