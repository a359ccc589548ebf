"""How many bytes a change holds, for bounds of transactions and batches."""

from __future__ import annotations

from typing import Final

from ..changes import Change, LogicalMessage, RawRows

__all__ = ["size_of"]

_CHANGE_BYTES: Final = 100
"""How many bytes a change counts besides its values."""


def size_of(change: Change | RawRows) -> int:
    """Return about how many bytes a change holds."""
    if isinstance(change, RawRows):
        return sum(map(len, change.messages)) + _CHANGE_BYTES * len(change.messages)
    size = _CHANGE_BYTES
    for record in (getattr(change, "record", None), getattr(change, "old_record", None)):
        if record is not None:
            for field in record.fields:
                if type(field) is str or type(field) is bytes:
                    size += len(field)
    if isinstance(change, LogicalMessage):
        size += len(change.content)
    return size
