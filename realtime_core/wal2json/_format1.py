"""Decodes format 1: a JSON object for each transaction.

It looks like ``{"xid":…,"change":[{"kind":"insert",…},…]}``. The names, types and values of a row's
columns are lists of the same length. ``oldkeys``, the old key of a row, leaves out NULLs. TRUNCATE
is not written. A logical message outside of a transaction is an object of its own that looks like a
transaction.
"""

from __future__ import annotations

from typing import Any, Final

from ..changes import Begin, Change, Commit, Delete, Insert, LogicalMessage, Transaction, Update
from ..errors import DecodeError
from ..lsn import LSN
from ..positions import StreamIdentity
from ._json import message_content
from ._numbers import commit_time, lsn, origin, unsigned_32
from ._rows import JsonRow
from ._tables import KnownTable, Tables

__all__ = ["Format1"]

_KINDS: Final = ("insert", "update", "delete", "message")


class Format1:
    """Decodes transactions of format 1, piece by piece.

    Call :meth:`begin`, then :meth:`change` for each element of ``change``, then :meth:`commit`.

    Args:
        tables: what is known of the tables, which other decoders may share.
        stream: the stream that every position belongs to; None if it is not known.
        place_by_end: set ``commit_lsn`` to the LSN behind the commit record, since format 1 does
            not have the record's own.
    """

    def __init__(
        self, tables: Tables, stream: StreamIdentity | None, *, place_by_end: bool
    ) -> None:
        self._place_by_end = place_by_end
        self._tables = tables
        self._stream = stream
        self._transaction: Transaction | None = None
        self._end_lsn = LSN(0)
        self._index = 0
        self._begun = False
        self._is_message = False

    @property
    def in_transaction(self) -> bool:
        return self._transaction is not None

    def begin(self, head: dict[str, Any]) -> None:
        """Begin a transaction.

        Args:
            head: the object without its ``change``.
        """
        xid = head.get("xid")
        self._end_lsn = lsn(head.get("nextlsn"), "nextlsn")
        self._transaction = Transaction(
            0 if xid is None else unsigned_32(xid, "xid"),
            self._end_lsn if self._place_by_end else LSN(0),
            commit_time(head.get("timestamp")),
            origin(head.get("origin")),
            self._stream,
        )
        self._index = 0
        self._begun = self._is_message = False

    def change(self, element: Any) -> list[Change | Begin]:
        """Decode one element of ``change``."""
        assert self._transaction is not None
        if not isinstance(element, dict):
            raise DecodeError("an element of 'change' is not an object")
        kind = element.get("kind")
        if kind not in _KINDS:
            raise DecodeError(f"'kind' of a change is none of {', '.join(_KINDS)}")
        try:
            if kind == "message" and not _is_transactional(element):
                self._is_message = True
                return [self._message(element, None, 0)]
            events: list[Change | Begin] = []
            if not self._begun:
                self._begun = True
                events.append(Begin(self._transaction))
            events.append(self._placed(kind, element, self._transaction, self._index))
            self._index += 1
            return events
        except KeyError as exc:
            raise DecodeError(f"a change of kind {kind!r} has no {exc}") from exc
        except TypeError as exc:
            raise DecodeError(
                f"a change of kind {kind!r} has names or types of an unknown form"
            ) from exc

    def commit(self) -> list[Begin | Commit]:
        """End the transaction."""
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        if not self._begun and self._is_message:
            return []
        commit = Commit(transaction, self._end_lsn, self._index)
        return [commit] if self._begun else [Begin(transaction), commit]

    def _placed(
        self, kind: str, element: dict[str, Any], transaction: Transaction, index: int
    ) -> Change:
        if kind == "message":
            return self._message(element, transaction, index)
        table = self._table(element)
        if kind == "insert":
            record = table.insert(_columns(element))
            return Insert(transaction, index, table.relation, record)
        identity = _identity(element)
        if kind == "update":
            record, old = table.update(_columns(element), identity, skips_null=True)
            return Update(transaction, index, table.relation, record, old)
        if identity is None:
            raise DecodeError("a change of kind 'delete' has no 'oldkeys'")
        record = table.delete(identity, skips_null=True)
        return Delete(transaction, index, table.relation, record)

    def _table(self, element: dict[str, Any]) -> KnownTable:
        table = self._tables.get(element.get("schema", ""), element["table"])
        primary_key = element.get("pk")
        if not table.has_primary_key(primary_key):
            names = () if primary_key is None else tuple(primary_key["pknames"])
            table.set_primary_key(primary_key, names)
        return table

    def _message(
        self, element: dict[str, Any], transaction: Transaction | None, index: int
    ) -> LogicalMessage:
        prefix, content = element["prefix"], element["content"]
        if not isinstance(prefix, str) or not isinstance(content, str):
            raise DecodeError("the prefix or the content of a message is not a string")
        return LogicalMessage(
            LSN(0), prefix, message_content(content), transaction, index, self._stream
        )


def _is_transactional(element: dict[str, Any]) -> bool:
    transactional = element["transactional"]
    if not isinstance(transactional, bool):
        raise DecodeError("'transactional' of a message is neither true nor false")
    return transactional


def _columns(element: dict[str, Any]) -> JsonRow:
    return _row(
        element["columnnames"],
        element.get("columntypes"),
        element.get("columntypeoids"),
        element["columnvalues"],
    )


def _identity(element: dict[str, Any]) -> JsonRow | None:
    keys = element.get("oldkeys")
    if keys is None:
        return None
    return _row(keys["keynames"], keys.get("keytypes"), keys.get("keytypeoids"), keys["keyvalues"])


def _row(names: Any, types: Any, oids: Any, values: Any) -> JsonRow:
    for part in (names, values):
        if part.__class__ is not list:
            raise DecodeError("names or values of columns are not a list")
    for part in (types, oids):
        if part is not None and part.__class__ is not list:
            raise DecodeError("types of columns are not a list")
    if len(names) != len(values):
        raise DecodeError(f"a row has {len(names)} columns and {len(values)} values")
    signature = (
        tuple(names),
        None if types is None else tuple(types),
        None if oids is None else tuple(oids),
    )
    return signature, values
