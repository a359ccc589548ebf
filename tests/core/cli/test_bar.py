"""The bar that shows how far a snapshot has come."""

from __future__ import annotations

import io

from realtime_core import Relation, ReplicaIdentity, SnapshotProgress
from realtime_core._cli.bar import Bar

TABLE = Relation(1, "public", "item", ReplicaIdentity.DEFAULT, ())


def progress(rows: int, *, done: int = 0, estimate: int | None = 2000) -> SnapshotProgress:
    return SnapshotProgress(TABLE, rows, estimate, rows, rows * 2**20, estimate, done, 2)


def test_it_is_drawn_now_and_then_and_gone_at_the_end() -> None:
    file, now = io.StringIO(), [0.0]
    bar = Bar(file, lambda: now[0])
    bar(progress(1000))
    now[0] = 0.05
    bar(progress(1200))
    now[0] = 0.2
    bar(progress(2400, done=1))
    bar(progress(2400, done=2))
    assert file.getvalue().split("\r\x1b[K") == [
        "",
        "[###############---------------]  50% 1,000 rows, 1,000 MiB, 0 of 2 tables",
        "[##############################]  99% 2,400 rows, 2,400 MiB, 1 of 2 tables",
        "",
    ]


def test_without_an_estimate_it_only_counts() -> None:
    file = io.StringIO()
    Bar(file)(progress(7, estimate=None))
    assert file.getvalue() == "\r\x1b[K7 rows, 7 MiB, 0 of 2 tables"
