"""What a replication connection asks of libpq, and when: it must never block the loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from realtime_core.errors import ConnectionLostError
from realtime_core.sources._connection import ReplicationConnection


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


@contextlib.contextmanager
def connected(
    pgconn: type[EndingPgconn],
) -> Iterator[tuple[ReplicationConnection, socket.socket, socket.socket]]:
    """Yield a connection, its socket, and the server's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        psycopg_connection: Any = Mock(pgconn=pgconn(ours))
        connection = ReplicationConnection(psycopg_connection, "etl")
        yield connection, ours, theirs
        connection._unwatch()


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
                assert connection._watched is None
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
