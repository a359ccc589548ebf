"""CopiedTable: a table of a snapshot, and the statement that copies its rows."""

from __future__ import annotations

import attrs

from ..changes import Relation
from ..replication.commands import quote_identifier

__all__ = ["CopiedTable"]


@attrs.frozen
class CopiedTable:
    """A table, and which of its rows a snapshot has."""

    relation: Relation
    """The table as the stream will describe it, with the published columns."""
    oid: int
    """The table's OID in the database."""
    key: tuple[str, ...]
    """The columns of the primary key, in the key's order; empty without one."""
    filters: tuple[str, ...]
    """SQL conditions; a row is copied if one of them is true. Empty for all rows."""
    is_partitioned: bool
    """Whether the rows are in partitions."""
    estimate: int | None
    """How many rows PostgreSQL takes the table to have; None if it does not know."""

    @property
    def name(self) -> str:
        """The table's name as SQL. Without ONLY, a table's heirs would be copied with it."""
        relation = self.relation
        name = f"{quote_identifier(relation.schema)}.{quote_identifier(relation.table)}"
        return name if self.is_partitioned else f"ONLY {name}"

    def copy_statement(self) -> str:
        """Return the statement that writes the rows as text, in the order of the primary key."""
        columns = ", ".join(quote_identifier(column.name) for column in self.relation.columns)
        parts = [f"SELECT {columns} FROM {self.name}"]
        if self.filters:
            parts.append("WHERE " + " OR ".join(f"({each})" for each in self.filters))
        if self.key:
            parts.append("ORDER BY " + ", ".join(map(quote_identifier, self.key)))
        return f"COPY ({' '.join(parts)}) TO STDOUT"
