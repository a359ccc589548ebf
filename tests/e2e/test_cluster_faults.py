"""Servers that share a log, while leaders, servers, NATS and connections are ended: no client
misses a row, none comes twice, and nobody is told of a gap. Clients with a session miss none over
all their connections, to one server or the other.

CLUSTER_FAULTS is how many faults there are, CLUSTER_FAULTS_SEED says which; `-s` shows each. With
CLUSTER_WORKERS=2 each server has two processes for clients, which are ended, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from random import Random

import pytest

from tests.e2e.cluster_faults import ClusterServer, Returner, Watcher, Writer, leader_of
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.source_helpers import kill_walsenders
from tests.nats_server import NatsServer
from tests.waiting import eventually

FAULTS = int(os.environ.get("CLUSTER_FAULTS", "10"))
SEED = int(os.environ.get("CLUSTER_FAULTS_SEED", "1"))
RETURNS = FAULTS if "CLUSTER_FAULTS" in os.environ else 3
WORKERS = os.environ.get("CLUSTER_WORKERS", "1")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600 + 10 * FAULTS),
]

KINDS = ("leader", "server", "nats", "nats", "walsender", "walsender", "both", "pause")
KINDS_OF_WORKERS = ("worker", "worker") if WORKERS != "1" else ()
PAUSE = 3.5
"""Seconds for which a leader stands still: longer than its walsender waits for it."""


@pytest.fixture
def item(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int primary key, data text)")
        database.execute("create publication shop for table item")
        database.execute(f"alter database {database.name} set wal_sender_timeout = '2s'")
        yield database


class Faults:
    """Breaks one thing after the other."""

    def __init__(
        self, item: Database, nats: NatsServer, servers: list[ClusterServer], random: Random
    ) -> None:
        self._item = item
        self._nats = nats
        self._servers = servers
        self._random = random

    def make(self) -> str:
        kind = self._random.choice((*KINDS, *KINDS_OF_WORKERS))
        {
            "leader": self._end_leader,
            "server": self._end_server,
            "nats": self._end_nats,
            "walsender": self._end_walsender,
            "both": self._end_both,
            "pause": self._pause_leader,
            "worker": self._end_worker,
        }[kind]()
        time.sleep(self._random.random() * 0.5)
        return kind

    def _end_leader(self) -> None:
        leader = leader_of(self._servers)
        leader.kill()
        leader.start()

    def _end_server(self) -> None:
        server = self._random.choice(self._servers)
        server.kill()
        server.start()

    def _end_worker(self) -> None:
        pids = self._random.choice(self._servers).children()
        if pids:
            os.kill(self._random.choice(pids), signal.SIGKILL)

    def _end_nats(self) -> None:
        with self._nats.down():
            time.sleep(self._random.random())

    def _end_walsender(self) -> None:
        kill_walsenders(self._item)

    def _end_both(self) -> None:
        leader = leader_of(self._servers)
        leader.kill()
        with self._nats.down():
            time.sleep(self._random.random() * 0.5)
        leader.start()

    def _pause_leader(self) -> None:
        leader = leader_of(self._servers)
        leader.process.process.send_signal(signal.SIGSTOP)
        time.sleep(PAUSE)
        leader.process.process.send_signal(signal.SIGCONT)


SETTINGS = {
    "PUBLICATIONS": '["shop"]',
    "DB_RECONNECT_BACKOFF_MIN": "50",
    "DB_RECONNECT_BACKOFF_MAX": "500",
    "LOG_ACK_DELAY": "2000",
    "WORKERS": WORKERS,
}


@contextlib.asynccontextmanager
async def serve(
    item: Database, nats: NatsServer, **settings: str
) -> AsyncIterator[list[ClusterServer]]:
    """Have two servers, of which one leads."""
    settings |= {"NATS_URL": nats.url, "SLOT_NAME": unique_name("cluster"), **SETTINGS}
    servers = [ClusterServer(item, **settings) for _ in range(2)]
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
    async with serve(item, nats, REPLAY_WINDOW="0") as servers:
        with Writer(item, SEED) as writer:
            watchers = [
                Watcher([server.port for server in servers], writer, turn) for turn in range(6)
            ]
            tasks = [asyncio.create_task(watcher.run()) for watcher in watchers]
            await eventually(lambda: all(watcher.sessions for watcher in watchers))
            faults = Faults(item, nats, servers, Random(SEED))
            for number in range(FAULTS):
                began = time.monotonic()
                kind = await asyncio.to_thread(faults.make)
                print(f"{number}: {kind}, {time.monotonic() - began:.1f} s", flush=True)
            last = await asyncio.to_thread(writer.end)
            try:
                await eventually(lambda: all(one.last == last for one in watchers), within=60)
            finally:
                print(
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


async def test_clients_that_come_back_miss_nothing_over_faults(
    item: Database, new_nats: Callable[..., NatsServer]
) -> None:
    nats = await asyncio.to_thread(new_nats)
    settings = {"REPLAY_SECRET": "s" * 32, "REPLAY_PING_INTERVAL": "200"}
    async with serve(item, nats, **settings) as servers:
        with Writer(item, SEED) as writer:
            clients = [Returner([server.port for server in servers], turn) for turn in range(6)]
            tasks = [asyncio.create_task(client.run()) for client in clients]
            await eventually(lambda: all(client.sessions for client in clients))
            chance = Random(SEED)
            faults = Faults(item, nats, servers, Random(SEED))
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
                await eventually(lambda: all(one.last == last for one in clients), within=60)
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
