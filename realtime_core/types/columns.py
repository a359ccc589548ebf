"""Types: which kind a column's type is.

What is not known here is compared by its text, for equality only: PostgreSQL writes equal
values of one type equally, as a rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Final, TypeAlias

from ..changes import Relation
from ..records import Column
from .arrays import array_of
from .base import Key, Kind, UnreadableError, as_is
from .datetimes import DATETIMES
from .intervals import INTERVAL
from .json import JSON, JSONB
from .networks import NETWORKS
from .numbers import NUMBERS
from .ranges import RANGES
from .texts import CITEXT, TEXTS

__all__ = ["EnumOrders", "comparison_key", "enums_of", "kind_of"]

Labels: TypeAlias = tuple[str, ...]

EnumOrders: TypeAlias = Mapping[tuple[str, str], Sequence[str]]
"""Enum types, by schema and name, to their labels in the declared order."""

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
"""Without ``=``, or with one that compares areas."""


def enums_of(relation: Relation, enums: EnumOrders) -> Iterator[tuple[tuple[str, str], Labels]]:
    """Yield the enums that a relation's columns have, themselves or as elements."""
    for column in relation.columns:
        if column.type_schema != "pg_catalog":
            for name in (column.type_name, column.type_name.removeprefix("_")):
                key = (column.type_schema, name)
                if key in enums:
                    yield key, tuple(enums[key])


def kind_of(column: Column, enums: EnumOrders) -> Kind:
    """Return how a column's values are compared."""
    if column.type_schema == "pg_catalog":
        return _builtin(column.type_name)
    name = (column.type_schema, column.type_name)
    if name in enums:
        return _enum(column.type_name, enums[name])
    element = (column.type_schema, column.type_name.removeprefix("_"))
    if column.type_name.startswith("_") and element in enums:
        return array_of(_enum(element[1], enums[element]))
    # An extension may be in any schema, and which OIDs its types have is another matter in each
    # database: they are known by their name.
    return _EXTENSIONS.get(column.type_name) or _by_text(column.type_name)


def comparison_key(column: Column, text: str) -> Key:
    """Return what filters compare a value with that somebody has written.

    Of a type that is only compared by its text, and of an enum, that is the text.

    Raises:
        ValueError: if the column's type cannot hold it, saying why.
    """
    return kind_of(column, {}).parse(text)


@cache
def _builtin(name: str) -> Kind:
    if name in _KNOWN:
        return _KNOWN[name]
    if name in _UNEQUAL:
        return Kind(
            name, as_is, as_is, comparable=False, ordered=False, remedy="only is.null applies"
        )
    if name.startswith("_"):
        element = _builtin(name[1:])
        # Elements that are only texts here may contain what delimits others.
        return _by_text(name) if element.by_text else array_of(element)
    return _by_text(name)


def _by_text(name: str) -> Kind:
    remedy = "its values are compared by their text, with eq, neq, in and isdistinct"
    return Kind(name, as_is, as_is, ordered=False, by_text=True, remedy=remedy)


def _enum(name: str, labels: Sequence[str]) -> Kind:
    places = {label: place for place, label in enumerate(labels)}

    def rank(label: str) -> int:
        place = places.get(label)
        if place is None:
            shown = ", ".join(labels[:20])
            raise UnreadableError(f"it is none of the enum's labels as they were read: {shown}")
        return place

    def parse(label: str) -> str:
        rank(label)
        return label

    # A label that was added since is still equal to itself only.
    return Kind(name, as_is, parse, rank=rank)
