"""What a run of faults needs: servers that share a log, a writer, and clients that check."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
import urllib.request
from collections import Counter
from random import Random
from typing import Any, Final

import psycopg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from realtime_core import Insert
from realtime_server.cluster.envelope import Place
from realtime_server.cluster.log import Log
from realtime_server.cluster.unpacker import Unpacker
from tests.fix_postgres import Database
from tests.nats_server import free_port
from tests.server_process import ServerProcess, worker_pids

__all__ = ["ClusterServer", "Returner", "Watcher", "Writer", "leader_of", "rows_in_log"]

_PAUSE: Final = 1.0
"""Seconds until a client with a session connects again."""
_KNOWN_AFTER: Final = 6.0
"""Seconds after its join within which other servers may not know of a client: the journal waits for
whoever leads next, and for NATS."""


class ClusterServer:
    """A server on a port that it keeps when it is started again."""

    def __init__(self, item: Database, **settings: str) -> None:
        self._item = item
        self._settings = {"PORT": str(free_port()), **settings}
        self._process: ServerProcess | None = None
        self._logs: list[list[str]] = []

    @property
    def port(self) -> int:
        return int(self._settings["PORT"])

    @property
    def process(self) -> ServerProcess:
        assert self._process is not None
        return self._process

    @property
    def log(self) -> list[str]:
        """What it has logged since it was started for the first time."""
        return [line for log in self._logs for line in log]

    def start(self) -> None:
        self._process = ServerProcess(self._item.dsn, patience=180, **self._settings)
        self._process.__enter__()
        self._logs.append(self._process.log)

    def kill(self) -> None:
        """End it without a word."""
        self.process.process.kill()
        self.process.process.wait()
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            self._process.__exit__(None, None, None)
            self._process = None

    def workers(self) -> list[int]:
        """Return the process IDs of its workers."""
        return worker_pids(self.process.process.pid)

    def leads(self) -> bool:
        """Whether it says so; False if it does not answer."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
            return "realtime_cluster_leading 1.0" in answer.read().decode()
        return False


def leader_of(servers: list[ClusterServer]) -> ClusterServer:
    """Wait until one of the servers leads, and return it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for server in servers:
            if server.leads():
                return server
        time.sleep(0.02)
    raise AssertionError("nobody leads")


class Writer:
    """Inserts rows with growing numbers without a pause, in transactions of all sizes."""

    def __init__(self, item: Database, seed: int) -> None:
        self.issued = 0
        """The last number that may be in the database."""
        self._random = Random(seed)
        self._dsn = item.dsn
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def end(self) -> int:
        """Write no more, and return the last number."""
        self.__exit__()
        return self.issued

    def _write(self) -> None:
        random, count = self._random, 1
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._is_over.wait(min(count, 40) / 400):
                is_large = random.random() < 0.01
                count = (
                    random.randint(300, 3000) if is_large else random.choice((1, 1, 1, 2, 5, 20))
                )
                first = self.issued + 1
                self.issued += count
                connection.execute(
                    "insert into item select g, repeat('x', 60)"
                    f" from generate_series({first}, {self.issued}) g"
                )


class Watcher:
    """A client that goes to another server when its connection breaks, and begins anew there.

    In one membership rows come without a hole, from what was committed at the join at the latest.
    """

    def __init__(self, ports: list[int], writer: Writer, turn: int) -> None:
        self.last = 0
        """The number of the last row."""
        self.problems: list[str] = []
        self.sessions = 0
        self.received = 0
        self.ends: Counter[str] = Counter()
        self._ports = itertools.cycle(ports[turn % len(ports) :] + ports[: turn % len(ports)])
        self._writer = writer

    async def run(self) -> None:
        """Watch until this is cancelled."""
        for port in self._ports:
            try:
                await self._session(port)
            except (OSError, TimeoutError, WebSocketException) as exc:
                self.ends[type(exc).__name__] += 1
                await asyncio.sleep(0.05)

    async def _session(self, port: int) -> None:
        uri = f"ws://127.0.0.1:{port}/socket/websocket?vsn=1.0.0"
        async with connect(
            uri, compression=None, proxy=None, open_timeout=3, max_size=None, ping_interval=None
        ) as socket:
            join = {"topic": "realtime:public:item", "event": "phx_join", "payload": {}, "ref": "1"}
            await socket.send(json.dumps(join))
            at_join: int | None = None
            last: int | None = None
            while True:
                async with asyncio.timeout(20 if at_join is None else None):
                    message = json.loads(await socket.recv())
                event, payload = message["event"], message["payload"]
                if event == "phx_reply":
                    if payload["status"] != "ok":
                        raise OSError(f"refused: {payload}")
                    at_join = self._writer.issued
                    self.sessions += 1
                elif event == "INSERT":
                    number = int(payload["record"]["id"])
                    self._check(port, number, last, at_join)
                    last = self.last = number
                    self.received += 1
                elif event == "system":
                    self.problems.append(f"port {port}: {payload}")

    def _check(self, port: int, number: int, last: int | None, at_join: int | None) -> None:
        if last is not None:
            if number != last + 1:
                self.problems.append(f"port {port}: {number} behind {last}")
        elif at_join is not None and number > at_join + 1:
            self.problems.append(f"port {port}: {number} first, joined at {at_join}")


class Returner:
    """A client object with a session, which goes on at another server when its connection breaks.

    Over all its connections rows come without a hole, unless it is told that it begins anew, or of
    a gap; and one that was joined for a while is never told that it begins anew.
    """

    def __init__(self, ports: list[int], turn: int) -> None:
        self.last = 0
        """The number of the last row."""
        self.problems: list[str] = []
        self.sessions = 0
        self.received = 0
        self.repeated = 0
        self.fresh = 0
        """How often it began anew."""
        self.gaps: Counter[str] = Counter()
        self.is_joined = False
        """Whether it has joined, and was told where it goes on."""
        self._ports = itertools.cycle(ports[turn % len(ports) :] + ports[: turn % len(ports)])
        self._session_name = f"client-of-the-faults-{turn:04}"
        self._ref = 0
        self._socket: ClientConnection | None = None
        # Whether the next row may be any; and since when it is joined.
        self._may_jump = True
        self._joined_at = 0.0

    async def run(self) -> None:
        """Watch until this is cancelled."""
        for port in self._ports:
            try:
                await self._session(port)
            except (OSError, TimeoutError, WebSocketException):
                self.is_joined = False
                # Stock clients wait for a second or more.
                await asyncio.sleep(_PAUSE)

    def cut(self) -> None:
        """Break the connection."""
        self.is_joined = False
        if self._socket is not None:
            self._socket.transport.abort()

    async def _session(self, port: int) -> None:
        uri = f"ws://127.0.0.1:{port}/socket/websocket?vsn=1.0.0&session={self._session_name}"
        async with connect(
            uri, compression=None, proxy=None, open_timeout=3, max_size=None, ping_interval=None
        ) as socket:
            self._socket = socket
            self.is_joined = False
            self._ref += 1
            table = {"event": "*", "schema": "public", "table": "item"}
            await socket.send(
                json.dumps(
                    {
                        "topic": "realtime:faults",
                        "event": "phx_join",
                        "payload": {"config": {"postgres_changes": [table]}},
                        "ref": str(self._ref),
                        "join_ref": str(self._ref),
                    }
                )
            )
            at = self.last
            is_first = True
            while True:
                async with asyncio.timeout(60 if is_first else None):
                    message = json.loads(await socket.recv())
                payload = message["payload"]
                if message["event"] == "phx_reply" and payload["status"] != "ok":
                    raise OSError(f"refused: {payload}")
                if message["event"] == "system":
                    self._note(port, payload)
                elif message["event"] == "postgres_changes":
                    number = int(payload["data"]["record"]["id"])
                    self._check(port, number, at, is_first=is_first)
                    at, is_first = number, False

    def _note(self, port: int, payload: dict[str, Any]) -> None:
        if "gap" in payload:
            self.gaps[payload["gap"]["reason"]] += 1
            self._may_jump = True
        elif "resumed" in payload:
            was_joined, self._joined_at = self._joined_at, time.monotonic()
            self.sessions += 1
            self.is_joined = True
            if not payload["resumed"]:
                self.fresh += 1
                self._may_jump = True
                if was_joined and time.monotonic() - was_joined > _KNOWN_AFTER:
                    self.problems.append(f"port {port}: it begins anew behind {self.last}")

    def _check(self, port: int, number: int, at: int, *, is_first: bool) -> None:
        may_jump, self._may_jump = self._may_jump, False
        self.received += 1
        self.repeated += number <= self.last
        # What it has not proven comes again, once for each connection; so it does where it is told
        # again that it begins anew, since it has not proven that it has read that.
        comes_again = is_first and number <= at
        is_right = comes_again or (number > at if may_jump else number == at + 1)
        if not is_right:
            self.problems.append(f"port {port}: {number} behind {at}")
        self.last = max(self.last, number)


async def rows_in_log(log: Log) -> list[int]:
    """Read the log from its start to its end; return the numbers of the rows, as they stand there.

    Each message follows the one before it: nothing is missing, and nothing is there twice.
    """
    state, unpacker = await log.state(), Unpacker()
    place: Place | None = None
    numbers: list[int] = []
    for sequence in range(state.first, state.last + 1):
        envelope = await log.envelope_at(sequence)
        assert place is None or envelope.prev == place, (sequence, envelope.prev, place)
        place = envelope.last
        numbers += (
            int(event.record.text("id") or "")
            for event in unpacker.feed(envelope, sequence)
            if isinstance(event, Insert)
        )
    return numbers
