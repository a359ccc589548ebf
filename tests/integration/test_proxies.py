"""Behind nginx, HAProxy and Caddy, with the configurations of deploy/ and a client with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidMessage, InvalidStatus

from realtime_server.config import ServerConfig
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.proxy_process import DEPLOY, ProxyProcess, caddy, free_port, haproxy, nginx
from tests.server_helpers import DEADLINE, PhoenixClient
from tests.server_process import ServerProcess
from tests.waiting import eventually

pytestmark = pytest.mark.integration

# The proxy's address is trusted, the client has another.
CLIENT = "127.0.0.2"
BEHIND_A_PROXY = {
    "PUBLICATIONS": '["shop"]',
    "TRUSTED_PROXIES": '["127.0.0.1"]',
    "FORWARDED_HEADER": "X-Forwarded-For",
}
TOPIC = "realtime:public:item"


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int8 primary key)")
        database.execute("create publication shop for table item")
        yield database


StartPair = Callable[[Path, int, int], ProxyProcess]
PAIRS = [
    pytest.param(lambda path, *servers: haproxy(path, servers=servers), id="haproxy"),
    pytest.param(lambda path, *servers: caddy(path, servers=servers), id="caddy"),
]


def has_looked(proxy: ProxyProcess, second: int) -> bool:
    """Say whether it has found out that the second server is not ready.

    Until it has looked, a proxy takes every server for one that is ready.
    """
    said = proxy.said()
    return "Server realtime/second is DOWN" in said or any(
        f"127.0.0.1:{second}" in line and "health_checker" in line for line in said.splitlines()
    )


@contextlib.asynccontextmanager
async def client_of(
    proxy: ProxyProcess, *, query: str = "vsn=1.0.0"
) -> AsyncIterator[PhoenixClient]:
    uri = f"wss://localhost:{proxy.port}/realtime/v1/websocket?{query}"
    async with connect(
        uri,
        host="127.0.0.1",
        ssl=proxy.tls,
        local_addr=(CLIENT, 0),
        # Anybody may write one.
        additional_headers={"X-Forwarded-For": "198.51.100.9"},
        proxy=None,
        open_timeout=DEADLINE,
    ) as websocket:
        yield PhoenixClient(websocket, "1.0.0")


async def status_of(proxy: ProxyProcess, path: str) -> int:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", proxy.port, ssl=proxy.tls, server_hostname="localhost"
    )
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(DEADLINE):
        line = await reader.readline()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return int(line.split()[1])


@pytest.mark.parametrize(
    "start",
    [pytest.param(lambda path, *servers: nginx(path, servers=servers), id="nginx"), *PAIRS],
)
async def test_clients_get_through_with_their_own_address(
    shop: Database, tmp_path: Path, start: StartPair, request: pytest.FixtureRequest
) -> None:
    missing = free_port()
    with (
        ServerProcess(shop.dsn, **BEHIND_A_PROXY) as server,
        start(tmp_path, server.port, missing) as proxy,
    ):
        server.wait_until_streaming()
        if "nginx" not in request.node.name:
            await eventually(lambda: has_looked(proxy, missing))
        assert await refused_with(proxy, "vsn=9") == 403
        server.wait_for_log(re.compile(rf"request by {CLIENT} via 127.0.0.1:\d+ refused: version"))
        async with client_of(proxy, query="vsn=1.0.0&apikey=a-token") as client:
            await client.join(TOPIC)
            shop.execute("insert into item values (1)")
            assert (await client.receive())["payload"]["record"] == {"id": "1"}
            server.wait_for_log(re.compile(rf"connected: {CLIENT} via 127.0.0.1:\d+"))
            assert [await status_of(proxy, path) for path in ("/", "/metrics", "/ready")] == [
                *(404, 404, 404)
            ]
            server.process.send_signal(signal.SIGTERM)
            assert await client.closed() == (1012, "the server restarts")
        await eventually(lambda: "/realtime/v1/websocket" in proxy.said())
        # What it logs of requests that no server can answer is another line.
        server.process.wait(DEADLINE)
        assert await refused_with(proxy, "vsn=1.0.0&apikey=a-token") in (502, 503)
        await eventually(lambda: re.search(r"\b50[23]\b", proxy.said()))
        assert "a-token" not in proxy.said()
    assert "198.51.100.9" not in "".join(server.log)


async def refused_with(proxy: ProxyProcess, query: str) -> int:
    with pytest.raises(InvalidStatus) as caught:
        async with client_of(proxy, query=query):
            pass
    return caught.value.response.status_code


@pytest.mark.parametrize("start", PAIRS)
async def test_clients_go_to_the_standby_when_the_first_server_is_gone(
    shop: Database, tmp_path: Path, start: StartPair
) -> None:
    slot = unique_name("slot")
    settings = {**BEHIND_A_PROXY, "SLOT_NAME": slot}
    with (
        ServerProcess(shop.dsn, **settings) as first,
        contextlib.ExitStack() as more,
    ):
        first.wait_until_streaming()
        second = more.enter_context(ServerProcess(shop.dsn, **settings))
        second.wait_for_log(re.compile("waiting until it is free"))
        proxy = more.enter_context(start(tmp_path, first.port, second.port))

        async def server_that_serves() -> ServerProcess | None:
            before = len(second.log)
            with contextlib.suppress(InvalidStatus, InvalidMessage, OSError):
                async with client_of(proxy) as client:
                    await client.join(TOPIC)
                    at_second = any("joined" in line for line in second.log[before:])
                    return second if at_second else first
            return None

        await eventually(lambda: has_looked(proxy, second.port))
        assert await server_that_serves() is first
        assert not [line for line in second.log if "connected: " in line]
        first.process.kill()
        async with asyncio.timeout(DEADLINE):
            while await server_that_serves() is not second:
                pass


async def test_nginx_lets_everybody_in_when_one_server_was_restarted_and_the_other_stops(
    shop: Database, tmp_path: Path
) -> None:
    clients = 20
    with (
        ServerProcess(shop.dsn, **BEHIND_A_PROXY, SLOT_NAME=unique_name("first")) as first,
        ServerProcess(shop.dsn, **BEHIND_A_PROXY, SLOT_NAME=unique_name("second")) as second,
        nginx(tmp_path, servers=(first.port, second.port)) as proxy,
        contextlib.ExitStack() as more,
    ):
        first.wait_until_streaming()
        second.wait_until_streaming()

        async def get_in(everybody: contextlib.AsyncExitStack) -> None:
            async with asyncio.timeout(5):
                while True:
                    with contextlib.suppress(InvalidStatus, InvalidMessage, OSError):
                        client = await everybody.enter_async_context(client_of(proxy))
                        break
                    await asyncio.sleep(0.1)
            await client.join(TOPIC)

        async def all_get_in() -> None:
            async with contextlib.AsyncExitStack() as everybody:
                await asyncio.gather(*(get_in(everybody) for _ in range(clients)))

        first.process.send_signal(signal.SIGTERM)
        first.process.wait(DEADLINE)
        # nginx finds out that the first server takes no connections.
        await all_get_in()
        again = more.enter_context(
            ServerProcess(
                shop.dsn, **BEHIND_A_PROXY, SLOT_NAME=unique_name("again"), PORT=str(first.port)
            )
        )
        again.wait_until_streaming()
        second.process.send_signal(signal.SIGTERM)
        second.process.wait(DEADLINE)
        await all_get_in()


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("nginx.conf", r"proxy_(?:read|send)_timeout (\d+)s;"),
        ("haproxy.cfg", r"timeout tunnel (\d+)s\n"),
    ],
)
def test_the_server_closes_idle_connections_before_the_proxy_does(name: str, pattern: str) -> None:
    found = re.findall(pattern, (DEPLOY / name).read_text(encoding="utf-8"))
    assert found
    assert min(map(int, found)) * 1000 > ServerConfig(secure_channels=False).idle_timeout
