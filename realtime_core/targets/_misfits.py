"""Compares a table of the source with the one of a target, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from ..changes import Relation, ReplicaIdentity
from ..records import Column

__all__ = ["TargetColumn", "misfits"]


class TargetColumn(NamedTuple):
    """A column of a table in the target."""

    name: str
    declared: str
    """Its type, as the target writes it."""
    is_required: bool
    """Whether a row must have a value for it: it is NOT NULL, and has no default."""
    is_generated: bool
    """Whether the target makes its values, and takes no others."""
    is_key: bool
    """Whether it belongs to the primary key."""
    merges_by: str | None
    """The collation of a key that takes different texts for the same, if it has one."""
    type_name: str = ""
    """The name of its type in PostgreSQL, or of its domain's base type."""
    modifier: int = -1
    """That type's modifier, -1 for none."""


def misfits(
    relation: Relation,
    key: Collection[str] | None,
    columns: Sequence[TargetColumn],
    holds: Callable[[TargetColumn, Column], bool],
) -> Iterator[str]:
    """Yield a sentence for each reason why a table cannot be written to the target.

    Args:
        relation: the table in the source.
        key: the columns of its primary key; None where only the relation is known.
        columns: the columns of the table in the target; none if it has no such table.
        holds: tells whether a column of the target holds all values of one of the source's.
    """
    theirs = [column.name for column in columns if column.is_key]
    if key is None:
        is_default = relation.replica_identity is ReplicaIdentity.DEFAULT
        key = relation.key_shape.names if is_default else theirs
    if not key:
        yield f"table {relation} has no primary key in the source: add one"
    elif not set(key) <= set(relation.key_shape.names):
        yield f"table {relation} needs REPLICA IDENTITY DEFAULT, and all of its key published"
    if not columns:
        # What it needs besides is known when the source's table has a key.
        if key:
            yield (
                f"the target has no table {relation}: create it, with the same columns and primary "
                "key; in a SQLite file its name is without the schema"
            )
        return
    if key and set(key) != set(theirs):
        has = f"({', '.join(theirs)})" if theirs else "there is none"
        yield f"the primary key of table {relation} is ({', '.join(key)}), in the target {has}"
    left = {column.name: column for column in columns}
    for column in relation.columns:
        found = left.pop(column.name, None)
        where = f"column {column.name!r} of table {relation}"
        if found is None:
            yield f"the target has no {where}, of type {column.type_name}: add it"
        elif found.is_generated:
            yield f"the target makes the values of {where} itself: let it take others"
        elif not holds(found, column):
            yield f"{where} has type {column.type_name}, which {found.declared} cannot hold"
        elif found.merges_by:
            yield (
                f"key {where} has collation {found.merges_by} in the target, which takes "
                "different texts for the same, so that rows would become one: give it another"
            )
    for name in (name for name, column in left.items() if column.is_required):
        yield (
            f"the source has no column {name!r} of table {relation}, which is NOT NULL in the "
            "target: give it a default"
        )
