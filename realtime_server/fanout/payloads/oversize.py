"""Oversize: what clients get of a change that is too large for them.

They get the change with an error, its key, and every value that is short, so that they can read the
row from the database. Stock clients close the connection when a message is larger than they accept,
and miss all changes until they are connected again. So without this, one large row would cut off
everybody who listens to its table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

import attrs

from realtime_core import UNCHANGED, Delete, Insert, Record, ReplicaIdentity, RowChange, Update
from realtime_core.records import Field

__all__ = ["SHORT", "TOO_LARGE", "is_larger", "shortened", "size_of"]

TOO_LARGE: Final = "Error 413: Payload Too Large"
"""The text in ``errors`` of such a change."""
SHORT: Final = 64
"""How many bytes of text a value may have that is shown all the same."""
_MOST_EACH: Final = 4
"""How many bytes a character has in UTF-8, at most."""


def size_of(change: RowChange) -> int:
    """Return how many bytes the values of a change have as text, those of both rows."""
    return sum(map(_bytes_of, _texts(change, None, None)))


def is_larger(
    change: RowChange,
    most: int,
    shown: Collection[str] | None = None,
    shown_of_old: Collection[str] | None = None,
) -> bool:
    """Return whether the values of a change have more than ``most`` bytes as text.

    Only where the number is near ``most`` are the bytes counted one by one.

    Args:
        change: a change of a row.
        most: the number of bytes.
        shown: the names of the columns that count; None for all.
        shown_of_old: the names of the columns that count in the old row; None if they are the same
            as in the new row.
    """
    texts = list(_texts(change, shown, shown_of_old))
    characters = sum(map(len, texts))
    if characters > most or _MOST_EACH * characters <= most:
        return characters > most
    return sum(map(_bytes_of, texts)) > most


def _texts(
    change: RowChange, shown: Collection[str] | None, shown_of_old: Collection[str] | None
) -> Iterator[str]:
    for record in _rows(change):
        fields: Iterable[Field] = record.fields
        counted = shown
        if shown_of_old is not None and (isinstance(change, Delete) or record is not change.record):
            counted = shown_of_old
        if counted is not None:
            pairs = zip(record.shape.names, record.fields, strict=True)
            fields = [field for name, field in pairs if name in counted]
        for field in fields:
            if isinstance(field, str):
                yield field


def shortened(change: RowChange) -> RowChange:
    """Return a change without its long values, and without NULLs, as if they were not known.

    Supabase's server leaves the same. The key is kept, however long it is.
    """
    relation = change.relation
    # Under REPLICA IDENTITY FULL every column is a part of the key.
    key = frozenset(
        () if relation.replica_identity is ReplicaIdentity.FULL else relation.key_shape.names
    )
    match change:
        case Insert():
            return attrs.evolve(change, record=_shortened(change.record, key))
        case Update():
            old = change.old_record
            return attrs.evolve(
                change,
                record=_shortened(change.record, key),
                old_record=None if old is None else _shortened(old, key),
            )
        case Delete():
            return attrs.evolve(change, old_record=_shortened(change.old_record, key))


def _shortened(record: Record, key: frozenset[str]) -> Record:
    fields = zip(record.shape.names, record.fields, strict=True)
    return Record(
        record.shape,
        tuple(field if name in key or _is_short(field) else UNCHANGED for name, field in fields),
    )


def _is_short(field: Field) -> bool:
    return isinstance(field, str) and len(field) <= SHORT and _bytes_of(field) <= SHORT


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _rows(change: RowChange) -> tuple[Record, ...]:
    match change:
        case Insert():
            return (change.record,)
        case Update():
            old = change.old_record
            return (change.record,) if old is None else (change.record, old)
        case Delete():
            return (change.old_record,)
