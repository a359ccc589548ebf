"""Rows: makes records of the fields of a message, after checking them against the relation."""

from __future__ import annotations

from .._data_classes import define
from ..changes import Relation
from ..errors import DecodeError
from ..records import UNCHANGED, Record
from .messages import Fields

__all__ = ["RawRow", "check_width", "new_record", "old_record"]


@define
class RawRow:
    """A row's message whose fields were not decoded."""

    relation_oid: int
    data: bytes
    """The message, without an xid."""
    xid: int | None
    """The subtransaction's ID if the message has come inside of a stream block."""


def check_width(relation: Relation, fields: Fields) -> None:
    """Raise DecodeError unless the row has as many fields as its relation has columns."""
    if len(fields) != len(relation.columns):
        raise DecodeError(
            f"a row of {relation} has {len(fields)} fields, its relation {len(relation.columns)} "
            "columns"
        )


def new_record(
    relation: Relation, new: Fields, old: Fields | None = None, old_is_key: bool = False
) -> Record:
    """Make the record of a new row.

    A value that the new row leaves out as unchanged (TOAST) is taken from the old row, if that has
    it: under REPLICA IDENTITY FULL it has all columns, a key tuple has those of the identity.

    Args:
        relation: the row's table.
        new: the fields of the new row.
        old: the fields of the old row or key; None if none was sent.
        old_is_key: whether ``old`` is a key tuple.
    """
    check_width(relation, new)
    if old is not None and UNCHANGED in new and len(old) == len(new):
        new = tuple(
            before if after is UNCHANGED and (column.is_key or not old_is_key) else after
            for before, after, column in zip(old, new, relation.columns, strict=True)
        )
    return Record(relation.shape, new)


def old_record(relation: Relation, fields: Fields, is_key: bool) -> Record:
    """Make the record of an old row, or of an old key.

    A key tuple has a field for every column, and NULL for those outside of the identity. They are
    left out of the record, because they were not sent and may have any value.
    """
    check_width(relation, fields)
    if not is_key:
        return Record(relation.shape, fields)
    return Record(relation.key_shape, tuple(fields[place] for place in relation.key_places))
