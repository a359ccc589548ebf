"""Where RLS mode's time goes: what is PostgreSQL's, and what is the server's own.

    python -m benchmarks.rls_profile

Two cases of :mod:`benchmarks.rls`, in batches of 100 changes as fast as they go; and one change at
a time, 20 a second, as ``benchmarks.rls_latency`` writes them. It is processor time: the server's
own by its steps, and PostgreSQL's by the sessions that answer the two questions of a batch, how its
tables are now and which rows viewers may see. A tenth of the batches took less: the machine may be
shared.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from benchmarks._report import environment, save
from benchmarks.rls import BATCH, CASES, Bench, Case, database, hub_of
from realtime_core import Insert
from realtime_core.pgoutput import ChangeDecoder
from realtime_server.config.database.connections import Connections
from realtime_server.fanout.payloads.oversize import size_of
from realtime_server.rls.checker import Checker
from realtime_server.rls.counters import Counters
from realtime_server.rls.lookup.questions import Question, RowsToCheck, VisibilityAnswer
from realtime_server.rls.lookup.visibility import Visibility
from realtime_server.rls.matcher import Matcher
from realtime_server.rls.reader import Read
from realtime_server.rls.setup.migrations import migrate
from realtime_server.rls.table_check import Lookup
from realtime_server.rls.viewers import Viewer

WANTED: Final = ("1000 shared", "1000 eq filters, one matches")
ROUNDS: Final = 300
PAUSE: Final = 0.05
"""Seconds between two changes that come one at a time."""
SINGLE: Final = 100


class Times:
    """Seconds of processor time that steps took in this process, and in PostgreSQL, each time."""

    def __init__(self) -> None:
        self.own: dict[str, list[float]] = defaultdict(list)
        self.postgres: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        begin = time.thread_time()
        try:
            yield
        finally:
            self.own[step].append(time.thread_time() - begin)

    @contextmanager
    def of_sessions(self, sessions: Sessions) -> Iterator[None]:
        before = sessions.seconds()
        try:
            yield
        finally:
            for question, seconds in sessions.seconds().items():
                self.postgres[question].append(seconds - before[question])


class TimedVisibility(Visibility):
    """Looks rows up, and notes what that took."""

    times: Times

    async def check(
        self, rows: RowsToCheck, questions: Sequence[Question], *, limit: float | None = None
    ) -> list[VisibilityAnswer]:
        with self.times.of("visible rows"):
            return await super().check(rows, questions, limit=limit)


class TimedConnections(Connections):
    """Notes what is done with its connections."""

    times: Times

    @asynccontextmanager
    async def one(self, *, within: float = 30.0) -> AsyncIterator[AsyncConnection[Any]]:
        async with super().one(within=within) as connection:
            with self.times.of("tables"):
                yield connection


class Sessions:
    """Processor time of PostgreSQL's sessions for the two questions (Linux)."""

    NAMES: Final = {"realtime_server rls": "visible rows", "realtime_server tables": "tables"}

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        rows = connection.execute("select application_name, pid from pg_stat_activity").fetchall()
        self._pids = {pid: self.NAMES[name] for name, pid in rows if name in self.NAMES}

    def seconds(self) -> dict[str, float]:
        found = dict.fromkeys(self.NAMES.values(), 0.0)
        for pid, question in self._pids.items():
            with open(f"/proc/{pid}/schedstat") as stat:
                found[question] += int(stat.read().split()[0]) / 1e9
        return found


async def profile(bench: Bench, people: list[tuple[str, Viewer]], *, single: bool) -> Any:
    """Return microseconds a change, by step."""
    hub = hub_of(people)

    async def dsn() -> str:
        return bench.dsn

    settings = "SET jit = off; SET plan_cache_mode = force_generic_plan"
    async with (
        TimedVisibility(dsn, timeout=60) as visibility,
        TimedConnections(dsn, name="tables", size=1, settings=settings) as tables,
    ):

        async def look_up(
            rows: RowsToCheck, questions: Sequence[Question], *, may_retry: bool = True
        ) -> list[VisibilityAnswer]:
            # Without the short limit, which a busy machine may exceed.
            return await visibility.check(rows, questions)

        checker = Checker(visibility, Counters(), max_record_bytes=1_048_576)
        matcher = Matcher(hub)
        messages = bench.messages
        if single:
            messages = messages[
                : 1 + next(place for place, one in enumerate(messages) if one[:1] == b"C")
            ]
        visibility.times = tables.times = times = Times()
        for _ in range(20):
            await _round(times, messages, matcher, checker, look_up, tables)
        visibility.times = tables.times = times = Times()
        sessions = Sessions(bench.connection)
        for _ in range(SINGLE if single else ROUNDS):
            with times.of_sessions(sessions):
                await _round(times, messages, matcher, checker, look_up, tables)
            if single:
                await asyncio.sleep(PAUSE)
    changes = 1 if single else BATCH

    def us(each: list[float]) -> float:
        return round(statistics.quantiles(each, n=10)[0] / changes * 1e6, 1)

    own = {step: us(each) for step, each in times.own.items()}
    # The two questions are asked within.
    own["check"] = round(own["check"] - own["tables"] - own["visible rows"], 1)
    return {"own": own, "postgres": {step: us(each) for step, each in times.postgres.items()}}


async def _round(
    times: Times,
    messages: list[bytes],
    matcher: Matcher,
    checker: Checker,
    look_up: Lookup,
    tables: Connections,
) -> None:
    with times.of("decode"):
        decoder = ChangeDecoder()
        reads = [
            Read(event, size_of(event))
            for event in decoder.decode(messages)
            if isinstance(event, Insert)
        ]
    with times.of("match"):
        pending = await matcher.match(reads)
    with times.of("check"):
        result = await checker.check(pending, look_up, tables)
    with times.of("render"):
        for shown in result.shown:
            for view in set(shown.values()):
                view.payload()


async def measure(dsn: str) -> dict[str, Any]:
    async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
        await migrate(connection)
    bench = Bench(dsn)
    bench.prepare()
    found = {}
    cases = [(case, False) for case in CASES if case.name in WANTED]
    for case, single in [*cases, (Case("1 shared", 1), True)]:
        name = f"{case.name}, one at a time" if single else case.name
        found[name] = await profile(bench, bench.subscribe(case), single=single)
        print(name, json.dumps(found[name]), flush=True)
    bench.connection.close()
    return found


def main() -> None:
    with database() as dsn:
        found = asyncio.run(measure(dsn))
    result = {**environment("psycopg", "psycopg-binary"), "microseconds": found}
    print(save("rls_profile", "python -m benchmarks.rls_profile", result))


if __name__ == "__main__":
    main()
