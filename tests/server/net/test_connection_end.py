"""What a connection that has ended leaves behind in memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

from realtime_server.net.channels import Channels, ServedChannel
from realtime_server.net.connection import Connection
from realtime_server.net.frame_limits import BoundedConnection
from realtime_server.net.outbox import SocketOutbox
from realtime_server.replay.visit import Visit
from realtime_server.server import RealtimeServer
from tests.server_helpers import PhoenixClient, dev_config, open_client
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]

KINDS = (BoundedConnection, Channels, Connection, SocketOutbox, Visit)


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Let nothing be freed that refers to itself."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left(kinds: tuple[type, ...] = KINDS) -> list[str]:
    """Return what is there of connections."""
    return [type(one).__name__ for one in gc.get_objects() if type(one) in kinds]


def lose(client: PhoenixClient) -> None:
    client.websocket.transport.abort()


def go(client: PhoenixClient) -> None:
    client.websocket.protocol.send_close(1001)
    client.websocket.send_data()


@pytest.mark.parametrize("end", [lose, go])
@pytest.mark.parametrize("replay_window", ["0", "300000"])
async def test_it_is_freed_without_a_collection_of_garbage(
    no_collections: None, end: Callable[[PhoenixClient], None], replay_window: str
) -> None:
    # Joins are answered although the database is not there.
    config = dev_config("host=127.0.0.1 port=1", REPLAY_WINDOW=replay_window)
    async with RealtimeServer(config) as server:
        async with open_client(server.port) as client:
            await client.join("realtime:public:item", "realtime:public:person")
            assert set(left()) >= {"BoundedConnection", "Channels", "Connection", "SocketOutbox"}
            end(client)
            await eventually(lambda: server.open_connections == 0)
        await eventually(lambda: left() == [])


async def test_a_channel_that_was_left_is_freed_without_a_collection_of_garbage(
    no_collections: None,
) -> None:
    config = dev_config("host=127.0.0.1 port=1")
    bindings = {"config": {"postgres_changes": [{"event": "*", "schema": "public"}]}}
    async with RealtimeServer(config) as server, open_client(server.port) as client:
        # It is told that its bindings are in place when the database is there, and never is.
        await client.send("realtime:a", "phx_join", bindings, ref="1", join_ref="1")
        await client.receive()
        assert left((ServedChannel,)) == ["ServedChannel"]
        await client.send("realtime:a", "phx_leave", {}, ref="2", join_ref="1")
        await client.receive()
        await eventually(lambda: left((ServedChannel,)) == [])
