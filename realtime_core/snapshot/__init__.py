"""A snapshot: the rows that tables had at one place of the stream, before its changes."""

from .events import (
    BackfillStep,
    Snapshot,
    SnapshotBegin,
    SnapshotComplete,
    SnapshotEvent,
    SnapshotProgress,
)

__all__ = [
    "BackfillStep",
    "Snapshot",
    "SnapshotBegin",
    "SnapshotComplete",
    "SnapshotEvent",
    "SnapshotProgress",
]
