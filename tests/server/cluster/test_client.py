"""PromptClient hands over and sends without waiting for the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import nats.errors
import pytest
from nats.protocol.parser import Parser

from realtime_server.cluster.client import Message, PromptClient

_INFO = b'INFO {"server_id":"n","version":"2.10.0","max_payload":1048576,"headers":true}\r\n'


@contextlib.asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[tuple[PromptClient, socket.socket]]:
    """Yield a client, and the other end of its connection."""
    loop = asyncio.get_running_loop()
    client = PromptClient()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        url = f"nats://127.0.0.1:{listening.getsockname()[1]}"
        connecting = asyncio.create_task(client.connect([url], allow_reconnect=False, **options))
        server, _ = await loop.sock_accept(listening)
        with server:
            await loop.sock_sendall(server, _INFO)
            while not (await loop.sock_recv(server, 4096)).endswith(b"PING\r\n"):
                pass
            await loop.sock_sendall(server, b"PONG\r\n")
            await connecting
            try:
                yield client, server
            finally:
                await client.close()


async def test_what_is_sent_is_on_its_way_at_once() -> None:
    async with connected() as (client, server):
        client.send("to", b"content", "answer")
        # The event loop has not run since.
        assert server.recv(4096) == b"PUB to answer 7\r\ncontent\r\n"
        client.send("to", b"content", headers={"A": "1", "Long": "2"})
        head = b"HPUB to  27 34\r\n"
        assert server.recv(4096) == head + b"NATS/1.0\r\nA: 1\r\nLong: 2\r\n\r\ncontent\r\n"
        # What the library itself sends has its place in the order.
        await client.subscribe("from")
        client.send("to", b"")
        assert server.recv(4096) == b"SUB from  1\r\nPUB to  0\r\n\r\n"


async def test_whoever_sends_much_can_wait_until_it_is_taken() -> None:
    loop = asyncio.get_running_loop()
    async with connected() as (client, server):
        for _ in range(64):
            client.send("to", bytes(256 * 1024))
        waiting = asyncio.create_task(client.taken())
        await asyncio.sleep(0)
        assert not waiting.done()
        while not waiting.done():
            await loop.sock_recv(server, 1024 * 1024)
        await waiting


async def test_what_cannot_be_sent_is_an_error() -> None:
    async with connected() as (client, _):
        with pytest.raises(nats.errors.MaxPayloadError):
            client.send("to", bytes(1024 * 1024 + 1))
    with pytest.raises(nats.errors.ConnectionClosedError):
        client.send("to", b"")


async def test_an_error_of_who_takes_a_message_ends_nothing() -> None:
    loop = asyncio.get_running_loop()
    errors: list[Exception] = []
    came = asyncio.Event()

    async def note(error: Exception) -> None:
        errors.append(error)

    def fail(message: Message) -> None:
        raise KeyError(message.subject)

    async with connected(error_cb=note) as (client, server):
        await client.hand_over("one", fail)
        await client.hand_over("two", lambda _: came.set())
        await loop.sock_sendall(server, b"MSG one 1 0\r\n\r\nMSG two 2 0\r\n\r\n")
        async with asyncio.timeout(5):
            await came.wait()
    assert [repr(error) for error in errors] == ["KeyError('one')"]


@pytest.mark.parametrize("way", ["at once", "by the library's parser", "by the library"])
async def test_messages_are_the_same_whichever_way_they_go(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of the library may not call the overridden methods, nor have the buffer."""
    if way != "at once":
        monkeypatch.setattr(PromptClient, "_received", lambda client, data: data)
    if way == "by the library":
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
    assert len(tasks) == (2 if way == "by the library" else 1)
    assert (None in tasks) == (way == "at once")


@pytest.mark.parametrize("size", [1, 2, 7, 40, 400])
async def test_messages_come_once_and_in_order_however_they_are_cut(size: int) -> None:
    loop = asyncio.get_running_loop()
    found: list[bytes] = []
    came = asyncio.Event()
    async with connected() as (client, server):
        await client.hand_over("one", lambda message: found.append(message.data))
        await client.hand_over("two", lambda _: came.set())
        stream = b""
        for number in range(50):
            stream += b"MSG one 1 2\r\n%02d\r\n" % number
            stream += b"+OK\r\nMSG none 9 3\r\nabc\r\n" if number % 7 == 0 else b""
            stream += b"HMSG one 1 back 12 14\r\nNATS/1.0\r\n\r\n%02d\r\n" % number
        stream += b"MSG two 2 4\r\nlast\r\n"
        for at in range(0, len(stream), size):
            await loop.sock_sendall(server, stream[at : at + size])
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await came.wait()
    assert found == [b"%02d" % number for number in range(50) for _ in range(2)]


async def test_large_messages_are_no_work_for_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    parsed: list[bytes] = []
    parse = Parser.parse

    async def note(parser: Parser, data: bytes) -> None:
        parsed.append(bytes(data))
        await parse(parser, data)

    found: list[Message] = []
    came = asyncio.Event()
    contents = [bytes([number]) * (1 << (10 + number)) for number in range(11)]
    async with connected() as (client, server):
        await client.hand_over("one", found.append)
        await client.hand_over("two", lambda _: came.set())
        monkeypatch.setattr(Parser, "parse", note)
        stream = b"".join(b"MSG one 1 %d\r\n%s\r\n" % (len(each), each) for each in contents)
        stream += b"PONG\r\nMSG two 2 0\r\n\r\n"
        await loop.sock_sendall(server, stream[:-20])
        await loop.sock_sendall(server, stream[-20:])
        async with asyncio.timeout(5):
            await came.wait()
    assert [message.data for message in found] == contents
    assert b"PONG" in b"".join(parsed)
    assert sum(map(len, parsed)) < 100


@pytest.mark.parametrize("line", [b"MSG one 1 -5", b"MSG one 1 x", b"HMSG one 1 4", b"MSG one 1"])
async def test_what_is_no_message_ends_the_connection(line: bytes) -> None:
    found: list[Message] = []
    closed = asyncio.Event()

    async def note() -> None:
        closed.set()

    async with connected(closed_cb=note) as (client, server):
        await client.hand_over("one", found.append)
        await asyncio.get_running_loop().sock_sendall(server, line + b"\r\n\r\n")
        async with asyncio.timeout(5):
            await closed.wait()
    assert not found


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
