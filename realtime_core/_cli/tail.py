"""``tail``: writes a database's changes as lines, when they are committed.

Lines are written synchronously, so a program that reads them slowly holds back the stream, and with
it PostgreSQL; nothing piles up in memory. The connection has no ``wal_sender_timeout``, because a
pager may not read for hours.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, Literal, TypeAlias

import attrs

from ..changes import (
    Begin,
    Delete,
    Event,
    Idle,
    Insert,
    LogicalMessage,
    Truncate,
    Update,
)
from ..errors import ConfigError, SourceError
from ..positions import Position
from ..snapshot import Snapshot, SnapshotEvent
from ..sources import (
    ChangeSource,
    PgoutputSource,
    SourceStats,
    StreamOptions,
    Wal2JsonSource,
    slot_status,
)
from ..sources._filter_check import filter_misfits
from .bar import Bar
from .lines import Format
from .output import Output, complain, log_lines

__all__ = ["TailSettings", "tail"]

Item: TypeAlias = Event | SnapshotEvent

_PROGRESS: Final = 10.0
"""Seconds between two progress lines."""
_TABLE: Final = re.compile(r"([^=:(\"]+\.[^=:(\"]+):")
"""A table and a colon before a filter. A filter itself has an equals sign or a parenthesis before
its first colon."""
_PATIENCE: Final = 1.0
"""Seconds from a signal until a write that blocks is broken off."""


@attrs.frozen
class TailSettings:
    """The arguments of ``tail``."""

    dsn: str
    """The connection string."""
    plugin: Literal["pgoutput", "wal2json"]
    """The output plugin."""
    publications: tuple[str, ...]
    """The publications to follow, for pgoutput."""
    tables: tuple[str, ...]
    """The tables to follow, for wal2json: ``schema.table``, where ``*`` stands for any."""
    filters: tuple[str, ...]
    """``[schema.table:]filter``; without a table it is for all tables without one of their own."""
    messages: bool
    """Whether to write logical messages, too."""
    slot: str | None
    """Name of a permanent slot; None for a temporary one."""
    create: bool
    """Whether to create the slot if it is missing."""
    ack: bool
    """Whether to acknowledge changes that were written."""
    from_position: str | None
    """The text of the position behind which to begin."""
    on_gap: Literal["raise", "continue"]
    """The action when changes may have been lost."""
    boundaries: bool
    """Whether to write Begin and Commit, too."""
    count: int | None
    """How many changes to write; None for no limit."""
    line: Format
    """Makes the line of an event."""
    quiet: bool
    """Whether to write only warnings and errors to standard error."""
    snapshot: bool = False
    """Whether to write the rows that the tables have already, before the changes."""


def tail(settings: TailSettings) -> int:
    """Write changes until a signal comes, or until ``count`` of them are written.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: if the settings cannot work.
        RealtimeError: if the stream ends with an error.
        BrokenPipeError: if the program that reads the output has ended.
    """
    problems = list(_problems(settings))
    if problems:
        raise ConfigError(problems)
    with log_lines(quiet=settings.quiet):
        asyncio.run(_Tail(settings).run())
    return 0


def _problems(settings: TailSettings) -> Iterator[str]:
    if settings.plugin == "pgoutput":
        if not settings.publications:
            yield (
                "no publication is named; give --publication NAME. "
                "`python -m realtime_core doctor` shows which ones there are"
            )
        if settings.tables:
            yield "--table is for --plugin wal2json; with pgoutput the publication lists the tables"
    elif settings.publications:
        yield "--publication is for --plugin pgoutput; wal2json has no publications, give --table"
    for table in settings.tables:
        if len(table.split(".")) != 2 or not all(table.split(".")):
            yield f"--table {table!r} is not schema.table, or * for any of the two"
    if settings.slot is None:
        for name, given in (
            ("--create", settings.create),
            ("--ack", settings.ack),
            ("--from-position", settings.from_position is not None),
        ):
            if given:
                yield f"{name} needs --slot NAME: a temporary slot begins now and ends with the run"
    if settings.snapshot and settings.slot is not None and not (settings.create and settings.ack):
        yield (
            "--snapshot needs --create and --ack with --slot: the slot is made when the rows are "
            "written"
        )
    if settings.snapshot and settings.from_position is not None:
        yield "--snapshot begins with all rows: leave --from-position out"
    if settings.count is not None and settings.count < 1:
        yield f"--count is a number from 1, not {settings.count}"
    tables = [table for table, _ in map(_table_and_filter, settings.filters)]
    for table in sorted({table for table in tables if tables.count(table) > 1}):
        what = "without a table" if table == "*" else f"for {table}"
        yield f"--filter {what} is given twice; join the two with a comma, which means AND"
    if settings.from_position is not None:
        try:
            Position.parse(settings.from_position)
        except ValueError as exc:
            yield f"--from-position is {exc}"


class _Tail:
    """One run of ``tail``."""

    def __init__(self, settings: TailSettings) -> None:
        self._settings = settings
        self._output = Output(settings.line)
        # How many changes are still to be written; None for no limit.
        self._left = settings.count
        # How many changes were written, and rows of a snapshot.
        self._written = 0
        self._rows = 0
        # Whether a write is under way, which may block.
        self._writing = False
        # Whether a signal has come.
        self._stopped = False
        # Whether a write was broken off.
        self._gave_up = False

    async def run(self) -> None:
        settings = self._settings
        source = make_source(settings)
        with self._signals():
            try:
                if settings.slot is not None and not settings.create:
                    await _check_slot(settings.dsn, settings.slot)
                async with source:
                    await self._mention_misfits()
                    await self._follow(source)
            except asyncio.CancelledError:
                if self._gave_up:
                    # KeyboardInterrupt was raised in the write, and then the task was cancelled.
                    raise KeyboardInterrupt from None
                if not self._stopped:
                    raise

    async def _mention_misfits(self) -> None:
        """Warn of filters that fit no table: without a warning there would just be no lines."""
        settings = self._settings
        if not settings.filters:
            return
        filters = dict(map(_table_and_filter, settings.filters))
        is_by_publication = settings.plugin == "pgoutput"
        publications = settings.publications if is_by_publication else None
        try:
            misfits = await filter_misfits(settings.dsn, filters, publications)
        except SourceError as exc:
            misfits = (f"the filters cannot be checked against the tables: {exc}",)
        for misfit in misfits:
            complain("warning", misfit)

    async def _follow(self, source: ChangeSource[Item]) -> None:
        settings = self._settings
        # A temporary slot ends with the run, and until then it shall not retain WAL.
        acknowledges = settings.ack or settings.slot is None
        started = time.monotonic()
        reporting = asyncio.create_task(self._report(source))
        try:
            async for batch in source.batches():
                written = self._write(batch)
                if acknowledges:
                    for event in reversed(written):
                        # A Begin acknowledges nothing, so take the event before it.
                        if not isinstance(event, Begin):
                            source.ack(event)
                            break
                if self._left == 0:
                    return
        finally:
            reporting.cancel()
            if not settings.quiet:
                seconds = time.monotonic() - started
                complain("done", f"{self._summary(source.stats())} in {seconds:.1f} s")

    def _write(self, batch: Sequence[Item]) -> Sequence[Item]:
        """Write a batch up to the last change that was asked for; return what was written."""
        if self._left is not None:
            batch = list(self._limited(batch))
        self._writing = True
        try:
            self._output.write(event for event in batch if not isinstance(event, Idle))
            self._output.flush()
        finally:
            self._writing = False
        self._written += sum(map(_is_change, batch))
        self._rows += sum(type(event) is Snapshot for event in batch)
        return batch

    def _limited(self, batch: Sequence[Item]) -> Iterator[Item]:
        assert self._left is not None
        for event in batch:
            if self._left == 0:
                return
            self._left -= _is_change(event)
            yield event

    async def _report(self, source: ChangeSource[Item]) -> None:
        """Write progress lines, unless they would come between the changes on a terminal."""
        if self._settings.quiet or sys.stdout.isatty():
            return
        last = None
        while True:
            await asyncio.sleep(_PROGRESS)
            summary = self._summary(source.stats())
            if summary != last:
                complain("progress", summary)
                last = summary

    def _summary(self, stats: SourceStats) -> str:
        parts = [_counted(self._rows, "row")] if self._settings.snapshot else []
        parts.append(_counted(self._written, "change"))
        if stats.filtered:
            parts.append(f"{stats.filtered:,} left out by the filter")
        if stats.reconnects:
            parts.append(_counted(stats.reconnects, "reconnect"))
        if stats.gaps:
            parts.append(_counted(stats.gaps, "gap"))
        return f"{', '.join(parts)}, up to {stats.received_lsn}"

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let a signal end the stream; after a second also if a write to a full pipe blocks."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop(number: int, frame: FrameType | None) -> None:
            if not self._stopped:
                self._stopped = True
                loop.call_soon_threadsafe(task.cancel)
                signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
            else:
                give_up(number, frame)

        def give_up(number: int, frame: FrameType | None) -> None:
            if self._writing:
                # Only an exception in the signal handler ends the system call.
                self._gave_up = True
                raise KeyboardInterrupt

        handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGALRM: give_up}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)


async def _check_slot(dsn: str, slot: str) -> None:
    if await slot_status(dsn, slot) is None:
        raise ConfigError(
            f"slot {slot!r} does not exist; --create makes it, and it keeps WAL from then on until "
            "it is read or dropped"
        )


def make_source(settings: TailSettings) -> ChangeSource[Item]:
    """Make the source that the settings describe."""
    options: StreamOptions = {
        "slot": settings.slot,
        "on_gap": settings.on_gap,
        "boundaries": settings.boundaries,
        "sender_timeout": 0,
    }
    if settings.filters:
        options["filter"] = dict(map(_table_and_filter, settings.filters))
    if settings.from_position is not None:
        options["start_at"] = Position.parse(settings.from_position)
    if settings.snapshot:
        options["snapshot"] = "initial"
        if sys.stderr.isatty() and not sys.stdout.isatty() and not settings.quiet:
            options["snapshot_progress"] = Bar(sys.stderr)
    if settings.plugin == "pgoutput":
        return PgoutputSource(
            settings.dsn,
            publications=settings.publications,
            messages=settings.messages,
            **options,
        )
    tables = [_pair(table) for table in settings.tables]
    return Wal2JsonSource(
        settings.dsn, tables=tables or None, messages=settings.messages, **options
    )


def _pair(table: str) -> tuple[str | None, str | None]:
    schema, name = (None if each == "*" else each for each in table.split("."))
    return schema, name


def _is_change(event: Event | SnapshotEvent) -> bool:
    return isinstance(event, Insert | Update | Delete | Truncate | LogicalMessage)


def _table_and_filter(text: str) -> tuple[str, str]:
    """Split ``[schema.table:]filter`` into table and filter; a missing table becomes ``*``."""
    found = _TABLE.match(text)
    return ("*", text) if found is None else (found[1], text[found.end() :])


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
