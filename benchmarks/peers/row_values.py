"""Reads the rows of a change as Python values, which several of the programs here do."""

from __future__ import annotations

from typing import Any

from realtime_core import Delete, Insert, Update

__all__ = ["read_values"]


def read_values(change: Any) -> None:
    """Read every field of the new and of the old row.

    Every row of shop.wide has an infinite date, which Python cannot hold, and stays a text.
    """
    kind = type(change)
    if kind is Insert:
        change.record.as_python(on_error="text")
    elif kind is Update:
        change.record.as_python(on_error="text")
        if change.old_record is not None:
            change.old_record.as_python(on_error="text")
    elif kind is Delete:
        change.old_record.as_python(on_error="text")
