"""Copy: hands over what a source reads to a target, a transaction at a time.

The rows of a snapshot are one transaction of the target's, and so is each transaction of the
source's, or several: whatever came. With them the position behind them is stored. So those who read
the target see what the source had at one moment, and a process that is killed leaves either all of
it, with the position, or nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final, TypeAlias

from ..changes import Commit, Delete, Idle, Insert, Relation, Truncate, Update
from ..errors import ConfigError, RealtimeError, SlotInUseError
from ..positions import Position
from ..snapshot import Snapshot, SnapshotBegin, SnapshotComplete, SnapshotProgress
from ..snapshot.tables import CopiedTable
from ..sources import PgoutputSource
from ..sql import RowStatements
from .targets import Steps, Target

__all__ = ["Copy"]

_Progress: TypeAlias = Callable[[SnapshotProgress], object] | None

logger = logging.getLogger("realtime.source")

_WAIT: Final = 0.05
"""Seconds to collect what is written at once, as each commit of the target takes its time."""
_MOST_ROWS: Final = 10_000
"""The most rows that are written at once."""
_MOST_BYTES: Final = 16 * 1024 * 1024
"""The most bytes that they may have, unless one row is larger."""
_PAUSE: Final = 1.0
"""Seconds until a slot is tried again that another process has, while no position is stored."""
_PATIENCE: Final = 60.0
"""The most seconds to do so."""


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
        self._target, self._name, self._overwrite = target, name, overwrite
        self._keys = {str(table.relation): table.key for table in tables}
        # Each table as it was described last, by its OID, and the statements for it.
        self._plans: dict[int, tuple[Relation, RowStatements | None]] = {}
        self.rows = 0
        """How many rows of a snapshot were written."""
        self.changes = 0
        """How many changes were written."""
        self.position, copied = target.checkpoint(name)
        """The position that is stored, None if none is."""
        # The position that the next one takes the place of; "" before there is one.
        self._former = ""
        # The tables of a snapshot of which no row has come yet.
        self._begun: Sequence[Relation] | None = None
        problems = []
        for table in tables:
            found = list(target.problems(table.relation, table.key))
            if found or overwrite:
                problems += found
            elif self.position is None and target.has_rows(table.relation):
                problems.append(
                    f"table {table.relation} of the target has rows, but no position of a copy "
                    f"{name!r} is stored there: --overwrite removes them"
                )
            elif self.position is not None and str(table.relation) not in copied:
                problems.append(
                    f"table {table.relation} is new to the copy {name!r}, which has passed its "
                    "rows: --overwrite copies all tables anew, or copy it with another --name"
                )
        target.end(commit=False)
        if problems:
            raise ConfigError(problems)

    def follow(self, dsn: str, progress: _Progress) -> Generator[None, None, None]:
        """Copy, and follow the changes, for ever; yield after each batch.

        Args:
            dsn: the source's connection string.
            progress: is called with the progress of the first copy.

        Raises:
            ConfigError: if a table was altered, and does not fit any more.
            RealtimeError: if the source fails, or somebody else has written to the target.
            DRIVER_ERRORS: if the target fails.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            self.position, _ = self._target.checkpoint(self._name)
            try:
                yield from self._follow(dsn, progress)
            except RealtimeError as exc:
                self._target.end(commit=False)
                # Another process may have had the slot since the position was read.
                if self._target.checkpoint(self._name)[0] != self.position:
                    continue
                # Or it has just made it, and stores its first position.
                if not isinstance(exc, SlotInUseError) or time.monotonic() > deadline:
                    raise
                logger.warning("%s; trying again in %.1f s", exc, _PAUSE)
                time.sleep(_PAUSE)

    def __str__(self) -> str:
        counts = f"{self.rows:,} rows, {self.changes:,} changes"
        return f"{counts}, up to {self.position.partition(':')[0]}" if self.position else counts

    def _follow(self, dsn: str, progress: _Progress) -> Generator[None, None, None]:
        self._former = self.position or ""
        goes_on = self.position is not None and not self._overwrite
        with PgoutputSource.sync(
            dsn,
            publications=[self._name],
            slot=self._name,
            slot_in_use="wait" if self.position else "fail",
            # A slot that is of no use any more is replaced where all rows are copied anew.
            snapshot="when_needed" if self._overwrite else "initial",
            start_at=Position.parse(self._former) if goes_on else None,
            boundaries=True,
            snapshot_progress=progress,
        ) as source:
            for batch in source.batches(max_wait=_WAIT, max_rows=_MOST_ROWS, max_bytes=_MOST_BYTES):
                done = 0
                for place, event in enumerate(batch, 1):
                    if isinstance(event, Commit | Idle | SnapshotComplete):
                        done, end = place, event
                self._write(batch[:done])
                if done:
                    self._target.store(self._name, str(end.position), self._keys, self._former)
                    self._target.end(commit=True)
                    self.position = self._former = str(end.position)
                    self._overwrite = False
                    source.ack(end)
                # A transaction that has begun is committed with its end, which is yet to come.
                self._write(batch[done:])
                yield

    def _write(self, events: Sequence[Any]) -> None:
        steps: Steps = []
        for event in events:
            if self._begun is not None and isinstance(event, Snapshot | SnapshotComplete):
                # Not at the SnapshotBegin, behind which a snapshot of the same server may wait.
                self._target.claim(self._name)
                steps = self._emptied(self._begun)
                self._begun = None
            if isinstance(event, Insert | Update | Delete | Snapshot):
                plan = self._plan(event.relation)
                if plan is not None:
                    statement, values = plan.step(event)
                    if not steps or steps[-1][0] is not statement:
                        steps.append((statement, []))
                    steps[-1][1].append(values)
                    self.rows += isinstance(event, Snapshot)
                    self.changes += not isinstance(event, Snapshot)
            elif isinstance(event, SnapshotBegin):
                # If a connection was lost, rows of a snapshot before this one are there.
                self._target.end(commit=False)
                self._former, self.rows, self._begun, steps = "", 0, event.tables, []
                if missing := self._keys.keys() - set(map(str, event.tables)):
                    raise ConfigError(
                        f"publication {self._name!r} has no table {', '.join(sorted(missing))} any "
                        "more: add it again"
                    )
            elif isinstance(event, Truncate):
                steps += self._emptied(event.relations)
                self.changes += 1
        self._target.execute(steps)

    def _emptied(self, relations: Iterable[Relation]) -> Steps:
        return [(plan.empty, [()]) for plan in map(self._plan, relations) if plan is not None]

    def _plan(self, relation: Relation) -> RowStatements | None:
        """Return the statements for a table; None if it is not copied."""
        former, plan = self._plans.get(relation.oid, (None, None))
        if relation is not former:
            key = self._keys.get(str(relation))
            if key is None:
                logger.warning(
                    "table %s of publication %r is not copied: --tables does not name it",
                    *(relation, self._name),
                )
            elif problems := list(self._target.problems(relation, key)):
                raise ConfigError(problems)
            plan = None if key is None else self._target.statements(relation, key)
            self._plans[relation.oid] = relation, plan
        return plan
