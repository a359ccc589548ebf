"""Connecting to NATS, when it is given up."""

from __future__ import annotations

import asyncio
import socket

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


async def refusal(url: str, **login: str) -> str:
    config = ClusterSettings(nats_url=url, slot_name="s", **login)  # type: ignore[arg-type]
    with pytest.raises(LogError) as caught:
        await connect(config, name="test")
    return str(caught.value)


async def test_where_nothing_listens_it_is_said_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    url = f"nats://127.0.0.1:{port}"
    assert await refusal(url) == (
        f"no connection to NATS: {url}: nothing listens there; start NATS, or correct NATS_URL"
    )


async def test_a_host_that_is_not_there_is_said_to_be_a_mistake() -> None:
    told = await refusal("nats://nonexistent.invalid:4222")
    assert "nonexistent.invalid:4222: there is no such host (" in told
    assert told.endswith("; correct NATS_URL")


@pytest.mark.parametrize(
    ("login", "told"),
    [
        ({}, "the server asks for a login; set NATS_USER and NATS_PASSWORD, or"),
        ({"nats_user": "me", "nats_password": "x"}, "the login is refused; set what"),
    ],
)
async def test_a_login_that_is_missing_is_no_wrong_one(login: dict[str, str], told: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.10.0","max_payload":1048576,"auth_required":true}\r\n')
        await reader.readline()
        writer.write(b"-ERR 'Authorization Violation'\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert told in await refusal(f"nats://127.0.0.1:{port}", **login)


async def test_a_library_that_may_send_a_password_in_plain_text_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(Client, "_process_info")
    config = ClusterSettings(nats_url="tls://127.0.0.1:1", slot_name="s")
    with pytest.raises(LogError, match=r"^nats-py 2\.\S+ sends the login before .* pip install"):
        await connect(config, name="test")


async def test_a_version_of_the_library_without_what_is_used_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = Client.__init__

    def without(client: Client) -> None:
        begin(client)
        for name in ("_pending", "_transport"):
            delattr(client, name)

    monkeypatch.setattr(Client, "__init__", without)
    told = await refusal("nats://127.0.0.1:4222")
    assert " has no _pending and no _transport, which this server sends with; use pip" in told
