"""What it costs to know what clients have received: fan-out with ordinals, and with proofs.

    python -m benchmarks.replay            # all of it, two minutes
    python -m benchmarks.replay proof      # one part

The server without replay, the server whose clients are hardly ever asked, and the server that asks
them once a second run at the same time, each with 1,000 clients, and take turns within one run.
Ratios are of processor time a frame, round by round. PostgreSQL, the servers and the load client,
which answers pings, are processes of their own on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, cast

import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode

from benchmarks.fanout import (
    BROADCAST,
    DATA,
    HEARTBEAT,
    INSERT,
    OURS,
    SEND,
    TABLES,
    Bench,
    Row,
    WritePath,
    run_parts,
    timed,
)
from realtime_server.net.frame_limits import BoundedConnection
from realtime_server.net.outbox import OutboxCounters, SocketOutbox
from realtime_server.replay.connection_proof import ConnectionProof, ping_payload
from realtime_server.replay.proofs import Proofs
from tests.server_helpers import make_backlog

CLIENTS: Final = 1000
ROUNDS: Final = 7
_SOCKETS: Final = 200
_HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
HARDLY_EVER: Final = "3600000"
OFF, NUMBERED, PROOFS = "off", "ordinals alone", "a proof a second"
SETTINGS: Final = {
    OFF: {"REPLAY_WINDOW": "0"},
    NUMBERED: {"REPLAY_PING_INTERVAL": HARDLY_EVER},
    PROOFS: {"REPLAY_PING_INTERVAL": "1000"},
}
# Each server has a table of its own.
ITEMS: Final = dict(zip(SETTINGS, (TABLES[OURS], TABLES[BROADCAST], TABLES[SEND]), strict=True))


@contextlib.asynccontextmanager
async def servers(bench: Bench, *names: str) -> AsyncIterator[list[WritePath]]:
    """Yield servers with their clients."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for name in names:
            table = ITEMS[name]
            server = stack.enter_context(bench.server(OURS, table, **SETTINGS[name]))
            topic = f"realtime:public:{table}"
            client = await bench.client(server.port, CLIENTS, topic, heartbeat=HEARTBEAT)
            await stack.enter_async_context(client)

            async def send(rows: int, statement: str = INSERT.format(table, DATA)) -> None:
                bench.connection.execute(statement, (rows,), prepare=True)

            found.append(WritePath(name, server.process.pid, client, CLIENTS, send))
        yield found


def to_off(costs: dict[str, list[float]]) -> dict[str, float]:
    """Compare each with the server without replay, round by round."""
    return {
        name: round(statistics.median(a / b for a, b in zip(each, costs[OFF], strict=True)), 3)
        for name, each in costs.items()
        if name != OFF
    }


async def in_step(bench: Bench) -> list[Row]:
    """Transactions one after the other, of 1 and of 10 rows."""
    rows: list[Row] = []
    async with servers(bench, *SETTINGS) as found:
        for count, transactions in ((1, 60), (10, 12)):
            for path in found:
                await path.run(2, count)
                path.rates.clear()
                path.costs.clear()
            for _ in range(ROUNDS):
                for path in found:
                    await path.run(transactions, count)
            costs = {path.name: list(path.costs) for path in found}
            rows.append(
                {
                    "clients": CLIENTS,
                    "rows": count,
                    "cpu_us_per_frame": {
                        name: round(statistics.median(each), 2) for name, each in costs.items()
                    },
                    "to_off": to_off(costs),
                }
            )
    return rows


async def at_a_rate(bench: Bench) -> list[Row]:
    """Twenty transactions a second, of one row: processor time, and from commit to receipt."""
    rows: list[Row] = []
    async with servers(bench, *SETTINGS) as found:
        costs: dict[str, list[float]] = {name: [] for name in SETTINGS}
        times: dict[str, list[Row]] = {name: [] for name in SETTINGS}
        for _ in range(ROUNDS):
            for path in found:
                row = await timed(bench, path, ITEMS[path.name], 20, seconds=3)
                costs[path.name].append(row["cpu_us_per_frame"])
                times[path.name].append(row)
    for name in SETTINGS:
        rows.append(
            {
                "server": name,
                "cpu_us_per_frame": round(statistics.median(costs[name]), 2),
                **{
                    key: round(statistics.median(row[key] for row in times[name]), 1)
                    for key in ("p50_ms", "p99_ms")
                },
            }
        )
    return [*rows, {"cpu_to_off": to_off(costs)}]


async def proof(bench: Bench) -> list[Row]:
    """What one pong takes, with asyncio and uvloop, and if the library parses it."""
    rows: list[Row] = []
    for run in (asyncio.run, uvloop.run):
        for is_parsed in (False, True):
            # Of a thread of its own, so that its processor time is known.
            rows.append(await asyncio.to_thread(run, _pongs(is_parsed=is_parsed)))
    return rows


class _Observer:
    """Stands for the server: nothing happens to its connections."""

    def count_flood(self) -> None:
        raise AssertionError

    def count_malformed(self, transport: asyncio.BaseTransport) -> None:
        raise AssertionError

    def check_backlog(self, transport: asyncio.Transport) -> None:
        pass

    def forget(self, transport: asyncio.Transport) -> None:
        pass


async def _pongs(*, is_parsed: bool) -> Row:
    """Read a pong of each of many connections, again and again."""

    class Connection(BoundedConnection):
        def _take_lone_pong(self, proof: ConnectionProof, data: bytes) -> bool:
            return not is_parsed and super()._take_lone_pong(proof, data)

    def connect(*arguments: Any, **options: Any) -> BoundedConnection:
        return Connection(*arguments, frames_per_second=1 << 30, observer=_Observer(), **options)

    async def handle(connection: ServerConnection) -> None:
        opened.put_nowait(connection)
        await connection.wait_closed()

    proofs = Proofs(interval=1.0, clock=time.monotonic)
    opened: asyncio.Queue[ServerConnection] = asyncio.Queue()
    backlog = make_backlog(max_bytes=1 << 20, max_age=1000)
    found = []
    async with serve(handle, "127.0.0.1", 0, create_connection=cast(Any, connect)) as server:
        port = server.sockets[0].getsockname()[1]
        with contextlib.ExitStack() as stack:
            for _ in range(_SOCKETS):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                client.sendall(_HANDSHAKE)
                outbox = SocketOutbox(
                    await opened.get(),
                    backlog=backlog,
                    counters=OutboxCounters(),
                    peer="",
                    proofs=proofs,
                )
                assert outbox.proof is not None
                found.append((client, outbox.proof))
            costs: list[float] = []
            for _ in range(ROUNDS * 3):
                ordinals = [proof.ask() for _, proof in found]
                for (client, _), ordinal in zip(found, ordinals, strict=True):
                    pong = Frame(Opcode.PONG, ping_payload(ordinal))
                    client.sendall(pong.serialize(mask=True))
                wanted, begin = proofs.count + _SOCKETS, time.thread_time()
                while proofs.count < wanted:  # noqa: ASYNC110 (each round reads what has come)
                    await asyncio.sleep(0)
                costs.append((time.thread_time() - begin) / _SOCKETS)
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return {
        "loop": loop,
        "parsed by": "the library" if is_parsed else "nobody",
        "cpu_us_per_proof": round(statistics.median(costs) * 1e6, 1),
        "least": round(min(costs) * 1e6, 1),
    }


PARTS: Final[dict[str, Callable[[Bench], Awaitable[list[Row]]]]] = {
    "in step": in_step,
    "at a rate": at_a_rate,
    "proof": proof,
}


if __name__ == "__main__":
    asyncio.run(run_parts("replay", PARTS, sys.argv[1:]))
