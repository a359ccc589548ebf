"""PgoutputSource: a PostgreSQL database's changes as an async iterator."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final, Literal, Required, Unpack, overload

import attrs
from psycopg import AsyncConnection

from ..changes import Begin, Change, Commit, Event, Gap, Idle
from ..errors import ConfigError, PublicationNotFoundError, SourceError, SpillError
from ..pgoutput import ChangeDecoder
from ..pgoutput.spill import FileSpillStore
from ..positions import Position, StreamIdentity
from ..replication.commands import pgoutput_options
from . import catalog
from ._attach import PayloadDecoder
from ._stream import StreamSource
from .base import E
from .catalog import ServerFacts
from .options import CommonOptions, Dsn, StreamOptions

__all__ = ["PgoutputSource"]

_GOES_ON: Final = frozenset(b"BORYIUDTS")
"""Begin, what comes within a transaction but for messages, which need be in none, and the
beginning of a part of one that is still running."""


class _NarrowOptions(CommonOptions, total=False):
    """The options that say nothing of which events come."""

    publications: Required[Iterable[str]]
    messages: bool
    origin: Literal["any", "none"]
    streaming: Literal["off", "on", "parallel"]
    max_memory: int
    spill_directory: str | os.PathLike[str] | None
    lazy: bool


class _Options(_NarrowOptions, StreamOptions, total=False):
    """All of them."""


class PgoutputSource(StreamSource[E]):
    """Streams the changes of one or more publications.

    Example::

        async with PgoutputSource(dsn, publications=["shop"], slot="etl") as source:
            async for change in source:
                ...
                source.ack(change)

    Args:
        dsn: a libpq connection string or URI; what it leaves out comes from libpq's
            environment variables. Or a function that is asked for it before each attempt to
            connect. The role needs REPLICATION.
        publications: names of one or more existing publications.
        messages: also hand over what ``pg_logical_emit_message`` writes.
        origin: ``"none"`` leaves out what was itself replicated (PostgreSQL 16).
        streaming: let PostgreSQL send large transactions while they are still running, instead
            of spilling them to its own disk: ``"on"``, or ``"parallel"`` (PostgreSQL 16), which
            says more of rolled back ones. They are held here until they commit.
        max_memory: bytes of such transactions that are held in memory, all together.
        spill_directory: where the rest is held; None for the system's temporary folder, which
            may itself be in memory.
        lazy: whether the common rows are only checked, and cut into fields when somebody asks
            for one: faster for a ``filter`` that few rows pass, or for who reads a column or
            two; slower for who reads all.
        options: those of every source: see :class:`StreamOptions`.

    Raises:
        ConfigError: if the arguments cannot work.
        TypeError: if one is not what it has to be, or there is no such option.
    """

    @overload
    def __init__(
        self: PgoutputSource[Change],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["raise"] = ...,
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | Idle],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["raise"] = ...,
        start_at: Position | None,
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | Gap],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["continue"],
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | Gap | Idle],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["continue"],
        start_at: Position | None,
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | Begin | Commit],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[True],
        on_gap: Literal["raise"] = ...,
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | Begin | Commit | Idle],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[True],
        on_gap: Literal["raise"] = ...,
        start_at: Position | None,
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: PgoutputSource[Change | Begin | Commit | Gap],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[True],
        on_gap: Literal["continue"],
        **options: Unpack[_NarrowOptions],
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
        messages: bool = False,
        origin: Literal["any", "none"] = "any",
        streaming: Literal["off", "on", "parallel"] = "off",
        max_memory: int = 64 * 1024 * 1024,
        spill_directory: str | os.PathLike[str] | None = None,
        lazy: bool = False,
        **options: Unpack[StreamOptions],
    ) -> None:
        problems = [
            f"{name} is {' or '.join(map(repr, known))}, not {value!r}"
            for name, value, known in (
                ("origin", origin, ("any", "none")),
                ("streaming", streaming, ("off", "on", "parallel")),
            )
            if value not in known
        ]
        if max_memory < 0:
            problems.append(f"max_memory is a number of bytes, 0 to hold none, not {max_memory}")
        spill_store = FileSpillStore(spill_directory)
        if spill_directory is not None:
            try:
                spill_store.open().close()
            except SpillError as exc:
                problems.append(
                    f"spill_directory is {os.fspath(spill_directory)!r}, where no file can be made "
                    f"({exc.__cause__}): make it, or leave it out for the system's temporary folder"
                )
        if problems:
            raise ConfigError(problems)
        plugin = _Pgoutput(
            _checked_publications(publications),
            messages,
            origin,
            streaming,
            max_memory,
            spill_store,
            lazy,
        )
        super().__init__(dsn, plugin, **options)


@attrs.define
class _Pgoutput:
    """The output plugin that comes with PostgreSQL."""

    identity: tuple[str, ...]
    """The publications."""
    messages: bool
    origin: Literal["any", "none"]
    streaming: Literal["off", "on", "parallel"]
    max_memory: int
    spill_store: FileSpillStore
    lazy: bool
    name: str = "pgoutput"
    tells_commit_lsn: bool = True

    async def check(self, connection: AsyncConnection[Any], facts: ServerFacts) -> None:
        for option, is_wanted, since in (
            ("streaming='parallel'", self.streaming == "parallel", 16),
            ("origin='none'", self.origin == "none", 16),
        ):
            if is_wanted and facts.version < since * 10000:
                raise SourceError(
                    f"PostgreSQL {facts.version // 10000} does not know {option}, which came with "
                    f"{since}; leave it out"
                )
        missing = await catalog.missing_publications(connection, self.identity)
        if missing:
            raise PublicationNotFoundError(missing, facts.database)

    def options(self) -> dict[str, str]:
        return pgoutput_options(
            self.identity, streaming=self.streaming, messages=self.messages, origin=self.origin
        )

    def goes_on(self, message: memoryview) -> bool:
        return len(message) > 0 and message[0] in _GOES_ON

    def decoder(self, stream: StreamIdentity) -> PayloadDecoder:
        return ChangeDecoder(
            stream,
            abort_info=self.streaming == "parallel",
            lazy=self.lazy,
            max_memory=self.max_memory,
            spill_store=self.spill_store,
        )


def _checked_publications(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigError(f"publications is a list of names, not a string: use [{names!r}]")
    checked = tuple(dict.fromkeys(names))
    if not checked:
        raise ConfigError("publications is empty: name at least one")
    for name in checked:
        if not name or "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ConfigError(f"publications has {name!r}, which is not a name")
    return checked
