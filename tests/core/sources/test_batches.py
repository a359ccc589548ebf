"""Which event of a batch has the position that the batch ends at."""

from __future__ import annotations

from typing import Any

import pytest

from realtime_core import (
    Column,
    Relation,
    ReplicaIdentity,
    Snapshot,
    SnapshotBegin,
    SnapshotComplete,
    SnapshotProgress,
)
from realtime_core.lsn import LSN
from realtime_core.positions import Position, StreamIdentity
from realtime_core.records import Record
from realtime_core.sources._batches import last_placed

COLUMN = Column("id", 23, "int4", "pg_catalog", -1, True)
TABLE = Relation(1, "public", "item", ReplicaIdentity.DEFAULT, (COLUMN,))
ROW: Any = Snapshot(
    TABLE, Record(TABLE.shape, ("1",)), SnapshotProgress(TABLE, 1, None, 1, 1, None, 0, 1)
)
BEGIN = SnapshotBegin((TABLE,), None)
COMPLETE = SnapshotComplete(Position(LSN(7), 0, StreamIdentity(7, 1, ["shop"])), 1)
FORMER = object()


@pytest.mark.parametrize(
    ("batch", "last"),
    [
        ([], FORMER),
        ([ROW, ROW], FORMER),
        ([BEGIN, ROW, ROW], None),
        ([COMPLETE, ROW], COMPLETE),
        ([ROW, ROW, COMPLETE], COMPLETE),
    ],
)
def test_rows_have_no_position(batch: list[Any], last: object) -> None:
    assert last_placed(batch, FORMER) is last
