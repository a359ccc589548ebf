"""PgoutputSource: a PostgreSQL database's changes as an async iterator."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Literal, Unpack, overload

from ..changes import Begin, Change, Commit, Event, Gap, Idle
from ..snapshot import SnapshotEvent
from ._backfilling import BackfillingSource
from ._pgoutput_plugin import Messages, Pgoutput, PgoutputOptions, PgoutputSettings
from .base import E
from .stream_options import Dsn, EventOptions, SnapshotOptions, StartAt, StreamOptions

__all__ = ["PgoutputSource"]


class _Options(PgoutputOptions, StreamOptions, total=False):
    """All options."""


class _SnapshotOptions(PgoutputOptions, SnapshotOptions, total=False):
    """The same, for a source that takes snapshots."""


class _AllSnapshotOptions(_SnapshotOptions, EventOptions, total=False):
    """All options, for a source that takes snapshots."""


class PgoutputSource(BackfillingSource[E]):
    """Streams the changes of one or more publications.

    Example::

        async with PgoutputSource(dsn, publications=["shop"], slot="etl") as source:
            async for change in source:
                ...
                source.ack(change)

    Args:
        dsn: a libpq connection string or URI, or a function that returns one and is called before
            each attempt to connect. Parameters that it leaves out come from libpq's environment
            variables. The role needs REPLICATION.
        publications: names of one or more existing publications.
        messages: whether to yield messages of ``pg_logical_emit_message``, too: all of them, or
            with ``"nontransactional"`` those alone that are in no transaction. Transactional ones
            count in positions, so ``"nontransactional"`` leaves all positions as they are without
            messages.
        origin: ``"none"`` leaves out changes that were themselves replicated (PostgreSQL 16).
        streaming: whether PostgreSQL sends large transactions while they are still running, instead
            of spilling them to its own disk: ``"on"``, or ``"parallel"`` (PostgreSQL 16), which
            adds an LSN and a time to rollbacks. The changes are held here until they commit.
        max_memory: how many bytes of such transactions are held in memory, all together.
        spill_directory: the folder for the changes beyond ``max_memory``; None stands for the
            system's temporary folder, which may itself be in memory.
        options: the options of every source: see :class:`StreamOptions`.

    Raises:
        ConfigError: if the arguments cannot work.
        TypeError: if an argument has a wrong type, or there is no option of that name.
    """

    @overload
    def __init__(
        self: PgoutputSource[Change],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["raise"] = ...,
        **options: Unpack[PgoutputOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | Idle],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["raise"] = ...,
        start_at: StartAt,
        **options: Unpack[PgoutputOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | Gap],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["continue"],
        **options: Unpack[PgoutputOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | Gap | Idle],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["continue"],
        start_at: StartAt,
        **options: Unpack[PgoutputOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | Begin | Commit],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[True],
        on_gap: Literal["raise"] = ...,
        **options: Unpack[PgoutputOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | Begin | Commit | Idle],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[True],
        on_gap: Literal["raise"] = ...,
        start_at: StartAt,
        **options: Unpack[PgoutputOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | Begin | Commit | Gap],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[True],
        on_gap: Literal["continue"],
        **options: Unpack[PgoutputOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | SnapshotEvent],
        dsn: Dsn = ...,
        *,
        snapshot: Literal["initial", "when_needed"],
        boundaries: Literal[False] = ...,
        **options: Unpack[_SnapshotOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Event | SnapshotEvent],
        dsn: Dsn = ...,
        *,
        snapshot: Literal["initial", "when_needed"],
        **options: Unpack[_AllSnapshotOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Event],
        dsn: Dsn = ...,
        **options: Unpack[_Options],
    ) -> None: ...

    def __init__(
        self,
        dsn: Dsn = "",
        *,
        publications: Iterable[str],
        messages: Messages = False,
        origin: Literal["any", "none"] = "any",
        streaming: Literal["off", "on", "parallel"] = "off",
        max_memory: int = 64 * 1024 * 1024,
        spill_directory: str | os.PathLike[str] | None = None,
        **options: Unpack[StreamOptions],
    ) -> None:
        settings = PgoutputSettings(
            publications=publications,
            messages=messages,
            origin=origin,
            streaming=streaming,
            max_memory=max_memory,
            spill_directory=spill_directory,
        )
        super().__init__(dsn, Pgoutput(settings.publications, settings), **options)
