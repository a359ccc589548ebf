"""Stored messages, where the database is away or does not answer. The SQL is tried elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from realtime_server.messages.stored_messages import StoredMessages
from realtime_server.phoenix.joins import ReplayConfig
from tests.rls_helpers import at


class SilentConnections:
    """A pool of connections that are never answered."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    @asynccontextmanager
    async def one(self, *, within: float) -> AsyncIterator[SilentConnections]:
        yield self

    async def execute(self, *_: Any) -> None:
        await asyncio.Event().wait()


async def test_from_a_database_that_does_not_answer_nothing_is_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("realtime_server.messages.stored_messages._WITHIN", 0.005)
    monkeypatch.setattr("realtime_server.messages.stored_messages.Connections", SilentConnections)
    stored = StoredMessages(at(""), max_payload_bytes=1000)
    assert await stored.read("room", ReplayConfig(), takes_bytes=True) is None
    assert "stored messages cannot be read: the database does not answer" in caplog.text
