"""PromptClient hands over and sends without waiting for the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from realtime_server.cluster.client import Message, PromptClient

_INFO = b'INFO {"server_id":"n","version":"2.10.0","max_payload":1048576,"headers":true}\r\n'


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[PromptClient, socket.socket]]:
    """Yield a client, and the other end of its connection."""
    loop = asyncio.get_running_loop()
    client = PromptClient()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        url = f"nats://127.0.0.1:{listening.getsockname()[1]}"
        connecting = asyncio.create_task(client.connect([url], allow_reconnect=False))
        server, _ = await loop.sock_accept(listening)
        with server:
            await loop.sock_sendall(server, _INFO)
            while not (await loop.sock_recv(server, 4096)).endswith(b"PING\r\n"):
                pass
            await loop.sock_sendall(server, b"PONG\r\n")
            await connecting
            yield client, server
            await client.close()


async def test_what_is_sent_is_on_its_way_at_once() -> None:
    async with connected() as (client, server):
        await client.publish("to", b"content", "answer")
        # The event loop has not run since.
        assert server.recv(4096) == b"PUB to answer 7\r\ncontent\r\n"


@pytest.mark.parametrize("is_known", [True, False])
async def test_messages_are_the_same_whichever_way_they_go(
    is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of the library may not call the overridden methods."""
    if not is_known:
        monkeypatch.delattr(PromptClient, "_process_msg")
        monkeypatch.delattr(PromptClient, "_flush_pending")
    loop = asyncio.get_running_loop()
    found: list[Message] = []
    tasks: set[object] = set()
    came = asyncio.Event()

    def take(message: Message) -> None:
        found.append(message)
        tasks.add(asyncio.current_task())
        if message.data == b"last":
            came.set()

    async with connected() as (client, server):
        await client.hand_over("one", take)
        await client.hand_over("two", take)
        await loop.sock_sendall(server, b"MSG one 1 back 3\r\nabc\r\n")
        for headers, data in (
            (b"NATS/1.0\r\nNats-Id: x\r\n\r\n", b"abc"),
            (b"NATS/1.0 503\r\n\r\n", b""),
            (b"NATS/1.0 404 No Messages\r\n\r\n", b""),
            (b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1016\r\n\r\n", b""),
        ):
            sizes = b"%d %d" % (len(headers), len(headers) + len(data))
            await loop.sock_sendall(server, b"HMSG one 1 %s\r\n%s%s\r\n" % (sizes, headers, data))
        await loop.sock_sendall(server, b"MSG two 2 4\r\nlast\r\n")
        async with asyncio.timeout(5):
            await came.wait()
    assert found == [
        Message("one", "back", b"abc"),
        Message("one", "", b"abc"),
        Message("one", "", b"", "503"),
        Message("one", "", b"", "404", "No Messages"),
        Message("one", "", b"", "100", "Idle Heartbeat"),
        Message("two", "", b"last"),
    ]
    # What reads from the socket has handed them over; otherwise each subscription has a task.
    assert len(tasks) == (1 if is_known else 2)


async def test_nothing_is_handed_over_behind_the_end_of_a_subscription() -> None:
    loop = asyncio.get_running_loop()
    found: list[Message] = []
    came = asyncio.Event()
    async with connected() as (client, server):
        end = await client.hand_over("one", found.append)
        await client.hand_over("two", lambda _: came.set())
        await end()
        await loop.sock_sendall(server, b"MSG one 1 3\r\nabc\r\nMSG two 2 4\r\nlast\r\n")
        async with asyncio.timeout(5):
            await came.wait()
    assert not found
