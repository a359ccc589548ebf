"""Wal2JsonSource: the changes that the output plugin wal2json writes, as an async iterator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, Unpack, overload

import attrs
from psycopg import AsyncConnection

from ..changes import Begin, Change, Commit, Event, Gap, Idle
from ..positions import StreamIdentity
from ..snapshot import SnapshotEvent
from ..wal2json import Wal2JsonDecoder
from ._backfilling import BackfillingSource
from ._copied_tables import Choice, chosen_tables
from ._plugin import PayloadDecoder
from ._wal2json_settings import TablePattern, Wal2JsonAction, Wal2JsonSettings
from .base import E
from .catalog import ServerFacts
from .stream_options import (
    CommonOptions,
    Dsn,
    EventOptions,
    SnapshotOptions,
    StartAt,
    StreamOptions,
)

__all__ = ["Wal2JsonAction", "Wal2JsonSource"]

_ACTION_BYTES: Final = len(b'{"action":"B')
_MORE_FOLLOWS: Final = frozenset(b'{"action":"%c' % letter for letter in b"BIUDT")
"""How those texts of format 2 begin behind which more of the transaction follows. A logical message
may be outside of a transaction."""
_LAST_CHUNK: Final = b"]}"
"""The text that ends a transaction in format 1, which is written in chunks."""


class _NarrowOptions(CommonOptions, total=False):
    """The options that do not decide which kinds of events come."""

    format_version: Literal[1, 2]
    tables: Iterable[TablePattern] | None
    exclude_tables: Iterable[TablePattern]
    actions: Iterable[Wal2JsonAction] | None
    messages: bool
    message_prefixes: Iterable[str] | None


class _Options(_NarrowOptions, StreamOptions, total=False):
    """All options."""


class _SnapshotOptions(_NarrowOptions, SnapshotOptions, total=False):
    """The same, for a source that takes snapshots."""


class _AllSnapshotOptions(_SnapshotOptions, EventOptions, total=False):
    """All options, for a source that takes snapshots."""


class Wal2JsonSource(BackfillingSource[E]):
    """Streams a database's changes through wal2json, which needs no publication.

    The reference of :mod:`realtime_core.wal2json` lists what the plugin leaves out, compared with
    pgoutput. This source is tested with wal2json 2.6.

    Example::

        async with Wal2JsonSource(dsn, tables=[("public", "orders")], slot="etl") as source:
            async for change in source:
                ...
                source.ack(change)

    Args:
        dsn: a libpq connection string or URI, or a function that returns one and is called before
            each attempt to connect. Parameters that it leaves out come from libpq's environment
            variables. The role needs REPLICATION.
        format_version: 2 or 1. Format 1 has no TRUNCATE, yields no messages here, and tells only
            the LSN of a commit record's end, which is then the ``commit_lsn`` and in positions.
        tables: the tables to stream, as pairs of schema and table; None in a pair stands for any.
            None for all tables.
        exclude_tables: tables to leave out, as pairs of schema and table.
        actions: the kinds of changes to stream; None for all.
        messages: whether to yield messages of ``pg_logical_emit_message``, too.
        message_prefixes: the prefixes of the messages to stream; None for all.
        options: the options of every source: see :class:`StreamOptions`.

    Raises:
        ConfigError: if the arguments cannot work.
        TypeError: if an argument has a wrong type, or there is no option of that name.
    """

    @overload
    def __init__(
        self: Wal2JsonSource[Change],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["raise"] = ...,
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Wal2JsonSource[Change | Idle],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["raise"] = ...,
        start_at: StartAt,
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Wal2JsonSource[Change | Gap],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["continue"],
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Wal2JsonSource[Change | Gap | Idle],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["continue"],
        start_at: StartAt,
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Wal2JsonSource[Change | Begin | Commit],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[True],
        on_gap: Literal["raise"] = ...,
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Wal2JsonSource[Change | Begin | Commit | Idle],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[True],
        on_gap: Literal["raise"] = ...,
        start_at: StartAt,
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Wal2JsonSource[Change | Begin | Commit | Gap],
        dsn: Dsn = ...,
        *,
        boundaries: Literal[True],
        on_gap: Literal["continue"],
        **options: Unpack[_NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Wal2JsonSource[Change | SnapshotEvent],
        dsn: Dsn = ...,
        *,
        snapshot: Literal["initial", "when_needed"],
        boundaries: Literal[False] = ...,
        **options: Unpack[_SnapshotOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Wal2JsonSource[Event | SnapshotEvent],
        dsn: Dsn = ...,
        *,
        snapshot: Literal["initial", "when_needed"],
        **options: Unpack[_AllSnapshotOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Wal2JsonSource[Event],
        dsn: Dsn = ...,
        **options: Unpack[_Options],
    ) -> None: ...

    def __init__(
        self,
        dsn: Dsn = "",
        *,
        format_version: Literal[1, 2] = 2,
        tables: Iterable[TablePattern] | None = None,
        exclude_tables: Iterable[TablePattern] = (),
        actions: Iterable[Wal2JsonAction] | None = None,
        messages: bool = False,
        message_prefixes: Iterable[str] | None = None,
        **options: Unpack[StreamOptions],
    ) -> None:
        settings = Wal2JsonSettings(
            format_version=format_version,
            tables=tables,
            exclude_tables=exclude_tables,
            actions=actions,
            messages=messages,
            message_prefixes=message_prefixes,
        )
        plugin = _Wal2Json(
            settings.identity(),
            settings.plugin_options(),
            tells_commit_lsn=format_version == 2,
            tables=settings.tables,
            exclude_tables=settings.exclude_tables,
        )
        super().__init__(dsn, plugin, **options)


@attrs.define
class _Wal2Json:
    """wal2json, an output plugin that is installed on the server."""

    identity: tuple[str, ...]
    """The settings that decide which changes the stream has, and so their indexes in positions."""
    plugin_options: dict[str, str]
    tells_commit_lsn: bool
    """Whether the format is 2, which tells the LSN of the commit record itself."""
    tables: tuple[TablePattern, ...] | None
    """The tables to stream; None for all."""
    exclude_tables: tuple[TablePattern, ...]
    """The tables to leave out."""
    name: str = "wal2json"
    # Else it leaves out the schema of a type where the search path has that.
    session_settings: Mapping[str, str] = attrs.field(factory=lambda: {"search_path": ""})
    _former: tuple[StreamIdentity, Wal2JsonDecoder] | None = None

    async def check(self, connection: AsyncConnection[Any], facts: ServerFacts) -> None:
        """Check nothing: PostgreSQL refuses to create the slot if the plugin is not installed."""

    async def choices(self, connection: AsyncConnection[Any], version: int) -> list[Choice]:
        return await chosen_tables(connection, self.tables, self.exclude_tables)

    def options(self) -> dict[str, str]:
        return self.plugin_options

    def expects_more(self, message: memoryview) -> bool:
        if self.tells_commit_lsn:
            return bytes(message[:_ACTION_BYTES]) in _MORE_FOLLOWS
        return bytes(message[: len(_LAST_CHUNK)]) != _LAST_CHUNK

    def decoder(self, stream: StreamIdentity) -> PayloadDecoder:
        # wal2json leaves unchanged TOAST out. Which column that was, a decoder can only know from
        # earlier rows, so a new one gets what the former one has learned.
        former = None
        if self._former is not None and self._former[0] == stream:
            former = self._former[1]
        decoder = Wal2JsonDecoder(stream, place_by_end=True, successor_of=former)
        self._former = stream, decoder
        return _Wal2JsonPayloads(decoder)


class _Wal2JsonPayloads:
    """Decodes the texts of one connection."""

    def __init__(self, decoder: Wal2JsonDecoder) -> None:
        self._decoder = decoder

    @property
    def in_transaction(self) -> bool:
        return self._decoder.in_transaction or self._decoder.in_text

    def decode(self, payloads: Iterable[bytes]) -> Iterator[Change | Begin | Commit]:
        feed = self._decoder.feed_chunk
        for payload in payloads:
            yield from feed(payload)

    def close(self) -> None:
        """Do nothing: there are no held transactions."""
