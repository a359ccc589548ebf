"""Makes the events of rows that were copied."""

from __future__ import annotations

from .._implementation import IMPLEMENTATION
from ..changes import Relation
from ..records import Record
from .copy_text import read_rows
from .events import Snapshot, SnapshotProgress

__all__ = ["row_events"]


def row_events(relation: Relation, data: bytes, progress: SnapshotProgress) -> list[Snapshot]:
    """Return an event for each row of a table.

    Args:
        relation: the table.
        data: whole rows, in the text format of COPY.
        progress: how far the snapshot has come with these rows.

    Raises:
        DecodeError: see :func:`~realtime_core.snapshot.copy_text.read_rows`.
    """
    if IMPLEMENTATION == "c":
        from realtime_core_c import copied_rows

        found = copied_rows.row_events(relation, data, progress)
        if found is not None:
            return found
    events = []
    shape, new = relation.shape, object.__new__
    # Objects are made without calling their classes, which takes half the time.
    for fields in read_rows(data, len(relation.columns)):
        record = new(Record)
        record.shape = shape
        record.fields = fields
        event = new(Snapshot)
        event.relation = relation
        event.record = record
        event.progress = progress
        events.append(event)
    return events
