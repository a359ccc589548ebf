"""PostgresTarget: another PostgreSQL database. It reads the texts that the source has written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import psycopg
from psycopg import RawCursor

from ..changes import Relation
from ..records import Column
from ..replication.commands import quote_identifier
from ..sources._sessions import stream_parameters
from ..sql import KEY_EQUALITY, RowStatements
from ..types.wider import holds_values
from ._misfits import TargetColumn
from .base import CHECKPOINTS, Steps, Target

__all__ = ["PostgresTarget"]


class PostgresTarget(Target):
    """A PostgreSQL database. Its tables have the names and the schemas of the source's tables.

    The rows of a snapshot are written by COPY, and changes in a pipeline.

    Args:
        dsn: the connection string. The table of positions is in the first schema of its search
            path.
        name: the name by which the position is stored.
        tables: the only tables that are written; see :class:`Target`.

    Raises:
        SourceError: if ``dsn`` is not a connection string.
        psycopg.Error: if the database cannot be reached.
    """

    _mark = "$"
    _columns_query: ClassVar = """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod),
               a.attnotnull AND NOT a.atthasdef AND a.attidentity = '',
               a.attgenerated <> '' OR a.attidentity = 'a', k.indexrelid IS NOT NULL,
               (SELECT c.collname FROM pg_collation c WHERE c.oid = a.attcollation
                AND k.indexrelid IS NOT NULL AND NOT c.collisdeterministic),
               t.typname, a.atttypmod
        FROM pg_attribute a
        JOIN pg_type d ON d.oid = a.atttypid
        JOIN pg_type t ON t.oid = CASE d.typtype WHEN 'd' THEN d.typbasetype ELSE d.oid END
        LEFT JOIN pg_index k ON k.indrelid = a.attrelid AND k.indisprimary
                                AND a.attnum = ANY (k.indkey)
        WHERE a.attrelid = to_regclass(format('%I.%I', $1::text, $2::text))
              AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
    """

    def __init__(self, dsn: str, name: str, tables: Iterable[str] | None = None) -> None:
        # The texts are read as the source's session has written them. Where row level security
        # would hide rows, there is an error: they would be left behind when a table is emptied.
        own = {"application_name": CHECKPOINTS, "row_security": "off"}
        parameters = stream_parameters(dsn, more=own)
        del parameters["replication"]
        connection: Any = psycopg.connect(**parameters, cursor_factory=RawCursor)
        super().__init__(connection, name, tables)
        query = "SELECT coalesce(pg_catalog.current_schema(), 'public'), current_user"
        self._schema, self._role = self._run(query).fetchone()
        self._checkpoints = f"{quote_identifier(self._schema)}.{CHECKPOINTS}"
        # A search path of the user's may begin with somebody else's schema.
        self._run("SET search_path = pg_catalog")
        connection.commit()

    def lacks(self) -> Iterator[str]:
        if self._columns(self._schema, CHECKPOINTS):
            return
        asked = "SELECT has_schema_privilege($1::text, 'CREATE')"
        if not self._run(asked, [self._schema]).fetchone()[0]:
            schema, role = quote_identifier(self._schema), quote_identifier(self._role)
            yield (
                f"role {role} may not create the table {self._checkpoints}, where the target "
                f"stores positions: run GRANT CREATE ON SCHEMA {schema} TO {role} in the target"
            )

    def _execute(self, steps: Steps) -> None:
        checked = []
        # Without a round trip for each statement; but a pipeline takes no COPY.
        has_copy = any(statement.copy for statement, _ in steps)
        with nullcontext() if has_copy else self.connection.pipeline():
            cursor = self.connection.cursor()
            for statement, rows in steps:
                if statement.copy:
                    with cursor.copy(statement.copy) as copying:
                        for row in rows:
                            copying.write_row(row)
                elif statement.finds_a_row:
                    finding = self.connection.cursor()
                    finding.executemany(statement.sql, rows)
                    checked.append((statement, len(rows), finding))
                else:
                    # Where kinds of changes alternate, executemany takes half as long again.
                    for row in rows:
                        cursor.execute(statement.sql, row, prepare=True)
        for statement, wanted, finding in checked:
            self._check_found(statement, wanted, finding.rowcount)

    def _table(self, relation: Relation) -> str:
        return f"{quote_identifier(relation.schema)}.{quote_identifier(relation.table)}"

    def _statements(self, relation: Relation, key: Sequence[str]) -> RowStatements:
        found = self._run(KEY_EQUALITY, [relation.schema, relation.table])
        equality = {name: (equals, cast) for name, equals, cast in found}
        return RowStatements(relation, key, table=self._table(relation), equality=equality)

    @staticmethod
    def _holds(theirs: TargetColumn, column: Column) -> bool:
        return holds_values(column, theirs.type_name, theirs.modifier)
