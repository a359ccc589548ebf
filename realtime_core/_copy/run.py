"""Run: hands over what a source reads to a target, a transaction at a time.

The rows of a snapshot are one transaction of the target's, and so is each transaction of the
source's, or several: whatever came. With them the position behind them is stored. So those who read
the target see what the source had at one moment, and a process that is killed leaves either all of
it, with the position, or nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import groupby
from typing import Any, Final

from ..changes import Begin, Commit, Delete, Event, Idle, Insert, Relation, Truncate, Update
from ..errors import ConfigError, SlotInUseError
from ..positions import Position
from ..snapshot import Snapshot, SnapshotBegin, SnapshotComplete, SnapshotEvent, SnapshotProgress
from ..snapshot.tables import CopiedTable
from ..sources import PgoutputSource, SyncSource
from .plan import Statement, TablePlan, misfits
from .targets import Target

__all__ = ["Copy", "make_target"]

_WAIT: Final = 0.05
"""Seconds to collect what is written at once, as each commit of the target takes its time."""
logger = logging.getLogger("realtime.source")

_MOST_ROWS: Final = 10_000
"""The most rows that are written at once."""
_MOST_BYTES: Final = 16 * 1024 * 1024
"""The most bytes that they may have, unless one row is larger."""
_PAUSE: Final = 0.5
"""Seconds until a slot that another process uses is looked at again."""
_SQLITE: Final = "sqlite:"


def make_target(text: str) -> Target:
    """Connect to the target that is named: ``sqlite:FILE``, or a connection string.

    Raises:
        TargetError: if it cannot be connected to.
    """
    if text.startswith(_SQLITE):
        from .sqlite import SqliteTarget

        return SqliteTarget(text.removeprefix(_SQLITE))
    from .postgres import PostgresTarget

    return PostgresTarget(text)


class Copy:
    """One copy: of which tables, by which name, and how far it has come.

    Args:
        target: where the rows go.
        name: of the slot, the publication, and the position that is stored.
        tables: the source's tables.
        overwrite: whether rows that the target has already are removed, and the copy begins anew.

    Raises:
        ConfigError: if a table cannot be copied, or has rows that are not of this copy.
        TargetError: if the target refuses.
    """

    def __init__(
        self, target: Target, name: str, tables: Sequence[CopiedTable], *, overwrite: bool
    ) -> None:
        self._target = target
        self._name = name
        self._overwrite = overwrite
        self._keys = {str(table.relation): table.key for table in tables}
        # Each table as it was described last, and the statements for it.
        self._plans: dict[str, tuple[Relation, TablePlan]] = {}
        self.rows = 0
        """How many rows of a snapshot were written."""
        self.changes = 0
        """How many changes were written."""
        self.position = target.position(name)
        """The position that is stored, None if none is."""
        problems: list[str] = []
        for table in tables:
            try:
                found = self._plan(table.relation).table
            except ConfigError as exc:
                problems += exc.problems
                continue
            if not overwrite and self.position is None and target.has_rows(found):
                problems.append(
                    f"table {table.relation} of the target has rows, but no position of a copy "
                    f"{name!r} is stored there: --overwrite removes them"
                )
        target.end(commit=False)
        if problems:
            raise ConfigError(problems)

    def follow(
        self, dsn: str, progress: Callable[[SnapshotProgress], object] | None
    ) -> Generator[SyncSource[Any], None, None]:
        """Copy, and follow the changes, for ever; yield the source after each batch.

        Args:
            dsn: the source's connection string.
            progress: is called with the progress of the first copy.

        Raises:
            ConfigError: if a table was altered, and does not fit any more.
            RealtimeError: if the source or the target fails.
        """
        if self._overwrite:
            self.position = None
        is_told = False
        while True:
            if self.position is not None or not self._overwrite:
                # Another process may have gone on with the copy. From a position before the slot's
                # it could not go on, and without one the slot would move behind a new snapshot.
                self.position = self._target.position(self._name)
                self._target.end(commit=False)
            try:
                yield from self._follow(dsn, progress)
                return
            except SlotInUseError as exc:
                if not is_told:
                    logger.warning(
                        "slot %r is active for %s; waiting until it is free", self._name, exc.holder
                    )
                    is_told = True
                time.sleep(_PAUSE)
                self._target.end(commit=False)

    def _follow(
        self, dsn: str, progress: Callable[[SnapshotProgress], object] | None
    ) -> Generator[SyncSource[Any], None, None]:
        with PgoutputSource.sync(
            dsn,
            publications=[self._name],
            slot=self._name,
            # A slot that is of no use any more is replaced where all rows are copied anew.
            snapshot="when_needed" if self._overwrite else "initial",
            start_at=None if self.position is None else Position.parse(self.position),
            boundaries=True,
            snapshot_progress=progress,
        ) as source:
            for batch in source.batches(max_wait=_WAIT, max_rows=_MOST_ROWS, max_bytes=_MOST_BYTES):
                done = 0
                for place, event in enumerate(batch):
                    if isinstance(event, Commit | Idle | SnapshotComplete):
                        done, end = place + 1, event
                self._write(batch[:done])
                if done:
                    # Behind it a transaction may have begun, whose end is yet to come.
                    self._target.store(self._name, str(end.position), self.position)
                    self._target.end(commit=True)
                    self.position = str(end.position)
                    source.ack(end)
                self._write(batch[done:])
                yield source

    def _write(self, events: Sequence[Any]) -> None:
        # Where transactions end is no reason for another round trip.
        written = (event for event in events if not isinstance(event, Begin | Commit))
        for kind, group in groupby(written, _kind):
            if kind is _Row:
                steps = self._steps(group)
                self._target.execute(steps)
                self.changes += sum(len(rows) for _, rows in steps)
            elif kind is Snapshot:
                for relation, rows in groupby(group, _relation):
                    plan = self._plan(relation)
                    values = [plan.values(row.record.fields) for row in rows]
                    self._target.fill(plan, values)
                    self.rows += len(values)
            else:
                for event in group:
                    self._empty(event)

    def _steps(self, changes: Iterable[Any]) -> list[tuple[Statement, list[Sequence[Any]]]]:
        """Return the statements for changes; those that follow each other become one."""
        steps: list[tuple[Statement, list[Sequence[Any]]]] = []
        for change in changes:
            statement, values = self._plan(change.relation).step(change)
            if not steps or steps[-1][0] is not statement:
                steps.append((statement, []))
            steps[-1][1].append(values)
        return steps

    def _empty(self, event: Event | SnapshotEvent) -> None:
        if isinstance(event, SnapshotBegin):
            # If a connection was lost, rows of a snapshot before this one are there.
            self._target.end(commit=False)
            self.rows = 0
            if self._overwrite:
                self._target.forget(self._name)
                self.position = None
            self._empty_all(event.tables)
        elif isinstance(event, Truncate):
            self._empty_all(event.relations)
            self.changes += 1

    def _empty_all(self, relations: Iterable[Relation]) -> None:
        for relation in relations:
            self._target.empty(self._plan(relation).table)

    def _plan(self, relation: Relation) -> TablePlan:
        name = str(relation)
        if name not in self._keys:
            raise ConfigError(
                f"publication {self._name!r} has got table {relation}: name it with --tables, and "
                "copy all anew with --overwrite; or take it out"
            )
        former, plan = self._plans.get(name, (None, None))
        if relation is not former or plan is None:
            table = self._target.table(relation)
            problems = list(misfits(relation, self._keys[name], table))
            if table is None or problems:
                raise ConfigError(problems)
            converters = self._target.converters(relation)
            plan = TablePlan(relation, self._keys[name], table, self._target.mark, converters)
            self._plans[name] = relation, plan
        return plan


class _Row:
    """Stands for the kinds of changes that one statement may have several of."""


def _kind(event: Event | SnapshotEvent) -> type:
    return _Row if isinstance(event, Insert | Update | Delete) else type(event)


def _relation(row: Any) -> Any:
    return row.relation
