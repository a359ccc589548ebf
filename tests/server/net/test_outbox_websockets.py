"""SocketOutbox on websockets' own connections: what it relies on, on real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)

from realtime_server.fanout.dispatch import Dispatch, Members
from realtime_server.fanout.frames import Frames, TextFrame
from realtime_server.fanout.output_rate import OutputRate
from realtime_server.fanout.turns import run_steps
from realtime_server.net.frame_limits import BoundedConnection
from realtime_server.net.listener import deflate_factory
from realtime_server.net.outbox import FrameDelivery, OutboxCounters, SocketOutbox
from tests.server_helpers import DEADLINE, RecordingOutbox, make_backlog
from tests.stopped_clock import stop_the_clock
from tests.waiting import eventually

pytestmark = pytest.mark.slow

MAX_BYTES = 1 << 20
LONG = json.dumps({"text": "so long " * 1000})


def guarded(*arguments: Any, **options: Any) -> BoundedConnection:
    return BoundedConnection(
        *arguments,
        frames_per_second=1000,
        observer=Mock(),
        **options,
    )


@pytest.fixture(params=[guarded, ServerConnection])
def connection_class(request: pytest.FixtureRequest) -> Any:
    """One that says when something changes, and one that is asked each time."""
    return request.param


@asynccontextmanager
async def connected(
    offered: list[ServerPerMessageDeflateFactory],
    asked: list[ClientPerMessageDeflateFactory],
    connection_class: Any = guarded,
    max_age: float = DEADLINE,
    counters: OutboxCounters | None = None,
) -> AsyncIterator[tuple[SocketOutbox, ServerConnection, ClientConnection]]:
    """Connect over loopback; yield the outbox of the server's end, that end, the client."""
    opened: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def handle(connection: ServerConnection) -> None:
        opened.put_nowait(connection)
        await connection.wait_closed()

    async with serve(
        handle,
        "127.0.0.1",
        0,
        compression=None,
        extensions=offered,
        create_connection=connection_class,
    ) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(
            f"ws://127.0.0.1:{port}",
            compression=None,
            extensions=asked,
            proxy=None,
            close_timeout=0.5,
        ) as client:
            connection = await opened.get()
            outbox = SocketOutbox(
                connection,
                backlog=make_backlog(max_bytes=MAX_BYTES, max_age=max_age),
                counters=counters or OutboxCounters(),
                peer="",
            )
            yield outbox, connection, client
            outbox.close()


async def receive(client: ClientConnection, count: int) -> list[Any]:
    async with asyncio.timeout(DEADLINE):
        return [await client.recv() for _ in range(count)]


def batch(*messages: str) -> Frames:
    return Frames([TextFrame(message.encode()) for message in messages])


async def test_the_installed_library_is_one_that_is_written_past(connection_class: Any) -> None:
    async with connected([], [], connection_class) as (outbox, connection, client):
        assert outbox.delivery is FrameDelivery.PLAIN
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
        assert (outbox.delivery is FrameDelivery.DEFLATED) == is_deflated
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
        assert outbox.delivery is FrameDelivery.PLAIN
        for _ in range(3):
            await connection.send(LONG)
            outbox.write(batch(LONG, LONG))
        assert await receive(client, 9) == [LONG] * 9


async def test_a_fragmented_message_is_not_torn_apart(connection_class: Any) -> None:
    go_on = asyncio.Event()

    async def fragments() -> AsyncIterator[str]:
        yield "one "
        await go_on.wait()
        yield "whole"

    async with connected([], [], connection_class) as (outbox, connection, client):
        sending = asyncio.create_task(connection.send(fragments()))
        await eventually(lambda: connection.send_in_progress)
        outbox.write(batch("1", "2"))
        outbox.write(batch("3"))
        go_on.set()
        await sending
        assert await receive(client, 4) == ["one whole", "1", "2", "3"]
        outbox.write(batch("4"))
        assert await receive(client, 1) == ["4"]


# What changes while frames are written past the library.


def fill(outbox: SocketOutbox, connection: ServerConnection, number: int = 0) -> int:
    """Write numbered messages until some wait in the transport; return the next number."""
    while not connection.transport.get_write_buffer_size():
        outbox.write(batch(*(f"{number + more} {LONG}" for more in range(5))))
        number += 5
    return number


async def test_what_the_socket_does_not_take_at_once_comes_in_order(connection_class: Any) -> None:
    async with connected([], [], connection_class) as (outbox, connection, client):
        start = 0
        for _ in range(3):
            # Nobody reads meanwhile: it is one turn of the event loop.
            number = fill(outbox, connection, start)
            assert not outbox.is_clear
            outbox.write(batch(f"{number} ", f"{number + 1} "))
            number += 2
            got = await receive(client, number - start)
            assert [int(message.split()[0]) for message in got] == list(range(start, number))
            await eventually(lambda: not connection.transport.get_write_buffer_size())
            assert outbox.is_clear == (connection_class is guarded)
            start = number


async def test_a_client_is_cut_off_at_the_bound_and_written_to_no_more(
    connection_class: Any, caplog: pytest.LogCaptureFixture
) -> None:
    counters = OutboxCounters()
    async with connected([], [], connection_class, counters=counters) as (outbox, connection, _):
        number = fill(outbox, connection)
        waiting = 0
        while not connection.transport.is_closing():
            waiting = connection.transport.get_write_buffer_size()
            outbox.write(batch(f"{number} {LONG}"))
        assert MAX_BYTES - 2 * len(LONG) < waiting <= MAX_BYTES
        for _ in range(10):
            outbox.write(batch("late"))
        await connection.wait_closed()
        outbox.write(batch("late"))
        assert counters.slow_clients == 1
        assert [record.name for record in caplog.records] == ["realtime.outbox"]


async def test_a_client_is_cut_off_when_bytes_wait_too_long(connection_class: Any) -> None:
    counters = OutboxCounters()
    async with connected([], [], connection_class, max_age=0.1, counters=counters) as (
        outbox,
        connection,
        client,
    ):
        client.transport.pause_reading()  # type: ignore[attr-defined]
        fill(outbox, connection)
        for _ in range(20):
            outbox.write(batch(LONG))
        async with asyncio.timeout(DEADLINE):
            await connection.wait_closed()
        assert counters.slow_clients == 1


async def test_who_falls_behind_time_and_again_but_never_for_long_is_not_cut_off(
    connection_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = stop_the_clock(monkeypatch)
    counters = OutboxCounters()
    async with connected([], [], connection_class, max_age=0.5, counters=counters) as (
        outbox,
        connection,
        client,
    ):
        for _ in range(15):
            client.transport.pause_reading()  # type: ignore[attr-defined]
            count = fill(outbox, connection)
            await clock.pass_by(0.3)
            client.transport.resume_reading()  # type: ignore[attr-defined]
            await receive(client, count)
        assert counters.slow_clients == 0


async def test_who_takes_all_it_is_sent_catches_up_while_the_others_get_more(
    connection_class: Any,
) -> None:
    counters, loop = OutboxCounters(), asyncio.get_running_loop()
    async with connected([], [], connection_class, counters=counters) as (
        outbox,
        connection,
        client,
    ):
        client.transport.pause_reading()  # type: ignore[attr-defined]
        fill(outbox, connection)
        while not outbox.is_behind:
            outbox.write(batch(LONG))
        recipients = (outbox, RecordingOutbox(), RecordingOutbox())
        members = Members({each: Mock(is_open=True) for each in recipients}, is_current=True)
        # No slice of time is ever over.
        dispatch = Dispatch(lambda: 0.0, OutputRate(lambda: 0.0))
        descriptor = client.transport.get_extra_info("socket").fileno()
        with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as same:
            loop.add_reader(same, same.recv, MAX_BYTES)
            # The kernel takes its time now and then.
            for _ in range(500):
                dispatch.add(members, TextFrame(b"x" * 65_536))
                await run_steps(dispatch.hand_out())
                if outbox.waiting() < MAX_BYTES // 8:
                    break
            loop.remove_reader(same)
        assert counters.slow_clients == 0
        assert outbox.waiting() < MAX_BYTES // 8
        client.transport.abort()


@pytest.mark.parametrize("who", ["server", "client"])
async def test_no_frame_follows_the_close_frame(connection_class: Any, who: str) -> None:
    counters = OutboxCounters()
    async with connected([], [], connection_class, counters=counters) as (
        outbox,
        connection,
        client,
    ):
        outbox.write(batch("1"))
        closing = asyncio.create_task((connection if who == "server" else client).close())
        await eventually(lambda: connection.protocol.close_sent)
        outbox.write(batch("2"))
        assert [message async for message in client] == ["1"]
        await closing
        outbox.write(batch("3"))
        assert counters.frames == 1


async def test_a_client_that_is_gone_is_written_to_without_a_word(
    connection_class: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected([], [], connection_class) as (outbox, connection, client):
        client.transport.abort()
        while not connection.transport.is_closing():
            outbox.write(batch(LONG))
            await asyncio.sleep(0)
        await connection.wait_closed()
        outbox.write(batch(LONG))
        assert caplog.records == []


async def test_who_closes_its_half_before_it_got_everything_is_cut_off_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected([], []) as (outbox, connection, client):
        client.transport.pause_reading()  # type: ignore[attr-defined]
        fill(outbox, connection)
        client.transport.write_eof()
        async with asyncio.timeout(DEADLINE):
            await connection.wait_closed()
        assert connection.transport.get_write_buffer_size() == 0
        client.transport.abort()
    assert caplog.records == []


async def test_a_write_that_fails_is_the_last(connection_class: Any) -> None:
    counters = OutboxCounters()
    async with connected([], [], connection_class, counters=counters) as (outbox, connection, _):
        # As after a reset by the client that the event loop has not seen yet.
        sock = connection.transport.get_extra_info("socket")
        with socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM) as same:
            same.shutdown(socket.SHUT_WR)
        for _ in range(10):
            outbox.write(batch("x"))
        assert counters.frames == 1
