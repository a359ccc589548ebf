"""``copy``: copies tables to another database, and keeps the copies as the tables are."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any, Final

import attrs

from .._copy.run import Copy, make_target
from ..errors import ConfigError
from ..replication.commands import check_slot_name
from ..snapshot.tables import CopiedTable
from ..sources import SourceStats, SyncSource
from ..sources._described import create_publication, described_tables
from .bar import Bar
from .output import complain, log_lines

__all__ = ["CopySettings", "copy"]

_PROGRESS: Final = 10.0
"""Seconds between two lines about the progress."""
_NAME: Final = r'(?:"((?:[^"]|"")+)"|([^".]+))'
_TABLE: Final = re.compile(rf"{_NAME}\.{_NAME}")


@attrs.frozen(kw_only=True)
class CopySettings:
    """The arguments of ``copy``."""

    source: str
    """Connection string of the source."""
    target: str
    """``sqlite:FILE``, or the connection string of a PostgreSQL database."""
    tables: Sequence[str]
    """The tables, each as ``schema.table``."""
    name: str
    """Name of the slot and the publication, and of the position that is stored in the target."""
    overwrite: bool
    """Whether rows that the target has are removed, and all are copied anew."""
    dry_run: bool
    """Whether only to say what would be done."""
    quiet: bool
    """Whether to write only warnings and errors to standard error."""


def copy(settings: CopySettings) -> int:
    """Copy tables until Ctrl-C or SIGTERM comes.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: if the tables or the other arguments do not fit.
        RealtimeError: if the source or the target fails.
    """
    tables = _tables(settings)
    with log_lines(quiet=settings.quiet), closing(make_target(settings.target)) as target:
        describing = described_tables(settings.source, settings.name, tables)
        found, is_published = asyncio.run(describing)
        made = Copy(target, settings.name, found, overwrite=settings.overwrite)
        if settings.dry_run:
            for line in _plan(settings, found, made, is_published=is_published):
                print(line)
            return 0
        if not is_published:
            asyncio.run(create_publication(settings.source, settings.name, tables))
        _follow(settings, made)
    return 0


def _tables(settings: CopySettings) -> list[tuple[str, str]]:
    problems, tables = [], []
    for text in settings.tables:
        parts = _TABLE.fullmatch(text)
        if parts is None:
            problems.append(f"--tables has {text!r}, which is not schema.table")
            continue
        schema, table = (
            quoted.replace('""', '"') if quoted else bare
            for quoted, bare in (parts.group(1, 2), parts.group(3, 4))
        )
        tables.append((schema, table))
    tables = list(dict.fromkeys(tables))
    names = {table.lower() for _, table in tables}
    if settings.target.startswith("sqlite:") and len(names) < len(tables):
        problems.append(
            "--tables has two tables of one name, and a SQLite file has no schemas, nor names that "
            "differ in case alone"
        )
    try:
        check_slot_name(settings.name)
    except ValueError as exc:
        problems.append(f"--name {exc}")
    if problems:
        raise ConfigError(problems)
    return tables


def _plan(
    settings: CopySettings, tables: Sequence[CopiedTable], made: Copy, *, is_published: bool
) -> Iterator[str]:
    name = settings.name
    goes_on = made.position is not None and not settings.overwrite
    if not is_published:
        yield f"publication {name!r} would be created"
    if goes_on:
        yield f"the copy {name!r} would go on behind {made.position}"
    for table in tables:
        rows = "an unknown number of" if table.estimate is None else f"about {table.estimate:,}"
        columns, key = len(table.relation.columns), ", ".join(table.key)
        what = f"{table.relation}, {columns} columns, key {key}"
        yield what if goes_on else f"{what}: {rows} rows would be copied"
    yield "the tables fit; nothing was changed"


def _follow(settings: CopySettings, made: Copy) -> None:
    started = told_at = time.monotonic()
    source: SyncSource[Any] | None = None
    is_shown = sys.stderr.isatty() and not settings.quiet
    try:
        with _terminable():
            for source in made.follow(settings.source, Bar(sys.stderr) if is_shown else None):
                now = time.monotonic()
                if not settings.quiet and now - told_at >= _PROGRESS:
                    told_at = now
                    complain("progress", _summary(made, source))
    except KeyboardInterrupt:
        pass
    if not settings.quiet:
        seconds = time.monotonic() - started
        complain("done", f"{_summary(made, source)}, in this run of {seconds:.1f} s")


def _summary(made: Copy, source: SyncSource[Any] | None) -> str:
    stats = SourceStats() if source is None else source.stats()
    behind = f", {stats.lag_seconds:.1f} s behind" if stats.lag_seconds else ""
    return f"{made.rows:,} rows, {made.changes:,} changes, up to {stats.received_lsn}{behind}"


@contextmanager
def _terminable() -> Iterator[None]:
    """Have SIGTERM end it as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
