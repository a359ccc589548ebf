"""LogFeed ends with an error where nothing more will come."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realtime_core import StreamIdentity
from realtime_server.cluster.envelope import Envelope, Kind, encode
from realtime_server.cluster.feed import LogFeed
from realtime_server.cluster.log import Log, LogSettings
from realtime_server.cluster.log_reader import LogReader
from tests.fake_jetstream import FakeConnection, FakeJetStream
from tests.virtual_time import run_in_virtual_time

STREAM = StreamIdentity(7, 1, ("shop",))


def feed_of(server: FakeJetStream, connection: type[FakeConnection] = FakeConnection) -> LogFeed:
    async def connect() -> Any:
        return connection(server)

    def log(connected: Any) -> Log:
        return Log(connected, LogSettings(name="log"))

    clock = asyncio.get_running_loop().time
    return LogFeed(LogReader(connect, log), leader=lambda: None, clock=clock)


class NoAnswers(FakeConnection):
    async def request(self, subject: str, *_: Any, **__: Any) -> Any:
        raise AttributeError("nobody has thought of that")


class NoSubscriptions(FakeConnection):
    async def subscribe(self, *_: Any) -> Any:
        raise AttributeError("nobody has thought of that")


def test_who_waits_for_the_begin_hears_of_an_error_that_nobody_has_thought_of() -> None:
    async def play() -> None:
        async with feed_of(FakeJetStream(), NoAnswers) as feed:
            with pytest.raises(AttributeError):
                await feed.attached()
            assert not feed.is_open

    run_in_virtual_time(play())


def test_who_waits_for_changes_hears_of_an_error_that_nobody_has_thought_of() -> None:
    async def play() -> None:
        server = FakeJetStream()
        server.exists = True
        server.append(encode(Envelope(Kind.MARK, (0, 1, 0), (0, 1, 0), (0, 0, 0), STREAM, b"")))
        async with feed_of(server, NoSubscriptions) as feed:
            await feed.attached()
            with pytest.raises(AttributeError):
                await anext(feed.batches())
            assert not feed.is_open
            assert not feed.stats().connected

    run_in_virtual_time(play())
