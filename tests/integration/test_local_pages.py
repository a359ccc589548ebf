"""A server without tokens on a loopback address, and the web pages of strangers."""

from __future__ import annotations

import logging

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from realtime_server.server import RealtimeServer
from tests.integration.test_stream_http import NOWHERE
from tests.server_helpers import dev_config
from tests.tokens import SECRET, make_token

pytestmark = pytest.mark.integration


async def status(port: int, *, host: str | None = None, origin: str | None = None) -> int:
    """Open a WebSocket as a browser would; return the answer's status."""
    name = host or f"localhost:{port}"
    try:
        async with connect(
            f"ws://{name.partition(':')[0]}:{port}/socket/websocket?apikey={make_token()}",
            host="127.0.0.1",
            additional_headers=None if origin is None else {"Origin": origin},
            proxy=None,
        ):
            return 101
    except InvalidStatus as exc:
        return exc.response.status_code


async def test_a_strangers_page_gets_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "realtime")
    async with RealtimeServer(dev_config(NOWHERE)) as server:
        port = server.port
        assert await status(port) == 101
        assert await status(port, origin=f"http://localhost:{port}") == 101
        assert await status(port, origin="https://evil.example") == 403
        assert await status(port, origin="null") == 403
        assert await status(port, host="evil.example") == 403
        refused = 'realtime_handshakes_total{result="origin"} 3.0'
        assert refused in server.metrics.render().decode()
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    told = [line for line in warnings if "a request is refused" in line]
    # Once: a page may ask for ever.
    assert len(told) == 1
    assert "ALLOWED_ORIGINS='[\"https://evil.example\"]'" in told[0]


async def test_allowed_origins_decide_where_they_are_set() -> None:
    config = dev_config(NOWHERE, ALLOWED_ORIGINS='["http://localhost:5173"]')
    async with RealtimeServer(config) as server:
        assert await status(server.port, origin="http://localhost:5173") == 101
        assert await status(server.port, origin="https://evil.example") == 403


async def test_with_tokens_any_page_may_ask() -> None:
    config = dev_config(NOWHERE, SECURE_CHANNELS="true", JWT_SECRET=SECRET)
    async with RealtimeServer(config) as server:
        assert await status(server.port, origin="https://app.example", host="db.example") == 101
