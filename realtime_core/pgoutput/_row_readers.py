"""Row readers: functions that make a change of a row's message in one step.

They read rows of text, NULL and unchanged TOAST. A reader returns None for any other row, and for
one that is wrong. Such a row is decoded by Decoder and Assembler, which raise the error that says
what is wrong.

Objects are made without calling their classes, which takes 0.06 µs instead of 0.11 µs.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import error
from typing import Final, TypeAlias

from ..changes import Delete, Insert, Relation, RowChange, Transaction, Update
from ..errors import DecodeError
from ..records import UNCHANGED, Record
from ._tuples import fields_reader

__all__ = ["HEAD", "ChangeReader", "change_reader"]

HEAD: Final = 8
"""How many of a message's first bytes decide which reader it takes: its tag, its relation's OID,
the kind of its first tuple, and how many fields that has."""

ChangeReader: TypeAlias = Callable[[bytes, Transaction, int], RowChange | None]
"""Takes a message that has no xid, its transaction, and the change's index in the transaction."""

_ReadRecord: TypeAlias = Callable[[bytes], Record | None]
"""Takes a message with one tuple."""
_ReadRecords: TypeAlias = Callable[[bytes], tuple[Record, Record] | None]
"""Takes a message with two tuples; returns the record of the old row or key, and of the new row."""

_new: Final = object.__new__


def change_reader(head: bytes, relation: Relation) -> ChangeReader:
    """Return the reader of the messages that begin with ``head``.

    Args:
        head: the first eight bytes of the messages that it will read.
        relation: the table of their rows.
    """
    match head[:1] + head[5:6]:
        case b"IN":
            return _insert_reader(relation, _record(relation, is_key=False))
        case b"UN":
            return _update_reader(relation, _record(relation, is_key=False))
        case b"DK" | b"DO":
            return _delete_reader(relation, _record(relation, is_key=head[5:6] == b"K"))
        case _:
            return _old_update_reader(relation, _both_records(relation, is_key=head[5:6] == b"K"))


def _second_head(relation: Relation) -> bytes:
    """Return the bytes that stand before the fields of an update's new tuple."""
    return b"N" + len(relation.columns).to_bytes(2, "big")


# Records


def _record(relation: Relation, *, is_key: bool) -> _ReadRecord:
    read_fields = fields_reader(len(relation.columns))
    shape = relation.key_shape if is_key else relation.shape
    places = relation.key_places

    def read(data: bytes) -> Record | None:
        try:
            fields, end = read_fields(data, HEAD)
        except (DecodeError, error, IndexError, UnicodeDecodeError):
            return None
        if end != len(data):
            return None
        if is_key:
            fields = tuple([fields[place] for place in places])
        record = _new(Record)
        record.shape = shape
        record.fields = fields
        return record

    return read


def _both_records(relation: Relation, *, is_key: bool) -> _ReadRecords:
    read_fields, head = fields_reader(len(relation.columns)), _second_head(relation)
    old_shape = relation.key_shape if is_key else relation.shape
    places = relation.key_places

    def read(data: bytes) -> tuple[Record, Record] | None:
        try:
            old, end = read_fields(data, HEAD)
            if data[end : end + 3] != head:
                return None
            new, end = read_fields(data, end + 3)
        except (DecodeError, error, IndexError, UnicodeDecodeError):
            return None
        # An unchanged value has to be taken from the old row, which new_record() does.
        if end != len(data) or UNCHANGED in new:
            return None
        if is_key:
            old = tuple([old[place] for place in places])
        return Record(old_shape, old), Record(relation.shape, new)

    return read


# Changes


def _insert_reader(relation: Relation, read_record: _ReadRecord) -> ChangeReader:
    def read(data: bytes, transaction: Transaction, index: int) -> Insert | None:
        record = read_record(data)
        if record is None:
            return None
        change = _new(Insert)
        change.transaction = transaction
        change.index = index
        change.relation = relation
        change.record = record
        return change

    return read


def _update_reader(relation: Relation, read_record: _ReadRecord) -> ChangeReader:
    def read(data: bytes, transaction: Transaction, index: int) -> Update | None:
        record = read_record(data)
        if record is None:
            return None
        change = _new(Update)
        change.transaction = transaction
        change.index = index
        change.relation = relation
        change.record = record
        change.old_record = None
        return change

    return read


def _old_update_reader(relation: Relation, read_records: _ReadRecords) -> ChangeReader:
    def read(data: bytes, transaction: Transaction, index: int) -> Update | None:
        records = read_records(data)
        if records is None:
            return None
        old_record, record = records
        return Update(transaction, index, relation, record, old_record)

    return read


def _delete_reader(relation: Relation, read_record: _ReadRecord) -> ChangeReader:
    def read(data: bytes, transaction: Transaction, index: int) -> Delete | None:
        record = read_record(data)
        if record is None:
            return None
        change = _new(Delete)
        change.transaction = transaction
        change.index = index
        change.relation = relation
        change.old_record = record
        return change

    return read
