"""What the benchmark of a shared log compares: ways from the database to the clients of a table.

Each way has a table of its own, so that all may run at the same time, and take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import psycopg

from benchmarks.load.programs import Client, cpu_time
from realtime_server.cluster.connection import NatsConnection
from realtime_server.cluster.log import Log
from realtime_server.cluster.setup import log_settings
from realtime_server.config import ServerConfig
from tests.nats_server import NatsServer
from tests.server_process import ServerProcess, worker_pids

__all__ = [
    "LOG",
    "SINGLE",
    "WORKERS",
    "Row",
    "Way",
    "await_ready",
    "joined",
    "log_ends_behind",
    "make_table",
    "nats_server",
    "over_the_log",
    "ratio",
    "single",
    "two_workers",
]

SINGLE, WORKERS, LOG = "one process", "two workers", "over the log"
HEARTBEAT: Final = 25_000
"""Milliseconds between two of a client's, as stock clients have it."""
SETTINGS: Final = {
    # Over the log there is no second slot, so the others have none either.
    "REPLAY_WAL_MB": "0",
}
JOURNAL: Final = {"REPLAY_WAL_MB": "1024"}
"""What has a server keep a journal, as is the default."""
_POLL: Final = 0.02
_PATIENCE: Final = 60.0

Row: TypeAlias = dict[str, Any]


@attrs.define
class Way:
    """One way from the database to the clients of a table."""

    name: str
    table: str
    server: ServerProcess
    """Has the port that clients connect to."""
    processes: dict[str, list[int]]
    """The ids of its processes, by what they do."""
    client: Client = attrs.field(init=False)

    def cpu(self) -> dict[str, float]:
        """Return the seconds of processor time that its processes have used."""
        return {name: sum(map(cpu_time, ids)) for name, ids in self.processes.items()}

    def used_since(self, before: dict[str, float], count: int) -> dict[str, float]:
        """Return the microseconds of processor time since then for each of a number of things."""
        return {name: (now - before[name]) / count * 1e6 for name, now in self.cpu().items()}

    def pause(self, *names: str) -> None:
        """Have processes stand still."""
        self._signal(signal.SIGSTOP, names)

    def resume(self, *names: str) -> None:
        self._signal(signal.SIGCONT, names)

    def _signal(self, number: signal.Signals, names: Sequence[str]) -> None:
        for name in names:
            for pid in self.processes[name]:
                os.kill(pid, number)


def make_table(connection: psycopg.Connection, table: str) -> None:
    """Make a table, and another one beside it in its publication."""
    other = f"other_{table}"
    connection.execute(
        f"drop publication if exists {table}; drop table if exists {table}, {other};"
        f"create table {table} (id bigserial primary key, data text);"
        f"create table {other} (id bigserial primary key, data text);"
        f"create publication {table} for table {table}, {other} with (publish = 'insert')"
    )


@contextlib.contextmanager
def nats_server(directory: Path) -> Iterator[NatsServer]:
    """Run NATS with its files in a directory."""
    server = NatsServer(directory=directory / "nats")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def single(dsn: str) -> Iterator[Way]:
    """Serve by one process, which reads its slot by itself."""
    with _serve(dsn, "item_one") as server:
        yield Way(SINGLE, "item_one", server, {"server": [server.process.pid]})


@contextlib.contextmanager
def two_workers(dsn: str) -> Iterator[Way]:
    """Serve by two workers and their supervisor."""
    with _serve(dsn, "item_two", WORKERS="2") as server:
        pid = server.process.pid
        processes = {"supervisor": [pid], "workers": worker_pids(pid)}
        yield Way(WORKERS, "item_two", server, processes)


@contextlib.contextmanager
def over_the_log(dsn: str, nats: NatsServer, *, journal: bool = False) -> Iterator[Way]:
    """Serve by one process from the log, which another one fills that serves nobody.

    Args:
        dsn: of the database.
        nats: has the log.
        journal: whether the server keeps one, so that clients may come back to another server.
    """
    table = "item_log"
    # Its slot is to have moved when the benchmark has measured.
    shared = {"NATS_URL": nats.url, "LOG_ACK_DELAY": "0", **(JOURNAL if journal else {})}
    with (
        _serve(dsn, table, CLUSTER_ROLE="reader", **shared) as leader,
        _serve(dsn, table, CLUSTER_ROLE="server", **shared) as server,
    ):
        processes = {
            "leader": [leader.process.pid],
            "server": [server.process.pid],
            "nats": [nats.pid],
        }
        yield Way(LOG, table, server, processes)


@contextlib.contextmanager
def _serve(dsn: str, table: str, **settings: str) -> Iterator[ServerProcess]:
    with ServerProcess(dsn, patience=120, **{**_settings(table), **settings}) as server:
        await_ready(server)
        yield server


def _settings(table: str) -> dict[str, str]:
    return {**SETTINGS, "PUBLICATIONS": f'["{table}"]', "SLOT_NAME": f"bench_{table}"}


def await_ready(server: ServerProcess) -> None:
    """Wait until clients of a server get changes."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/ready", timeout=5).close()
        except (OSError, urllib.error.URLError):
            time.sleep(_POLL)
        else:
            return
    raise RuntimeError(f"the server is not ready:\n{''.join(server.log)}")


@contextlib.asynccontextmanager
async def joined(
    directory: Path, ways: Sequence[Way], count: int, topic: str = "{}", **options: int
) -> AsyncIterator[None]:
    """Have so many clients of each way join the topic of its table."""
    async with contextlib.AsyncExitStack() as stack:
        for way in ways:
            name = f"realtime:public:{topic.format(way.table)}"
            given = {"sessions": 1, "heartbeat": HEARTBEAT, **options}
            way.client = await Client.join(directory, way.server.port, count, name, **given)
            await stack.enter_async_context(way.client)
        yield


@contextlib.asynccontextmanager
async def log_of(way: Way) -> AsyncIterator[Log]:
    """Yield the log that a way goes over."""
    config = ServerConfig.from_env(way.server.environment, dev=True)
    async with await NatsConnection.open(config, name="benchmark") as connection:
        yield Log(connection, log_settings(config))


async def log_ends_behind(log: Log, lsn: int) -> None:
    """Wait until the log has a transaction that commits behind an LSN."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            _, tail = await log.tail()
            if tail is not None and tail.last[1] > lsn:
                return
            await asyncio.sleep(_POLL)


def ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Return how values are to those of the same rounds, as the median over the rounds."""
    return round(statistics.median(a / b for a, b in zip(values, others, strict=True)), 2)
