"""pgoutput: checks the arguments of the sources that use it, and makes their decoders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, Required, TypeAlias

import attrs
from psycopg import AsyncConnection

from ..errors import PublicationNotFoundError, SourceError, SpillError
from ..pgoutput import ChangeDecoder, RawDecoder
from ..pgoutput.spill import FileSpillStore
from ..positions import StreamIdentity
from ..replication.commands import pgoutput_options
from . import catalog
from ._checked_settings import CheckedSettings, check_choice
from ._copied_tables import Choice, published_tables
from ._plugin import PayloadDecoder
from .catalog import ServerFacts
from .stream_options import CommonOptions

__all__ = ["Messages", "Pgoutput", "PgoutputOptions", "PgoutputSettings", "RawPgoutput"]

_MORE_FOLLOWS: Final = frozenset(b"BORYIUDTS")
"""Tags of messages behind which more of the transaction follows: Begin, Stream Start, and those
that come within a transaction only. A logical message may be outside of a transaction."""


Messages: TypeAlias = bool | Literal["nontransactional"]
"""Which messages of ``pg_logical_emit_message`` come."""


class PgoutputOptions(CommonOptions, total=False):
    """The options that do not decide which kinds of events come."""

    publications: Required[Iterable[str]]
    messages: Messages
    origin: Literal["any", "none"]
    streaming: Literal["off", "on", "parallel"]
    max_memory: int
    spill_directory: str | os.PathLike[str] | None


def _names(names: Iterable[str]) -> tuple[str, ...] | str:
    """Return the names, each once; leave a string as it is, for the validator to refuse."""
    return names if isinstance(names, str) else tuple(dict.fromkeys(names))


@attrs.frozen(kw_only=True)
class PgoutputSettings(CheckedSettings):
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
            FileSpillStore(directory).open().close()
        except SpillError as exc:
            self.problems.append(
                f"spill_directory is {os.fspath(directory)!r}, where no file can be made "
                f"({exc.__cause__}): make it, or leave it out for the system's temporary folder"
            )


@attrs.define
class Pgoutput:
    """pgoutput, the output plugin that comes with PostgreSQL."""

    identity: tuple[str, ...]
    """The names of the publications."""
    settings: PgoutputSettings
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

    async def choices(self, connection: AsyncConnection[Any], version: int) -> list[Choice]:
        return await published_tables(connection, version, self.identity)

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
        return ChangeDecoder(stream, **self._decoding())

    def _decoding(self) -> dict[str, Any]:
        """Return the arguments that both decoders take."""
        settings = self.settings
        return {
            "abort_info": settings.streaming == "parallel",
            "max_memory": settings.max_memory,
            "spill_store": FileSpillStore(settings.spill_directory),
            "transactional_messages": settings.messages != "nontransactional",
        }


@attrs.define
class RawPgoutput(Pgoutput):
    """pgoutput, for a source that leaves rows as they are."""

    max_rows: int = attrs.field(kw_only=True)

    def decoder(self, stream: StreamIdentity) -> PayloadDecoder:
        return RawDecoder(stream, **self._decoding(), max_rows=self.max_rows)
