"""``copy``: copies tables to another database, and keeps the copies as the tables are."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final

from .._copy import Copy
from .._text import one_line
from ..errors import ConfigError
from ..positions import Position
from ..replication.commands import check_slot_name, parse_table
from ..snapshot.tables import CopiedTable
from ..sources._described import create_publication, described_tables
from ..sources._dsn import parse_dsn
from ..targets import DRIVER_ERRORS, PostgresTarget, SqliteTarget, Target, TargetError
from .bar import Bar
from .output import complain, log_lines

__all__ = ["copy", "make_target"]

_PROGRESS: Final = 10.0
"""Seconds between two lines about the progress."""
_SQLITE: Final = "sqlite:"


def copy(
    source: str, target: str, tables: Sequence[str], *, name: str, overwrite: bool, dry_run: bool
) -> int:
    """Copy tables until Ctrl-C or SIGTERM comes.

    Args:
        source: the source's connection string.
        target: ``sqlite:FILE``, or the connection string of a PostgreSQL database.
        tables: the tables, each as ``schema.table``.
        name: of the slot and the publication, and of the position that is stored in the target.
        overwrite: whether rows that the target has are removed, and all are copied anew.
        dry_run: whether only to say what would be done.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: if the tables or the other arguments do not fit.
        RealtimeError: if the source or the target fails.
    """
    is_file = target.startswith(_SQLITE)
    _check_dsns([source] if is_file else [source, target])
    pairs = _pairs(tables, name, is_file=is_file)
    try:
        with log_lines(quiet=False):
            found, is_published = asyncio.run(described_tables(source, name, pairs))
            with make_target(target, name, found) as opened:
                made = Copy(opened, found, overwrite=overwrite)
                if dry_run:
                    if not is_published:
                        print(f"publication {name!r} would be created")
                    _tell_plan(found, made.start)
                    return 0
                if not is_published:
                    asyncio.run(create_publication(source, name, pairs))
                _follow(source, made)
    except DRIVER_ERRORS as exc:
        raise TargetError(f"the target refused: {one_line(exc)}") from exc
    return 0


def make_target(text: str, name: str, tables: Sequence[CopiedTable]) -> Target:
    """Connect to the target that is named: ``sqlite:FILE``, or a connection string.

    Raises:
        TargetError: if SQLite cannot open the file.
    """
    names = [str(table.relation) for table in tables]
    if text.startswith(_SQLITE):
        return SqliteTarget(text.removeprefix(_SQLITE), name, names)
    return PostgresTarget(text, name, names)


def _check_dsns(dsns: Sequence[str]) -> None:
    """Check the connection strings, which are those of the source and the target, in this order."""
    for place, dsn in zip(("source", "target"), dsns, strict=False):
        try:
            parse_dsn(dsn)
        except ValueError as exc:
            raise ConfigError(f"of the {place}, {exc}") from None


def _pairs(tables: Sequence[str], name: str, *, is_file: bool) -> list[tuple[str, str]]:
    """Return the schema and the name of each table."""
    problems, pairs = [], set()
    for text in tables:
        try:
            pairs.add(parse_table(text))
        except ValueError as exc:
            problems.append(f"--tables has {exc}")
    if is_file and len({table.lower() for _, table in pairs}) < len(pairs):
        problems.append(
            "--tables has two tables of one name, and a SQLite file has no schemas, nor names that "
            "differ in case alone"
        )
    try:
        check_slot_name(name)
    except ValueError as exc:
        problems.append(f"--name {exc}")
    if problems:
        raise ConfigError(problems)
    return sorted(pairs)


def _tell_plan(tables: Sequence[CopiedTable], position: Position | None) -> None:
    if position is not None:
        print(f"the copy would go on behind {position}")
    for table in tables:
        rows = "an unknown number of" if table.estimate is None else f"about {table.estimate:,}"
        what = f": {rows} rows would be copied" if position is None else ""
        columns, key = len(table.relation.columns), ", ".join(table.key)
        print(f"{table.relation}, {columns} columns, key {key}{what}")
    print("the tables fit; nothing was changed")


def _follow(source: str, made: Copy) -> None:
    # SIGTERM ends it as Ctrl-C does.
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    told, told_at = str(made), time.monotonic()
    try:
        for _ in made.follow(source, Bar(sys.stderr) if sys.stderr.isatty() else None):
            if time.monotonic() - told_at >= _PROGRESS and str(made) != told:
                told, told_at = str(made), time.monotonic()
                complain("progress", told)
    except KeyboardInterrupt:
        complain("done", made)
    finally:
        signal.signal(signal.SIGTERM, former)
