"""What is read of a COPY at once: all that has come, of which libpq takes a part at a time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any
from unittest.mock import Mock

import pytest

from realtime_core.sources import _copy_out
from realtime_core.sources._copy_out import CopyOut

BUFFER = 16
READS = 4


@pytest.fixture(autouse=True)
def as_with_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_copy_out, "_READS", READS)


class CopyingPgconn:
    """libpq's connection, whose buffer is small. Each line of the socket is a CopyData."""

    def __init__(self, incoming: socket.socket) -> None:
        incoming.setblocking(False)
        self._incoming = incoming
        self._received = b""

    @property
    def socket(self) -> int:
        return self._incoming.fileno()

    def consume_input(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._received += self._incoming.recv(BUFFER)

    def get_copy_data(self, _: int) -> tuple[int, memoryview]:
        line, end, rest = self._received.partition(b"\n")
        if not end:
            return 0, memoryview(b"")
        self._received = rest
        return len(line) + 1, memoryview(line + end)


async def test_a_read_returns_all_that_has_come_and_waits_for_no_more() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection: Any = Mock(pgconn=CopyingPgconn(ours))
        copy = CopyOut(connection, "t")
        reading = asyncio.create_task(copy.read())
        await asyncio.sleep(0)
        theirs.send(b"12345\n" * 10 + b"123")
        assert await reading == b"12345\n" * 10
        theirs.send(b"45\n")
        assert await copy.read() == b"12345\n"


async def test_a_read_ends_although_more_and_more_comes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection: Any = Mock(pgconn=CopyingPgconn(ours))
        copy = CopyOut(connection, "t")
        most = BUFFER * (READS + 1)
        theirs.send(b"1\n" * most)
        assert len(await copy.read()) == most
        assert len(await copy.read()) == most
