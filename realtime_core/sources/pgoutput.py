"""PgoutputSource: a PostgreSQL database's changes as an async iterator."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, Required, TypeAlias, Unpack, overload

import attrs
from psycopg import AsyncConnection

from ..changes import Begin, Change, Commit, Event, Gap, Idle
from ..errors import PublicationNotFoundError, SourceError, SpillError
from ..pgoutput import ChangeDecoder
from ..pgoutput.spill import FileSpillStore
from ..positions import Position, StreamIdentity
from ..replication.commands import pgoutput_options
from . import catalog
from ._attach import PayloadDecoder
from ._checked import CheckedSettings, check_choice
from ._stream import StreamSource
from .base import E
from .catalog import ServerFacts
from .stream_options import CommonOptions, Dsn, StreamOptions

__all__ = ["PgoutputSource"]

_MORE_FOLLOWS: Final = frozenset(b"BORYIUDTS")
"""Tags of messages behind which more of the transaction follows: Begin, Stream Start, and those
that come within a transaction only. A logical message may be outside of a transaction."""


Messages: TypeAlias = bool | Literal["nontransactional"]
"""Which messages of ``pg_logical_emit_message`` come."""


class _NarrowOptions(CommonOptions, total=False):
    """The options that do not decide which kinds of events come."""

    publications: Required[Iterable[str]]
    messages: Messages
    origin: Literal["any", "none"]
    streaming: Literal["off", "on", "parallel"]
    max_memory: int
    spill_directory: str | os.PathLike[str] | None


class _Options(_NarrowOptions, StreamOptions, total=False):
    """All options."""


class PgoutputSource(StreamSource[E]):
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
        messages: Messages = False,
        origin: Literal["any", "none"] = "any",
        streaming: Literal["off", "on", "parallel"] = "off",
        max_memory: int = 64 * 1024 * 1024,
        spill_directory: str | os.PathLike[str] | None = None,
        **options: Unpack[StreamOptions],
    ) -> None:
        settings = _PgoutputSettings(
            publications=publications,
            messages=messages,
            origin=origin,
            streaming=streaming,
            max_memory=max_memory,
            spill_store=FileSpillStore(spill_directory),
            spill_directory=spill_directory,
        )
        super().__init__(dsn, _Pgoutput(settings.publications, settings), **options)


def _names(names: Iterable[str]) -> tuple[str, ...] | str:
    """Return the names, each once; leave a string as it is, for the validator to refuse."""
    return names if isinstance(names, str) else tuple(dict.fromkeys(names))


@attrs.frozen(kw_only=True)
class _PgoutputSettings(CheckedSettings):
    """The arguments of :class:`PgoutputSource`, which describes them.

    Raises:
        ConfigError: with every problem, if they cannot work.
    """

    publications: tuple[str, ...] = attrs.field(converter=_names)
    messages: Messages = attrs.field(
        validator=check_choice, metadata={"choices": (False, True, "nontransactional")}
    )
    origin: Literal["any", "none"] = attrs.field(
        validator=check_choice, metadata={"choices": ("any", "none")}
    )
    streaming: Literal["off", "on", "parallel"] = attrs.field(
        validator=check_choice, metadata={"choices": ("off", "on", "parallel")}
    )
    max_memory: int = attrs.field()
    spill_store: FileSpillStore
    spill_directory: str | os.PathLike[str] | None = attrs.field()

    @publications.validator
    def _check_publications(self, field: attrs.Attribute[Any], names: object) -> None:
        if isinstance(names, str):
            self.problems.append(f"publications is a list of names, not a string: use [{names!r}]")
            return
        if not self.publications:
            self.problems.append("publications is empty: name at least one")
        for name in self.publications:
            if not name or "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
                self.problems.append(f"publications has {name!r}, which is not a name")

    @max_memory.validator
    def _check_max_memory(self, field: attrs.Attribute[Any], size: int) -> None:
        if size < 0:
            self.problems.append(f"max_memory is a number of bytes, 0 to hold none, not {size}")

    @spill_directory.validator
    def _check_spill_directory(self, field: attrs.Attribute[Any], directory: Any) -> None:
        if directory is None:
            return
        try:
            self.spill_store.open().close()
        except SpillError as exc:
            self.problems.append(
                f"spill_directory is {os.fspath(directory)!r}, where no file can be made "
                f"({exc.__cause__}): make it, or leave it out for the system's temporary folder"
            )


@attrs.define
class _Pgoutput:
    """pgoutput, the output plugin that comes with PostgreSQL."""

    identity: tuple[str, ...]
    """The names of the publications."""
    settings: _PgoutputSettings
    name: str = "pgoutput"
    tells_commit_lsn: bool = True
    session_settings: Mapping[str, str] = attrs.field(factory=dict)

    async def check(self, connection: AsyncConnection[Any], facts: ServerFacts) -> None:
        for option, is_wanted, since in (
            ("streaming='parallel'", self.settings.streaming == "parallel", 16),
            ("origin='none'", self.settings.origin == "none", 16),
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
            self.identity,
            streaming=self.settings.streaming,
            messages=bool(self.settings.messages),
            origin=self.settings.origin,
        )

    def expects_more(self, message: memoryview) -> bool:
        return len(message) > 0 and message[0] in _MORE_FOLLOWS

    def decoder(self, stream: StreamIdentity) -> PayloadDecoder:
        settings = self.settings
        return ChangeDecoder(
            stream,
            abort_info=settings.streaming == "parallel",
            max_memory=settings.max_memory,
            spill_store=settings.spill_store,
            transactional_messages=settings.messages != "nontransactional",
        )
