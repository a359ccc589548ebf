"""``copy``: copies tables to another database, and keeps the copies as the tables are."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final

import attrs

from .._copy.run import Copy
from .._copy.targets import DRIVER_ERRORS, SqliteTarget, Target, TargetError
from .._text import one_line
from ..errors import ConfigError
from ..replication.commands import check_slot_name
from ..snapshot.tables import CopiedTable
from ..sources._described import create_publication, described_tables
from .bar import Bar
from .output import complain, log_lines

__all__ = ["CopySettings", "copy", "make_target"]

_PROGRESS: Final = 10.0
"""Seconds between two lines about the progress."""
_SQLITE: Final = "sqlite:"
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
    try:
        with log_lines(quiet=settings.quiet), closing(make_target(settings.target)) as target:
            found, is_published = asyncio.run(
                described_tables(settings.source, settings.name, tables)
            )
            made = Copy(target, settings.name, found, overwrite=settings.overwrite)
            if settings.dry_run:
                _tell_plan(settings, found, made, is_published=is_published)
                return 0
            if not is_published:
                asyncio.run(create_publication(settings.source, settings.name, tables))
            _follow(settings, made)
    except DRIVER_ERRORS as exc:
        raise TargetError(f"the target refused: {one_line(exc)}") from exc
    return 0


def make_target(text: str) -> Target:
    """Connect to the target that is named: ``sqlite:FILE``, or a connection string."""
    is_file = text.startswith(_SQLITE)
    return SqliteTarget(text.removeprefix(_SQLITE)) if is_file else Target(text)


def _tables(settings: CopySettings) -> list[tuple[str, str]]:
    problems, tables = [], set()
    for text in settings.tables:
        if parts := _TABLE.fullmatch(text):
            quoted, bare, quoted_table, bare_table = parts.groups()
            schema, table = quoted or bare, quoted_table or bare_table
            tables.add((schema.replace('""', '"'), table.replace('""', '"')))
        else:
            problems.append(f"--tables has {text!r}, which is not schema.table")
    if settings.target.startswith(_SQLITE) and len({t.lower() for _, t in tables}) < len(tables):
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
    return sorted(tables)


def _tell_plan(
    settings: CopySettings, tables: Sequence[CopiedTable], made: Copy, *, is_published: bool
) -> None:
    if not is_published:
        print(f"publication {settings.name!r} would be created")
    begins = settings.overwrite or made.position is None
    if not begins:
        print(f"the copy {settings.name!r} would go on behind {made.position}")
    for table in tables:
        rows = "an unknown number of" if table.estimate is None else f"about {table.estimate:,}"
        what = f": {rows} rows would be copied" if begins else ""
        columns, key = len(table.relation.columns), ", ".join(table.key)
        print(f"{table.relation}, {columns} columns, key {key}{what}")
    print("the tables fit; nothing was changed")


def _follow(settings: CopySettings, made: Copy) -> None:
    tell: Callable[[str, object], None] = (lambda *_: None) if settings.quiet else complain
    bar = Bar(sys.stderr) if sys.stderr.isatty() and not settings.quiet else None
    # SIGTERM ends it as Ctrl-C does.
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    told_at = time.monotonic()
    try:
        for _ in made.follow(settings.source, bar):
            if time.monotonic() - told_at >= _PROGRESS:
                told_at = time.monotonic()
                tell("progress", made)
    except KeyboardInterrupt:
        tell("done", made)
    finally:
        signal.signal(signal.SIGTERM, former)
