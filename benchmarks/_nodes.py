"""The part of benchmarks.rooms that is about rooms with members at several processes."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Sequence

import attrs

from benchmarks._cluster import nats_server
from benchmarks._report import percentile
from benchmarks._sender import HANDSHAKE, JOIN, Sender, client_frame
from benchmarks.fanout import Bench, Row
from benchmarks.load.programs import cpu_time
from tests.integration.test_workers import Workers
from tests.server_process import ServerProcess

__all__ = ["several_servers"]

NOWHERE = "host=127.0.0.1 port=1 dbname=none user=nobody"
"""None of it needs a database."""
LIMITS = {"MAX_DELIVERIES_PER_SECOND": "1000000000", "MAX_MESSAGES_PER_SECOND": "1000000"}
MEMBERS = 10
ROUNDS = 7
IN_STEP = 100
AT_ONCE, TIMES = 50, 20
_MARK = b'"event":"m"'


class Listener:
    """A member of the room that counts what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = b""
        self.count = 0
        self.came = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def join(cls, port: int) -> Listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE + client_frame(0x81, JOIN.encode()))
        await reader.readuntil(b'"status":"ok"')
        return cls(reader, writer)

    @property
    def port(self) -> int:
        port: int = self._writer.get_extra_info("sockname")[1]
        return port

    async def until(self, count: int) -> None:
        while self.count < count:
            self.came.clear()
            await self.came.wait()

    async def close(self) -> None:
        self._reading.cancel()
        self._writer.close()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        while data := await self._reader.read(1 << 16):
            self._rest += data
            self.count += self._rest.count(_MARK)
            # A mark may be cut in two.
            begin = self._rest.rfind(_MARK)
            self._rest = self._rest[begin + len(_MARK) if begin >= 0 else 0 :][-len(_MARK) :]
            self.came.set()


@attrs.define
class Way:
    """From a sender to members, where these are."""

    name: str
    sender: Sender
    listeners: Sequence[Listener]
    pids: Sequence[int]
    """The servers' processes, whose processor time counts."""
    latencies: list[float] = attrs.field(factory=list)
    rates: list[float] = attrs.field(factory=list)
    costs: list[float] = attrs.field(factory=list)

    async def send(self, count: int) -> float:
        """Broadcast so many times at once; return the seconds until all members have them."""
        due = self.listeners[0].count + count
        begin = time.perf_counter()
        await self.sender.send(count)
        for listener in self.listeners:
            await listener.until(due)
        return time.perf_counter() - begin

    async def run(self) -> None:
        """Broadcast in step, and then many at once."""
        self.latencies += [await self.send(1) for _ in range(IN_STEP)]
        used = sum(map(cpu_time, self.pids))
        took = sum([await self.send(AT_ONCE) for _ in range(TIMES)])
        self.rates.append(AT_ONCE * TIMES / took)
        self.costs.append((sum(map(cpu_time, self.pids)) - used) / (AT_ONCE * TIMES) * 1e6)


async def several_servers(bench: Bench) -> list[Row]:
    """To ten members at the sender's process, at another worker, and at another machine."""
    async with contextlib.AsyncExitStack() as stack:
        nats = stack.enter_context(nats_server(bench.directory))
        alone = stack.enter_context(ServerProcess(NOWHERE, **LIMITS))
        workers = stack.enter_context(Workers(NOWHERE, WORKERS="2", **LIMITS))
        shared = {"NATS_URL": nats.url, "SLOT_NAME": "rooms", "CLUSTER_ROLE": "server", **LIMITS}
        one = stack.enter_context(ServerProcess(NOWHERE, **shared))
        two = stack.enter_context(ServerProcess(NOWHERE, **shared))
        first, second = workers.pids()
        ways = [
            await open_way(stack, "the same process", alone.port, alone.port, [alone.process.pid]),
            await open_way(
                stack,
                "another worker",
                workers.port,
                workers.port,
                [workers.process.pid, first, second],
                at=(workers, first, second),
            ),
            await open_way(
                stack,
                "another machine, over NATS",
                one.port,
                two.port,
                [one.process.pid, two.process.pid, nats.pid],
            ),
        ]
        for way in ways:
            await until_heard(way)
            await way.run()
            way.latencies.clear()
            way.rates.clear()
            way.costs.clear()
        for _ in range(ROUNDS):
            for way in ways:
                await way.run()
    return [
        {
            "members": MEMBERS,
            "at": way.name,
            "p50_ms": round(statistics.median(way.latencies) * 1000, 2),
            "p99_ms": round(percentile(way.latencies, 0.99) * 1000, 2),
            "broadcasts_per_s_50_at_once": round(statistics.median(way.rates)),
            "cpu_us_per_broadcast_all_processes": round(statistics.median(way.costs), 1),
        }
        for way in ways
    ]


async def open_way(
    stack: contextlib.AsyncExitStack,
    name: str,
    port: int,
    to: int,
    pids: Sequence[int],
    *,
    at: tuple[Workers, int, int] | None = None,
) -> Way:
    """Join a sender and the members.

    Args:
        stack: closes them.
        name: of the way.
        port: of the sender's server.
        to: of the members'.
        pids: the processes whose time counts.
        at: the workers, that of the sender and that of the members; None: there is no choice.
    """
    sender = await Sender.join(port)
    stack.callback(sender.close)
    while at is not None and sender.port not in at[0].clients_of(at[1]):
        sender.close()
        sender = await Sender.join(port)
        stack.callback(sender.close)
    listeners: list[Listener] = []
    while len(listeners) < MEMBERS:
        listener = await Listener.join(to)
        if at is None or listener.port in at[0].clients_of(at[2]):
            listeners.append(listener)
            stack.push_async_callback(listener.close)
        else:
            await listener.close()
    return Way(name, sender, listeners, pids)


async def until_heard(way: Way) -> None:
    """Wait until what is sent comes: the members' server may just have been told of the room."""
    while not all(listener.count for listener in way.listeners):
        await way.sender.send(1)
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    most = max(listener.count for listener in way.listeners)
    for listener in way.listeners:
        listener.count = most
