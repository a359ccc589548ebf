"""LogFeed ends with an error where nothing more will come, and when it is closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realtime_core import Gap, Idle, StreamIdentity
from realtime_server.cluster.envelope import Envelope, Kind, encode
from realtime_server.cluster.errors import LogError
from realtime_server.cluster.feed import LogFeed
from realtime_server.cluster.log import Log, LogSettings
from realtime_server.cluster.log_reader import LogReader
from realtime_server.cluster.node import ClusterNode
from realtime_server.cluster.nodes import Nodes
from realtime_server.cluster.patient_reader import PatientReader
from tests.fake_jetstream import FakeConnection, FakeJetStream
from tests.virtual_time import run_in_virtual_time

STREAM = StreamIdentity(7, 1, ("shop",))


def feed_of(server: FakeJetStream, connection: type[FakeConnection] = FakeConnection) -> LogFeed:
    async def connect() -> Any:
        return connection(server)

    def log(connected: Any) -> Log:
        return Log(connected, LogSettings(name="log"))

    clock = asyncio.get_running_loop().time
    return LogFeed(PatientReader(LogReader(connect, log), clock), lambda: None)


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


@pytest.mark.slow
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


def test_a_change_of_which_the_log_has_lost_the_begin_before_the_server_began_is_a_gap() -> None:
    """Clients that come back to the server have not got it either."""

    async def play() -> None:
        server = FakeJetStream()
        server.exists = True
        before, place, behind = (0, 1, 0), (0, 2, 0), (0, 3, 0)
        server.append(encode(Envelope(Kind.CHANGES, before, before, before, STREAM, b"x", 2, 3)))
        async with feed_of(server) as feed:
            await feed.attached()
            assert feed.begin == before
            server.append(encode(Envelope(Kind.CHANGES, place, place, before, STREAM, b"x", 3, 3)))
            server.append(encode(Envelope(Kind.MARK, behind, behind, place, STREAM, b"")))
            gap, event = await anext(feed.batches())
            assert isinstance(gap, Gap)
            assert (gap.until.lsn, gap.until.index) == (2, 1)
            assert isinstance(event, Idle)
            assert feed.log_stats().gaps == 1

    run_in_virtual_time(play())


def test_it_is_closed_although_a_cancellation_was_swallowed() -> None:
    async def play() -> None:
        cancelled = []

        async def connect() -> Any:
            # As in a call of asyncio.wait_for() that has its result just then, before Python 3.12.
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                if len(cancelled) > 1:
                    raise
            raise LogError("no connection")

        clock = asyncio.get_running_loop().time
        reader = LogReader(connect, lambda connected: Log(connected, LogSettings(name="log")))
        feed = LogFeed(PatientReader(reader, clock), lambda: None)
        node = ClusterNode("log", connect, Nodes(100), feed, None, clock=clock)
        for one in (feed, node):
            cancelled.clear()
            async with asyncio.timeout(60), one:
                # Its task has begun.
                await asyncio.sleep(0.1)
            assert len(cancelled) == 2

    run_in_virtual_time(play())
