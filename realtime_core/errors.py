"""All exceptions of this project, which have one base class.

* :exc:`RealtimeError`

  * :exc:`ConfigError`: settings that cannot work; it lists all problems at once
  * :exc:`DecodeError`: bytes that are not a valid message of the protocol

    * :exc:`TruncatedMessageError`: the message ends too early
    * :exc:`UnknownMessageError`: a kind of message that this decoder does not know
    * :exc:`UnknownRelationError`, :exc:`UnknownTypeError`: an OID that was not described before

  * :exc:`FilterError`: a filter that cannot be parsed, or does not fit its table

    * :exc:`FilterMatchError`: a row that a filter cannot be evaluated for

  * :exc:`SpillError`: a streamed transaction could not be written to disk
  * :exc:`ValueConversionError`: a field that has no Python value
  * :exc:`RowStructureError`: a row that does not fit a class
  * :exc:`PositionMismatchError`: two positions of different streams were compared
  * :exc:`ConsumerDroppedError`: a consumer of a fan-out did not keep up
  * :exc:`SourceError`: PostgreSQL refused something, or the connection was lost

    * :exc:`ConnectionLostError`, :exc:`AuthenticationError`
    * :exc:`PublicationNotFoundError`, :exc:`WalLevelError`, :exc:`PrivilegeError`
    * :exc:`OutputPluginError`: the server does not load the output plugin

      * :exc:`OutputPluginNotAllowedError`: it is not allowed to

    * :exc:`SlotError`

      * :exc:`SlotInUseError`, :exc:`SlotLostError`, :exc:`SlotUnavailableError`

    * :exc:`SnapshotTimeoutError`: a snapshot took longer than it may
    * :exc:`TransactionTooLargeError`: a transaction exceeds the bound that was set

  * :exc:`ServerError`: the WebSocket server cannot do what was asked

A message says what happened, then with which value, then what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._text import around

if TYPE_CHECKING:
    from .changes import GapReason

__all__ = [
    "AuthenticationError",
    "ConfigError",
    "ConnectionLostError",
    "ConsumerDroppedError",
    "DecodeError",
    "FilterError",
    "FilterMatchError",
    "OutputPluginError",
    "OutputPluginNotAllowedError",
    "PositionMismatchError",
    "PrivilegeError",
    "PublicationNotFoundError",
    "RealtimeError",
    "RowStructureError",
    "ServerError",
    "SlotError",
    "SlotInUseError",
    "SlotLostError",
    "SlotUnavailableError",
    "SnapshotTimeoutError",
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
    """The base class of all errors that this project raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The __reduce__ of Exception calls __init__ with the message, but these classes take other
        # arguments.
        return _restore, (type(self), self.args), self.__dict__


class ConfigError(RealtimeError, ValueError):
    """Settings that cannot work.

    Attributes:
        problems: a sentence for each problem, with the setting and what to do.
    """

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems))


class DecodeError(RealtimeError, ValueError):
    """Bytes that are not a valid message."""


class TruncatedMessageError(DecodeError):
    """The message ends before its last field."""


class UnknownMessageError(DecodeError):
    """The first byte is not that of any message of the protocol.

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
    """A row belongs to a relation that no Relation message has described.

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
    """A filter cannot be parsed, or does not fit its table.

    Attributes:
        problem: what is wrong, and what would be right.
        text: the whole filter.
        position: the place of the problem in the text, in characters from 0.
    """

    def __init__(self, problem: str, *, text: str, position: int) -> None:
        self.problem = problem
        self.text = text
        self.position = position
        super().__init__(f"{problem} (at character {position + 1} of {around(text, position)})")


class FilterMatchError(FilterError):
    """A filter depends on a value that cannot be read as its type, so the row should not pass."""


class SpillError(RealtimeError, OSError):
    """A streamed transaction could not be written to disk, or could not be read back.

    None of its changes was yielded, so no change is lost if the stream is started again.
    """


class ValueConversionError(RealtimeError, ValueError):
    """A field has no Python value of its type; or a text was asked for, and the field is binary.

    ``row.text(name)`` still returns the field's text, and ``row.raw(name)`` the bytes of a binary
    field.

    Attributes:
        column: the name of the column.
        type_name: PostgreSQL's name of the column's type.
        text: the text that PostgreSQL sent; None for a binary field.
        table: the table, with its schema; empty where it is not known.
    """

    def __init__(
        self, column: str, type_name: str, text: str | None, reason: str, *, table: str = ""
    ) -> None:
        self.table = table
        self.column = column
        self.type_name = type_name
        self.text = text
        remedy = (
            f"row.text({column!r}) has its text"
            if text is not None
            else f"it was sent in binary, row.raw({column!r}) has its bytes"
        )
        place = f"table {table}, " if table else ""
        super().__init__(f"{place}column {column!r} of type {type_name}: {reason}; {remedy}")


class RowStructureError(RealtimeError, ValueError):
    """A row does not fit the class of which :meth:`Record.structure` shall make an object.

    Attributes:
        table: the table, with its schema.
        column: the name of the column; None if the class refuses the row as a whole.
        value_type: the Python type of the column's value; None if the row has no such column.
    """

    def __init__(
        self, table: str, column: str | None, value_type: type | None, reason: str
    ) -> None:
        self.table = table
        self.column = column
        self.value_type = value_type
        place = "" if column is None else f", column {column!r}"
        super().__init__(f"table {table}{place}: {reason}")


class PositionMismatchError(RealtimeError, ValueError):
    """Two positions were compared that belong to different streams."""


class ConsumerDroppedError(RealtimeError):
    """Too much waited for a consumer of a fan-out, which was added with ``on_full="drop"``."""

    def __init__(self, name: str, events: int, size: int) -> None:
        super().__init__(
            f"consumer {name!r} was dropped: {events} events of {size} bytes waited for it; raise "
            "the bounds of fan_out(), or let the others wait with on_full='wait'"
        )


class SourceError(RealtimeError):
    """PostgreSQL refused something that the source needs, or the connection was lost.

    Attributes:
        transient: whether trying again may help although nobody changes anything.
        sqlstate: PostgreSQL's error code; None if PostgreSQL did not raise the error.
    """

    transient = False
    sqlstate: str | None = None


class ConnectionLostError(SourceError):
    """The connection could not be made, or was lost."""

    transient = True


class AuthenticationError(SourceError):
    """The server did not accept the user, the password or the database."""


class PublicationNotFoundError(SourceError):
    """One or more publications do not exist in the database.

    Attributes:
        names: the names of the publications that do not exist.
        database: the name of the database.
    """

    def __init__(self, names: Sequence[str], database: str) -> None:
        self.names = tuple(names)
        self.database = database
        quoted = ['"' + name.replace('"', '""') + '"' for name in names]
        plural = "publications" if len(names) > 1 else "publication"
        super().__init__(
            f"{plural} {', '.join(quoted)} not found in database {database!r}; "
            f"create it with the tables to be sent: CREATE PUBLICATION {quoted[0]} FOR TABLE a, b"
        )


class WalLevelError(SourceError):
    """The server's ``wal_level`` is too low for logical decoding.

    Attributes:
        wal_level: the setting.
    """

    def __init__(self, wal_level: str) -> None:
        self.wal_level = wal_level
        super().__init__(
            f"wal_level is {wal_level!r}, logical replication needs 'logical'; run "
            "ALTER SYSTEM SET wal_level = logical and restart PostgreSQL"
        )


class PrivilegeError(SourceError):
    """The role lacks a privilege that replication needs."""


class OutputPluginError(SourceError):
    """The server cannot load the output plugin."""


class OutputPluginNotAllowedError(OutputPluginError):
    """``output_plugin_libraries`` does not list the output plugin.

    Attributes:
        plugin: the name of the output plugin.
    """

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        super().__init__(
            f"the server does not allow the output plugin {plugin!r}; add it to "
            "output_plugin_libraries with ALTER SYSTEM SET output_plugin_libraries = "
            f"pgoutput, test_decoding, {plugin}, then SELECT pg_reload_conf()"
        )


class SlotError(SourceError):
    """A replication slot cannot be used.

    Attributes:
        slot: the slot's name.
    """

    def __init__(self, slot: str, message: str) -> None:
        self.slot = slot
        super().__init__(message)


class SlotInUseError(SlotError):
    """Another connection streams from the slot.

    Attributes:
        pid: the process ID of the walsender that uses the slot; None if it is not known.
        holder: that process in words, for messages.
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
    """The slot was lost, and with it the place in the stream.

    Changes that were committed between the last position that was yielded and the start of the next
    slot cannot be read any more.

    Attributes:
        reason: why the slot was lost; None if only PostgreSQL's message says so.
    """

    def __init__(self, slot: str, message: str, reason: GapReason | None = None) -> None:
        self.reason = reason
        super().__init__(slot, message)


class SlotUnavailableError(SlotError):
    """The slot cannot be made, or cannot be used."""


class SnapshotTimeoutError(SourceError):
    """The rows of a snapshot were not read within ``snapshot_timeout``, so it was ended.

    Nothing of it holds back VACUUM any more. The next read takes a new snapshot.

    Attributes:
        seconds: the bound.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            f"the snapshot was ended because its rows were not read within {seconds:g} s; raise "
            "snapshot_timeout, copy by more snapshot_connections, or make the slot without a "
            "snapshot and backfill the tables, which goes on where it was"
        )


class TransactionTooLargeError(SourceError):
    """A transaction is larger than ``transactions(max_bytes)`` allows.

    None of its changes is lost. The source yields them again, to ``async for`` or to another call
    of ``transactions`` with a larger bound.

    Attributes:
        xid: the ID of the transaction.
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


def _restore(kind: type[RealtimeError], args: tuple[object, ...]) -> RealtimeError:
    return kind.__new__(kind, *args)
