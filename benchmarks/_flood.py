"""The part of benchmarks.rooms in which one member floods a large room, beside a small one."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import urllib.request
from collections.abc import AsyncIterator

from benchmarks._nodes import Way, open_way, until_heard
from benchmarks._report import percentile
from benchmarks._sender import BYTES, HANDSHAKE, client_frame
from benchmarks.fanout import OURS, Bench, Row

__all__ = ["flood"]

CROWD = 5000
TOPIC = "realtime:crowd"
ROUNDS = 7
IN_STEP = 100
PUSHES_PER_SECOND = 1000
"""Of the member that floods: forty of them reach five thousand with the default of
MAX_DELIVERIES_PER_SECOND, and the others are refused."""
_JOIN = f'["1","1","{TOPIC}","phx_join",{{"config":{{"broadcast":{{}}}}}}]'
_PUSH = (
    f'["1","2","{TOPIC}","broadcast",'
    f'{{"type":"broadcast","event":"n","payload":{{"data":"{"x" * BYTES}"}}}}]'
)


async def flood(bench: Bench) -> list[Row]:
    """In step to ten members of another room, without the flood and with it, in turns."""
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(bench.server(OURS, IDLE_TIMEOUT="3600000"))
        crowd = await bench.client(server.port, CROWD, TOPIC, config=1)
        await stack.enter_async_context(crowd)
        way = await open_way(stack, "", server.port, server.port, [server.process.pid])
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        stack.callback(writer.close)
        writer.write(HANDSHAKE + client_frame(0x81, _JOIN.encode()))
        await reader.readuntil(b'"status":"ok"')
        await until_heard(way)
        latencies: dict[str, list[float]] = {"nobody": [], "one member of 5,000": []}
        for _ in range(ROUNDS):
            for who, taken in latencies.items():
                async with _flooding(writer, is_on=who != "nobody"):
                    taken += [await _one(way) for _ in range(IN_STEP)]
        refused = await asyncio.to_thread(_refused, server.port)
    alone = percentile(latencies["nobody"], 0.99)
    return [
        {
            "who floods": who,
            "p50_ms": round(statistics.median(taken) * 1000, 2),
            "p99_ms": round(percentile(taken, 0.99) * 1000, 2),
            "p99_to_nobody": round(percentile(taken, 0.99) / alone, 2),
            "refused_pushes": 0 if who == "nobody" else refused,
        }
        for who, taken in latencies.items()
    ]


def _refused(port: int) -> int:
    """Return how many broadcasts the server has refused."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        lines = response.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("realtime_broadcasts_refused_total{")]
    return round(sum(float(line.split()[-1]) for line in counts))


async def _one(way: Way) -> float:
    await asyncio.sleep(0.005)
    return await way.send(1)


@contextlib.asynccontextmanager
async def _flooding(writer: asyncio.StreamWriter, *, is_on: bool) -> AsyncIterator[None]:
    task = asyncio.create_task(_flood(writer)) if is_on else None
    # Until what one round has left is written, or the next has begun.
    await asyncio.sleep(0.5)
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _flood(writer: asyncio.StreamWriter) -> None:
    frames = client_frame(0x81, _PUSH.encode()) * 10
    while True:
        writer.write(frames)
        await writer.drain()
        await asyncio.sleep(10 / PUSHES_PER_SECOND)
