"""What is true of tables now: row level security, primary key, columns, who may read them.

A change tells how a table was when a row was written. Whether somebody may see the row is decided
in RLS mode by how the table is when the row goes out, so this is read anew for every batch; what a
join asks for is checked against how it is when somebody joins. :mod:`.catalog` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final

import attrs

from realtime_core import Column, Relation, ReplicaIdentity

__all__ = [
    "FIRST_CUSTOM_OID",
    "CustomType",
    "Functions",
    "KeyColumn",
    "LiveColumn",
    "Table",
    "TableName",
]

TableName = tuple[str, str]
"""Schema and name."""

FIRST_CUSTOM_OID: Final = 16384
"""FirstNormalObjectId, in PostgreSQL's src/include/access/transam.h."""


@attrs.frozen
class CustomType:
    """What ``pg_type`` says of a type that is not built in."""

    oid: int
    """Its own; of a domain, its base type's."""
    kind: str
    """``typtype``: ``b``, ``c``, ``e``, ``m`` or ``r``; never ``d``."""
    element: int
    """OID of an array's elements; 0 for what is no array."""
    name: str
    """``pg_type.typname``; of a domain, its base type's, as the stream has it."""
    schema: str
    """Likewise."""


@attrs.frozen
class LiveColumn:
    """A column."""

    name: str
    type_name: str
    """``pg_type.typname``; of a domain, the domain's."""
    type_schema: str
    type_oid: int
    type_sql: str
    """Its type as SQL writes it, without a modifier."""


@attrs.frozen
class KeyColumn:
    """A column of the primary key."""

    name: str
    type_sql: str | None
    """Its type as SQL writes it; of a domain, its base type's. None if to read a value of that may
    run a user's code, as a domain's check."""
    equals: str
    """The index's equality operator as SQL writes it: ``operator(pg_catalog.=)``."""


@attrs.frozen
class Functions:
    """Those that a table's policies reach and that count."""

    stamp: str = ""
    """Another text when one of them is another; empty if there is none."""
    immutable: tuple[str, ...] = ()
    """Those that are declared IMMUTABLE, as SQL names them: what they return may be kept with a
    plan."""


@attrs.frozen
class Table:
    """A table."""

    oid: int
    schema: str
    name: str
    has_rls: bool
    """Whether row level security is enabled, or the table is at odds with its relatives."""
    is_partitioned: bool
    """Whether its rows are its partitions'."""
    is_partition: bool
    """Whether its rows are those of a partitioned table, too."""
    is_full: bool
    """Whether its replica identity is FULL."""
    is_at_odds: bool
    """Whether row level security is not enabled, but is where rows are stored or above that: of
    the table that is partitioned, or of a partition. Nothing says then who may see a row."""
    columns: tuple[LiveColumn, ...]
    """By ``attnum``."""
    key: tuple[KeyColumn, ...]
    """In the index's order; empty without a primary key."""
    published: frozenset[str] | None
    """The columns that are published; None if the table is not, or if that was not asked for."""
    published_actions: frozenset[str] | None
    """Of ``INSERT``, ``UPDATE`` and ``DELETE``; None where the stream has no others."""
    has_row_filter: bool
    """Whether a publication has one for it that the stream does not apply."""
    selectable: Mapping[str, frozenset[str]]
    """By role, the columns that it may SELECT. Roles that do not exist are not there."""
    bypassing: frozenset[str]
    """The roles among them for whom row level security does not count."""
    types: Mapping[int, CustomType]
    """By OID, what JSON needs to know of the columns' types that are not built in."""
    functions: Functions
    """Those that its policies call; none if they were not asked for."""

    @property
    def has_enums(self) -> bool:
        """Whether a column is of an enum, or an array of one."""
        return any(type.kind == "e" for type in self.types.values())

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.key)

    def compared_as(self, column: LiveColumn) -> str | None:
        """Return the type that text becomes, as SQL writes it, to be compared with a column.

        None: it stays text, because anybody may have made a cast to the column's type.
        """
        if column.type_oid < FIRST_CUSTOM_OID:
            return column.type_sql
        type_ = self.types.get(column.type_oid)
        if type_ is None or type_.oid >= FIRST_CUSTOM_OID:
            return None
        # A domain's base type.
        name = type_.name.replace('"', '""')
        return f'pg_catalog."{name}"'

    def visible(self, role: str) -> tuple[LiveColumn, ...]:
        """Return the columns that go out to a role."""
        allowed = self.selectable.get(role, frozenset()) & (self.published or frozenset())
        return tuple(column for column in self.columns if column.name in allowed)

    @cached_property
    def relation(self) -> Relation:
        """The table as a row's change would describe it."""
        columns = []
        for column in self.columns:
            # A domain is its base type there.
            base = self.types.get(column.type_oid)
            name, schema = (
                (column.type_name, column.type_schema) if base is None else (base.name, base.schema)
            )
            is_key = column.name in self.key_names
            columns.append(Column(column.name, column.type_oid, name, schema, -1, is_key))
        return Relation(self.oid, self.schema, self.name, ReplicaIdentity.DEFAULT, tuple(columns))
