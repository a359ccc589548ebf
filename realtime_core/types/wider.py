"""Which types of PostgreSQL hold every value of a column as it is."""

from __future__ import annotations

from typing import Final

from ..records import Column

__all__ = ["holds_values"]

_WIDER: Final = {
    "int2": ("int4", "int8", "numeric"),
    "int4": ("int8", "numeric"),
    "int8": ("numeric",),
    "float4": ("float8",),
    "bpchar": ("varchar",),
}
"""The types besides text that hold all values of a type, if they have no modifier."""


def holds_values(column: Column, type_name: str, modifier: int = -1) -> bool:
    """Return whether a column of another table holds all values of this one.

    Args:
        column: the column that the values are of.
        type_name: the name of the other column's type, as in ``pg_type``; for a domain that of its
            base type, whose constraints are not looked at.
        modifier: its type modifier, as in ``pg_attribute``; -1 for none.
    """
    source = column.type_modifier
    if modifier == -1:
        return type_name in (column.type_name, "text", *_WIDER.get(column.type_name, ()))
    if type_name != column.type_name or source == -1:
        return False
    if type_name in ("varchar", "varbit"):
        return modifier >= source
    if type_name == "numeric":
        more_behind = (modifier - 4 & 0x7FF) - (source - 4 & 0x7FF)
        return 0 <= more_behind <= (modifier >> 16) - (source >> 16)
    return modifier == source
