"""The network between a client and a server, which is made for the tests."""

from __future__ import annotations

import asyncio

from tests.e2e.replay.wire import Wire
from tests.waiting import eventually

MUCH = b"x" * 20_000_000
"""More than sockets hold."""


async def test_a_connection_can_be_forgotten_that_was_closed_when_all_had_been_sent() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # What looks like the head of a handshake's response, and a frame of that length.
        writer.write(b"\r\n\r\n\x82\x7f" + len(MUCH).to_bytes(8, "big") + MUCH)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Wire(lambda: port) as wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        head = await reader.readexactly(4)
        assert head == b"\r\n\r\n"
        link = wire.link
        assert link is not None
        # The frame waits in the wire, which closes behind it.
        await eventually(lambda: link.waits_for("client") > 0)
        link.end("client", "finish")
        assert await reader.readexactly(10 + len(MUCH))
        assert await reader.read() == b""
        wire.forget()
        writer.close()
