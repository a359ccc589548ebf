"""What webhooks cost: how fast an endpoint is served, and what sockets notice of it.

    python -m benchmarks.webhooks

PostgreSQL, the server and the receiver are processes of their own. **Served**: transactions of
one row are committed as fast as PostgreSQL takes them, while the endpoint answers at once; the
figures are requests a second, and the server's processor time for each, decoding for the sockets
included. **Sockets**: 100 rows a second; the figures are the time from before a row's INSERT to
its frame on a socket, without webhooks, with an endpoint that answers at once, and with one that
takes the request and never answers, whose queue is full, so that the webhooks' reader holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from benchmarks._report import environment, percentile, save
from realtime_server.demo.embedded import EmbeddedPostgres
from tests.server_helpers import open_client
from tests.server_process import ServerProcess
from tests.waiting import eventually_sync

TRANSACTIONS = 3000
ROWS = 500
RATE = 100
TOPIC = "realtime:public:item"


def receive(port: Any, count: Any, answers: bool) -> None:
    """Count requests, and answer each at once or never."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(size)
                count.value += 1
                if answers:
                    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())


@contextlib.contextmanager
def receiver(*, answers: bool) -> Iterator[tuple[str, Any]]:
    """Run a receiver; yield its URL and the counter of its requests."""
    context = multiprocessing.get_context("spawn")
    port, count = context.Value("i", 0), context.Value("i", 0)
    process = context.Process(target=receive, args=(port, count, answers))
    process.start()
    try:
        eventually_sync(lambda: port.value)
        yield f"http://127.0.0.1:{port.value}/", count
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def server(dsn: str, path: Path, url: str | None) -> Iterator[ServerProcess]:
    """Run a server with one webhook, or none."""
    file = path / "config.json"
    webhooks = [] if url is None else [{"config": {"endpoint": url}}]
    file.write_text(json.dumps({"webhooks": webhooks}))
    settings = {
        "PUBLICATIONS": '["bench"]',
        "CONFIGURATION_FILE": str(file),
        "WEBHOOK_WAITING_BYTES": "65536",
        "WEBHOOK_TIMEOUT": "3600000",
        "DRAIN_TIMEOUT": "100",
    }
    with ServerProcess(dsn, **settings) as process:
        process.wait_until_streaming()
        wanted = 1 if url is None else 2
        with psycopg.connect(dsn, autocommit=True) as connection:
            query = "select count(*) from pg_stat_replication where state = 'streaming'"
            eventually_sync(lambda: connection.execute(query).fetchone() == (wanted,))
        yield process


def served(dsn: str, path: Path) -> dict[str, float]:
    with (
        receiver(answers=True) as (url, count),
        server(dsn, path, url) as process,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        connection.execute("insert into item default values")
        eventually_sync(lambda: count.value == 1)
        cpu, begin = process.cpu_time(), time.perf_counter()
        connection.execute(
            f"do $$ begin for i in 1..{TRANSACTIONS} loop"
            " insert into item default values; commit; end loop; end $$"
        )
        eventually_sync(lambda: count.value == TRANSACTIONS + 1, within=300)
        seconds = time.perf_counter() - begin
        cpu = process.cpu_time() - cpu
    return {
        "requests_per_second": round(TRANSACTIONS / seconds),
        "server_cpu_ms_per_request": round(cpu / TRANSACTIONS * 1000, 2),
    }


async def sockets(dsn: str, path: Path, url: str | None) -> dict[str, float]:
    times = []
    with (
        server(dsn, path, url) as process,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        async with open_client(process.port) as client:
            await client.join(TOPIC)
            for _ in range(ROWS):
                begin = time.perf_counter()
                connection.execute("insert into item (filling) values (repeat('x', 500))")
                await client.receive()
                times.append(time.perf_counter() - begin)
                await asyncio.sleep(max(1 / RATE - times[-1], 0))
    return {
        "ms_median": round(percentile(times, 0.5) * 1000, 2),
        "ms_p99": round(percentile(times, 0.99) * 1000, 2),
        "ms_max": round(max(times) * 1000, 2),
    }


async def main() -> None:
    with contextlib.ExitStack() as stack:
        dsn = os.environ.get("BENCH_DSN") or stack.enter_context(EmbeddedPostgres()).dsn
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("drop publication if exists bench")
            connection.execute("drop table if exists item")
            connection.execute("create table item (id bigserial primary key, filling text)")
            connection.execute("create publication bench for table item")
        result: dict[str, Any] = {"environment": environment("psycopg", "websockets", "httpx")}
        result["served"] = served(dsn, path)
        print(f"served: {result['served']}")
        result["sockets"] = {"without webhooks": await sockets(dsn, path, None)}
        for name, answers in (("an endpoint that answers", True), ("one that never does", False)):
            with receiver(answers=answers) as (url, _):
                result["sockets"][name] = await sockets(dsn, path, url)
        for name, figures in result["sockets"].items():
            print(f"sockets, {name}: {figures}")
    print(f"saved {save('webhooks', 'python -m benchmarks.webhooks', result)}")


if __name__ == "__main__":
    asyncio.run(main())
