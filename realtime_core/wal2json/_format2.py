"""Decodes format 2: a JSON object for each message.

A message looks like ``{"action":"I",…,"columns":[{"name":…,"value":…},…]}``. Messages with the
actions B and C stand at the beginning and the end of a transaction. With ``include-transaction``
off there are none, and each row names its own transaction as far as the other options include it.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final, TypeAlias

from ..changes import (
    Begin,
    Change,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Transaction,
    Truncate,
    Update,
)
from ..errors import DecodeError
from ..lsn import LSN
from ..positions import StreamIdentity
from ._json import message_content
from ._numbers import commit_time, lsn, origin, unsigned_32
from ._rows import NO_COLUMNS, JsonRow
from ._tables import KnownTable, Tables

__all__ = ["Format2"]

_Handler: TypeAlias = Callable[[dict[str, Any]], Change | Begin | Commit]

_PLAIN: Final = itemgetter("name", "value")
_TYPED: Final = itemgetter("name", "value", "type")
_WITH_OID: Final = itemgetter("name", "value", "typeoid")
_TYPED_WITH_OID: Final = itemgetter("name", "value", "type", "typeoid")


class Format2:
    """Decodes messages of format 2, and remembers the transaction that they belong to.

    Args:
        tables: what is known of the tables, which other decoders may share.
        stream: the stream that every position belongs to; None if it is not known.
    """

    def __init__(self, tables: Tables, stream: StreamIdentity | None) -> None:
        self._tables = tables
        self._stream = stream
        # The transaction between B and C.
        self._framed: Transaction | None = None
        # Without B and C the transaction of the last row, if the row has its xid.
        self._loose: Transaction | None = None
        self._end_lsn = LSN(0)
        self._index = 0
        self._xid: Any = None
        self._handlers: dict[Any, _Handler] = {
            "B": self._begin,
            "C": self._commit,
            "I": self._insert,
            "U": self._update,
            "D": self._delete,
            "T": self._truncate,
            "M": self._message,
        }

    @property
    def in_transaction(self) -> bool:
        return self._framed is not None

    def message(self, message: dict[str, Any]) -> Change | Begin | Commit:
        """Decode one message."""
        action = message["action"]
        handler = self._handlers.get(action) if isinstance(action, str) else None
        if handler is None:
            raise DecodeError(f"'action' is none of {', '.join(self._handlers)}")
        try:
            return handler(message)
        except KeyError as exc:
            raise DecodeError(f"a message with action {action!r} has no {exc}") from exc
        except TypeError as exc:
            raise DecodeError(
                f"a message with action {action!r} has names or columns of an unknown form"
            ) from exc

    def _begin(self, message: dict[str, Any]) -> Begin:
        if self._framed is not None:
            raise DecodeError(
                f"a transaction begins before transaction {self._framed.xid} has ended"
            )
        self._loose = None
        self._framed = self._transaction(message, lsn(message.get("lsn"), "lsn"))
        self._end_lsn = lsn(message.get("nextlsn"), "nextlsn")
        return Begin(self._framed)

    def _commit(self, message: dict[str, Any]) -> Commit:
        transaction = self._framed
        if transaction is None:
            raise DecodeError("a transaction ends that did not begin")
        self._check_xid(message, transaction)
        commit_lsn = lsn(message.get("lsn"), "lsn")
        if commit_lsn != transaction.commit_lsn:
            raise DecodeError(
                f"a transaction ends at {commit_lsn}, but the one under way commits at "
                f"{transaction.commit_lsn}"
            )
        end_lsn = lsn(message.get("nextlsn"), "nextlsn") or self._end_lsn
        self._framed = None
        return Commit(transaction, end_lsn, self._index)

    def _insert(self, message: dict[str, Any]) -> Insert:
        table = self._table(message)
        record = table.insert(_row(message["columns"]))
        return Insert(*self._place(message), table.relation, record)

    def _update(self, message: dict[str, Any]) -> Update:
        table = self._table(message)
        identity = _row(message["identity"]) if "identity" in message else None
        record, old = table.update(_row(message["columns"]), identity, skips_null=False)
        return Update(*self._place(message), table.relation, record, old)

    def _delete(self, message: dict[str, Any]) -> Delete:
        table = self._table(message)
        record = table.delete(_row(message["identity"]), skips_null=False)
        return Delete(*self._place(message), table.relation, record)

    def _truncate(self, message: dict[str, Any]) -> Truncate:
        # wal2json writes a message for each table, without RESTART IDENTITY and CASCADE.
        table = self._tables.get(message.get("schema", ""), message["table"])
        return Truncate(*self._place(message), (table.relation,), False, False)

    def _message(self, message: dict[str, Any]) -> LogicalMessage:
        prefix, content = message["prefix"], message["content"]
        if not isinstance(prefix, str) or not isinstance(content, str):
            raise DecodeError("the prefix or the content of a message is not a string")
        transaction, index = None, 0
        transactional = message["transactional"]
        if transactional is True:
            transaction, index = self._place(message)
        elif transactional is not False:
            raise DecodeError("'transactional' of a message is neither true nor false")
        place = lsn(message.get("lsn"), "lsn")
        return LogicalMessage(
            place, prefix, message_content(content), transaction, index, self._stream
        )

    def _table(self, message: dict[str, Any]) -> KnownTable:
        table = self._tables.get(message.get("schema", ""), message["table"])
        primary_key = message.get("pk")
        if primary_key is not None and not table.has_primary_key(primary_key):
            table.set_primary_key(primary_key, tuple(column["name"] for column in primary_key))
        return table

    def _place(self, message: dict[str, Any]) -> tuple[Transaction, int]:
        """Return the transaction of a row and the row's place in it."""
        transaction = self._framed or self._loose
        if transaction is None or (self._framed is None and message.get("xid") != self._xid):
            transaction = self._transaction(message, LSN(0))
            # Without an xid the next row may belong to another transaction.
            self._loose = transaction if transaction.xid else None
        else:
            self._check_xid(message, transaction)
        index = self._index
        self._index = index + 1
        return transaction, index

    def _check_xid(self, message: dict[str, Any], transaction: Transaction) -> None:
        # The xids are compared as the texts that they are.
        if message.get("xid") != self._xid:
            raise DecodeError(
                f"a message of another transaction comes before transaction {transaction.xid} has "
                "ended: the message with action C is missing"
            )

    def _transaction(self, message: dict[str, Any], commit_lsn: LSN) -> Transaction:
        self._xid = message.get("xid")
        self._index = 0
        return Transaction(
            0 if self._xid is None else unsigned_32(self._xid, "xid"),
            commit_lsn,
            commit_time(message.get("timestamp")),
            origin(message.get("origin")),
            self._stream,
        )


def _row(columns: Any) -> JsonRow:
    """Separate names, types and values of a list of columns.

    Which of them there are follows from the options, so the first column tells it for all.
    """
    if columns.__class__ is not list:
        raise DecodeError("columns are not a list")
    if not columns:
        return NO_COLUMNS, ()
    first = columns[0]
    # zip and itemgetter run in C, and take 2 µs for a row of twenty columns.
    if "typeoid" not in first:
        if "type" in first:
            names, values, types = zip(*map(_TYPED, columns), strict=True)
            return (names, types, None), values
        names, values = zip(*map(_PLAIN, columns), strict=True)
        return (names, None, None), values
    if "type" in first:
        names, values, types, oids = zip(*map(_TYPED_WITH_OID, columns), strict=True)
        return (names, types, oids), values
    names, values, oids = zip(*map(_WITH_OID, columns), strict=True)
    return (names, None, oids), values
