"""Copy: has a target follow a source, from a snapshot on, when another process may do so, too."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final, TypeAlias

from .errors import ConfigError, RealtimeError, SlotInUseError
from .snapshot import SnapshotProgress
from .snapshot.tables import CopiedTable
from .sources import PgoutputSource
from .targets import Target

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
    """A copy of tables. Its slot and its publication have the name of the target's position.

    Args:
        target: where the rows go.
        tables: the source's tables.
        overwrite: whether rows that the target has already are removed, and the copy begins anew.

    Raises:
        ConfigError: if a table cannot be copied, or has rows that are not of this copy.
    """

    def __init__(self, target: Target, tables: Sequence[CopiedTable], *, overwrite: bool) -> None:
        self.target = target
        """Where the rows go."""
        self._overwrite = overwrite
        stored, name = target.checkpoint(), target.name
        self.start = None if stored is None or overwrite else stored.position
        """The position from which the changes are followed; None if all rows are copied first."""
        problems = [*target.lacks()]
        for table in tables:
            relation = table.relation
            found = target.misfits(relation, table.key)
            if found or overwrite:
                problems += found
            elif stored is None and target.has_rows(relation):
                problems.append(
                    f"table {relation} of the target has rows, but no position of a copy {name!r} "
                    "is stored there: --overwrite removes them"
                )
            elif stored is not None and str(relation) not in stored.tables:
                problems.append(
                    f"table {relation} is new to the copy {name!r}, which has passed its rows: "
                    "--overwrite copies all tables anew, or copy it with another --name"
                )
        target.rollback()
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
        target, deadline = self.target, time.monotonic() + _PATIENCE
        target.start()
        while True:
            try:
                yield from self._follow(dsn, progress)
            except RealtimeError as exc:
                # Another process may have had the slot since the position was read.
                known = target.position
                if target.start() != known:
                    continue
                # Or it has just made it, and stores its first position.
                if not isinstance(exc, SlotInUseError) or time.monotonic() > deadline:
                    raise
                logger.warning("%s; trying again in %.1f s", exc, _PAUSE)
                time.sleep(_PAUSE)
                target.start()

    def __str__(self) -> str:
        target = self.target
        counts = f"{target.rows:,} rows, {target.changes:,} changes"
        if target.position is None:
            return f"{counts}, to be stored when the first copy is complete"
        return f"{counts}, up to {target.position.lsn}"

    def _follow(self, dsn: str, progress: _Progress) -> Generator[None, None, None]:
        target = self.target
        with PgoutputSource.sync(
            dsn,
            publications=[target.name],
            slot=target.name,
            slot_in_use="wait" if target.position else "fail",
            # A slot that is of no use any more is replaced where all rows are copied anew.
            snapshot="when_needed" if self._overwrite else "initial",
            start_at=None if self._overwrite else target.position,
            boundaries=True,
            snapshot_progress=progress,
        ) as source:
            for batch in source.batches(max_wait=_WAIT, max_rows=_MOST_ROWS, max_bytes=_MOST_BYTES):
                if (done := target.apply(batch)) is not None:
                    self._overwrite = False
                    source.ack(done)
                yield
