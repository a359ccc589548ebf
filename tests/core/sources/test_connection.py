"""What a replication connection asks of libpq, and when: it must never block the loop."""

from __future__ import annotations

import asyncio
import socket
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


async def test_the_end_of_a_stream_is_awaited_without_blocking_the_loop() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        psycopg_connection: Any = Mock(pgconn=EndingPgconn(ours))
        connection = ReplicationConnection(psycopg_connection, "etl")
        reading = asyncio.create_task(connection.read())
        await asyncio.sleep(0)
        assert not reading.done()
        theirs.send(b"CommandComplete")
        with pytest.raises(ConnectionLostError):
            await reading
