"""Rooms whose members are at two workers of one server. None of it needs the database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.test_presence_of_several import present
from tests.integration.test_rooms import heard, member, post, status
from tests.integration.test_rooms_of_several import JSON, push, until_heard
from tests.integration.test_stream_http import NOWHERE, exchange
from tests.integration.test_workers import Workers
from tests.server_helpers import PhoenixClient
from tests.waiting import eventually, eventually_sync

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


@pytest.fixture(scope="module")
def server() -> Iterator[Workers]:
    with Workers(NOWHERE, patience=90, WORKERS="2") as server:
        yield server


@contextlib.asynccontextmanager
async def member_of(server: Workers, pid: int, ack: bool = False) -> AsyncIterator[PhoenixClient]:
    """Have a member at one of the workers."""
    for _ in range(100):
        async with member(server.port, ack=ack) as client:
            if client.websocket.local_address[1] in server.clients_of(pid):
                yield client
                return
    raise AssertionError(f"no connection of 100 went to the worker {pid}")


async def test_members_at_two_workers_are_in_one_room(server: Workers) -> None:
    one, two = server.pids()
    async with member_of(server, one, ack=True) as sender, member_of(server, two) as client:
        await until_heard(client, sender)
        await sender.drain()
        for number in range(100):
            await push(sender, number, ref=str(number))
        for number in range(100):
            assert await client.receive() == heard(client, number)
        assert len(await sender.drain()) == 100
        for _ in range(4):
            # Whichever worker takes it.
            assert status(await exchange(server.port, post(b"{}", JSON))) == 202
            assert await client.receive() == heard(client, {})
            assert await sender.receive() == heard(sender, {})
    metrics = await asyncio.to_thread(server.metrics)
    assert metrics["realtime_bus_sent_total"] >= 100
    assert metrics["realtime_bus_lost_total"] == metrics["realtime_bus_strange_total"] == 0


async def test_a_worker_that_is_killed_takes_its_members_along_and_another_takes_its_place(
    server: Workers,
) -> None:
    one, two = server.pids()
    async with (
        present(server.port, "ann", pid=one, of=server) as ann,
        present(server.port, "bob", pid=two, of=server) as bob,
        present(server.port, "carl", pid=two, of=server) as carl,
    ):
        for each in (ann, bob, carl):
            await eventually(lambda each=each: len(each.keys) == 3)  # type: ignore[misc]
        ann.diffs.clear()
        os.kill(two, signal.SIGKILL)
        await eventually(lambda: ann.keys == {"ann"}, within=5)
        # In one flush, and long before it would be missed.
        assert ann.diffs == [(set(), {"bob", "carl"})]
        await eventually(lambda: len(server.pids()) == 2 and two not in server.pids())
        [new] = set(server.pids()) - {one}
        await asyncio.to_thread(eventually_sync, lambda: server.metrics()["realtime_workers"] == 2)
        async with present(server.port, "dan", pid=new, of=server) as dan:
            for each in (ann, dan):
                await eventually(lambda each=each: each.keys == {"ann", "dan"})  # type: ignore[misc]
