"""The rows of ``realtime.subscription`` that a join is written as.

A row of ``realtime.subscription`` has less than a filter: only conditions that must all hold, and
only with some operators. Other conditions are left out, so a row may match more changes than its
filter, and never fewer. The server itself goes by the whole filter.
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

# The operators that a row can have, by those of filters; the others are left out.
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
    """A row of ``realtime.subscription``, without what all rows of a channel have in common."""

    entity: int
    """The table's OID."""
    filters: tuple[tuple[str, str, str], ...]
    """The filter's conditions: column, operator and value."""
    action: str
    """``INSERT``, ``UPDATE``, ``DELETE``, or ``*`` for all."""
    select: tuple[str, ...] | None
    """The names of the columns to send; None for all."""


def row_of(
    spec: SubscriptionSpec, table: Table | None, role: str, enums: EnumOrders
) -> SubscriptionRow:
    """Return the row for one table that a join asks for.

    Args:
        spec: what a join asks for.
        table: the table's present state; None if it does not exist.
        role: the role that the channel's rows are checked for.
        enums: the labels of enum types in their declared order, by schema and name.

    Raises:
        RefusedError: if the join is refused; it says why.
    """
    if table is None or not table.selectable.get(role):
        # The same answer for a table that is hidden and for one that does not exist.
        raise NotThereError(
            RlsReason.NOT_THERE.told(table=spec, role=role),
            logged=f"there is no table {spec} that its role may SELECT from",
        )
    check_table(spec, table)
    columns = {column.name for column in table.visible(role)}
    if not columns:
        raise RefusedError(
            RlsReason.NO_COLUMN.told(table=spec, role=role),
            logged=f"no column of {spec} that its role may SELECT is published",
        )
    check_columns(spec, table, columns, enums)
    filters: list[tuple[str, str, str]] = []
    if spec.filter is not None:
        if any(each.side is Side.OLD for each in _references(spec.filter)):
            raise RefusedError(RlsReason.OLD.told())
        filters = [
            item
            for node in _conjuncts(spec.filter.root)
            if not _lists_arrays(node, table) and (item := condition(node))
        ]
    return SubscriptionRow(table.oid, tuple(filters), spec.action, spec.selected)


def note_of(spec: SubscriptionSpec, table: Table | None, *, asks_for_deleted: bool) -> str | None:
    """Return what a client should know about a subscription that was accepted; None if nothing.

    Args:
        spec: what the join asks for.
        table: the table's present state; None if it does not exist.
        asks_for_deleted: whether a deleted row is sent to those who could see it, if all of its
            values are known.

    Returns:
        None if there is nothing to know.
    """
    filter = spec.filter
    if spec.action != "DELETE" or filter is None or filter.root is None:
        return None
    if table is None or not table.has_rls:
        return None
    # Each partition has a replica identity of its own.
    if asks_for_deleted and (table.is_full or table.is_partitioned):
        return None
    key = table.key_names
    if _can_be(filter.root, True, key):
        return None
    named = f"the primary key ({', '.join(key)})" if key else "a primary key, which it has not,"
    return (
        f"no DELETE of {spec} passes the filter {filter.text!r}: where row level security is on, "
        f"it goes by {named} alone"
    )


def _can_be(node: Node, truth: bool, known: Collection[str]) -> bool:
    """Return whether a condition can have a truth value if only some columns are known."""
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
    """Return whether a condition is ``in`` on an array column.

    A row cannot have it: its values would be an array of arrays, which must have one length.
    """
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
    """Return a filter's condition as a row of ``realtime.subscription`` has it: column, operator
    and value; None if such a row cannot express it."""
    if not isinstance(node, Comparison):
        return None
    reference, name = node.reference, _EXPRESSIBLE.get(node.operator)
    if name is None or reference.path or reference.side is not Side.ROW:
        return None
    if isinstance(node.value, str):
        return reference.column, name, node.value
    items = (value.replace("\\", "\\\\").replace('"', '\\"') for value in node.value)
    return reference.column, name, "{" + ",".join(f'"{item}"' for item in items) + "}"
