"""Connecting to NATS, when it is given up."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.client import Client

from realtime_server.cluster.errors import LogError
from realtime_server.cluster.login import connect
from realtime_server.config import ClusterSettings


async def test_a_connection_that_is_given_up_while_it_is_made_is_closed() -> None:
    has_come, has_ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"n","version":"2.10.0","max_payload":1048576}\r\n')
        assert (await reader.readline()).startswith(b"CONNECT")
        has_come.set()
        # It waits for an answer now.
        await reader.read()
        has_ended.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        config = ClusterSettings(nats_url=f"nats://127.0.0.1:{port}", slot_name="s")
        connecting = asyncio.create_task(connect(config, name="test"))
        async with asyncio.timeout(10):
            await has_come.wait()
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            await has_ended.wait()


async def test_a_library_that_may_send_a_password_in_plain_text_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(Client, "_process_info")
    config = ClusterSettings(nats_url="tls://127.0.0.1:1", slot_name="s")
    with pytest.raises(LogError, match=r"^nats-py 2\.\S+ sends the login before .* pip install"):
        await connect(config, name="test")
