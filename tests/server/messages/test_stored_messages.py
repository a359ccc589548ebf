"""Stored messages, where the database is away or does not answer. The SQL is tried elsewhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

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
