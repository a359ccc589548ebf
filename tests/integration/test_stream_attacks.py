"""Joins that are made to take the server's time and memory, and what the others see of it.

Time is the processor's, of the thread that serves everybody, and the test's client with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.conftest import Stage
from tests.server_helpers import PhoenixClient

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

LONGEST = 0.25
"""Seconds until the others' next turn, with room for a collection of garbage: unbounded, it is from
one to eleven."""
ITEM = "create table item (id int primary key, details text)"


class Watch:
    """How long others had to wait for their turn."""

    longest = 0.0


@contextlib.asynccontextmanager
async def watching() -> AsyncIterator[Watch]:
    watch = Watch()

    async def tick() -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            watch.longest = max(watch.longest, now - before)
            before = now

    ticking = asyncio.create_task(tick())
    try:
        yield watch
    finally:
        ticking.cancel()
        await asyncio.wait({ticking})


async def join(client: PhoenixClient, stage: Stage, topic: str, *filters: str) -> Any:
    """Join with a binding for each filter; return the reply's payload."""
    bindings = [
        {"event": "*", "schema": stage.schema, "table": "item", "filter": each} for each in filters
    ]
    payload = {"config": {"postgres_changes": bindings}}
    await client.send(topic, "phx_join", payload, join_ref="1")
    while True:
        frame = await client.receive()
        if frame["event"] == "phx_reply":
            return frame["payload"]


async def test_a_join_of_large_regular_expressions_keeps_nobody_waiting(stage: Stage) -> None:
    stage.execute(ITEM)
    filters = [rf'details=match."\\w{{90}}{number}"' for number in range(10)]
    async with stage.client() as client, watching() as watch:
        reply = await join(client, stage, "realtime:room", *filters)
    assert reply["status"] == "error"
    assert "pattern too large" in reply["response"]["reason"]
    assert watch.longest < LONGEST


async def test_many_regular_expressions_are_bounded_together(stage: Stage) -> None:
    stage.execute(ITEM)
    filters = [rf'details=match."\\w+@\\w+\\.\\w{number}"' for number in range(100)]
    async with stage.client() as client, watching() as watch:
        reply = await join(client, stage, "realtime:room", *filters)
        assert "the filters of one join cost" in reply["response"]["reason"]
        for number in range(2):
            reply = await join(client, stage, f"realtime:room{number}", *filters[:5])
            assert reply["status"] == "ok"
        reply = await join(client, stage, "realtime:room", *filters[:10])
        assert reply["response"]["reason"].startswith("TooManyPatterns: ")
    assert watch.longest < LONGEST


async def test_joins_of_thousands_of_conditions_are_bounded_together(stage: Stage) -> None:
    stage.execute(ITEM)
    filters = [
        ",".join(f"details=not.like.*{place}x{number}*" for number in range(22))
        for place in range(10)
    ]
    async with stage.client() as client:
        # So that the table's columns are known, and whoever joins is typed for them.
        assert (await join(client, stage, "realtime:first", "id=eq.1"))["status"] == "ok"
        await stage.frames(client, f"insert into {stage.schema}.item values (1, 'x')")
        async with watching() as watch:
            replies = [
                await join(client, stage, f"realtime:room{number}", *filters)
                for number in range(60)
            ]
            reasons = {reply["response"].get("reason", "")[:17] for reply in replies}
            assert replies[0]["status"] == "ok"
            assert replies[-1]["status"] == "error"
            assert reasons <= {"", "TooManyConditions", "ClientJoinRateLim"}
            begin = time.thread_time()
            stage.execute(f"insert into {stage.schema}.item values (2, 'y')")
            await stage.settle()
            until_the_row = time.thread_time() - begin
        assert watch.longest < LONGEST
        assert until_the_row < 1
