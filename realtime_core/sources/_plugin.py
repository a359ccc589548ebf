"""PluginFacts and PayloadDecoder: the two parts of an output plugin that a source needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from psycopg import AsyncConnection

from ..changes import Begin, Change, Commit, RawRows
from ..positions import StreamIdentity
from ._copied_tables import Choice
from .catalog import ServerFacts

__all__ = ["PayloadDecoder", "PluginFacts"]


class PayloadDecoder(Protocol):
    """Decodes the payloads of one connection into changes, in commit order."""

    @property
    def in_transaction(self) -> bool:
        """Whether a Begin has come without its Commit."""
        ...

    def decode(self, payloads: Iterable[bytes]) -> Iterator[Change | RawRows | Begin | Commit]:
        """Decode messages; yield all events that come before an error before raising it.

        Raises:
            DecodeError: if one cannot be decoded.
        """
        ...

    def close(self) -> None:
        """Drop the changes of transactions that have not ended."""
        ...


class PluginFacts(Protocol):
    """The facts about an output plugin that its source needs."""

    name: str
    identity: tuple[str, ...]
    """The names that decide which changes the stream has, such as the publications': they are part
    of positions."""
    tells_commit_lsn: bool
    """Whether the LSN of a position is that of the commit record, and not of its end. Only then may
    PostgreSQL be asked to stream from there."""
    session_settings: Mapping[str, str]
    """Settings of the session, on which the plugin's texts depend."""

    async def check(self, connection: AsyncConnection[Any], facts: ServerFacts) -> None:
        """Raise SourceError if the server lacks what the plugin needs."""
        ...

    async def choices(self, connection: AsyncConnection[Any], version: int) -> list[Choice]:
        """Return the tables that a snapshot copies: those whose changes the stream has."""
        ...

    def options(self) -> dict[str, str]:
        """Return the plugin's options for START_REPLICATION."""
        ...

    def expects_more(self, message: memoryview) -> bool:
        """Return whether more of a message's transaction is about to come."""
        ...

    def decoder(self, stream: StreamIdentity) -> PayloadDecoder:
        """Make a decoder for a new connection."""
        ...
