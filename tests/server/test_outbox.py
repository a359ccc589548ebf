"""SocketOutbox: a bound on what waits for a client."""

from __future__ import annotations

import logging

import pytest

from realtime_server.outbox import OutboxCounters, SocketOutbox
from tests.server_helpers import FakeTransport


class Wire:
    """An outbox of at most 100 bytes and what it stands on."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.counters = OutboxCounters()
        self.open = True
        self.outbox = SocketOutbox(
            self.transport,
            lambda: self.open and not self.transport.aborted,
            max_bytes=100,
            counters=self.counters,
            peer="10.0.0.1:4321",
        )


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_frames_are_written_at_once_and_in_order(wire: Wire) -> None:
    wire.outbox.write(b"one")
    wire.outbox.write(b"two")
    assert wire.transport.sent() == b"onetwo"
    assert wire.counters.slow_clients == 0


def test_as_much_as_the_bound_may_wait(wire: Wire) -> None:
    wire.outbox.write(b"x" * 60)
    wire.outbox.write(b"x" * 40)
    assert not wire.transport.aborted


def test_a_client_that_falls_further_behind_is_cut_off_counted_and_logged(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    wire.outbox.write(b"x" * 60)
    wire.outbox.write(b"x" * 41)
    assert wire.transport.aborted
    assert wire.counters.slow_clients == 1
    assert caplog.record_tuples == [
        (
            "realtime.outbox",
            logging.WARNING,
            "client 10.0.0.1:4321 is too slow: 101 bytes wait for it, at most 100 may "
            "(OUTBOX_MAX_BYTES); disconnected",
        )
    ]


def test_one_that_was_cut_off_is_not_counted_twice(wire: Wire) -> None:
    for _ in range(5):
        wire.outbox.write(b"x" * 60)
    assert wire.counters.slow_clients == 1


def test_one_large_write_is_taken_when_nothing_waits(wire: Wire) -> None:
    wire.outbox.write(b"x" * 1000)
    assert wire.transport.sent() == b"x" * 1000
    wire.outbox.write(b"y" * 1000)
    assert not wire.transport.aborted


def test_a_client_that_caught_up_is_no_longer_behind(wire: Wire) -> None:
    for _ in range(10):
        wire.outbox.write(b"x" * 100)
        wire.transport.sent()
    assert not wire.transport.aborted


def test_nothing_is_written_to_a_connection_that_closes(wire: Wire) -> None:
    wire.open = False
    wire.outbox.write(b"x" * 1000)
    assert wire.transport.waiting == b""
    assert wire.counters.slow_clients == 0
