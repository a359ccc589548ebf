"""Several server processes on one port and one slot: `WORKERS`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from joserfc.jwk import ECKey
from websockets.exceptions import InvalidStatus, WebSocketException

from realtime_core.pgoutput import Decoder, LogicalMessageMessage
from realtime_server.replay.records import PREFIX, digest
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database, until_streaming
from tests.integration.replay_client import ReplayClient
from tests.integration.rls_stage import OWN
from tests.rls_helpers import roles
from tests.server_process import ServerProcess, child_pids, worker_pids
from tests.tokens import SECRET, make_token, sign
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

SETTINGS = {
    "WORKERS": "2",
    "REPLAY_SECRET": "the same for all servers".ljust(32, "."),
    "REPLAY_PING_INTERVAL": "50",
    "PUBLICATIONS": '["shop"]',
}
SESSION = "8f14e45f-ceea-467f-a1d0-"
CLIENTS = 12
"""So many that each of two workers has some."""


@pytest.fixture
def item(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int primary key, data text)")
        database.execute("create publication shop for table item")
        yield database


class Workers(ServerProcess):
    """A supervisor and its workers."""

    def pids(self) -> list[int]:
        """Return the process IDs of the workers."""
        return worker_pids(self.process.pid)

    def clients_of(self, pid: int) -> set[int]:
        """Return the ports of the clients that a worker has connections to."""
        inodes = set()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                inodes.add(os.readlink(link))
        found = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, state, *_, inode = line.split()[:10]
            if (local[-4:], state) == (f"{self.port:04X}", "01") and f"socket:[{inode}]" in inodes:
                found.add(int(remote[-4:], 16))
        return found

    def metrics(self) -> dict[str, float]:
        """Return the values of the metrics by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}


@contextlib.asynccontextmanager
async def serve(item: Database, slot: str, **settings: str) -> AsyncIterator[Workers]:
    """Have two workers on a database."""
    # Three processes start where one does elsewhere.
    server = Workers(item.dsn, patience=90, SLOT_NAME=slot, **{**SETTINGS, **settings})
    await asyncio.to_thread(server.__enter__)
    try:
        await until_streaming(item)
        yield server
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)
        print("".join(server.log))


def port_of(client: ReplayClient) -> int:
    assert client.websocket is not None
    port: int = client.websocket.local_address[1]
    return port


async def until_kept(item: Database, slot: str) -> None:
    """Wait until there is a second slot."""
    query = "select 1 from pg_replication_slots where slot_name = %s"
    await eventually(lambda: item.execute(query, (f"{slot}_replay",)))


class Writer:
    """Inserts rows without a pause, each with the next number, 1 to 5 in a transaction."""

    def __init__(self, item: Database) -> None:
        self._item = item
        self._is_over = False
        self.last = 0

    async def __aenter__(self) -> Writer:
        self._writing = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        # A commit that were canceled might have happened, and not have been counted.
        self._is_over = True
        await self._writing

    async def _write(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._item.dsn) as connection:
            count = 0
            while not self._is_over:
                count = count % 5 + 1
                await connection.execute(
                    "insert into item select n, 'x' from generate_series(%s::int, %s::int) n",
                    (self.last + 1, self.last + count),
                )
                await connection.commit()
                self.last += count
                await asyncio.sleep(0.001)


async def test_every_client_gets_every_change_whichever_worker_it_is_on(item: Database) -> None:
    async with serve(item, unique_name("slot")) as server:
        clients = [ReplayClient(server.port, session=f"{SESSION}{n}") for n in range(CLIENTS)]
        for client in clients:
            await client.come()
        first, second = server.pids()
        assert len(server.clients_of(first)) + len(server.clients_of(second)) == CLIENTS
        assert server.clients_of(first)
        assert server.clients_of(second)
        for number in range(1, 21):
            await asyncio.to_thread(item.execute, "insert into item values (%s, 'x')", (number,))
        for client in clients:
            await client.until(20)
            assert client.ids == [*range(1, 21)]
            await client.close()


async def test_a_connection_that_breaks_within_a_transaction_costs_nothing(item: Database) -> None:
    """PostgreSQL sends the transaction again, and each worker gets the rest of it."""
    slot = unique_name("slot")
    async with serve(item, slot) as server:
        clients = [ReplayClient(server.port, session=f"{SESSION}{n}") for n in range(2)]
        for client in clients:
            await client.come()
        worker = server.pids()[0]
        # The supervisor reads no more than 8 MiB that a worker has not handed out.
        os.kill(worker, signal.SIGSTOP)
        try:
            insert = "insert into item select n, repeat('x', 1000) from generate_series(1, 30000) n"
            await asyncio.to_thread(item.execute, insert)
            sender = (
                "select active_pid from pg_replication_slots "
                "join pg_stat_activity on pid = active_pid "
                "where slot_name = %s and wait_event = 'WalSenderWriteData'"
            )
            await eventually(lambda: item.execute(sender, (slot,)))
            await asyncio.to_thread(
                item.execute,
                "select pg_terminate_backend(active_pid, 10000) from pg_replication_slots "
                "where slot_name = %s",
                (slot,),
            )
        finally:
            os.kill(worker, signal.SIGCONT)
        for client in clients:
            await client.until(30000)
            assert client.ids == [*range(1, 30001)]
            assert client.gaps == []
            await client.close()
        assert (await asyncio.to_thread(server.metrics))["realtime_worker_restarts_total"] == 0


async def returning(client: ReplayClient, connections: list[list[int]]) -> None:
    """Come back whenever the connection is lost; note what came on each."""
    while True:
        begin = len(client.ids)
        with contextlib.suppress(OSError, WebSocketException):
            try:
                await client.come()
                await client.ended()
            finally:
                connections.append(client.ids[begin:])
        await asyncio.sleep(0.01)


async def until_both_serve(server: Workers) -> None:
    async with asyncio.timeout(90):
        while (await asyncio.to_thread(server.metrics))["realtime_workers"] < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_killed_worker_is_back_and_no_client_misses_a_change(item: Database) -> None:
    slot = unique_name("slot")
    async with serve(item, slot) as server:
        await until_kept(item, slot)
        clients = [ReplayClient(server.port, session=f"{SESSION}{n}") for n in range(CLIENTS)]
        lives: list[list[list[int]]] = [[] for _ in clients]
        tasks = [
            asyncio.create_task(returning(client, life))
            for client, life in zip(clients, lives, strict=True)
        ]
        await eventually(lambda: all(client.websocket and client.systems for client in clients))
        async with Writer(item) as writer:
            await eventually(lambda: all(len(client.ids) > 100 for client in clients))
            for _ in range(2):
                pids = server.pids()
                victim = max(pids, key=lambda pid: len(server.clients_of(pid)))
                others = {*map(port_of, clients)} - server.clients_of(victim)
                before = writer.last
                os.kill(victim, signal.SIGKILL)
                # Its clients come back, and those of the other worker notice nothing.
                await eventually(
                    lambda last=before: all(
                        client.websocket and client.ids[-1] > last + 200 for client in clients
                    ),
                    within=90,
                )
                assert others <= {*map(port_of, clients)}
                await eventually(lambda pids=pids: len({*server.pids()} - {*pids}) == 1)
                await until_both_serve(server)
        last = writer.last
        for client in clients:
            await client.until(last)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client, life in zip(clients, lives, strict=True):
            for ids in life:
                # No hole within a connection, and nothing twice.
                assert ids == [*range(ids[0], ids[0] + len(ids))] if ids else True
            assert client.gaps == []
            # Nor is there one between two.
            assert {*client.ids} == {*range(min(client.ids), last + 1)}
        assert sum(map(len, lives)) > CLIENTS
        for client in clients:
            await client.close()


async def test_a_killed_supervisor_takes_its_workers_along_and_frees_the_slot(
    item: Database,
) -> None:
    """Also a worker that stands still, which would keep its share of the port."""
    slot = unique_name("slot")
    async with serve(item, slot) as server:
        pids = server.pids()
        assert len(pids) == 2
        client = ReplayClient(server.port, session=f"{SESSION}a")
        await client.come()
        os.kill(pids[0], signal.SIGSTOP)
        server.process.kill()
        await client.ended()
        await eventually(lambda: not any(map(is_alive, pids)))
        active = "select 1 from pg_replication_slots where slot_name = %s and active"
        await eventually(lambda: not item.execute(active, (slot,)))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_workers_that_are_killed_at_once_and_while_they_start_cost_no_client_a_change(
    item: Database,
) -> None:
    slot = unique_name("slot")
    async with serve(item, slot) as server:
        await until_kept(item, slot)
        clients = [ReplayClient(server.port, session=f"{SESSION}{n}") for n in range(4)]
        tasks = [asyncio.create_task(returning(client, [])) for client in clients]
        await eventually(lambda: all(client.websocket and client.systems for client in clients))
        async with Writer(item) as writer:
            # The journal is told of new channels within seconds.
            await eventually(lambda: all(len(client.ids) > 500 for client in clients))
            for times in (1, 2):
                for _ in range(times):
                    pids = server.pids()
                    for pid in pids:
                        os.kill(pid, signal.SIGKILL)
                    await eventually(lambda pids=pids: len({*server.pids()} - {*pids}) == 2)  # type: ignore[misc]
                last = writer.last
                await eventually(
                    lambda last=last: all(  # type: ignore[misc]
                        client.websocket and client.ids[-1] > last + 100 for client in clients
                    ),
                    within=90,
                )
        for client in clients:
            await client.until(writer.last)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            assert client.gaps == []
            assert {*client.ids} == {*range(min(client.ids), writer.last + 1)}
            await client.close()


async def test_sigterm_drains_all_and_a_new_start_goes_on_from_there(item: Database) -> None:
    slot = unique_name("slot")
    clients = [ReplayClient(0, session=f"{SESSION}{n}") for n in range(CLIENTS)]
    async with serve(item, slot) as server:
        await until_kept(item, slot)
        for client in clients:
            client.port = server.port
            assert (await client.come())["resumed"] is False
        async with Writer(item) as writer:
            await eventually(lambda: all(len(client.ids) > 50 for client in clients))
            pids = server.pids()
            server.process.send_signal(signal.SIGTERM)
            for client in clients:
                assert await client.ended() == 1012
            assert await asyncio.to_thread(server.process.wait, 30) == 0
            assert not any(map(is_alive, pids))
            assert "stopped" in server.whole_log().splitlines()[-1]
    await asyncio.to_thread(item.execute, "insert into item values (1000000, 'x')")
    async with serve(item, slot) as server:
        for client in clients:
            client.port = server.port
            assert (await client.come())["resumed"] is True
        for client in clients:
            await client.until(1000000)
            assert client.gaps == []
            # Nor does anything come twice.
            assert client.ids == [*range(1, writer.last + 1), 1000000]
            await client.close()


UNREADABLE = """\
import sys

if "realtime_server.workers.template" in sys.orig_argv:
    from realtime_core import DecodeError
    from realtime_server.cluster.unpacker import Unpacker

    feed = Unpacker.feed

    def fails(self, envelope, sequence, wants=None):
        if b"unreadable" in envelope.body:
            raise DecodeError("as if something were wrong with it")
        return feed(self, envelope, sequence, wants)

    Unpacker.feed = fails
"""


async def test_a_change_that_no_worker_can_read_ends_the_server_and_stays_in_the_slot(
    item: Database, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(UNREADABLE)
    slot = unique_name("slot")
    async with serve(item, slot, PYTHONPATH=str(tmp_path)) as server:
        await asyncio.to_thread(item.execute, "insert into item values (1, 'unreadable')")
        assert await asyncio.to_thread(server.process.wait, 90) == 1
        said = server.whole_log()
        assert re.search(r"worker \d: the stream cannot go on: as if something were wrong", said)
        assert re.search(
            r": the stream cannot go on: worker \d has ended 5 times in a row at the same change",
            said,
        )
    # Whoever can read it gets it.
    client = ReplayClient(0, session=f"{SESSION}a")
    async with serve(item, slot) as server:
        await asyncio.to_thread(item.execute, "insert into item values (2, 'x')")
        client.port = server.port
        await client.come()
        await eventually(
            lambda: item.execute(
                "select 1 from pg_replication_slots where slot_name = %s and confirmed_flush_lsn"
                " >= %s",
                (slot, item.execute("select pg_current_wal_lsn()")[0][0]),
            )
        )
        await client.close()


async def test_a_supervisor_that_stands_still_is_no_ready_server(item: Database) -> None:
    async with serve(item, unique_name("slot")) as server:
        await until_ready(server.port)
        server.process.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(60):
                while await statuses(server.port) != {503}:  # noqa: ASYNC110 (nothing tells it)
                    await asyncio.sleep(0.05)
            with pytest.raises(urllib.error.HTTPError, match="503"):
                await asyncio.to_thread(server.metrics)
        finally:
            server.process.send_signal(signal.SIGCONT)
        await until_ready(server.port)
        assert (await asyncio.to_thread(server.metrics))["realtime_worker_restarts_total"] == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_labels_that_an_enum_gets_while_the_server_runs_are_compared_once_it_reconnects(
    item: Database, workers: int
) -> None:
    item.execute("create type mood as enum ('sad', 'glad')")
    item.execute("alter table item add mood mood")
    slot = unique_name("slot")
    async with serve(item, slot, WORKERS=str(workers)) as server:
        binding = {"event": "*", "schema": "public", "table": "item", "filter": "mood=gt.sad"}
        client = ReplayClient(server.port, session=f"{SESSION}a", binding=binding)
        await client.come()
        await asyncio.to_thread(item.execute, "insert into item values (1, 'x', 'glad')")
        await client.until(1)
        await asyncio.to_thread(item.execute, "alter type mood add value 'ok' before 'glad'")
        terminate = (
            "select pg_terminate_backend(active_pid, 10000) from pg_replication_slots "
            "where slot_name = %s"
        )
        await asyncio.to_thread(item.execute, terminate, (slot,))
        await asyncio.to_thread(
            item.execute,
            "insert into item values (2, 'x', 'ok'), (3, 'x', 'sad'), (4, 'x', 'glad')",
        )
        await client.until(4)
        assert client.ids == [1, 2, 4]
        await client.close()


async def test_with_fewer_workers_than_before_everybody_is_told_that_the_others_have_ended(
    item: Database,
) -> None:
    slot = unique_name("slot")
    second = digest(f"{slot}/2")

    def boots() -> int:
        """Return how many records in the WAL say that a process has got the second one's place."""
        rows = item.execute(
            "select data from pg_logical_slot_peek_binary_changes(%s, null, null, 'proto_version',"
            " '1', 'publication_names', 'shop', 'messages', 'true')",
            (f"{slot}_replay",),
        )
        messages = [Decoder().decode(data) for (data,) in rows if data[:1] == b"M"]
        # Behind the version and the stream is the slot, and behind the head the first entry.
        return sum(
            m.content[9:17] == second and m.content[49:50] == b"B"
            for m in messages
            if isinstance(m, LogicalMessageMessage) and m.prefix == PREFIX
        )

    async with serve(item, slot) as server:
        await until_kept(item, slot)
        clients = [ReplayClient(server.port, session=f"{SESSION}{n}") for n in range(CLIENTS)]
        for client in clients:
            await client.come()
        assert all(server.clients_of(pid) for pid in server.pids())
        async with Writer(item):
            # The journal is told of new channels within seconds.
            await eventually(lambda: all(len(client.ids) > 500 for client in clients))
        server.process.kill()
        for client in clients:
            await client.ended()
    before = await asyncio.to_thread(boots)
    async with serve(item, slot, WORKERS="1") as server:
        client = clients[0]
        client.port = server.port
        # Joins of those that come back are answered when it was written.
        assert (await client.come())["resumed"] is True
        await client.close()
    assert await asyncio.to_thread(boots) == before + 1


async def test_a_signal_to_a_worker_alone_restarts_it_and_so_it_is_without_a_template(
    item: Database,
) -> None:
    async with serve(item, unique_name("slot")) as server:
        first = server.pids()
        os.kill(first[0], signal.SIGTERM)
        await eventually(lambda: len({*server.pids()} - {*first}) == 1)
        # What the next one would be forked from; the workers go on without it.
        second = server.pids()
        [template] = {*child_pids(server.process.pid)} - {*second}
        os.kill(template, signal.SIGKILL)
        await eventually(lambda: template not in child_pids(server.process.pid))
        assert server.pids() == second
        os.kill(first[1], signal.SIGKILL)
        await eventually(lambda: len({*server.pids()} - {*second}) == 1)
        assert server.process.poll() is None
        # Another one was made at once.
        assert "cannot be started" not in "".join(server.log)


async def test_metrics_are_sums_whichever_worker_answers(item: Database) -> None:
    async with serve(item, unique_name("slot")) as server:
        clients = [ReplayClient(server.port, session=f"{SESSION}{n}") for n in range(CLIENTS)]
        for client in clients:
            await client.come()
        await asyncio.to_thread(
            item.execute, "insert into item select n, 'x' from generate_series(1, 10) n"
        )
        for client in clients:
            await client.until(10)
        for _ in range(8):
            found = await asyncio.to_thread(server.metrics)
            assert found["realtime_active_websocket_connection_total"] == CLIENTS
            assert found['realtime_joins_total{result="ok"}'] == CLIENTS
            assert found["realtime_stream_connected"] == 1
            assert found["realtime_workers"] == 2
            assert found["realtime_worker_restarts_total"] == 0
        # Not once for each worker. Rows are at least so many: the journal's messages count, too.
        assert found["realtime_transactions_total"] == 1
        assert found["realtime_rows_total"] >= 10
        frames = found["realtime_sent_frames_total"]
        assert frames > CLIENTS
        victim = server.pids()[0]
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda: len(server.pids()) == 2 and victim not in server.pids())
        found = await asyncio.to_thread(server.metrics)
        assert found["realtime_sent_frames_total"] >= frames
        assert found['realtime_joins_total{result="ok"}'] >= CLIENTS
        assert found["realtime_worker_restarts_total"] == 1


async def until_ready(port: int) -> None:
    async with asyncio.timeout(30):
        while await statuses(port) != {200}:  # noqa: ASYNC110 (nothing tells it)
            await asyncio.sleep(0.01)


async def statuses(port: int) -> set[int]:
    """Return what several requests for `/ready` are answered, each by any worker."""

    def ask() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            return exc.code

    return {await asyncio.to_thread(ask) for _ in range(8)}


async def test_a_second_supervisor_is_a_warm_standby(item: Database) -> None:
    slot = unique_name("slot")
    async with serve(item, slot) as first:
        await until_ready(first.port)
        async with serve(item, slot) as second:
            assert await statuses(second.port) == {503}
            first.process.send_signal(signal.SIGTERM)
            await until_ready(second.port)


async def test_a_port_in_use_is_said_once_and_ends_it(item: Database) -> None:
    async with serve(item, unique_name("slot")) as server:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "realtime_server", "--dev"],
            env={**server.environment, "PORT": str(server.port)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert done.stderr.count(f"port {server.port} is in use") == 1


async def test_sighup_reaches_all_workers(item: Database, tmp_path: Path) -> None:
    key = ECKey.generate_key("P-256")
    file = tmp_path / "keys.json"
    other = ECKey.generate_key("P-256")
    file.write_text(json.dumps({"keys": [{**other.as_dict(private=False), "kid": "old"}]}))
    settings = {"SECURE_CHANNELS": "true", "JWT_SECRET": SECRET, "JWT_JWKS_FILE": str(file)}
    token = sign({"exp": int(time.time()) + 3600}, key, alg="ES256", kid="new")
    async with serve(item, unique_name("slot"), **settings) as server:
        client = ReplayClient(server.port, token=token)
        with pytest.raises(InvalidStatus):
            await client.connect()
        file.write_text(json.dumps({"keys": [{**key.as_dict(private=False), "kid": "new"}]}))
        server.process.send_signal(signal.SIGHUP)
        await eventually(lambda: sum("keys read again" in line for line in [*server.log]) == 2)
        clients = [ReplayClient(server.port, token=token) for _ in range(CLIENTS)]
        for client in clients:
            await client.come()
        assert all(server.clients_of(pid) for pid in server.pids())
        for client in clients:
            await client.close()


@pytest.fixture
def shop(one_pg: Server) -> Iterator[tuple[Database, str]]:
    """A table whose rows have owners, and a role that may read it."""
    with roles(one_pg, "reader") as (reader,), fresh_database(one_pg) as database:
        database.execute(
            "create table item (id int primary key, owner text);"
            " alter table item enable row level security;"
            f" create policy own on item using ({OWN});"
            f' grant select on item to "{reader}";'
            " create publication shop for table item"
        )
        yield database, reader


async def test_in_rls_mode_each_sees_its_own_rows_on_every_worker(
    shop: tuple[Database, str],
) -> None:
    database, reader = shop
    slot = unique_name("slot")
    settings = {
        "REPLICATION_MODE": "RLS",
        "SECURE_CHANNELS": "true",
        "JWT_SECRET": SECRET,
        "SUBSCRIPTION_SYNC_INTERVAL": "300",
    }
    async with serve(database, slot, **settings) as server:
        await until_kept(database, slot)
        viewers = [
            ReplayClient(
                server.port,
                session=f"{SESSION}{number}",
                token=make_token({"role": reader, "sub": ("ann", "bob")[number % 2]}),
            )
            for number in range(CLIENTS)
        ]
        for viewer in viewers:
            await viewer.come()
        assert all(server.clients_of(pid) for pid in server.pids())
        rows = "select count(*)::int from realtime.subscription"
        assert database.execute(rows) == [(CLIENTS,)]

        async def write(first: int) -> None:
            for number in range(first, first + 20):
                owner = ("ann", "bob")[number % 2]
                query = "insert into item values (%s, %s)"
                await asyncio.to_thread(database.execute, query, (number, owner))

        def own(number: int, last: int) -> list[int]:
            return [*range(number % 2, last, 2)]

        await write(0)
        for number, viewer in enumerate(viewers):
            await viewer.until(18 + number % 2)
            assert viewer.ids == own(number, 20)
        # A worker is killed. What is written meanwhile is for those who come back, too.
        victim = max(server.pids(), key=lambda pid: len(server.clients_of(pid)))
        gone = server.clients_of(victim)
        os.kill(victim, signal.SIGKILL)
        lost = [viewer for viewer in viewers if port_of(viewer) in gone]
        assert 0 < len(lost) < CLIENTS
        await write(20)
        for viewer in lost:
            await viewer.ended()
            assert (await viewer.come())["resumed"] is True
        for number, viewer in enumerate(viewers):
            await viewer.until(38 + number % 2)
            assert {*viewer.ids} == {*own(number, 40)}
            assert viewer.gaps == []
        # The killed worker's rows go.
        await eventually(lambda: database.execute(rows) == [(CLIENTS,)])
        for viewer in viewers:
            await viewer.close()
        await eventually(lambda: database.execute(rows) == [(0,)])
