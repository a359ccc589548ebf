"""Segments: pack about a thousand changes into few bytes, and unpack them.

A change of a small row takes 600 B as objects. Packed it takes little more than its values: what
changes have in common (relations, the shapes of their rows, the stream) is kept beside, as the
objects that they are, and the rest is pickled as plain tuples, which is five times as fast as to
pickle the objects. A change that is made again is equal to the one that was packed, whatever source
it came from, and has the same relation: what was computed for that is not computed again.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Final, TypeAlias

from realtime_core import (
    LSN,
    Delete,
    Event,
    Insert,
    Record,
    Relation,
    RowChange,
    StreamIdentity,
    Transaction,
    Truncate,
    Update,
)

__all__ = ["Logged", "changes_of", "pack", "unpack"]

Logged: TypeAlias = RowChange | Truncate
"""A change that clients may get."""

_INSERT: Final = 0
_UPDATE: Final = 1
_DELETE: Final = 2
_TRUNCATE: Final = 3

_EXACT: Final = 4e9
"""Seconds since 1970 up to which a float tells microseconds apart."""


_CHANGES: Final = frozenset((Insert, Update, Delete, Truncate))


def changes_of(events: Sequence[Event]) -> list[Logged]:
    """Return those of events that clients may get."""
    return [event for event in events if type(event) in _CHANGES]  # type: ignore[misc]


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
    last_relation: Relation | None = None
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
        if change.relation is not last_relation:
            last_relation = change.relation
            relation, shape = number(last_relation), number(last_relation.shape)
        if isinstance(change, Insert):
            kind, row, old = _INSERT, change.record, None
        elif isinstance(change, Update):
            kind, row, old = _UPDATE, change.record, change.old_record
        else:
            kind, row, old = _DELETE, change.old_record, None
        # Most rows are whole ones.
        its = shape if row.shape is last_relation.shape else number(row.shape)
        if old is None:
            rows.append((kind, place, change.index, relation, its, row.fields))
        else:
            former = (number(old.shape), old.fields)
            rows.append((kind, place, change.index, relation, its, row.fields, *former))
    return _pickled((transactions, rows)), tuple(shared.objects)


def unpack(data: bytes, shared: Sequence[Any]) -> list[Logged]:
    """Return the changes that :func:`pack` has packed."""
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


def _pickled(thing: object) -> bytes:
    """Pickle what refers to no object twice."""
    buffer = BytesIO()
    pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    # Nothing is remembered to be referred to again, which takes a fifth of the time.
    pickler.fast = True
    pickler.dump(thing)
    return buffer.getvalue()


def _pack_transaction(transaction: Transaction, shared: _Shared) -> tuple[Any, ...]:
    time: datetime | float | None = transaction.commit_time
    if isinstance(time, datetime) and time.tzinfo is UTC:
        # It takes a third of the bytes, and of the time, that a datetime takes.
        seconds = time.timestamp()
        if 0 <= seconds < _EXACT:
            time = seconds
    return (
        transaction.xid,
        int(transaction.commit_lsn),
        time,
        transaction.origin,
        shared.number(transaction.stream),
        transaction.gid,
    )


def _unpack_transaction(packed: tuple[Any, ...], shared: Sequence[Any]) -> Transaction:
    xid, lsn, time, origin, number, gid = packed
    if isinstance(time, float):
        time = datetime.fromtimestamp(time, UTC)
    stream: StreamIdentity | None = shared[number]
    return Transaction(xid, LSN(lsn), time, origin, stream, gid)
