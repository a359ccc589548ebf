"""A transaction that is larger than what is kept, while a client is away.

REPLAY_ROWS is how many rows it has, for each of which one byte in 16 may be kept.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.program import NodeProgram
from tests.e2e.replay.clients import BINDING, identify, understand
from tests.e2e.replay.rows import Writer
from tests.e2e.replay.test_replay_changes import WINDOW
from tests.e2e.replay.verdict import judge
from tests.e2e.replay.wire import Wire
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.server_process import ServerProcess
from tests.waiting import eventually

ROWS = int(os.environ.get("REPLAY_ROWS", "200000"))
MEGABYTES = max(1, ROWS // 62_500)
"""REPLAY_MEMORY_MB: 16 for a million rows."""
PACKED = 150
"""Bytes that a row takes at least in a log that keeps all."""

MOVED = """
    select pg_wal_lsn_diff(confirmed_flush_lsn, %s) >= 0 from pg_replication_slots
    where slot_name not like '%%\\_replay'
"""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(300 + ROWS // 1000),
    pytest.mark.xfail(
        WINDOW == 0, reason="the server replays nothing", run="REPLAY_FAULTS" in os.environ
    ),
]


async def test_a_huge_transaction_is_a_gap_or_comes_whole_and_memory_is_bounded(
    one_pg: Server, clients: Path
) -> None:
    with fresh_database(one_pg) as items:
        items.execute("create table item (id int8 primary key, note text)")
        items.execute("create publication changes for table item")
        settings = {"PUBLICATIONS": '["changes"]', "SLOT_NAME": unique_name("slot")}
        settings |= {"REPLAY_MEMORY_MB": str(MEGABYTES)} if WINDOW else {}
        with ServerProcess(items.dsn, **settings) as server:
            server.wait_until_streaming()
            await scene(items, clients, server)


async def scene(items: Database, clients: Path, server: ServerProcess) -> None:
    options = json.dumps({"params": identify("session"), "heartbeatIntervalMs": 1000})
    async with Wire(lambda: server.port) as wire:
        url = f"ws://127.0.0.1:{wire.port}/socket"
        with NodeProgram(clients / "realtime_js_2.mjs", url, options) as program:
            program.tell(subscribe="room", bindings=[BINDING])
            await eventually(lambda: program.count(status="SUBSCRIBED"))
            async with Writer(items, seed=1) as writer:
                await eventually(lambda: sum("change" in line for line in program.said) > 10)
                with wire.down():
                    before = server.forget_peak_memory()
                    await writer.write(ROWS)
                    last = writer.written.last
                    (end,) = items.execute("select pg_current_wal_lsn()::text")
                    await eventually(
                        lambda: all(moved for (moved,) in items.execute(MOVED, end)),
                        within=ROWS / 1000,
                    )
                    grown = server.peak_memory() - before
                told: list[dict[str, Any]] = []
                while True:
                    lines = program.said[len(told) :]
                    told += lines
                    if any("change" in it and it["change"]["new"]["id"] > last for it in lines):
                        break
                    await asyncio.sleep(0.1)
    events = [event for line in told for event in understand(line)]
    verdict = judge(events, writer.written, last=last)
    print(f"{verdict.seen} seen, covered: {verdict.covered}; memory grew by {grown / 1e6:.0f} MB")
    assert verdict.is_good, f"{len(verdict.missing)} missing"
    assert list(verdict.covered) in ([], ["replay_limit"])
    # All of it in memory would be this much.
    assert grown < MEGABYTES * 1e6 + ROWS * PACKED / 2
