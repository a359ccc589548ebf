"""Segments: about a thousand changes, packed into few bytes, and made again from them.

A change of a small row takes 600 B as objects. Packed it takes little more than its values: what
changes have in common (relations, the shapes of their rows, the stream) is kept beside, as the
objects that they are, and the rest is pickled as plain tuples, which is five times as fast as to
pickle the objects. A change that is made again is equal to the one that was packed, whatever source
it came from, and has the same relation: what was computed for that is not computed again.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from realtime_core import (
    LSN,
    Delete,
    Insert,
    Record,
    RowChange,
    StreamIdentity,
    Transaction,
    Truncate,
    Update,
)

__all__ = ["Logged", "pack", "unpack"]

Logged: TypeAlias = RowChange | Truncate
"""A change that clients may get."""

_INSERT: Final = 0
_UPDATE: Final = 1
_DELETE: Final = 2
_TRUNCATE: Final = 3

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class _Shared:
    """Objects that many changes have in common, each with a number."""

    __slots__ = ("_numbers", "objects")

    def __init__(self) -> None:
        self.objects: list[Any] = []
        # By id: the objects stay alive as long as this does.
        self._numbers: dict[int, int] = {}

    def number(self, thing: object) -> int:
        """Return an object's number."""
        number = self._numbers.get(id(thing))
        if number is None:
            number = self._numbers[id(thing)] = len(self.objects)
            self.objects.append(thing)
        return number


def pack(changes: Sequence[Logged]) -> tuple[bytes, tuple[Any, ...]]:
    """Pack changes, in their order.

    Returns:
        What :func:`unpack` makes them of: the bytes, and the objects that they refer to.
    """
    shared = _Shared()
    number = shared.number
    transactions: list[tuple[Any, ...]] = []
    last: Transaction | None = None
    place = -1
    rows: list[tuple[Any, ...]] = []
    for change in changes:
        transaction = change.transaction
        if transaction is not last:
            last = transaction
            place += 1
            transactions.append(_pack_transaction(transaction, shared))
        if isinstance(change, Truncate):
            relations = tuple(map(number, change.relations))
            options = (change.cascade, change.restart_identity)
            rows.append((_TRUNCATE, place, change.index, relations, *options))
            continue
        relation = number(change.relation)
        if isinstance(change, Insert):
            row = change.record
            rows.append((_INSERT, place, change.index, relation, number(row.shape), row.fields))
        elif isinstance(change, Delete):
            row = change.old_record
            rows.append((_DELETE, place, change.index, relation, number(row.shape), row.fields))
        else:
            row, old = change.record, change.old_record
            former = () if old is None else (number(old.shape), old.fields)
            shape = number(row.shape)
            rows.append((_UPDATE, place, change.index, relation, shape, row.fields, *former))
    data = pickle.dumps((transactions, rows), pickle.HIGHEST_PROTOCOL)
    return data, tuple(shared.objects)


def unpack(data: bytes, shared: Sequence[Any]) -> list[Logged]:
    """Make changes again of what :func:`pack` returned."""
    packed, rows = pickle.loads(data)
    transactions = [_unpack_transaction(one, shared) for one in packed]
    changes: list[Logged] = []
    for kind, place, index, relation, shape, fields, *old in rows:
        transaction = transactions[place]
        if kind == _TRUNCATE:
            relations = tuple(shared[number] for number in relation)
            # The two behind are its options.
            changes.append(Truncate(transaction, index, relations, shape, fields))
            continue
        table = shared[relation]
        row = Record(shared[shape], fields)
        if kind == _INSERT:
            changes.append(Insert(transaction, index, table, row))
        elif kind == _DELETE:
            changes.append(Delete(transaction, index, table, row))
        else:
            former = Record(shared[old[0]], old[1]) if old else None
            changes.append(Update(transaction, index, table, row, former))
    return changes


def _pack_transaction(transaction: Transaction, shared: _Shared) -> tuple[Any, ...]:
    time = transaction.commit_time
    return (
        transaction.xid,
        int(transaction.commit_lsn),
        # A quarter of the bytes, and of the time, that a datetime takes.
        (time - _EPOCH) // _MICROSECOND if time is not None and time.tzinfo is UTC else time,
        transaction.origin,
        shared.number(transaction.stream),
        transaction.gid,
    )


def _unpack_transaction(packed: tuple[Any, ...], shared: Sequence[Any]) -> Transaction:
    xid, lsn, time, origin, number, gid = packed
    if isinstance(time, int):
        time = _EPOCH + timedelta(microseconds=time)
    stream: StreamIdentity | None = shared[number]
    return Transaction(xid, LSN(lsn), time, origin, stream, gid)
