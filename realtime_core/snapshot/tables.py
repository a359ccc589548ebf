"""CopiedTable: a table of a snapshot, and the statement that copies its rows."""

from __future__ import annotations

from collections.abc import Sequence

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

    def copy_statement(
        self,
        *,
        where: str | None = None,
        after: Sequence[str] = (),
        limit: int | None = None,
        keys: Sequence[Sequence[str]] = (),
    ) -> str:
        """Return the statement that writes the rows as text, in the order of the primary key.

        Args:
            where: one more SQL condition.
            after: the texts of a primary key behind which to begin; empty for the first row.
            limit: the most rows; None for all.
            keys: the texts of the primary keys of the only rows; empty for all rows.
        """
        columns = ", ".join(quote_identifier(column.name) for column in self.relation.columns)
        key = ", ".join(map(quote_identifier, self.key))
        conditions = [" OR ".join(f"({each})" for each in self.filters)] if self.filters else []
        if where is not None:
            conditions.append(where)
        if after:
            conditions.append(f"ROW({key}) > {_row(after)}")
        if keys:
            conditions.append(f"ROW({key}) IN ({', '.join(map(_row, keys))})")
        parts = [f"SELECT {columns} FROM {self.name}"]
        if conditions:
            # A condition may end with a comment.
            parts.append("WHERE " + " AND ".join(f"({each}\n)" for each in conditions))
        if key:
            parts.append(f"ORDER BY {key}")
        if limit is not None:
            parts.append(f"LIMIT {limit}")
        return f"COPY ({' '.join(parts)}) TO STDOUT"


def _row(texts: Sequence[str]) -> str:
    return f"ROW({', '.join(map(_literal, texts))})"


def _literal(text: str) -> str:
    """Quote a string for SQL, whatever ``standard_conforming_strings`` says."""
    quoted = text.replace("\\", r"\\").replace("'", "''")
    return f"E'{quoted}'"
