"""Stored messages, where the database is away or does not answer. The SQL is tried elsewhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from realtime_server.messages.stored_messages import StoredMessages
from realtime_server.phoenix.joins import ReplayConfig
from tests.rls_helpers import at


class SilentConnections:
    """A pool of connections that are never answered, but end when they are cut."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()

    def close(self) -> None:
        self._here.close()
        self._there.close()

    @asynccontextmanager
    async def one(self, *, within: float) -> AsyncIterator[SilentConnections]:
        yield self

    def fileno(self) -> int:
        return self._here.fileno()

    async def execute(self, *_: Any) -> None:
        # Until it is readable, which here means that it was shut down.
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._here, ended.set)
        await ended.wait()
        loop.remove_reader(self._here)
        raise psycopg.OperationalError("the server closed the connection")


async def test_from_a_database_that_does_not_answer_nothing_is_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("realtime_server.messages.stored_messages._SILENT", 0.005)
    pool = SilentConnections()
    monkeypatch.setattr(
        "realtime_server.messages.stored_messages.Connections", lambda *_, **__: pool
    )
    stored = StoredMessages(at(""), max_payload_bytes=1000, commits=None)
    assert await stored.read("room", ReplayConfig(), takes_bytes=True) is None
    assert "stored messages cannot be read: the server closed the connection" in caplog.text
    pool.close()


async def test_where_no_connection_is_free_a_read_does_not_wait_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[float] = []

    class Busy:
        @asynccontextmanager
        async def one(self, *, within: float) -> AsyncIterator[Any]:
            asked.append(within)
            raise PoolTimeout
            yield

    monkeypatch.setattr(
        "realtime_server.messages.stored_messages.Connections", lambda *_, **__: Busy()
    )
    stored = StoredMessages(at(""), max_payload_bytes=1000, commits=None)
    assert await stored.read("room", ReplayConfig(), takes_bytes=True) is None
    assert len(asked) == 1
    assert "no connection is free in time" in caplog.text
