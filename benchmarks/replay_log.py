"""What the log of replay costs: bytes and processor time of a change, and bytes of an absence.

    python -m benchmarks.replay_log

The log is fed with changes of 137 B of pgoutput, as objects, a thousand in a second, ten in a
batch: while a client is away, so that all are kept, and while all clients are there, and have all
that came before their last message but one, which was two heartbeats ago.

An absence is what a channel leaves whose client is away: of clients of as many sites, or of one,
that have lost their connections together, or one behind the other, between others' changes.
"""

from __future__ import annotations

import gc
import hashlib
import math
import time
import tracemalloc
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks._report import environment, save
from realtime_core import (
    LSN,
    Begin,
    Column,
    Commit,
    Event,
    Insert,
    Record,
    Relation,
    ReplicaIdentity,
    StreamIdentity,
    Transaction,
)
from realtime_core.positions import LAST_INDEX
from realtime_server.replay.absences import Absence, Absences
from realtime_server.replay.change_log import ChangeLog
from realtime_server.replay.identity import Key
from realtime_server.replay.places import BEFORE, Place

CHANGES: Final = 100_000
MISSED: Final = 500
TOGETHER: Final = 10
"""Changes of a batch."""
RATE: Final = 1000
"""Changes a second."""
IN_A_SECOND: Final = RATE // TOGETHER
"""Batches of a second."""
HEARTBEATS: Final = 50
"""Seconds of two heartbeats."""
AWAY: Final = 20_000
"""Channels whose clients are away."""
PASSES: Final = 3
"""Each figure is the least of so many."""


def batches(per_transaction: int) -> list[list[Event]]:
    """Return inserts of 137 B of pgoutput as the server's source yields them."""
    names = ("id", "name", "email", "price", "done", "at", "parent", "note")
    columns = tuple(Column(name, 25, "text", "pg_catalog", -1, name == "id") for name in names)
    relation = Relation(16385, "public", "item", ReplicaIdentity.DEFAULT, columns)
    stream = StreamIdentity(7, 1, ("shop",))
    found: list[list[Event]] = []
    for number in range(CHANGES):
        if number % TOGETHER == 0:
            found.append([])
        index = number % per_transaction
        if index == 0:
            lsn = LSN(0x1000000 + number * 300)
            one = Transaction(number % 2**32, lsn, datetime.now(UTC), None, stream)
            found[-1].append(Begin(one))
        fields = (
            *(str(100_000 + number), f"Delilah Winter-{number:06}", f"d.{number:06}@example.com"),
            *("42.15", "t", f"2026-11-24 05:36:00.{number:06}+00", None, f"note {number:06}"),
        )
        found[-1].append(Insert(one, index, relation, Record(relation.shape, fields)))
        if index == per_transaction - 1:
            found[-1].append(Commit(one, LSN(lsn + 200), per_transaction))
    return found


class Clock:
    """Says what it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Fed:
    """A log that is fed with batches, and the processor time that this takes.

    Args:
        kept: the seconds after which nobody needs a change any more; None: somebody is away.
    """

    def __init__(self, found: list[list[Event]], kept: int | None) -> None:
        clock = Clock()
        self.log = ChangeLog(max_bytes=1 << 30, window=1e9, clock=clock)
        ends: list[Place] = []
        begin = time.process_time()
        for number, batch in enumerate(found):
            clock.now += TOGETHER / RATE
            self.log.append(batch)
            if kept is not None and number % IN_A_SECOND == 0:
                ends.append(self.log.end)
                if len(ends) > kept:
                    self.log.trim(ends[-kept - 1])
        self.seconds = time.process_time() - begin


def read(log: ChangeLog) -> float:
    """Read all that a log has; return the seconds of processor time."""
    begin = time.process_time()
    place, count = log.floor, 0
    while place < log.end:
        some, place = log.read(place, MISSED)
        count += len(some)
    assert count == CHANGES
    return time.process_time() - begin


def log() -> list[dict[str, Any]]:
    """The log, while somebody is away and while nobody is."""
    rows = []
    for per_transaction in (1, 10, 1000):
        found = batches(per_transaction)
        insert = next(event for event in found[0] if isinstance(event, Insert))
        size = 8 + sum(1 if one is None else 5 + len(str(one)) for one in insert.record.fields)
        least = {"away": math.inf, "there": math.inf, "read": math.inf}
        gc.collect()
        gc.disable()
        for _ in range(PASSES):
            there = Fed(found, HEARTBEATS)
            there.log.trim(there.log.end)
            away = Fed(found, None)
            least["away"] = min(least["away"], away.seconds)
            least["there"] = min(least["there"], there.seconds)
            least["read"] = min(least["read"], read(away.log))
        gc.enable()
        microseconds = {name: round(each / CHANGES * 1e6, 2) for name, each in least.items()}
        rows.append(
            {
                "rows a transaction": per_transaction,
                "B of pgoutput": size,
                "B a change": round(away.log.bytes / CHANGES, 1),
                "µs a change, somebody away": microseconds["away"],
                "µs a change, all there": microseconds["there"],
                "µs a change, read": microseconds["read"],
                "B, all there and quiet": there.log.bytes,
            }
        )
    return rows


def absence_bytes(sites: int, *, together: bool) -> float:
    """Return the bytes that each of many absences takes.

    Args:
        sites: from how many sites their clients come.
        together: whether they have lost their connections together.
    """
    absences = Absences(window=300.0, most=AWAY, clock=Clock())
    gc.collect()
    tracemalloc.start()
    written = place = BEFORE
    for number in range(AWAY):
        if number == 0 or not together:
            lsn = (1 << 40) + number * 300
            written, place = (lsn, LAST_INDEX), (lsn, LAST_INDEX - 1)
        whose = (number % sites).to_bytes(8) * 3
        key = Key(hashlib.md5(str(number).encode()).digest(), False, whose)
        seen, ref = 5000 + number, 1000 + number
        absences.add(Absence(key, ref, place, number / 8, written=written, seen=seen))
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return round(taken / AWAY)


def absences() -> list[dict[str, Any]]:
    """Clients that are away."""
    return [
        {"sites": sites, "together": together, "B": absence_bytes(sites, together=together)}
        for sites in (AWAY, 1)
        for together in (True, False)
    ]


def main() -> None:
    result = {"environment": environment(), "log": log(), "absences": absences()}
    print(*result["log"], *result["absences"], sep="\n")
    print(save("replay_log", "python -m benchmarks.replay_log", result))


if __name__ == "__main__":
    main()
