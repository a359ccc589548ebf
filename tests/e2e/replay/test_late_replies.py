"""Stock clients that have given up their first join, whose reply came too late, miss nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.replay.clients import StockClient, start_program
from tests.e2e.replay.servers import Servers
from tests.e2e.replay.verdict import GaveUp, Row
from tests.e2e.replay.wire import Wire
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.slow]

NAMES = ("js", "js-vsn1", "phoenix", "js-1", "py")
GIVES_UP_AFTER = 6000
"""Milliseconds that a client waits for the reply to a join."""
WITHIN = 40
"""Seconds for everything that clients do after some pause."""


@pytest.fixture
def items(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int8 primary key, note text)")
        database.execute("create publication changes for table item")
        yield database


def write(items: Database, row: int) -> None:
    items.execute("insert into item values (%s, 'x')", (row,))


async def until(client: StockClient, condition: Callable[[], bool]) -> None:
    """Wait until something is true of what a client was told."""
    async with asyncio.timeout(WITHIN):
        while not condition():
            await asyncio.sleep(0.02)
            await client.look()


@pytest.mark.parametrize("cut", [False, True], ids=["stays", "is cut"])
async def test_a_join_that_was_given_up_loses_nothing(
    cut: bool, items: Database, clients: Path, python_client: Path
) -> None:
    with Servers(items, seed=1, environment={"REPLAY_PING_INTERVAL": "100"}) as servers:
        async with contextlib.AsyncExitStack() as started:

            async def start(number: int, name: str, *, holds: bool) -> StockClient:
                wire = await started.enter_async_context(Wire(servers.pick))
                wire.holds_next = holds
                program, make = start_program(
                    *(name, number, wire, "session"),
                    folder=clients,
                    python=python_client,
                    timeout=GIVES_UP_AFTER,
                    # It does not close the connection meanwhile.
                    heartbeatIntervalMs=25_000,
                )
                started.enter_context(program)
                return make()

            witness = await start(0, "js", holds=False)
            await until(witness, lambda: witness.is_joined)
            late = [await start(number, name, holds=True) for number, name in enumerate(NAMES, 1)]
            await eventually(lambda: all(one.wire.link is not None for one in late))
            links = [one.wire.link for one in late if one.wire.link is not None]
            # Their joins were answered.
            await eventually(lambda: all(link.holds for link in links))
            for row in (1, 2, 3):
                write(items, row)
                await until(witness, lambda row=row: witness.highest == row)  # type: ignore[misc]
            async with asyncio.TaskGroup() as group:
                for client in late:
                    group.create_task(go_on(client, cut=cut))
            write(items, 4)
            for client in late:
                await until(client, lambda client=client: client.highest == 4)  # type: ignore[misc]
        assert "Traceback" not in servers.said()
    for client in late:
        rows = [event.id for event in client.told if isinstance(event, Row)]
        assert list(dict.fromkeys(rows)) == [1, 2, 3, 4], client.name


async def go_on(client: StockClient, *, cut: bool) -> None:
    """Let the reply through when the client has given up its join, with the changes behind it, and
    perhaps cut the connection behind them; return when it has joined."""
    link = client.wire.link
    assert link is not None
    await until(client, lambda: any(isinstance(one, GaveUp) for one in client.told))
    pongs = link.pongs
    link.flow()
    # Its library answers the pings, before it joins again, a second later.
    await eventually(lambda: link.pongs > pongs)
    if cut:
        link.end("client", "reset")
        link.end("server", "reset")
    await until(client, lambda: client.is_joined)
