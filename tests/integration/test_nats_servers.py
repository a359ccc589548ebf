"""The NATS servers of the tests: they keep what they have, and lose it when they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import nats.js.errors
import pytest
from nats.js.api import StreamConfig

from tests.nats_server import NatsCluster, NatsServer

pytestmark = pytest.mark.integration


async def append(server: NatsServer | NatsCluster, data: bytes, *, replicas: int = 1) -> int:
    """Append a message to a stream; return how many there are."""
    async with await nats.connect(server.url.split(",")) as connection:
        log = connection.jetstream()
        await log.add_stream(StreamConfig(name="log", subjects=["log"], num_replicas=replicas))
        await log.publish("log", data)
        return (await log.stream_info("log")).state.messages


async def test_a_server_keeps_its_store_and_its_port(new_nats: Callable[..., NatsServer]) -> None:
    server = new_nats()
    url = server.url
    assert await append(server, b"1") == 1
    copy = await asyncio.to_thread(server.copy_store)
    assert await append(server, b"2") == 2
    await asyncio.to_thread(server.terminate)
    await asyncio.to_thread(server.start)
    assert server.url == url
    assert await append(server, b"3") == 3
    await asyncio.to_thread(server.set_back, copy)
    assert await append(server, b"2") == 2


async def test_a_stream_outlives_one_of_three_servers(nats_cluster: NatsCluster) -> None:
    assert await append(nats_cluster, b"1", replicas=3) == 1
    nats_cluster.servers[0].kill()
    urls = [server.url for server in nats_cluster.servers[1:]]
    async with await nats.connect(urls) as connection:
        # What is asked while the others choose who leads is not answered.
        log = connection.jetstream(timeout=1)
        async with asyncio.timeout(60):
            while True:
                try:
                    message = await log.get_msg("log", 1)
                except (TimeoutError, nats.js.errors.Error):
                    continue
                break
    assert message.data == b"1"
