"""What filters cost: to read, to type, to ask; alone and by the hundred thousand.

    python -m benchmarks.filters [--rounds N]

Every figure is the best of the rounds; a ratio is made of figures of the same round, and is the
median of the rounds'. Changes are inserts of a relation with eight columns that were decoded
before; converting what a filter reads of them is part of its cost.

``index`` has subscriptions with equality filters on one column; the changes come in turns from
many places in it, so that what is looked up is not in the processor's cache already. So many
subscriptions pass each of them: in ``shared`` they have one filter in common; in ``distinct``
each has one more condition of its own, so that all of them are evaluated. ``each by itself``
asks every compiled filter in turn.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from benchmarks._report import environment, save
from realtime_core import LSN, Column, Insert, Record, Relation, ReplicaIdentity, Transaction
from realtime_core.filters import CompiledFilter, FilterIndex, parse_filter

COLUMNS = {
    **{"id": (20, "int8"), "user_id": (20, "int8"), "title": (25, "text"), "done": (16, "bool")},
    **{"price": (1700, "numeric"), "created_at": (1184, "timestamptz")},
    **{"tags": (1009, "_text"), "data": (3802, "jsonb")},
}
RELATION = Relation(
    16385,
    "public",
    "todos",
    ReplicaIdentity.DEFAULT,
    tuple(
        Column(name, oid, type_name, "pg_catalog", -1, name == "id")
        for name, (oid, type_name) in COLUMNS.items()
    ),
)
FIELDS = (
    *("4711", "42", "Buy oat milk and bread", "f", "12.50", "2026-11-24 05:36:00.166595+00"),
    *("{shop,food}", '{"a": {"b": "x"}, "n": [1, 2, 3]}'),
)
NESTED = "or(and(user_id.eq.1,price.gt.10),and(user_id.eq.42,not.or(done.is.true,price.gt.99)))"
FILTERS = {
    "equality": "user_id=eq.42",
    "in of ten": "user_id=in.(1,2,3,4,5,6,7,8,9,42)",
    "and of three": "user_id=eq.42,price=gt.10,done=is.false",
    "nested": NESTED,
    "like": "title=like.*milk*",
    "match": "title=match.milk.*bread$",
    "timestamp": "created_at=gte.2026-11-24T00:00:00Z",
    "array": "tags=cs.{food}",
    "json path": "data->a->>b=eq.x",
}
SUBSCRIPTIONS = (10, 1_000, 100_000)
MATCHING = (1, 10, 100)
CHANGES = 64


def change(user: int = 42) -> Insert:
    fields = (FIELDS[0], str(user), *FIELDS[2:])
    transaction = Transaction(1, LSN(1), None)
    return Insert(transaction, 0, RELATION, Record(RELATION.shape, fields))


def seconds(call: Callable[[], object], *, within: float = 0.05) -> float:
    """Return the best time of a call, of as many as fit into some milliseconds, at least five.

    Of the processor, not of the clock on the wall: nothing here waits.
    """
    best = float("inf")
    number = 1
    end = time.process_time() + within
    samples = 0
    while samples < 5 or time.process_time() < end:
        begin = time.process_time()
        for _ in range(number):
            call()
        taken = time.process_time() - begin
        samples += 1
        best = min(best, taken / number)
        number = max(1, min(1000, int(0.001 / best)))
    return best


def alone() -> dict[str, Any]:
    """Return what one filter costs, in microseconds."""
    found = {}
    row = change()
    for name, text in FILTERS.items():
        parsed = parse_filter(text)
        compiled = parsed.compile(RELATION)
        assert compiled(row.record), name
        found[name] = {
            "filter": text,
            "parse": 1e6 * seconds(lambda text=text: parse_filter(text)),
            "compile": 1e6 * seconds(lambda parsed=parsed: parsed.compile(RELATION)),
            "ask": 1e6 * seconds(lambda compiled=compiled: compiled(row.record)),
        }
    return found


def texts(subscriptions: int, matching: int, kind: str) -> list[str]:
    """Return the filters: for each user as many as a change of his shall match."""
    if kind == "shared":
        return [f"user_id=eq.{number // matching}" for number in range(subscriptions)]
    return [
        f"user_id=eq.{number // matching},price=gt.{number % matching / 100}"
        for number in range(subscriptions)
    ]


def changes(subscriptions: int, matching: int) -> list[Insert]:
    """Return changes of users from all over."""
    users = max(subscriptions // matching, 1)
    return [change(users * place // CHANGES) for place in range(CHANGES)]


def by_index(subscriptions: int, matching: int, kind: str) -> Callable[[], object]:
    index: FilterIndex[int] = FilterIndex()
    for number, text in enumerate(texts(subscriptions, matching, kind)):
        index.add(number, "public", "todos", parse_filter(text))
    rows = changes(subscriptions, matching)
    assert all(len(index.match(row)) == matching for row in rows)

    def ask() -> None:
        for row in rows:
            index.match(row)

    return ask


def each_by_itself(subscriptions: int) -> Callable[[], object]:
    compiled: list[CompiledFilter] = [
        parse_filter(text).compile(RELATION) for text in texts(subscriptions, 1, "shared")
    ]
    records = [row.record for row in changes(subscriptions, 1)]

    def ask() -> None:
        for record in records:
            _ = [number for number, passes in enumerate(compiled) if passes(record)]

    return ask


def memory(subscriptions: int, text: Callable[[int], str]) -> dict[str, float]:
    """Return the bytes that a subscription takes, typed and filed; and seconds to add them all."""
    gc.collect()
    tracemalloc.start()
    index: FilterIndex[int] = FilterIndex()
    for number in range(subscriptions):
        index.add(number, "public", "todos", parse_filter(text(number)))
    index.match(change())
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    begin = time.process_time()
    index = FilterIndex()
    for number in range(subscriptions):
        index.add(number, "public", "todos", parse_filter(text(number)))
    added = time.process_time() - begin
    begin = time.process_time()
    index.match(change())
    return {
        "bytes each": taken / subscriptions,
        "seconds to add": added,
        "seconds to type": time.process_time() - begin,
    }


def measure(rounds: int) -> dict[str, Any]:
    gc.collect()
    gc.freeze()
    result: dict[str, Any] = {"alone, µs": alone()}
    calls = {
        (kind, subscriptions, matching): by_index(subscriptions, matching, kind)
        for kind in ("shared", "distinct")
        for subscriptions in SUBSCRIPTIONS
        for matching in MATCHING
        if matching <= subscriptions
    }
    single = {count: each_by_itself(count) for count in (10, 1_000)}
    times: dict[tuple[str, int, int], list[float]] = {key: [] for key in calls}
    singles: dict[int, list[float]] = {count: [] for count in single}
    for _ in range(rounds):
        for key, call in calls.items():
            times[key].append(seconds(call) / CHANGES)
        for count, call in single.items():
            singles[count].append(seconds(call) / CHANGES)
    result["index, µs a change"] = {
        f"{kind}: {subscriptions:,} subscriptions, {matching} match": 1e6 * min(found)
        for (kind, subscriptions, matching), found in times.items()
    }
    result["changes a second"] = {
        f"{subscriptions:,} subscriptions, {matching} match": 1 / min(found)
        for (kind, subscriptions, matching), found in times.items()
        if kind == "shared"
    }
    result["each by itself, µs a change"] = {
        f"{count:,} subscriptions, 1 matches": 1e6 * min(found) for count, found in singles.items()
    }

    def ratio(one: list[float], other: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(one, other, strict=True))

    result["ratios"] = {
        "100,000 subscriptions to 10, 1 matches": ratio(
            times["shared", 100_000, 1], times["shared", 10, 1]
        ),
        "100,000 subscriptions to 1,000, 100 match": ratio(
            times["shared", 100_000, 100], times["shared", 1_000, 100]
        ),
        "100 distinct matches to 10, of 100,000": ratio(
            times["distinct", 100_000, 100], times["distinct", 100_000, 10]
        ),
        "each by itself to the index, 10 subscriptions": ratio(singles[10], times["shared", 10, 1]),
        "each by itself to the index, 1,000 subscriptions": ratio(
            singles[1_000], times["shared", 1_000, 1]
        ),
    }
    result["memory"] = {
        "equality filters of their own": memory(100_000, lambda n: f"user_id=eq.{n}"),
        "and of two of their own": memory(100_000, lambda n: f"user_id=eq.{n},price=gt.{n % 100}"),
        "a filter for a hundred": memory(100_000, lambda n: f"user_id=eq.{n // 100}"),
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    result = {"environment": environment("google-re2"), **measure(arguments.rounds)}
    command = f"python -m benchmarks.filters --rounds {arguments.rounds}"
    path = save("filters", command, result)
    show(result)
    print(f"written to {path}")


def show(result: dict[str, Any], depth: int = 0) -> None:
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"{'  ' * depth}{name}")
            show(value, depth + 1)
        else:
            shown = f"{value:,.2f}" if isinstance(value, float) else value
            print(f"{'  ' * depth}{name}: {shown}")


if __name__ == "__main__":
    main()
