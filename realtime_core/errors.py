"""Every exception of the project, under one root.

* :exc:`RealtimeError`

  * :exc:`ConfigError`: settings that cannot work; lists every problem at once
  * :exc:`DecodeError`: bytes that are not what the protocol says

    * :exc:`TruncatedMessageError`: the message ends too early
    * :exc:`UnknownMessageError`: a message kind this decoder does not know
    * :exc:`UnknownRelationError`, :exc:`UnknownTypeError`: a reference to nothing

  * :exc:`FilterError`: a filter that cannot be read, or that does not fit its table

    * :exc:`FilterMatchError`: a row that a filter cannot judge

  * :exc:`SpillError`: a streamed transaction could not be put on disk
  * :exc:`ValueConversionError`: a field that Python cannot hold
  * :exc:`PositionMismatchError`: two positions of different streams were compared
  * :exc:`SourceError`: PostgreSQL refused, or went away

    * :exc:`ConnectionLostError`, :exc:`AuthenticationError`
    * :exc:`PublicationNotFoundError`, :exc:`WalLevelError`, :exc:`PrivilegeError`
    * :exc:`OutputPluginError`: the server does not load the output plugin

      * :exc:`OutputPluginNotAllowedError`: it is not allowed to

    * :exc:`SlotError`

      * :exc:`SlotInUseError`, :exc:`SlotLostError`, :exc:`SlotUnavailableError`

    * :exc:`TransactionTooLargeError`: one transaction is beyond the bound that was set

  * :exc:`ServerError`: the WebSocket server cannot do what was asked

Messages say what happened, then the value, then what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .changes import GapReason

__all__ = [
    "AuthenticationError",
    "ConfigError",
    "ConnectionLostError",
    "DecodeError",
    "FilterError",
    "FilterMatchError",
    "OutputPluginError",
    "OutputPluginNotAllowedError",
    "PositionMismatchError",
    "PrivilegeError",
    "PublicationNotFoundError",
    "RealtimeError",
    "ServerError",
    "SlotError",
    "SlotInUseError",
    "SlotLostError",
    "SlotUnavailableError",
    "SourceError",
    "SpillError",
    "TransactionTooLargeError",
    "TruncatedMessageError",
    "UnknownMessageError",
    "UnknownRelationError",
    "UnknownTypeError",
    "ValueConversionError",
    "WalLevelError",
]


class RealtimeError(Exception):
    """Root of all errors raised by this project on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own calls __init__ with the message, but ours take fields.
        return _restore, (type(self), self.args), self.__dict__


class ConfigError(RealtimeError, ValueError):
    """Settings that cannot work.

    Attributes:
        problems: one sentence a problem, each naming the setting and the remedy.
    """

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems))


class DecodeError(RealtimeError, ValueError):
    """Bytes that are not a valid message."""


class TruncatedMessageError(DecodeError):
    """The message ends before its last field."""


class UnknownMessageError(DecodeError):
    """The first byte names no message of the protocol.

    Attributes:
        tag: the byte, as an integer.
    """

    def __init__(self, tag: int) -> None:
        self.tag = tag
        super().__init__(
            f"unknown pgoutput message {bytes([tag])!r}: the stream was started with options, "
            "or by a server, newer than this decoder"
        )


class UnknownRelationError(DecodeError):
    """A row names a relation that no Relation message has described.

    Attributes:
        relation_oid: the relation's OID.
    """

    def __init__(self, relation_oid: int) -> None:
        self.relation_oid = relation_oid
        super().__init__(
            f"relation {relation_oid} was not described by a Relation message before it was used: "
            "decode the stream from its start, with one assembler"
        )


class UnknownTypeError(DecodeError):
    """A column's type is neither built in nor described by a Type message.

    Attributes:
        type_oid: the type's OID.
    """

    def __init__(self, type_oid: int, *, column: str, relation: str) -> None:
        self.type_oid = type_oid
        super().__init__(
            f"type {type_oid} of column {column!r} in {relation} is neither built in nor described "
            "by a Type message: decode the stream from its start, with one assembler"
        )


class FilterError(RealtimeError, ValueError):
    """A filter that is not in the grammar, or that does not fit the table it is for.

    Attributes:
        problem: what is wrong, and what would be right.
        text: the whole filter.
        position: where in it, in characters from 0.
    """

    def __init__(self, problem: str, *, text: str, position: int) -> None:
        self.problem = problem
        self.text = text
        self.position = position
        super().__init__(f"{problem} (at character {position + 1} of {_around(text, position)})")


class FilterMatchError(FilterError):
    """A row has a value that the filter cannot read as its column's type.

    Whoever filters takes it for a row that does not pass.
    """


class SpillError(RealtimeError, OSError):
    """A streamed transaction could not be put on disk, or read back.

    Nothing of it was handed over, so streaming again loses nothing.
    """


class ValueConversionError(RealtimeError, ValueError):
    """A field has no Python value of its type, or a binary one no text.

    It is still there as it came: ``row.text(name)``, for a binary field ``row.raw(name)``.

    Attributes:
        column: name of the column.
        type_name: PostgreSQL's name of its type.
        text: the field as PostgreSQL wrote it, or None for a binary field.
    """

    def __init__(self, column: str, type_name: str, text: str | None, reason: str) -> None:
        self.column = column
        self.type_name = type_name
        self.text = text
        remedy = (
            f"row.text({column!r}) has its text"
            if text is not None
            else f"it was sent in binary, row.raw({column!r}) has its bytes"
        )
        super().__init__(f"column {column!r} of type {type_name}: {reason}; {remedy}")


class PositionMismatchError(RealtimeError, ValueError):
    """Positions of two different streams have no order."""


class SourceError(RealtimeError):
    """PostgreSQL refused what the source needs, or went away.

    Attributes:
        transient: whether trying again can help without anyone's doing.
        sqlstate: PostgreSQL's error code, None if the error is not PostgreSQL's.
    """

    transient = False
    sqlstate: str | None = None


class ConnectionLostError(SourceError):
    """The connection could not be made, or ended."""

    transient = True


class AuthenticationError(SourceError):
    """The server did not accept the user, the password or the database."""


class PublicationNotFoundError(SourceError):
    """One or more publications do not exist in the database.

    Attributes:
        names: the missing ones.
        database: where they were looked for.
    """

    def __init__(self, names: Sequence[str], database: str) -> None:
        self.names = tuple(names)
        self.database = database
        quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
        first = '"' + names[0].replace('"', '""') + '"'
        plural = "publications" if len(names) > 1 else "publication"
        super().__init__(
            f"{plural} {quoted} not found in database {database!r}; "
            f"create it with the tables to be sent: CREATE PUBLICATION {first} FOR TABLE a, b"
        )


class WalLevelError(SourceError):
    """The server does not write the WAL that logical decoding needs."""

    def __init__(self, wal_level: str) -> None:
        self.wal_level = wal_level
        super().__init__(
            f"wal_level is {wal_level!r}, logical replication needs 'logical'; run "
            "ALTER SYSTEM SET wal_level = logical and restart PostgreSQL"
        )


class PrivilegeError(SourceError):
    """The role may not do what replication needs."""


class OutputPluginError(SourceError):
    """The server does not load the output plugin."""


class OutputPluginNotAllowedError(OutputPluginError):
    """``output_plugin_libraries`` does not list the output plugin.

    Attributes:
        plugin: its name.
    """

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        super().__init__(
            f"the server does not allow the output plugin {plugin!r}; add it to "
            "output_plugin_libraries with ALTER SYSTEM SET output_plugin_libraries = "
            f"pgoutput, test_decoding, {plugin}, then SELECT pg_reload_conf()"
        )


class SlotError(SourceError):
    """Something about a replication slot.

    Attributes:
        slot: the slot's name.
    """

    def __init__(self, slot: str, message: str) -> None:
        self.slot = slot
        super().__init__(message)


class SlotInUseError(SlotError):
    """Another connection streams from the slot.

    Attributes:
        pid: process ID of the walsender that holds it, or None.
        holder: that process in words.
    """

    transient = True

    def __init__(
        self,
        slot: str,
        pid: int | None,
        remedy: str = "choose another slot name, or wait until it is free with slot_in_use='wait'",
    ) -> None:
        self.pid = pid
        self.holder = f"PID {pid}" if pid is not None else "another connection"
        super().__init__(
            slot, f"slot {slot!r} is active for {self.holder}; stop the other consumer, {remedy}"
        )


class SlotLostError(SlotError):
    """The slot, and with it the place in the stream, is gone.

    What was committed between the last position handed over and the next
    slot's start cannot be had any more.

    Attributes:
        reason: why, None if only PostgreSQL's message says so.
    """

    def __init__(self, slot: str, message: str, reason: GapReason | None = None) -> None:
        self.reason = reason
        super().__init__(slot, message)


class SlotUnavailableError(SlotError):
    """The slot cannot be made or used."""


class TransactionTooLargeError(SourceError):
    """A transaction has more changes than ``transactions(max_bytes)`` may collect.

    Nothing of it is lost: the source hands it over again to whoever asks next, change by
    change or with a larger bound.

    Attributes:
        xid: of the transaction.
        max_bytes: the bound.
    """

    def __init__(self, xid: int, max_bytes: int) -> None:
        self.xid = xid
        self.max_bytes = max_bytes
        super().__init__(
            f"transaction {xid} is larger than max_bytes={max_bytes}; read it change by change "
            "with `async for`, or ask for transactions with a larger bound"
        )


class ServerError(RealtimeError):
    """The WebSocket server cannot do what was asked."""


def _around(text: str, position: int, reach: int = 40) -> str:
    """Return a text, of a long one what is around a position."""
    start = position - reach if position > 2 * reach else 0
    end = position + reach
    before = "…" if start else ""
    after = "…" if len(text) > end + reach else ""
    return repr(before + text[start : end if after else None] + after)


def _restore(kind: type[RealtimeError], args: tuple[object, ...]) -> RealtimeError:
    return kind.__new__(kind, *args)
