"""Finds the DataType of a column.

Values of a type that is not known here are compared by their texts, for equality only. As a rule
PostgreSQL writes equal values in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Final, TypeAlias

from ..changes import Relation
from ..records import Column
from .arrays import array_of
from .base import DataType, Key, UnreadableError, as_is
from .datetimes import DATETIMES
from .intervals import INTERVAL
from .json import JSON, JSONB
from .networks import NETWORKS
from .numbers import NUMBERS
from .ranges import RANGES
from .texts import CITEXT, TEXTS

__all__ = ["EnumOrders", "comparison_key", "enums_of", "data_type_of"]

Labels: TypeAlias = tuple[str, ...]

EnumOrders: TypeAlias = Mapping[tuple[str, str], Sequence[str]]
"""The labels of enum types in the declared order, by the schema and the name of the type."""

_KNOWN: Final = {
    **NUMBERS,
    **TEXTS,
    **DATETIMES,
    INTERVAL.name: INTERVAL,
    **NETWORKS,
    JSON.name: JSON,
    JSONB.name: JSONB,
    **RANGES,
}
_EXTENSIONS: Final = {"citext": CITEXT, "_citext": array_of(CITEXT)}
_UNEQUAL: Final = frozenset(
    {
        *("xml", "jsonpath", "txid_snapshot", "pg_snapshot", "refcursor"),
        *("point", "line", "lseg", "box", "path", "polygon", "circle"),
    }
)
"""Types without ``=``, or with one that compares areas."""


def enums_of(relation: Relation, enums: EnumOrders) -> Iterator[tuple[tuple[str, str], Labels]]:
    """Yield the enum types of a relation's columns, and of the elements of its array columns."""
    for column in relation.columns:
        if column.type_schema != "pg_catalog":
            for name in (column.type_name, column.type_name.removeprefix("_")):
                key = (column.type_schema, name)
                if key in enums:
                    yield key, tuple(enums[key])


def data_type_of(column: Column, enums: EnumOrders) -> DataType:
    """Return the DataType of a column.

    Args:
        column: the column.
        enums: the labels of the enum types that are known.
    """
    if column.type_schema == "pg_catalog":
        return _builtin(column.type_name)
    name = (column.type_schema, column.type_name)
    if name in enums:
        return _enum(column.type_name, enums[name])
    element = (column.type_schema, column.type_name.removeprefix("_"))
    if column.type_name.startswith("_") and element in enums:
        return array_of(_enum(element[1], enums[element]))
    # An extension may be installed in any schema, and the OIDs of its types differ between
    # databases. So its types are recognized by their names.
    return _EXTENSIONS.get(column.type_name) or _by_text(column.type_name)


def comparison_key(column: Column, text: str) -> Key:
    """Read a value that somebody has written for a column into its key.

    The key of an enum, and of a type that is compared by its texts, is the text.

    Raises:
        ValueError: if the text is not a value of the column's type; the message says why.
    """
    return data_type_of(column, {}).parse(text)


@cache
def _builtin(name: str) -> DataType:
    if name in _KNOWN:
        return _KNOWN[name]
    if name in _UNEQUAL:
        return DataType(
            name, as_is, as_is, comparable=False, ordered=False, remedy="only is.null applies"
        )
    if name.startswith("_"):
        element = _builtin(name[1:])
        # The delimiter of an array is known only for elements of a type that is known.
        return _by_text(name) if element.by_text else array_of(element)
    return _by_text(name)


def _by_text(name: str) -> DataType:
    remedy = "its values are compared by their text, with eq, neq, in and isdistinct"
    return DataType(name, as_is, as_is, ordered=False, by_text=True, remedy=remedy)


def _enum(name: str, labels: Sequence[str]) -> DataType:
    places = {label: place for place, label in enumerate(labels)}

    def rank(label: str) -> int:
        place = places.get(label)
        if place is None:
            shown = ", ".join(labels[:20])
            raise UnreadableError(
                f"it is not one of the enum's labels when they were read: {shown}"
            )
        return place

    def parse(label: str) -> str:
        rank(label)
        return label

    # A row may have a label that was added after the labels were read. It is equal to itself only.
    return DataType(name, as_is, parse, rank=rank)
