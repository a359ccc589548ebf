"""The server against the server of another checkout, such as the one before a change.

    git worktree add --detach ../before COMMIT
    python -m benchmarks.former ../before          # six minutes

Both run at the same time, each with a table of its own, and are asked in turns. Of two servers of
one checkout the one that is started first may need a fifth more for a lone row: so each pair is
started twice, in both orders, and a ratio is the geometric mean of both. What is left of noise
`python -m benchmarks.former .` shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import realtime_server
from benchmarks.fanout import (
    DATA,
    HEARTBEAT,
    INSERT,
    TABLES,
    Bench,
    Row,
    WritePath,
    open_bench,
    timed,
)
from tests.server_process import ServerProcess

NOW, FORMER = "this checkout", "the other"


@contextlib.asynccontextmanager
async def started(
    bench: Bench, roots: dict[str, Path], clients: int, heartbeat: int
) -> AsyncIterator[dict[str, tuple[WritePath, str]]]:
    """Start a server of each checkout, in the order given, with clients of its own."""
    async with contextlib.AsyncExitStack() as stack:
        found = {}
        for (name, root), table in zip(roots.items(), TABLES.values(), strict=False):
            # Else modules come from the directory that this is started in.
            environment = {"PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"}
            server = stack.enter_context(
                ServerProcess(bench.dsn, PUBLICATIONS=f'["{table}"]', **environment)
            )
            server.wait_until_streaming()
            client = await bench.client(
                server.port, clients, f"realtime:public:{table}", heartbeat=heartbeat
            )
            await stack.enter_async_context(client)

            async def send(rows: int, statement: str = INSERT.format(table, DATA)) -> None:
                bench.connection.execute(statement, (rows,), prepare=True)

            path = WritePath(name, server.process.pid, client, clients, send)
            found[name] = path, table
        yield found


Turn: TypeAlias = Callable[[WritePath, str], Awaitable[Row]]


async def in_turns(
    bench: Bench, other: Path, clients: int, turn: Turn, *, rounds: int = 8, heartbeat: int = 0
) -> Row:
    """Ask both servers in turns; return this one's medians and its ratios to the other."""
    here = Path(realtime_server.__file__).parents[1]
    roots = {NOW: here, FORMER: other}
    medians: list[dict[str, tuple[float, float]]] = []
    for order in (roots, dict(reversed(roots.items()))):
        async with started(bench, order, clients, heartbeat) as servers:
            for path, table in servers.values():
                await turn(path, table)
            turns = []
            for name in itertools.chain(*([NOW, FORMER], [FORMER, NOW]) * (rounds // 2)):
                turns.append(await turn(*servers[name]))
        # Each turn of this one has a neighbour of the other's.
        pairs = [
            turns[n : n + 2] if n % 4 == 0 else turns[n : n + 2][::-1]
            for n in range(0, len(turns), 2)
        ]
        medians.append(
            {
                figure: (
                    statistics.median(now[figure] for now, _ in pairs),
                    statistics.median(now[figure] / former[figure] for now, former in pairs),
                )
                for figure in turns[0]
            }
        )
    row: Row = {"clients": clients}
    for figure, (median, ratio) in medians[0].items():
        also, ratio_also = medians[1][figure]
        row[figure] = round((median + also) / 2, 1)
        row[f"{figure} to the other"] = round(math.sqrt(ratio * ratio_also), 3)
    return row


def in_step(rows: int, transactions: int) -> Turn:
    async def turn(path: WritePath, table: str) -> Row:
        await path.run(transactions, rows)
        return {"frames_per_second": path.rates.pop(), "cpu_us_per_frame": path.costs.pop()}

    return turn


def at_rate(bench: Bench, rate: int) -> Turn:
    async def turn(path: WritePath, table: str) -> Row:
        row = await timed(bench, path, table, rate, seconds=3)
        return {figure: row[figure] for figure in ("p50_ms", "p99_ms", "cpu_us_per_frame")}

    return turn


async def compare(other: Path) -> None:
    """Print what this server does, and its ratios to the other."""
    with open_bench() as bench:
        for clients, rows, transactions in (
            (1000, 1, 20),
            (1000, 10, 8),
            (1, 1, 200),
            (1, 100, 60),
            (1, 5000, 2),
        ):
            turn = in_step(rows, transactions)
            row = await in_turns(bench, other, clients, turn, rounds=12)
            print(f"in step, {rows} rows  ", *(f"{key}: {value} " for key, value in row.items()))
        row = await in_turns(bench, other, 1000, at_rate(bench, 20), rounds=4, heartbeat=HEARTBEAT)
        print("20 transactions a second  ", *(f"{key}: {value} " for key, value in row.items()))


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "realtime_server").is_dir():
        sys.exit("Name the directory of the other checkout: python -m benchmarks.former DIRECTORY")
    asyncio.run(compare(Path(sys.argv[1]).resolve()))
