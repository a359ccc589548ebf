"""What a replication connection asks of libpq, and when: it must never block the loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest

from realtime_core.errors import ConnectionLostError, SlotLostError
from realtime_core.sources._replication_connection import ReplicationConnection


class EndingPgconn:
    """libpq's connection after CopyDone: the result behind it is still on its way.

    ``PQgetResult`` waits for it, with the whole thread.
    """

    ssl_in_use = used_gssapi = False
    backend_pid = 42

    def __init__(self, incoming: socket.socket) -> None:
        self._incoming = incoming
        self._received = b""

    @property
    def socket(self) -> int:
        return self._incoming.fileno()

    def get_copy_data(self, _: int) -> tuple[int, bytes]:
        return -1, b""

    def consume_input(self) -> None:
        self._received += self._incoming.recv(16)

    def is_busy(self) -> bool:
        return not self._received

    def get_result(self) -> None:
        assert self._received, "PQgetResult would block"


class StreamingPgconn(EndingPgconn):
    """Each byte from the socket is a CopyData."""

    def get_copy_data(self, _: int) -> tuple[int, bytes]:
        data, self._received = self._received[:1], self._received[1:]
        return len(data), data


class WalPgconn(EndingPgconn):
    """Each line from the socket is a CopyData; an empty one ends the stream."""

    def get_copy_data(self, _: int) -> tuple[int, memoryview]:
        line, end, rest = self._received.partition(b"\n")
        if not end:
            return 0, memoryview(b"")
        self._received = rest
        return len(line) or -1, memoryview(line)

    def consume_input(self) -> None:
        try:
            received = self._incoming.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not received:
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        self._received += received


class WarningPgconn(WalPgconn):
    """A line of an exclamation mark is a notice, which comes before the next CopyData."""

    def get_copy_data(self, _: int) -> tuple[int, memoryview]:
        size, line = super().get_copy_data(1)
        if line != b"!":
            return size, line
        assert self.warn is not None
        self.warn(
            Mock(
                severity_nonlocalized="WARNING",
                sqlstate="55000",
                source_file="pgoutput.c",
                message_primary="skipped loading publication",
            )
        )
        return super().get_copy_data(1)

    warn: Callable[[Any], None] | None = None


class WatchedConnection(ReplicationConnection):
    """A connection that shows what it waits for."""

    @property
    def is_watching(self) -> bool:
        return self._watched is not None

    @property
    def ready(self) -> asyncio.Future[None] | None:
        """What a read waits for."""
        return self._ready

    def gather_until(self, last: bytes) -> None:
        """Let reads wait for the rest of a transaction, which ends with this message."""
        self._arrivals.expects_more = lambda message: message != last

    def stop_waiting(self) -> None:
        self.unwatch()
        self._arrivals.close()


@contextlib.contextmanager
def connected(
    pgconn: type[EndingPgconn],
) -> Iterator[tuple[WatchedConnection, socket.socket, socket.socket]]:
    """Yield a connection, its socket, and the server's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        psycopg_connection: Any = Mock(pgconn=pgconn(ours))
        connection = WatchedConnection(psycopg_connection, "etl")
        (psycopg_connection.pgconn.warn,) = psycopg_connection.add_notice_handler.call_args.args
        yield connection, ours, theirs
        connection.stop_waiting()


async def test_the_end_of_a_stream_is_awaited_without_blocking_the_loop() -> None:
    with connected(EndingPgconn) as (connection, _, theirs):
        reading = asyncio.create_task(connection.read())
        await asyncio.sleep(0)
        assert not reading.done()
        theirs.send(b"CommandComplete")
        with pytest.raises(ConnectionLostError):
            await reading


async def test_what_comes_while_nobody_reads_stays_in_the_socket() -> None:
    with connected(StreamingPgconn) as (connection, ours, theirs):
        for number in range(3):
            reading = asyncio.create_task(connection.read())
            await asyncio.sleep(0)
            theirs.send(b"ab")
            assert await reading == [b"a", b"b"]
            if number == 1:
                theirs.send(b"cd")
                # The loop finds it readable, and asks no more.
                for _ in range(5):
                    await asyncio.sleep(0)
                assert ours.recv(2, socket.MSG_PEEK) == b"cd"
                assert not connection.is_watching
                assert await connection.read() == [b"c", b"d"]


async def test_a_read_that_is_cancelled_loses_nothing() -> None:
    with connected(StreamingPgconn) as (connection, _, theirs):
        for _ in range(20):
            reading = asyncio.create_task(connection.read())
            await asyncio.sleep(0)
            theirs.send(b"x")
            # Whether before or after it was woken.
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait({reading})
            got = [] if reading.cancelled() else reading.result()
            if not got:
                got = await connection.read()
            assert got == [b"x"]


def wal(*messages: bytes) -> bytes:
    """Return lines of XLogData."""
    return b"".join(b"w" + b"-" * 24 + message + b"\n" for message in messages)


def lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]


async def turns(count: int = 5) -> None:
    """Let the loop find what there is to find."""
    for _ in range(count):
        await asyncio.sleep(0)


@contextlib.contextmanager
def streaming() -> Iterator[tuple[WatchedConnection, socket.socket]]:
    """Yield a connection whose transactions end with a C, and the server's socket."""
    with connected(WalPgconn) as (connection, _, theirs):
        connection.gather_until(b"C")
        yield connection, theirs


async def test_a_reader_is_woken_when_a_small_transaction_is_whole() -> None:
    with streaming() as (connection, theirs):
        reading = asyncio.create_task(connection.read())
        await turns()
        ready = connection.ready
        assert ready is not None
        for message in (b"B", b"I", b"I"):
            theirs.send(wal(message))
            await turns()
            # It waits as before: nobody was woken in between.
            assert connection.ready is ready
            assert not ready.done()
        theirs.send(wal(b"C"))
        assert await reading == lines(wal(b"B", b"I", b"I", b"C"))


async def test_a_read_that_is_cancelled_within_a_transaction_loses_nothing() -> None:
    with streaming() as (connection, theirs):
        for _ in range(3):
            reading = asyncio.create_task(connection.read())
            await turns()
            theirs.send(wal(b"B", b"I"))
            await turns()
            reading.cancel()
            await asyncio.wait({reading})
            theirs.send(wal(b"C"))
            assert await connection.read() == lines(wal(b"B", b"I", b"C"))


async def test_the_rest_of_a_transaction_is_not_waited_for_long() -> None:
    with streaming() as (connection, theirs):
        theirs.send(wal(b"B", b"I"))
        async with asyncio.timeout(30):
            assert await connection.read() == lines(wal(b"B", b"I"))
            theirs.send(wal(b"C"))
            assert await connection.read() == lines(wal(b"C"))


@pytest.mark.parametrize("end", [b"\n", None])
async def test_what_came_before_the_end_of_the_stream_is_read_first(end: bytes | None) -> None:
    with streaming() as (connection, theirs):
        reading = asyncio.create_task(connection.read())
        await turns()
        theirs.send(wal(b"B", b"I"))
        await turns()
        if end is None:
            theirs.close()
        else:
            theirs.send(end + b"CommandComplete")
        assert await reading == lines(wal(b"B", b"I"))
        with pytest.raises(ConnectionLostError):
            await connection.read()


async def test_what_comes_behind_the_warning_that_changes_are_left_out_is_not_read() -> None:
    with connected(WarningPgconn) as (connection, _, theirs):
        reading = asyncio.create_task(connection.read())
        await turns()
        theirs.send(wal(b"I", b"C") + b"!\n" + wal(b"B", b"I"))
        assert await reading == lines(wal(b"I", b"C"))
        theirs.send(wal(b"C"))
        with pytest.raises(SlotLostError, match="skipped loading publication"):
            await connection.read()


async def test_a_keepalive_waits_to_be_read_with_a_transaction() -> None:
    keepalive = b"k" + b"-" * 16 + b"\0"
    with streaming() as (connection, theirs):
        reading = asyncio.create_task(connection.read())
        await turns()
        theirs.send(keepalive + b"\n")
        await turns()
        assert not reading.done()
        theirs.send(wal(b"B", b"C"))
        assert await reading == [keepalive, *lines(wal(b"B", b"C"))]


async def test_a_glance_finds_what_a_read_would_return_at_once() -> None:
    with streaming() as (connection, theirs):
        assert not connection.glance()
        theirs.send(wal(b"B", b"I"))
        assert not connection.glance(), "the rest of the transaction is about to come"
        theirs.send(wal(b"C"))
        assert connection.glance()
        assert connection.glance()
        assert await connection.read() == lines(wal(b"B", b"I", b"C"))
        assert not connection.glance()
        theirs.close()
        assert not connection.glance(), "a read would raise an error"
        with pytest.raises(ConnectionLostError):
            await connection.read()
