"""The present state of a table: row level security, primary key, columns, and who may read it.

A change says how its table was when the row was written. RLS mode decides by the table's state when
the row is sent whether a viewer may see it, and reads the state for every batch of changes. A join
is checked against the state at the time of the join. :mod:`.catalog` reads it.
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
    """A type that is not built in, as ``pg_type`` describes it."""

    oid: int
    """The type's OID; for a domain, that of its base type."""
    kind: str
    """``pg_type.typtype``: ``b`` (base), ``c`` (composite), ``e`` (enum), ``r`` (range) or ``m``
    (multirange); never ``d`` (domain)."""
    element: int
    """The OID of an array's element type; 0 if the type is no array."""
    name: str
    """``pg_type.typname``; for a domain, that of its base type, as the stream has it."""
    schema: str
    """The type's schema; for a domain, that of its base type."""


@attrs.frozen
class LiveColumn:
    """A column of a table, as it is now."""

    name: str
    type_name: str
    """``pg_type.typname`` of the column's type, which may be a domain."""
    type_schema: str
    """The schema of the type."""
    type_oid: int
    """The OID of the type."""
    type_sql: str
    """The type as SQL writes it, without a modifier."""


@attrs.frozen
class KeyColumn:
    """A column of the primary key."""

    name: str
    type_sql: str | None
    """The column's type as SQL writes it; for a domain, its base type. None if a user's code may
    run when a value of the type is read, such as a domain's check."""
    equals: str
    """The index's equality operator as SQL writes it, such as ``operator(pg_catalog.=)``."""


@attrs.frozen
class Functions:
    """The functions that a table's policies call, directly or not, without PostgreSQL's own."""

    stamp: str = ""
    """A text that differs when one of the functions was replaced; empty if there is none."""
    immutable: tuple[str, ...] = ()
    """The functions that are declared IMMUTABLE, as SQL names them: PostgreSQL may keep what they
    return with a plan."""


@attrs.frozen
class Table:
    """The present state of a table."""

    oid: int
    """The table's OID."""
    schema: str
    """The table's schema."""
    name: str
    """The table's name."""
    has_rls: bool
    """Whether row level security is enabled, or ``is_at_odds``."""
    is_partitioned: bool
    """Whether the table is partitioned, so that its rows are stored in its partitions."""
    is_partition: bool
    """Whether the table is a partition, so that its rows are a partitioned table's as well."""
    is_full: bool
    """Whether the table's replica identity is FULL."""
    is_at_odds: bool
    """Whether row level security is not enabled for the table, but for a table above or below it in
    the tree of partitions. It is not known then who may see a row."""
    columns: tuple[LiveColumn, ...]
    """The columns, in the table's order."""
    key: tuple[KeyColumn, ...]
    """The primary key's columns, in the index's order; empty without a primary key."""
    published: frozenset[str] | None
    """The names of the published columns; None if the table is not published, or if that was not
    read."""
    published_actions: frozenset[str] | None
    """Which of ``INSERT``, ``UPDATE`` and ``DELETE`` are published; None if the stream has no other
    changes than published ones."""
    has_row_filter: bool
    """Whether a publication has a row filter for the table that the stream does not apply."""
    selectable: Mapping[str, frozenset[str]]
    """The names of the columns that a role may SELECT, by role. Requested roles that
    do not exist are left out."""
    bypassing: frozenset[str]
    """The requested roles to which row level security does not apply."""
    types: Mapping[int, CustomType]
    """The columns' types that are not built in, by OID."""
    functions: Functions
    """The functions that the table's policies call; none if they were not read."""

    @property
    def has_enums(self) -> bool:
        """Whether the type of a column is an enum, or an array of one."""
        return any(type.kind == "e" for type in self.types.values())

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        """The names of the primary key's columns."""
        return tuple(column.name for column in self.key)

    def compared_as(self, column: LiveColumn) -> str | None:
        """Return the type to which SQL casts a value's text before it compares it with a column.

        Returns:
            The type as SQL writes it; None for a type that is not built in. Anybody may have made
            its cast, and would have code run by the query, so texts are compared.
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
        """Return the columns that are published and that a role may SELECT."""
        allowed = self.selectable.get(role, frozenset()) & (self.published or frozenset())
        return tuple(column for column in self.columns if column.name in allowed)

    @cached_property
    def relation(self) -> Relation:
        """The table as a change of a row would describe it now."""
        columns = []
        for column in self.columns:
            # The stream has a domain's base type in place of the domain.
            base = self.types.get(column.type_oid)
            name, schema = (
                (column.type_name, column.type_schema) if base is None else (base.name, base.schema)
            )
            is_key = column.name in self.key_names
            columns.append(Column(column.name, column.type_oid, name, schema, -1, is_key))
        return Relation(self.oid, self.schema, self.name, ReplicaIdentity.DEFAULT, tuple(columns))
