"""What the log of replay costs: bytes and processor time of a change.

    python -m benchmarks.replay_log

It is fed with changes of 137 B of pgoutput, as objects: while a client is away, so that all are
kept, and while all clients are there and have proven what came a second ago.
"""

from __future__ import annotations

import gc
import time
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks._report import environment, save
from realtime_core import (
    LSN,
    Column,
    Insert,
    Record,
    Relation,
    ReplicaIdentity,
    StreamIdentity,
    Transaction,
)
from realtime_server.replay.change_log import ChangeLog

CHANGES: Final = 100_000
MISSED: Final = 500


def changes(per_transaction: int) -> list[Insert]:
    """Return inserts of 137 B of pgoutput."""
    names = ("id", "name", "email", "price", "done", "at", "parent", "note")
    columns = tuple(Column(name, 25, "text", "pg_catalog", -1, name == "id") for name in names)
    relation = Relation(16385, "public", "item", ReplicaIdentity.DEFAULT, columns)
    stream = StreamIdentity(7, 1, ("shop",))
    found = []
    for number in range(CHANGES):
        if number % per_transaction == 0:
            lsn = LSN(0x1000000 + number * 300)
            one = Transaction(number % 2**32, lsn, datetime.now(UTC), None, stream)
        fields = (
            *(str(100_000 + number), f"Delilah Winter-{number:06}", f"d.{number:06}@example.com"),
            *("42.15", "t", f"2026-11-24 05:36:00.{number:06}+00", None, f"note {number:06}"),
        )
        found.append(
            Insert(one, number % per_transaction, relation, Record(relation.shape, fields))
        )
    return found


class Clock:
    """Says what it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def log() -> list[dict[str, Any]]:
    """The log, while somebody is away and while nobody is."""
    rows = []
    for per_transaction in (1, 10, 1000):
        events = changes(per_transaction)
        fields = events[0].record.fields
        size = 8 + sum(1 if one is None else 5 + len(str(one)) for one in fields)
        batches = [events[at : at + 10] for at in range(0, CHANGES, 10)]
        clock = Clock()
        away = ChangeLog(max_bytes=1 << 30, window=1e9, clock=clock)
        here = ChangeLog(max_bytes=1 << 30, window=1e9, clock=clock)
        gc.collect()
        gc.disable()
        begin = time.process_time()
        for batch in batches:
            clock.now += 0.01
            away.append(batch)
        packing = time.process_time() - begin
        begin = time.process_time()
        for number, batch in enumerate(batches):
            clock.now += 0.01
            here.append(batch)
            if number % 100 == 99:
                # All have proven what came a second ago.
                one = batches[number - 99][0]
                here.trim((one.transaction.commit_lsn, one.index))
        passing = time.process_time() - begin
        here.trim(here.end)
        begin = time.process_time()
        place, count = away.floor, 0
        while place < away.end:
            read, place = away.read(place, MISSED)
            count += len(read)
        reading = time.process_time() - begin
        gc.enable()
        assert count == CHANGES
        rows.append(
            {
                "rows a transaction": per_transaction,
                "B of pgoutput": size,
                "B a change": round(away.bytes / CHANGES, 1),
                "µs a change, somebody away": round(packing / CHANGES * 1e6, 2),
                "µs a change, all there": round(passing / CHANGES * 1e6, 2),
                "µs a change, read": round(reading / CHANGES * 1e6, 2),
                "B, all there and quiet": here.bytes,
            }
        )
    return rows


def main() -> None:
    result = {"environment": environment(), "log": log()}
    print(*result["log"], sep="\n")
    print(save("replay_log", "python -m benchmarks.replay_log", result))


if __name__ == "__main__":
    main()
