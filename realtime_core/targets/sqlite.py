"""SqliteTarget: a SQLite file, which takes the values of :mod:`realtime_core.sqlite_values`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final

from .. import sqlite_values
from .._text import one_line
from ..changes import Relation
from ..errors import ConfigError
from ..records import Column
from ..replication.commands import quote_identifier
from ..sql import RowStatements
from ._misfits import TargetColumn
from .base import CHECKPOINTS, Steps, Target, TargetError

__all__ = ["SqliteTarget"]

_PATIENCE: Final = 60.0
"""Seconds to wait for others who write to the file."""


class SqliteTarget(Target):
    """A SQLite file. Its tables have the names of the source's tables, without the schemas.

    Args:
        path: the file.
        name: the name by which the position is stored.
        tables: the only tables that are written; see :class:`Target`.

    Raises:
        TargetError: if the file cannot be opened.
    """

    _mark = "?"
    _schema, _checkpoints = "", CHECKPOINTS
    # A key of another collation than BINARY takes different texts for the same.
    _columns_query: ClassVar = """
        SELECT c.name, c.type, "notnull" AND dflt_value IS NULL AND NOT pk, hidden > 1, pk, k.coll
        FROM pragma_table_xinfo(?2) c
        LEFT JOIN (SELECT i.name, i.coll FROM pragma_index_list(?2) l, pragma_index_xinfo(l.name) i
                   WHERE l.origin = 'pk' AND i.key AND i.coll <> 'BINARY') k ON k.name = c.name
    """

    def __init__(self, path: str, name: str, tables: Iterable[str] | None = None) -> None:
        try:
            # A source calls start() on its own thread, where that is its `start_at`.
            connection = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False)
        except sqlite3.Error as exc:
            # SQLite does not say which file it is.
            raise TargetError(f"the file {path!r} cannot be opened: {one_line(exc)}") from exc
        super().__init__(connection, name, tables)
        # The source's tables, by their names here: SQLite takes ASCII's letters of both cases for
        # the same.
        self._sources: dict[bytes, Relation] = {}

    def _execute(self, steps: Steps) -> None:
        for statement, rows in steps:
            cursor = self.connection.executemany(statement.sql, rows)
            self._check_found(statement, len(rows), cursor.rowcount)

    def _table(self, relation: Relation) -> str:
        return quote_identifier(relation.table)

    def _statements(self, relation: Relation, key: Sequence[str]) -> RowStatements:
        place = relation.table.encode().lower()
        former = self._sources.get(place, relation)
        # One that was renamed keeps its OID.
        if str(former) != str(relation) and (former.oid != relation.oid or not relation.oid):
            raise ConfigError(
                f"tables {former} and {relation} would be one table of the SQLite file, which has "
                "no schemas, nor names that differ in case alone: name one of them in `tables`"
            )
        self._sources[place] = relation
        convert = sqlite_values.converters(relation)
        return RowStatements(relation, key, table=self._table(relation), mark="?", convert=convert)

    @staticmethod
    def _holds(theirs: TargetColumn, column: Column) -> bool:
        return sqlite_values.keeps_values(theirs.declared, column)
