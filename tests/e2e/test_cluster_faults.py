"""Servers that share a log, while leaders, servers, NATS and connections are ended, or stand still:
no client misses a row, none comes twice, nobody is told of a gap, and the log has each row once.
Clients with a session miss none over all their connections, to one server or the other.

CLUSTER_FAULTS is how many faults there are, CLUSTER_FAULTS_SEED says which; `-s` shows each. With
CLUSTER_WORKERS=2 each server has two processes for clients, which are ended, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from realtime_server.cluster.connection import NatsConnection
from realtime_server.cluster.log import Log, LogSettings
from tests.e2e.cluster_faults import (
    ClusterServer,
    Returner,
    Watcher,
    Writer,
    leader_of,
    rows_in_log,
)
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.source_helpers import kill_walsenders
from tests.nats_server import DEBIAN, NatsCluster, NatsServer
from tests.server_helpers import dev_config
from tests.waiting import eventually

FAULTS = int(os.environ.get("CLUSTER_FAULTS", "30"))
SEED = int(os.environ.get("CLUSTER_FAULTS_SEED", "1"))
FEW = FAULTS if "CLUSTER_FAULTS" in os.environ else 3
RETURNS = FAULTS if "CLUSTER_FAULTS" in os.environ else 3
WORKERS = os.environ.get("CLUSTER_WORKERS", "1")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600 + 10 * FAULTS),
]

KINDS = (
    *("leader", "leader", "leader", "leader", "server", "server", "server", "server"),
    *("nats", "nats", "nats", "stop nats", "stop nats", "walsender", "walsender", "walsender"),
    *("pause", "leader and nats", "leader and walsender", "two servers", "pause and nats"),
)
KINDS_OF_RETURNS = ("leader", "server", "nats", "walsender", "leader and nats", "pause")
KINDS_OF_WORKERS = ("worker", "worker") if WORKERS != "1" else ()
PAUSE = 2.6
"""Seconds for which a leader stands still: longer than its walsender waits for it."""


@pytest.fixture
def item(pg17: Server) -> Iterator[Database]:
    with fresh_database(pg17) as database:
        database.execute("create table item (id int primary key, data text)")
        database.execute("create publication shop for table item")
        database.execute(f"alter database {database.name} set wal_sender_timeout = '2s'")
        yield database


class Faults:
    """Breaks one thing after the other, or two at once.

    Args:
        item: the database.
        nats: the servers of NATS.
        servers: those on the log.
        random: says what, and when.
        kinds: of faults; each comes as often as it is in there.
        away: seconds that a server of NATS is away at most.
    """

    def __init__(
        self,
        item: Database,
        nats: Sequence[NatsServer],
        servers: list[ClusterServer],
        random: Random,
        *,
        kinds: Sequence[str] = KINDS,
        away: float = 2.0,
    ) -> None:
        self._item = item
        self._nats = nats
        self._servers = servers
        self._random = random
        self._kinds = (*kinds, *KINDS_OF_WORKERS)
        self._away = away
        self._next: list[str] = []
        self.longest_wait = 0.0
        """Seconds that it took until somebody led."""

    def make(self) -> str:
        self._next = self._next or self._random.sample(self._kinds, len(self._kinds))
        kind = self._next.pop()
        match kind:
            case "leader":
                self._end_servers(self._leader())
            case "server":
                self._end_servers(self._random.choice(self._servers))
            case "two servers":
                self._end_servers(*self._random.sample(self._servers, 2))
            case "worker":
                self._end_worker()
            case "nats":
                self._end_nats(NatsServer.kill)
            case "stop nats":
                self._end_nats(NatsServer.terminate)
            case "walsender":
                kill_walsenders(self._item)
            case "leader and walsender":
                leader = self._leader()
                kill_walsenders(self._item)
                self._end_servers(leader)
            case "leader and nats":
                leader = self._leader()
                leader.kill()
                self._end_nats(NatsServer.kill)
                leader.start()
            case "pause":
                self._pause(self._leader(), lambda: None)
            case "pause and nats":
                self._pause(self._leader(), lambda: self._end_nats(NatsServer.kill))
            case _:
                raise AssertionError(kind)
        time.sleep(self._random.random() * 0.5)
        return kind

    def _leader(self) -> ClusterServer:
        began = time.monotonic()
        leader = leader_of(self._servers)
        self.longest_wait = max(self.longest_wait, time.monotonic() - began)
        return leader

    def _end_servers(self, *servers: ClusterServer) -> None:
        for server in servers:
            server.kill()
        with ThreadPoolExecutor() as threads:
            list(threads.map(ClusterServer.start, servers))

    def _end_worker(self) -> None:
        pids = self._random.choice(self._servers).workers()
        if pids:
            os.kill(self._random.choice(pids), signal.SIGKILL)

    def _end_nats(self, end: Callable[[NatsServer], None]) -> None:
        server = self._random.choice(self._nats)
        end(server)
        time.sleep(self._random.random() * self._away)
        server.start()

    def _pause(self, leader: ClusterServer, meanwhile: Callable[[], None]) -> None:
        leader.process.process.send_signal(signal.SIGSTOP)
        until = time.monotonic() + PAUSE
        meanwhile()
        time.sleep(max(until - time.monotonic(), 0))
        leader.process.process.send_signal(signal.SIGCONT)


SETTINGS = {
    "PUBLICATIONS": '["shop"]',
    "DB_RECONNECT_BACKOFF_MIN": "50",
    "DB_RECONNECT_BACKOFF_MAX": "500",
    "LOG_ACK_DELAY": "2000",
    "LOG_MAX_AGE": "86400000",
    "WORKERS": WORKERS,
}


@contextlib.asynccontextmanager
async def serve(item: Database, url: str, **settings: str) -> AsyncIterator[list[ClusterServer]]:
    """Have three servers, of which one leads, and one never does."""
    settings |= {"NATS_URL": url, **SETTINGS}
    servers = [ClusterServer(item, **settings) for _ in range(2)]
    servers.append(ClusterServer(item, CLUSTER_ROLE="server", **settings))
    try:
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        await asyncio.to_thread(leader_of, servers)
        yield servers
    finally:
        for server in servers:
            print("".join(server.log))
            await asyncio.to_thread(server.stop)


async def test_clients_miss_nothing_over_faults(
    item: Database, new_nats: Callable[..., NatsServer]
) -> None:
    nats = await asyncio.to_thread(new_nats)
    await play(item, nats.url, [nats], FAULTS)


async def test_nor_do_they_with_debians_nats(
    item: Database, new_nats: Callable[..., NatsServer]
) -> None:
    nats = await asyncio.to_thread(new_nats, program=DEBIAN)
    await play(item, nats.url, [nats], FEW)


async def test_nor_do_they_with_three_servers_of_nats(
    item: Database, nats_cluster: NatsCluster
) -> None:
    await play(item, nats_cluster.url, nats_cluster.servers, FEW, NATS_REPLICAS="3")


async def play(
    item: Database, url: str, nats: Sequence[NatsServer], count: int, **more: str
) -> None:
    settings = {"SLOT_NAME": unique_name("cluster"), "REPLAY_WINDOW": "0", **more}
    kinds: Counter[str] = Counter()
    async with serve(item, url, **settings) as servers:
        with Writer(item, SEED) as writer:
            watchers = [
                Watcher([server.port for server in servers], writer, turn) for turn in range(6)
            ]
            tasks = [asyncio.create_task(watcher.run()) for watcher in watchers]
            await eventually(lambda: all(watcher.sessions for watcher in watchers))
            faults = Faults(item, nats, servers, Random(SEED))
            first = time.monotonic()
            for number in range(count):
                began = time.monotonic()
                kind = await asyncio.to_thread(faults.make)
                kinds[kind] += 1
                seconds, wait = time.monotonic() - began, faults.longest_wait
                print(
                    f"{number}: {kind}, {seconds:.1f} s, at most {wait:.1f} s without a leader",
                    flush=True,
                )
            last = await asyncio.to_thread(writer.end)
            try:
                await eventually(lambda: all(one.last == last for one in watchers), within=60)
            finally:
                print(
                    f"{last} rows, {time.monotonic() - first:.0f} s, {dict(kinds)}, at most "
                    f"{faults.longest_wait:.1f} s without a leader",
                    *(
                        f"{one.sessions} sessions, {one.received} rows, {last - one.last} behind, "
                        f"{dict(one.ends)}"
                        for one in watchers
                    ),
                    sep="\n",
                )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [problem for watcher in watchers for problem in watcher.problems] == []
        config = dev_config(item.dsn, NATS_URL=url, **settings)
        name = config.stream_name
        async with await NatsConnection.open(config, name="test") as connection:
            rows = await rows_in_log(Log(connection, LogSettings(name=name)))
        assert rows == list(range(1, last + 1))


async def test_clients_that_come_back_miss_nothing_over_faults(
    item: Database, new_nats: Callable[..., NatsServer]
) -> None:
    nats = await asyncio.to_thread(new_nats)
    settings = {
        "SLOT_NAME": unique_name("cluster"),
        "REPLAY_SECRET": "s" * 32,
        "REPLAY_PING_INTERVAL": "200",
    }
    async with serve(item, nats.url, **settings) as servers:
        with Writer(item, SEED) as writer:
            clients = [Returner([server.port for server in servers], turn) for turn in range(6)]
            tasks = [asyncio.create_task(client.run()) for client in clients]
            await eventually(lambda: all(client.sessions for client in clients))
            chance = Random(SEED)
            faults = Faults(item, [nats], servers, Random(SEED), kinds=KINDS_OF_RETURNS, away=1.0)
            for number in range(RETURNS):
                began = time.monotonic()
                cut = chance.sample(clients, 3)
                for client in cut:
                    client.cut()
                kind = await asyncio.to_thread(faults.make)
                print(f"{number}: {kind}, {time.monotonic() - began:.1f} s", flush=True)
                # Others break only when all have come back, which takes a second or so.
                await eventually(lambda: all(client.is_joined for client in clients), within=60)
            last = await asyncio.to_thread(writer.end)
            try:
                for one in clients:
                    await until_it_has(one, last)
            finally:
                print(
                    *(
                        f"{one.sessions} sessions, {one.received} rows, {one.repeated} again, "
                        f"{last - one.last} behind, {one.fresh} anew, gaps {dict(one.gaps)}"
                        for one in clients
                    ),
                    sep="\n",
                )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert [problem for client in clients for problem in client.problems] == []
    assert not any(client.gaps for client in clients)
    # Each session is that of one client.
    said = [line for server in servers for line in server.log if "several clients" in line]
    assert said == []


async def until_it_has(client: Returner, last: int) -> None:
    """Wait for the last row for as long as any come: a busy machine takes long to bring them."""
    while client.last < last:
        had = client.received
        await eventually(lambda: client.received > had, within=60)  # noqa: B023 (awaited here)
