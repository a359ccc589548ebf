"""SocketOutbox on websockets' own connections: what it relies on, on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)

from realtime_server.frames import Frames, TextFrame
from realtime_server.listener import deflate_factory
from realtime_server.outbox import OutboxCounters, SocketOutbox
from tests.server_helpers import DEADLINE
from tests.waiting import eventually

LONG = json.dumps({"text": "so long " * 1000})


@asynccontextmanager
async def connected(
    offered: list[ServerPerMessageDeflateFactory], asked: list[ClientPerMessageDeflateFactory]
) -> AsyncIterator[tuple[SocketOutbox, ServerConnection, ClientConnection]]:
    """Connect over loopback; yield the outbox of the server's end, that end, the client."""
    opened: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def handle(connection: ServerConnection) -> None:
        opened.put_nowait(connection)
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0, compression=None, extensions=offered) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(
            f"ws://127.0.0.1:{port}", compression=None, extensions=asked, proxy=None
        ) as client:
            connection = await opened.get()
            outbox = SocketOutbox(
                connection,
                max_bytes=1 << 20,
                max_age=DEADLINE,
                counters=OutboxCounters(),
                peer="",
            )
            yield outbox, connection, client
            outbox.close()


async def receive(client: ClientConnection, count: int) -> list[Any]:
    async with asyncio.timeout(DEADLINE):
        return [await client.recv() for _ in range(count)]


def batch(*messages: str) -> Frames:
    return Frames([TextFrame(message.encode()) for message in messages])


async def test_the_installed_library_is_one_that_is_written_past() -> None:
    async with connected([], []) as (outbox, connection, client):
        assert not outbox._by_the_library
        outbox.write(batch("1", LONG, "3"))
        # Nothing of ours goes through the library, and nothing of its own stays in there.
        assert connection.protocol.data_to_send() == []
        assert await receive(client, 3) == ["1", LONG, "3"]


@pytest.mark.parametrize(
    ("asked", "is_deflated"),
    [
        ({}, True),
        ({"server_no_context_takeover": True, "client_max_window_bits": 9}, True),
        ({"server_max_window_bits": 15}, True),
        ({"server_max_window_bits": 10}, False),
    ],
)
async def test_frames_for_all_are_read_by_whatever_client_agreed_on_compression(
    asked: dict[str, Any], is_deflated: bool
) -> None:
    factory = ClientPerMessageDeflateFactory(**asked)
    async with connected([deflate_factory()], [factory]) as (outbox, connection, client):
        assert (
            "server_no_context_takeover"
            in connection.response.headers[  # type: ignore[union-attr]
                "Sec-WebSocket-Extensions"
            ]
        )
        assert outbox._deflated == is_deflated
        for _ in range(3):
            outbox.write(batch(LONG, "short", LONG))
            # The library may say something in between: neither disturbs the other.
            await connection.send(LONG.upper())
        assert await receive(client, 12) == [LONG, "short", LONG, LONG.upper()] * 3
        await client.send(LONG)
        async with asyncio.timeout(DEADLINE):
            assert await connection.recv() == LONG


async def test_with_context_taken_over_frames_are_plain() -> None:
    offered, asked = [ServerPerMessageDeflateFactory()], [ClientPerMessageDeflateFactory()]
    async with connected(offered, asked) as (outbox, connection, client):
        assert (outbox._by_the_library, outbox._deflated) == (False, False)
        for _ in range(3):
            await connection.send(LONG)
            outbox.write(batch(LONG, LONG))
        assert await receive(client, 9) == [LONG] * 9


async def test_a_fragmented_message_is_not_torn_apart() -> None:
    go_on = asyncio.Event()

    async def fragments() -> AsyncIterator[str]:
        yield "one "
        await go_on.wait()
        yield "whole"

    async with connected([], []) as (outbox, connection, client):
        sending = asyncio.create_task(connection.send(fragments()))
        await eventually(lambda: connection.send_in_progress)
        outbox.write(batch("1", "2"))
        outbox.write(batch("3"))
        go_on.set()
        await sending
        assert await receive(client, 4) == ["one whole", "1", "2", "3"]
        outbox.write(batch("4"))
        assert await receive(client, 1) == ["4"]
