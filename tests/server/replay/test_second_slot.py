"""The second slot where a slot that nobody uses is lost: it is used, and stays where it is."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from realtime_core import LSN
from realtime_server.replay import second_slot
from realtime_server.replay.second_slot import SecondSlot

from ...server_helpers import slot_status

pytestmark = pytest.mark.asyncio

MEGABYTE = 1_000_000
IDLE_TIMEOUT = 60.0


@attrs.define
class Database:
    """A database with both slots, and ``idle_replication_slot_timeout``."""

    main: int = 5 * MEGABYTE
    second: int = MEGABYTE
    moves: list[int] = attrs.field(factory=list)

    async def execute(self, query: str, parameters: Any = None) -> Any:
        if query.startswith("SELECT end_lsn"):
            self.moves.append(int(LSN.parse(parameters[1])))

        async def fetchall() -> Any:
            return [(False, -1, IDLE_TIMEOUT, True)]

        return SimpleNamespace(fetchall=fetchall)

    async def slot(self, name: str) -> Any:
        place = LSN(self.main if name == "main" else self.second)
        return slot_status(name, place, end=self.main)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    database = Database()

    @contextlib.asynccontextmanager
    async def connection() -> AsyncIterator[Database]:
        yield database

    async def connect(dsn: str, *, name: str) -> Any:
        return connection()

    async def slot(connection: Database, name: str) -> Any:
        return await connection.slot(name)

    monkeypatch.setattr(second_slot, "connect", connect)
    monkeypatch.setattr(second_slot.catalog, "slot", slot)
    return database


async def test_a_slot_that_must_not_idle_is_used_and_not_moved_past_the_last_snapshot(
    database: Database,
) -> None:
    now, snapshots = 0.0, 0

    async def dsn() -> str:
        return ""

    async def before_move(passed: LSN) -> bool:
        nonlocal snapshots
        snapshots += 1
        return True

    kept = SecondSlot(dsn, slot="main", name="second", max_bytes=1 << 40, clock=lambda: now)
    await kept.keep(lambda: None, before_move)
    assert database.moves == []
    # It would be lost before long. So little lies behind it that nothing is written for a move.
    now = IDLE_TIMEOUT / 2
    await kept.keep(lambda: None, before_move)
    assert (database.moves, snapshots) == ([database.second], 0)
    # With a snapshot, it is moved.
    database.main = 50 * MEGABYTE
    await kept.keep(lambda: None, before_move)
    assert (database.moves[1:], snapshots) == ([database.main], 1)
