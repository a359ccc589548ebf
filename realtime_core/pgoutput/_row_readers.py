"""Readers for the short cuts: a row's message at once to what it becomes.

All take the common rows only and return None for every other: see :mod:`._patterns`. They make
objects without calling their classes, which takes half as long (60 instead of 110 ns), and
hand a record the matched row instead of fields: it cuts them when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from ..changes import Delete, Insert, Relation, RowChange, Transaction, Update
from ..records import Record, Shape
from ._patterns import Lengths, Pattern, is_utf8, match_row, row_pattern

__all__ = ["HEAD", "ChangeReader", "change_reader"]

HEAD: Final = 8
"""How many of a message's first bytes a reader is found by."""

ChangeReader: TypeAlias = Callable[[bytes, Transaction, int], RowChange | None]
"""Takes a message, its transaction, and the change's index there."""

_new: Final = object.__new__


def change_reader(head: bytes, relation: Relation, lengths: Sequence[Lengths]) -> ChangeReader:
    """Return the reader of changes from messages with this head.

    Args:
        head: the message's first eight bytes.
        relation: what its rows are of.
        lengths: how long their texts are, of the old tuple's columns, then the new one's.
    """
    columns = relation.columns
    match head[:1] + head[5:6]:
        case b"IN":
            return _insert_reader(relation, row_pattern(lengths))
        case b"UN":
            return _update_reader(relation, row_pattern(lengths))
        case b"UO":
            old, new = row_pattern(lengths[: len(columns)]), row_pattern(lengths[len(columns) :])
            return _old_update_reader(relation, old, relation.shape, new)
        case b"UK":
            new = row_pattern(lengths[len(relation.key_places) :])
            return _old_update_reader(
                relation, _key_pattern(relation, lengths), relation.key_shape, new
            )
        case b"DO":
            return _delete_reader(relation, row_pattern(lengths), relation.shape)
        case _:
            return _delete_reader(relation, _key_pattern(relation, lengths), relation.key_shape)


def _key_pattern(relation: Relation, lengths: Sequence[Lengths]) -> Pattern:
    """Return the pattern of a key tuple: all columns, those that are not the key's as NULL."""
    of_key = iter(lengths)
    return row_pattern([next(of_key) if column.is_key else None for column in relation.columns])


def _insert_reader(relation: Relation, pattern: Pattern) -> ChangeReader:
    fullmatch, shape = pattern.fullmatch, relation.shape

    def read(data: bytes, transaction: Transaction, index: int) -> Insert | None:
        body = data[HEAD:]
        row = fullmatch(body.decode()) if body.isascii() else match_row(fullmatch, body)
        if row is None:
            return None
        record = _new(Record)
        record.shape = shape
        record._fields = None
        record._row = row
        change = _new(Insert)
        change.transaction = transaction
        change.index = index
        change.relation = relation
        change.record = record
        return change

    return read


def _update_reader(relation: Relation, pattern: Pattern) -> ChangeReader:
    fullmatch, shape = pattern.fullmatch, relation.shape

    def read(data: bytes, transaction: Transaction, index: int) -> Update | None:
        body = data[HEAD:]
        row = fullmatch(body.decode()) if body.isascii() else match_row(fullmatch, body)
        if row is None:
            return None
        record = _new(Record)
        record.shape = shape
        record._fields = None
        record._row = row
        change = _new(Update)
        change.transaction = transaction
        change.index = index
        change.relation = relation
        change.record = record
        change.old_record = None
        return change

    return read


def _old_update_reader(
    relation: Relation, old: Pattern, old_shape: Shape, new: Pattern
) -> ChangeReader:
    """Return the reader of updates that come with the old row, or the old key."""
    match_old, match_new, shape = old.match, new.fullmatch, relation.shape
    head = f"N{len(relation.columns).to_bytes(2, 'big').decode('latin-1')}"

    def read(data: bytes, transaction: Transaction, index: int) -> Update | None:
        body = data[HEAD:]
        text = body.decode("latin-1")
        old_row = match_old(text)
        if old_row is None:
            return None
        end = old_row.end()
        new_row = match_new(text, end + 3) if text[end : end + 3] == head else None
        if new_row is None or not (body.isascii() or is_utf8(body)):
            return None
        old_record = _new(Record)
        old_record.shape = old_shape
        old_record._fields = None
        old_record._row = old_row
        record = _new(Record)
        record.shape = shape
        record._fields = None
        record._row = new_row
        change = _new(Update)
        change.transaction = transaction
        change.index = index
        change.relation = relation
        change.record = record
        change.old_record = old_record
        return change

    return read


def _delete_reader(relation: Relation, pattern: Pattern, shape: Shape) -> ChangeReader:
    fullmatch = pattern.fullmatch

    def read(data: bytes, transaction: Transaction, index: int) -> Delete | None:
        body = data[HEAD:]
        row = fullmatch(body.decode()) if body.isascii() else match_row(fullmatch, body)
        if row is None:
            return None
        record = _new(Record)
        record.shape = shape
        record._fields = None
        record._row = row
        change = _new(Delete)
        change.transaction = transaction
        change.index = index
        change.relation = relation
        change.old_record = record
        return change

    return read
