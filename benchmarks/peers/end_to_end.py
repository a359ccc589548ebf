"""Read a slot until so many rows have come, and print how long that took from the first row.

    python end_to_end.py CASE PORT DATABASE PUBLICATION SLOT ROWS

A process reads one slot once. The cases of pgoutput-decoder run in its own environment, all
others in this one.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any


class Stopwatch:
    """Counts rows and notes when the first and the last wanted one came."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._seen = 0
        self._started = (0.0, 0.0)

    def row(self) -> bool:
        """Count a row; say whether it was the last one."""
        if not self._seen:
            # Else one full collection of what was imported, as long as a tenth of all rows, falls
            # into the time of some runs.
            gc.collect()
            self._started = (time.perf_counter(), time.process_time())
        self._seen += 1
        return self._seen == self._wanted

    def report(self) -> None:
        wall, cpu = self._started
        result = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "rows": self._seen,
        }
        print(json.dumps(result), flush=True)
        # The reader in Rust does not end by itself.
        os._exit(0)


async def source(
    port: int,
    database: str,
    publication: str,
    slot: str,
    watch: Stopwatch,
    use: Callable[[Any], object],
) -> None:
    from realtime_core import PgoutputSource

    dsn = f"postgresql://postgres@127.0.0.1:{port}/{database}"
    async with PgoutputSource(dsn, publications=[publication], slot=slot) as changes:
        async for change in changes:
            use(change)
            if watch.row():
                watch.report()


async def pgoutput_decoder(
    port: int,
    database: str,
    publication: str,
    slot: str,
    watch: Stopwatch,
    use: Callable[[Any], object],
) -> None:
    import pgoutput_decoder

    reader = pgoutput_decoder.LogicalReplicationReader(
        publication_name=publication,
        slot_name=slot,
        host="127.0.0.1",
        port=port,
        database=database,
        user="postgres",
        password="",
    )
    async for message in reader:
        use(message)
        if watch.row():
            watch.report()


def payload_bytes() -> Callable[[Any], object]:
    from realtime_server.fanout.payloads.row_payload import RelationPlan, row_payloads

    plans: dict[tuple[str, str], RelationPlan] = {}

    def use(change: Any) -> Iterable[bytes]:
        return [row.payload for row in row_payloads(change, plans)]

    return use


def debezium_json() -> Callable[[Any], object]:
    import pgoutput_decoder

    return lambda message: pgoutput_decoder.message_to_debezium_json(message, None)


def main() -> None:
    case, port, database, publication, slot, rows = sys.argv[1:]
    watch = Stopwatch(int(rows))
    place = (int(port), database, publication, slot, watch)
    match case:
        case "changes":
            asyncio.run(source(*place, lambda change: None))
        case "values":
            from row_values import read_values

            asyncio.run(source(*place, read_values))
        case "v1 json":
            asyncio.run(source(*place, payload_bytes()))
        case "pgoutput-decoder values":
            both = lambda message: (message.before, message.after)  # noqa: E731
            asyncio.run(pgoutput_decoder(*place, both))
        case "pgoutput-decoder json":
            asyncio.run(pgoutput_decoder(*place, debezium_json()))


main()
