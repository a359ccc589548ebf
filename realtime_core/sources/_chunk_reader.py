"""ChunkReader: reads the chunks of a table's backfill, each in a snapshot of its own.

Theory of operation. A table that is rewritten by ALTER TABLE, or truncated, is empty for snapshots
that are older; and its statement names what it had when it was described. So each chunk looks,
within its snapshot, whether the table is as it was, and describes it again if not. The COPY then
waits for whoever is altering the table, and keeps everybody else from it until its transaction
ends. What has happened in between is looked for before that, and the chunk is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
import psycopg
from psycopg import AsyncConnection

from ..errors import ConfigError, SourceError
from ..records import Field, Record
from ..snapshot.copy_text import read_rows
from ..snapshot.tables import CopiedTable
from ..snapshot.visibility import SeenTransactions
from . import catalog
from ._copied_tables import COLUMN_LISTS_SINCE, altered_tables, describe
from ._copy_out import CopyOut
from ._plugin import PluginFacts

__all__ = ["Chunk", "ChunkReader", "check_backfill", "streamed_tables"]

# The snapshot; what the description of the table depends on, and what differs when a publication of
# it was altered: to list the tables of all publications takes 17 ms where there are 1,000. And the
# order of its primary key: integers of any size have one operator family, and so have dates and
# timestamps.
_LOOK: Final = """
    SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text,
           ROW(n.nspname, c.relname, c.relreplident, (
               SELECT pg_catalog.string_agg(
                   ROW(a.attnum, a.attname, a.atttypid, a.atttypmod)::pg_catalog.text,
                   ',' ORDER BY a.attnum)
               FROM pg_catalog.pg_attribute a
               WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid
                 AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
           ), k.ancestors, (
               SELECT pg_catalog.string_agg(p.state, ',' ORDER BY p.state)
               FROM (
                   SELECT ROW(oid, xmin)::pg_catalog.text FROM pg_catalog.pg_publication
                   UNION ALL
                   SELECT ROW(r.oid, r.xmin)::pg_catalog.text
                   FROM pg_catalog.pg_publication_rel r
                   WHERE r.prrelid OPERATOR(pg_catalog.=) c.oid
                      OR r.prrelid OPERATOR(pg_catalog.=) ANY (k.ancestors){schemas}
               ) AS p (state)
           ))::pg_catalog.text,
           (SELECT ROW(i.indkey, i.indoption, i.indcollation, (
                SELECT pg_catalog.string_agg(o.opcfamily::pg_catalog.text, ',' ORDER BY k.place)
                FROM pg_catalog.unnest(i.indclass) WITH ORDINALITY AS k (opclass, place)
                JOIN pg_catalog.pg_opclass o ON o.oid OPERATOR(pg_catalog.=) k.opclass
            ))::pg_catalog.text
            FROM pg_catalog.pg_index i
            WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indisprimary)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    CROSS JOIN LATERAL (
        SELECT ARRAY(SELECT relid::pg_catalog.oid
                     FROM pg_catalog.pg_partition_ancestors(c.oid) AS a (relid))
    ) AS k (ancestors)
    WHERE c.oid OPERATOR(pg_catalog.=) %s::pg_catalog.oid
"""
_SCHEMAS: Final = """
                   UNION ALL
                   SELECT ROW(oid, xmin)::pg_catalog.text
                   FROM pg_catalog.pg_publication_namespace"""
"""Publications have schemas since PostgreSQL 15."""


@attrs.frozen
class Chunk:
    """Rows that were read in one snapshot."""

    rows: list[tuple[Field, ...]]
    seen: SeenTransactions
    """The transactions whose changes are in the rows."""
    bytes: int
    """How many bytes the rows had, in the text format of COPY."""


class ChunkReader:
    """Reads rows of a table in the order of its primary key.

    Args:
        plugin: the output plugin, which tells what of the table is streamed.
        table: the table.
    """

    def __init__(self, plugin: PluginFacts, table: CopiedTable) -> None:
        self.table = table
        """The table as it was when the last chunk was read."""
        self._plugin = plugin
        # What the table's description was made of; None to describe it again.
        self._known: str | None = None
        # The order of the primary key; None before the first chunk.
        self._order: str | None = None

    def forget(self) -> None:
        """Have the table described again, because its changes do not fit its rows."""
        self._known = None

    async def read(
        self,
        connection: AsyncConnection[Any],
        *,
        where: str | None,
        after: Sequence[str],
        limit: int,
        keys: Sequence[Sequence[str]],
    ) -> Chunk:
        """Return the next rows; again from the start of the chunk if the table was altered.

        Args:
            connection: a connection for SQL, outside of a transaction.
            where: see :meth:`CopiedTable.copy_statement`, as the other arguments.

        Raises:
            psycopg.Error: if the rows cannot be read.
            ConfigError: if the table was altered so that it cannot be backfilled.
            SourceError: if it is not there any more, or in another order.
        """
        while True:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            seen = await self._look(connection)
            statement = self.table.copy_statement(where=where, after=after, limit=limit, keys=keys)
            try:
                chunk = await self._copy(connection, statement, seen)
                altered = await altered_tables(connection, [self.table.oid])
                await connection.execute("COMMIT")
            except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
                await connection.execute("ROLLBACK")
                state = await self._state(connection)
                if state is not None and state[1] == self._known:
                    # It is the caller's condition that has the unknown name.
                    raise
            else:
                if not altered:
                    return chunk

    def key_of(self, fields: tuple[Field, ...]) -> tuple[str, ...]:
        """Return the texts of a row's primary key."""
        record = Record(self.table.relation.shape, fields)
        return tuple(str(record.fields[record.shape.index[name]]) for name in self.table.key)

    async def _state(self, connection: AsyncConnection[Any]) -> Any:
        has_schemas = connection.info.server_version >= COLUMN_LISTS_SINCE
        query = _LOOK.format(schemas=_SCHEMAS if has_schemas else "").encode()
        return await (await connection.execute(query, [self.table.oid])).fetchone()

    async def _look(self, connection: AsyncConnection[Any]) -> SeenTransactions:
        """Return what the snapshot sees, and describe the table again if it was altered."""
        name = f"the backfill of {self.table.relation}"
        state = await self._state(connection)
        tables = [self.table]
        if state is None or state[1] != self._known:
            tables = await streamed_tables(connection, self._plugin, self.table.oid)
        if state is None or not tables:
            raise SourceError(
                f"{name} cannot go on: the table was dropped, or it is not streamed any more"
            )
        seen, known, order = state
        if self._order not in (None, order):
            raise SourceError(
                f"{name} cannot go on: the table's primary key was changed, so it is not known "
                "which rows were read; begin it anew, without after"
            )
        (self.table,) = tables
        check_backfill(self.table, ())
        self._known, self._order = known, order
        return SeenTransactions.parse(seen)

    async def _copy(
        self, connection: AsyncConnection[Any], statement: str, seen: SeenTransactions
    ) -> Chunk:
        rows: list[tuple[Field, ...]] = []
        size, columns = 0, len(self.table.relation.columns)
        copy = CopyOut(connection, str(self.table.relation))
        await copy.start(statement)
        while data := await copy.read():
            rows += read_rows(data, columns)
            size += len(data)
        return Chunk(rows, seen, size)


async def streamed_tables(
    connection: AsyncConnection[Any], plugin: PluginFacts, oid: int | None = None
) -> list[CopiedTable]:
    """Return the tables that the stream has.

    Args:
        connection: a connection for SQL.
        plugin: the output plugin.
        oid: the OID of the only table to return; None for all.
    """
    version = (await catalog.server_facts(connection)).version
    choices = await plugin.choices(connection, version)
    chosen = choices if oid is None else [each for each in choices if each.oid == oid]
    return await describe(connection, version, chosen)


def check_backfill(table: CopiedTable, after: tuple[str, ...]) -> None:
    """Check that a table's rows can be read by its key.

    Raises:
        ConfigError: if not, or if ``after`` is not a key of the table.
    """
    name = f"a backfill of {str(table.relation)!r} is not possible"
    columns = {column.name: column for column in table.relation.columns}
    if not table.key:
        raise ConfigError(
            f"{name}: it goes by the primary key, which the table does not have; add one, or take "
            "a snapshot, which copies such a table in one piece"
        )
    missing = [column for column in table.key if column not in columns]
    if missing:
        raise ConfigError(f"{name}: the publication leaves out {', '.join(missing)} of its key")
    others = [column for column in table.key if not columns[column].is_key]
    if others and any(column.is_key for column in columns.values()):
        raise ConfigError(
            f"{name}: its replica identity is an index without {', '.join(others)} of its primary "
            "key; run ALTER TABLE … REPLICA IDENTITY DEFAULT"
        )
    if after and len(after) != len(table.key):
        raise ConfigError(
            f"{name}: after has {len(after)} values, and the primary key {len(table.key)} columns"
        )
