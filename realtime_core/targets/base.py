"""Target: writes what a source hands over to a database, and the position with it.

The statements are those of :mod:`realtime_core.sql`. The position behind what they have written is
stored in the same transaction, in the place of the position before it. So after a crash there is
either all of it, with the position, or nothing, and two processes cannot both write.
"""

from __future__ import annotations

import abc
import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self, TypeAlias

import psycopg

from ..changes import Commit, Delete, Event, Idle, Insert, Relation, Truncate, Update
from ..errors import ConfigError, RealtimeError
from ..positions import Position
from ..records import Column
from ..snapshot import Snapshot, SnapshotBegin, SnapshotComplete, SnapshotEvent
from ..sql import RowStatements, Statement
from ._misfits import TargetColumn, misfits

__all__ = ["CHECKPOINTS", "DRIVER_ERRORS", "Checkpoint", "Steps", "Target", "TargetError"]

Steps: TypeAlias = list[tuple[Statement, list[Sequence[Any]]]]
"""Statements in their order, each with the values of the rows that it is executed for."""

DRIVER_ERRORS: Final = (psycopg.Error, sqlite3.Error, OverflowError)
"""What every method of a target raises, besides what it names, when the database refuses."""
CHECKPOINTS: Final = "realtime_copy"
"""The table with the positions, by name."""

_ROWS: Final = frozenset((Snapshot, Insert, Update, Delete))
"""The events that are written row by row."""

logger = logging.getLogger("realtime.source")


class TargetError(RealtimeError):
    """The target refused something, or has not what was written there."""


class Checkpoint(NamedTuple):
    """What a target has stored."""

    position: Position
    """The position up to which everything is there."""
    tables: tuple[str, ...]
    """The tables that were written up to it, if they were named."""


class Target(abc.ABC):
    """A database that is kept as the tables of a source are::

        with (
            SqliteTarget("shop.db", "etl") as target,
            PgoutputSource.sync(
                dsn,
                publications=["shop"],
                slot="etl",
                snapshot="initial",
                start_at=target.start(),
                boundaries=True,
            ) as source,
        ):
            for batch in source.batches(max_wait=0.05, max_rows=10_000):
                if (done := target.apply(batch)) is not None:
                    source.ack(done)

    The target has to have the tables, with the same primary keys: :meth:`misfits` compares them.
    Its table ``realtime_copy`` is made for the positions.

    Args:
        connection: the driver's connection.
        name: the name by which the position is stored, for several programs that write to one
            database.
        tables: the only tables that are written, as ``schema.table``; None for all that come.
    """

    # What stands before the number of a parameter.
    _mark: ClassVar[str]
    # Asks for each TargetColumn of a table, by its schema and name.
    _columns_query: ClassVar[str]
    # The schema of the table of positions, and its name as SQL.
    _schema: str
    _checkpoints: str

    def __init__(self, connection: Any, name: str, tables: Iterable[str] | None) -> None:
        self.connection = connection
        """The driver's connection. What else it executes is committed by the next
        :meth:`commit`."""
        self.name = name
        """The name by which the position is stored."""
        self.position: Position | None = None
        """The position that :meth:`start` has found, or that was stored since; None for none."""
        self.rows = 0
        """How many rows of the last snapshot were written."""
        self.changes = 0
        """How many changes were written."""
        self._tables = None if tables is None else frozenset(tables)
        # The text of the position that the next one takes the place of; "" in a snapshot.
        self._former: str | None = None
        # The tables of a snapshot of which no row has come yet.
        self._begun: Sequence[Relation] | None = None
        # Each table as it was described last, by schema and name, and the statements for it.
        self._plans: dict[tuple[str, str], tuple[Relation, RowStatements | None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; what was not committed is undone."""
        self.connection.close()

    # Before anything is written

    def misfits(self, relation: Relation, key: Sequence[str] | None = None) -> list[str]:
        """Return a sentence for each reason why a table cannot be written.

        Args:
            relation: the table in the source.
            key: the columns of its primary key; None where only the relation is known.
        """
        return self._compare(relation, key, self._columns(relation.schema, relation.table))

    def lacks(self) -> Iterator[str]:
        """Yield a sentence for each privilege that is missing to store positions."""
        yield from ()

    def has_rows(self, relation: Relation) -> bool:
        """Return whether the table for one of the source's has any rows."""
        return self._run(f"SELECT 1 FROM {self._table(relation)} LIMIT 1").fetchone() is not None

    def checkpoint(self) -> Checkpoint | None:
        """Return what is stored, None for nothing. What was not committed is undone."""
        self.rollback()
        found = None
        if self._columns(self._schema, CHECKPOINTS):
            where = f"name = {self._mark}1 AND position <> ''"
            query = f"SELECT position, tables FROM {self._checkpoints} WHERE {where}"
            found = self._run(query, [self.name]).fetchone()
        self.rollback()
        if found is None:
            return None
        return Checkpoint(Position.parse(found[0]), tuple(json.loads(found[1])))

    # Writing

    def start(self) -> Position | None:
        """Return the position from which the source has to go on; None if none is stored.

        Where the source takes no snapshot, this function itself may be its ``start_at``. What was
        not committed is undone.

        Raises:
            TargetError: if the table of positions is missing, and may not be created.
        """
        self.rollback()
        if not self._columns(self._schema, CHECKPOINTS):
            for problem in self.lacks():
                raise TargetError(problem)
            columns = "name text PRIMARY KEY, position text NOT NULL, tables text NOT NULL"
            self._run(f"CREATE TABLE {self._checkpoints} ({columns})")
            self.connection.commit()
        found = self.checkpoint()
        self.position = None if found is None else found.position
        self._former = None if found is None else str(found.position)
        self._begun = None
        return self.position

    def apply(
        self, batch: Sequence[Event | SnapshotEvent]
    ) -> Commit | Idle | SnapshotComplete | None:
        """Write a batch, and commit what ends in it: transactions, or a snapshot.

        The source needs ``boundaries=True``. What has begun in the batch and does not end there is
        written, too, and committed with its end.

        Returns:
            The last event that was committed, to be acknowledged; None if nothing was.

        Raises:
            ConfigError: if a table does not fit.
            TargetError: if somebody else has written to the target.
        """
        end, done = None, 0
        for place, event in enumerate(batch, 1):
            if isinstance(event, Commit | Idle | SnapshotComplete):
                end, done = event, place
        self.write(batch[:done])
        if end is not None:
            self.commit(end.position)
        self.write(batch[done:])
        return end

    def write(self, events: Iterable[Event | SnapshotEvent]) -> None:
        """Write rows and changes in their order, and pass over other events.

        A snapshot takes the place of all rows of its tables. Its begin undoes what was not
        committed: rows of a snapshot that was broken off, or a part of a transaction.

        Raises:
            ConfigError: if a table does not fit.
            TargetError: if a row is not there that has to be changed.
        """
        steps: Steps = []
        relation: Relation | None = None
        plan: RowStatements | None = None
        event: Any
        for event in events:
            # By class, and not by isinstance: this runs for every row.
            kind = type(event)
            if self._begun is not None and (kind is Snapshot or kind is SnapshotComplete):
                # Not at the SnapshotBegin, behind which a snapshot of the same server may wait.
                steps = self._begin_anew(self._begun)
            if kind in _ROWS:
                if event.relation is not relation:
                    relation = event.relation
                    plan = self._plan(relation)
                if plan is not None:
                    statement, values = plan.step(event)
                    if not steps or steps[-1][0] is not statement:
                        steps.append((statement, []))
                    steps[-1][1].append(values)
                    if kind is Snapshot:
                        self.rows += 1
                    else:
                        self.changes += 1
            elif kind is SnapshotBegin:
                self.rollback()
                self.rows, self._begun, steps = 0, event.tables, []
            elif kind is Truncate:
                steps += self._emptied(event.relations)
                self.changes += 1
        self._execute(steps)

    def commit(self, position: Position) -> None:
        """Store the position behind what was written, and commit both.

        Raises:
            TargetError: if somebody else has stored one since the last.
        """
        mark, table, tables = self._mark, self._checkpoints, json.dumps(sorted(self._tables or ()))
        values = [str(position), tables, self.name]
        if self._former is None:
            query = f"INSERT INTO {table} VALUES ({mark}3, {mark}1, {mark}2) ON CONFLICT DO NOTHING"
        else:
            pairs = f"position = {mark}1, tables = {mark}2"
            query = f"UPDATE {table} SET {pairs} WHERE name = {mark}3 AND position = {mark}4"
            values.append(self._former)
        if self._run(query, values).rowcount != 1:
            raise TargetError(f"another process writes to the copy {self.name!r}: stop one of them")
        self.connection.commit()
        self.position, self._former = position, values[0]

    def rollback(self) -> None:
        """Undo what was not committed."""
        self.connection.rollback()

    def _begin_anew(self, relations: Sequence[Relation]) -> Steps:
        """Take over from whoever has stored a position: until the commit nobody else can."""
        missing = (self._tables or frozenset()).difference(map(str, relations))
        if missing:
            raise ConfigError(
                f"the snapshot has no table {', '.join(sorted(missing))}: add it to the "
                "publication again"
            )
        insert = f"INSERT INTO {self._checkpoints} VALUES ({self._mark}1, '', '[]')"
        self._run(f"{insert} ON CONFLICT (name) DO UPDATE SET position = ''", [self.name])
        self._former, self._begun = "", None
        return self._emptied(relations)

    def _emptied(self, relations: Iterable[Relation]) -> Steps:
        return [(plan.empty, [()]) for plan in map(self._plan, relations) if plan is not None]

    def _plan(self, relation: Relation) -> RowStatements | None:
        """Return the statements for a table; None if it is not written."""
        name = relation.schema, relation.table
        former, plan = self._plans.get(name, (None, None))
        if relation is not former:
            plan = None
            if self._tables is not None and str(relation) not in self._tables:
                logger.info("table %s is not among those of copy %r", relation, self.name)
            else:
                columns = self._columns(relation.schema, relation.table)
                if problems := self._compare(relation, None, columns):
                    raise ConfigError(problems)
                key = [column.name for column in columns if column.is_key]
                plan = self._statements(relation, key)
            self._plans[name] = relation, plan
        return plan

    def _compare(
        self, relation: Relation, key: Sequence[str] | None, columns: Sequence[TargetColumn]
    ) -> list[str]:
        problems = [*misfits(relation, key, columns, self._holds)]
        if relation.table.lower() == CHECKPOINTS:
            name = f"table {relation} has the name of the target's table of positions: rename it"
            problems.insert(0, name)
        return problems

    def _columns(self, schema: str, table: str) -> list[TargetColumn]:
        return [TargetColumn(*row) for row in self._run(self._columns_query, [schema, table])]

    def _run(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Execute one statement, and return the driver's cursor."""
        return self.connection.execute(query, values)

    # What the databases do each in its own way

    @abc.abstractmethod
    def _execute(self, steps: Steps) -> None:
        """Execute statements.

        Raises:
            TargetError: if a row is not there that one of them is for.
        """

    @abc.abstractmethod
    def _table(self, relation: Relation) -> str:
        """Return the name of the table for one of the source's, as SQL."""

    @abc.abstractmethod
    def _statements(self, relation: Relation, key: Sequence[str]) -> RowStatements:
        """Return what writes rows and changes of one of the source's tables."""

    @staticmethod
    @abc.abstractmethod
    def _holds(theirs: TargetColumn, column: Column) -> bool:
        """Return whether a column of the target holds all values of one of the source's."""

    @staticmethod
    def _check_found(statement: Statement, wanted: int, found: int) -> None:
        """Check that a statement has found the rows that it was executed for.

        Raises:
            TargetError: if one is missing.
        """
        if statement.finds_a_row and found != wanted:
            raise TargetError(
                f"{wanted} rows have to be there for {statement.sql}, and {found} are: somebody "
                "else has written to the target; begin anew with a snapshot, as copy --overwrite "
                "does"
            )
