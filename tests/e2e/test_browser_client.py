"""realtime-js in a browser, served from a local page: the client's own WebSocket, no Node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import test_compression as compression
from tests.e2e.browser import Browser, served
from tests.e2e.server_process import ServerProcess
from tests.e2e.test_todays_clients import BINDINGS, STEPS, TRUNCATES, expected_by, normal
from tests.fix_postgres import Database

pytestmark = [pytest.mark.e2e, pytest.mark.integration]


@pytest.fixture
def page_url(clients: Path) -> Iterator[str]:
    """Where the page is served."""
    with served(clients) as origin:
        yield f"{origin}/browser.html"


@pytest.fixture
def origins(page_url: str) -> str:
    """ALLOWED_ORIGINS, without which a page of another port is not let in."""
    return json.dumps([page_url.removesuffix("/browser.html")])


@pytest.fixture
def server(shop: Database, origins: str) -> Iterator[ServerProcess]:
    with ServerProcess(shop, publications='["changes"]', ALLOWED_ORIGINS=origins) as server:
        yield server


def test_a_page_gets_its_changes(
    browser: Browser, page_url: str, shop: Database, server: ServerProcess
) -> None:
    with browser.page(page_url) as page:
        page.wait_for("window.start")
        bindings = [*BINDINGS, TRUNCATES]
        page.evaluate(f"start({json.dumps(server.websocket_url)}, {json.dumps(bindings)})")
        page.wait_for("said.some(({ status }) => status === 'SUBSCRIBED')")
        for statement, _ in STEPS:
            shop.execute(statement)
        page.wait_for("said.some(({ binding }) => binding === 4)")
        said = page.evaluate("said")
        changes = [[line["binding"], *normal(line["change"])] for line in said if "change" in line]
        assert changes == expected_by("js")
        # It goes out as a binary frame, and leaves the channel as it is.
        page.evaluate("send()")
        shop.execute("insert into depot.goods values (8, 2)")
        page.wait_for("said.filter(({ binding }) => binding === 4).length === 2")
        assert page.evaluate("said.filter(({ status }) => status).length") == 1
        assert page.complaints == []


def test_a_page_reads_compressed_frames(
    browser: Browser, page_url: str, origins: str, shop: Database
) -> None:
    settings = {"WEBSOCKET_COMPRESSION": "true", "ALLOWED_ORIGINS": origins}
    with (
        ServerProcess(shop, publications='["changes"]', **settings) as server,
        browser.page(page_url) as page,
    ):
        page.wait_for("window.start")
        url, bindings = json.dumps(server.websocket_url), json.dumps(compression.MANY)
        page.evaluate(f"start({url}, {bindings})")
        page.wait_for("said.some(({ status }) => status === 'SUBSCRIBED')")
        for statement, _ in compression.STEPS:
            shop.execute(statement)
        expected = compression.EXPECTED
        page.wait_for(f"said.filter(({{ change }}) => change).length >= {len(expected)}")
        changes = [
            [line["binding"], *normal(line["change"])]
            for line in page.evaluate("said")
            if "change" in line
        ]
        assert changes == expected
        sent = compression.sent_bytes(server)
        compression.assert_size(sent, compression.size(changes), is_compressed=True)
        assert page.complaints == []
