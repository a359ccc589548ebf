"""What a change costs on its way to bindings: its typed payload, and finding who asked for it.

    python -m benchmarks.bindings

Payloads of a row of eight columns, each rendered once, against the original's style and against
what one would write first: Python values from the driver, then a JSON library. Then the
hub's time for a change, with more and more channels whose filters it does not pass, and one
that it does. One run measures all of it, the best of many short rounds; only ratios are worth
keeping.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson

from benchmarks._report import environment, save
from realtime_core import LSN, Column, Insert, Record, Relation, ReplicaIdentity, Transaction
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.payloads.row_payload import Plans, RowPayload, row_payloads
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.joins import parse_join
from realtime_server.phoenix.serializers import SERIALIZERS

ROUNDS = 40
ROWS = 200
SELECT = frozenset({"id", "name"})
CHANNELS = (1, 100, 10_000)

COLUMNS = {
    "id": ("int8", 20),
    "user_id": ("int4", 23),
    "name": ("text", 25),
    "email": ("text", 25),
    "active": ("bool", 16),
    "price": ("numeric", 1700),
    "created_at": ("timestamptz", 1184),
    "meta": ("jsonb", 3802),
}
RELATION = Relation(
    16385,
    "public",
    "users",
    ReplicaIdentity.DEFAULT,
    tuple(
        Column(name, oid, kind, "pg_catalog", -1, name == "id")
        for name, (kind, oid) in COLUMNS.items()
    ),
)


class NullOutbox:
    """Takes everything, keeps nothing."""

    def write(self, frames: bytes, count: int = 1) -> None:
        pass


def inserts() -> list[Insert]:
    transaction = Transaction(730, LSN(4096), datetime(2026, 11, 24, tzinfo=UTC))
    return [
        Insert(
            transaction,
            number,
            RELATION,
            Record(
                RELATION.shape,
                (
                    str(9007199254740993 + number),
                    str(number),
                    "Ada Lovelace",
                    "ada@example.com",
                    "t",
                    "12345.67",
                    "2026-11-24 05:36:00.166595+00",
                    '{"a": [1, 2, 3], "b": "x"}',
                ),
            ),
        )
        for number in range(ROWS)
    ]


def best(measured: Callable[[], Any], count: int) -> float:
    """Return microseconds for one of ``count``."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        measured()
        times.append(time.perf_counter() - start)
    return min(times) / count * 1e6


def payload_times() -> dict[str, float]:
    changes = inserts()
    plans: Plans = {}

    def fresh() -> list[RowPayload]:
        return [row_payloads(change, plans)[0] for change in changes]

    def by_a_library(dumps: Callable[[Any], Any]) -> None:
        for change in changes:
            dumps(
                {
                    "schema": RELATION.schema,
                    "table": RELATION.table,
                    "type": "INSERT",
                    "commit_timestamp": change.transaction.commit_time,
                    "columns": [
                        {"name": name, "type": kind} for name, (kind, _) in COLUMNS.items()
                    ],
                    "record": change.record.as_python(),
                }
            )

    return {
        "typed": best(lambda: [each.typed("INSERT") for each in fresh()], ROWS),
        "typed, two columns": best(
            lambda: [each.typed("INSERT", SELECT) for each in fresh()], ROWS
        ),
        "the original's style": best(lambda: [each.payload for each in fresh()], ROWS),
        "Python values, then orjson": best(
            lambda: by_a_library(lambda value: orjson.dumps(value, default=_loosely)), ROWS
        ),
        "Python values, then json": best(
            lambda: by_a_library(lambda value: json.dumps(value, default=_loosely)), ROWS
        ),
    }


def _loosely(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else str(value)


def hub_times() -> dict[str, float]:
    """Return microseconds for a change that one of so many channels gets."""
    times = {}
    changes = inserts()
    for channels in CHANNELS:
        hub = Hub()
        for number in range(channels):
            # Each its own user; the changes are about the first ROWS of them, or nobody.
            wanted = number if channels == 1 else number + ROWS - 1
            binding = {"schema": "public", "table": "users", "filter": f"user_id=eq.{wanted}"}
            config = parse_join({"config": {"postgres_changes": [binding]}})
            assert config is not None
            hub.subscribe(
                Subscription(
                    Topic("realtime:room", ()), SERIALIZERS["2.0.0"], NullOutbox(), config.bindings
                )
            )
        times[f"{channels:,}"] = best(lambda hub=hub: hub.publish(changes), ROWS)  # type: ignore[misc]
    return times


def main() -> None:
    payloads, hub = payload_times(), hub_times()
    print("a payload, µs (of the typed one's time)")
    for name, micros in payloads.items():
        print(f"  {name:<28}{micros:>8.2f}{micros / payloads['typed']:>8.2f}")
    print(
        "a change in the hub, µs, by channels with a filter of their own; one of them matches once"
    )
    for name, micros in hub.items():
        print(f"  {name:<28}{micros:>8.2f}{micros / hub['1']:>8.2f}")
    save(
        "bindings",
        "python -m benchmarks.bindings",
        {**environment("orjson"), "payload_us": payloads, "hub_us_by_channels": hub},
    )


if __name__ == "__main__":
    main()
