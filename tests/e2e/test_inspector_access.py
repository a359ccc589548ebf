"""The page at `/` where it cannot connect: it says why, and takes a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from tests.e2e.browser import Browser
from tests.e2e.inspector_page import (
    ROWS,
    click,
    is_joined,
    one_server,
    row_count_is,
    text_of,
    type_into,
)
from tests.e2e.rls_shop import owned_rows, rls_server
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, Server
from tests.tokens import SECRET, make_token

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

pg = one_server

SECURE = {"SECURE_CHANNELS": "true", "JWT_SECRET": SECRET}
ASKS_FOR_TOKEN = "document.querySelector('#token-form:not([hidden])')"


@pytest.fixture
def secure(shop: Database) -> Iterator[ServerProcess]:
    """A server that asks for tokens."""
    with ServerProcess(shop, publications='["changes"]', **SECURE) as server:
        yield server


def trouble_says(text: str) -> str:
    return f"document.getElementById('trouble')?.innerText.includes({text!r})"


def test_it_asks_for_a_token_says_what_is_wrong_with_one_and_takes_a_good_one(
    browser: Browser, shop: Database, secure: ServerProcess
) -> None:
    with browser.page(secure.page_url) as page:
        page.wait_for(ASKS_FOR_TOKEN)
        assert text_of(page, "#connection") == "Not connected"
        assert text_of(page, "#token-reason") == ""
        assert page.evaluate("document.activeElement.id") == "token"
        for token, reason in (
            ("nonsense", "The token is not a JSON Web Token, or too long"),
            (make_token(expires_in=-1), "The token has expired"),
        ):
            type_into(page, "#token", token, enter=True)
            page.wait_for(f"document.getElementById('token-reason').innerText === {reason!r}")
        type_into(page, "#token", f" {make_token()}\n")
        click(page, "#token-form button")
        page.wait_for(is_joined("realtime:*"))
        assert not page.evaluate(ASKS_FOR_TOKEN)
        assert text_of(page, "#connection") == "Connected"
        shop.execute("insert into todos values (1)")
        page.wait_for(row_count_is(1))
        # It is nowhere to be seen, and the tab has it still when it is loaded again.
        assert page.evaluate("location.href") == secure.page_url
        assert page.evaluate("document.getElementById('token').value") == ""
        page.evaluate("window.sameDocument = true")
        page.call("Page.reload")
        page.wait_for(f"window.sameDocument === undefined && {is_joined('realtime:*')}")
    # Nothing was tried without a token, or with a bad one.
    assert not [line for line in secure.log if "refused" in line]
    assert not [line for line in secure.log if "eyJ" in line]


def test_the_address_may_bring_a_token_behind_the_hash(
    browser: Browser, shop: Database, secure: ServerProcess
) -> None:
    hash_ = urlencode(
        {"token": make_token(), "topic": "realtime:public:todos", "title": "What Ada sees"}
    )
    with browser.page(f"{secure.page_url}#{hash_}") as page:
        page.wait_for(is_joined("realtime:public:todos"))
        assert text_of(page, "#title") == page.evaluate("document.title") == "What Ada sees"
        shop.execute("insert into users values (1, 'Ada'); insert into todos values (1)")
        page.wait_for(row_count_is(1))
        assert page.complaints == []
        # Another token takes its place.
        click(page, "#change-token")
        type_into(page, "#token", make_token({"sub": "another"}), enter=True)
        page.wait_for("!location.hash.includes('token=')")
        page.wait_for(is_joined("realtime:public:todos"))
        assert "topic=" in page.evaluate("location.hash")


def test_a_token_that_expires_is_asked_for_again(
    browser: Browser, shop: Database, secure: ServerProcess
) -> None:
    hash_ = urlencode({"token": make_token(expires_in=3)})
    with browser.page(f"{secure.page_url}#{hash_}") as page:
        page.wait_for(is_joined("realtime:*"))
        page.wait_for(ASKS_FOR_TOKEN)
        assert text_of(page, "#token-reason") == "The token has expired"
        type_into(page, "#token", make_token(), enter=True)
        page.wait_for(is_joined("realtime:*"))
        shop.execute("insert into todos values (1)")
        page.wait_for(row_count_is(1))


def test_two_views_side_by_side_have_each_its_own_token_and_topic(
    browser: Browser, shop: Database, secure: ServerProcess
) -> None:
    views = [
        urlencode({"title": name, "token": make_token({"sub": name}), "topic": topic})
        for name, topic in (("Ada", "realtime:public"), ("Ben", "realtime:depot"))
    ]
    hash_ = urlencode([("view", view) for view in views])
    with browser.page(f"{secure.page_url}#{hash_}") as page:
        for place, topic in enumerate(("realtime:public", "realtime:depot")):
            condition = is_joined(topic).replace("document", f"window.frames[{place}].document")
            page.wait_for(f"window.frames[{place}] && {condition}")
        shop.execute("insert into todos values (1); insert into depot.goods values (2)")
        for place, title, row in (
            (0, "Ada", "INSERT public.todos id 1 task null done null"),
            (1, "Ben", "INSERT depot.goods id 2 price null"),
        ):
            document = f"window.frames[{place}].document"
            page.wait_for(f"{document}.querySelector('#feed > li')")
            assert page.evaluate(ROWS.replace("document", document)) == [row]
            assert page.evaluate(f"{document}.getElementById('title').innerText") == title
        sides = "[...document.querySelectorAll('iframe')].map((view) => view.offsetLeft)"
        assert page.evaluate(sides) == [0, 640]
        assert page.complaints == []


@pytest.mark.pg17
def test_in_rls_mode_each_view_shows_what_its_tokens_owner_may_see(
    browser: Browser, pg17: Server, reader: str
) -> None:
    columns = "id int8 primary key, owner text, price numeric"
    binding = {"event": "*", "schema": "public", "table": "notes", "filter": "id=gt.1"}
    watched = {"topic": "realtime:public:notes", "binding": json.dumps(binding)}
    views = [
        urlencode({"title": name, "token": make_token({"role": reader, "sub": name}), **watched})
        for name in ("ann", "bob")
    ]
    hash_ = urlencode([("view", view) for view in views])
    with (
        owned_rows(pg17, reader, "notes", columns) as notes,
        rls_server(notes) as server,
        browser.page(f"{server.page_url}#{hash_}") as page,
    ):
        frames = [f"window.frames[{place}]?.document" for place in (0, 1)]
        for document in frames:
            joined = f"{document}?.querySelectorAll('#channels [data-state=joined]').length"
            page.wait_for(f"{joined} === 2")
        notes.execute(
            "insert into notes values (1, 'ann', 1), (9007199254740993, 'ann', 2.50), (3, 'bob', 3)"
        )
        # One row each, though they came by a topic and a binding, with every digit.
        for document, rows in zip(
            frames,
            (
                [
                    "INSERT public.notes id 9007199254740993 owner ann price 2.50",
                    "INSERT public.notes id 1 owner ann price 1",
                ],
                ["INSERT public.notes id 3 owner bob price 3"],
            ),
            strict=True,
        ):
            page.wait_for(f"{document}.querySelectorAll('#feed > li').length === {len(rows)}")
            assert page.evaluate(ROWS.replace("document", document)) == rows
            vias = f"[...{document}.querySelectorAll('#feed .via')].map((via) => via.textContent)"
            page.wait_for(f"{vias}[0].includes(' · ')")
        assert page.complaints == []


NOTE_TROUBLES = """
    window.troubles = [];
    new MutationObserver(() => troubles.push(document.querySelector("#trouble").innerText))
        .observe(document.querySelector("#trouble"), { childList: true, subtree: true });
    null
"""


def test_it_finds_back_to_a_server_that_restarts(browser: Browser, shop: Database) -> None:
    with (
        ServerProcess(shop, publications='["changes"]') as server,
        browser.page(server.page_url) as page,
    ):
        page.wait_for(is_joined("realtime:*"))
        assert text_of(page, "#connection") == "Connected"
        # The reason stands there until the next attempt, which may be over before we look.
        page.evaluate(NOTE_TROUBLES)
        server.stop()
        page.wait_for("troubles.some(text => text.startsWith('The server restarts. Trying again'))")
        page.wait_for(trouble_says(f"The server does not answer at 127.0.0.1:{server.port}"))
        assert text_of(page, "#connection") == "Not connected"
        with ServerProcess(shop, publications='["changes"]', port=server.port):
            click(page, "#retry")
            page.wait_for(is_joined("realtime:*"))
            assert text_of(page, "#connection") == "Connected"
            assert page.evaluate("document.getElementById('trouble').hidden")
            shop.execute("insert into todos values (1)")
            page.wait_for(row_count_is(1))


def test_it_says_that_its_origin_is_not_allowed(browser: Browser, shop: Database) -> None:
    origins = '["https://app.example"]'
    with (
        ServerProcess(shop, publications='["changes"]', ALLOWED_ORIGINS=origins) as server,
        browser.page(server.page_url) as page,
    ):
        page.wait_for(trouble_says("This page's origin is not in ALLOWED_ORIGINS"))


def test_it_says_that_something_between_lets_no_websocket_through(
    browser: Browser, server: ServerProcess
) -> None:
    """As a proxy does that does not pass on the header Upgrade."""
    with browser.page("about:blank") as page:
        source = """window.WebSocket = class {
            static OPEN = 1;
            constructor() { setTimeout(() => this.onclose({ code: 1006, reason: "" })); }
            close() {}
        };"""
        page.call("Page.addScriptToEvaluateOnNewDocument", source=source)
        page.call("Page.navigate", url=server.page_url)
        page.wait_for(trouble_says("The server answers, but no WebSocket opens at ws://127.0.0.1"))


def test_it_says_that_the_database_is_not_being_read(browser: Browser, shop: Database) -> None:
    with (
        ServerProcess(shop, publications='["not_made_yet"]', streaming=False) as server,
        browser.page(server.page_url) as page,
    ):
        page.wait_for(
            trouble_says("Connected, but no changes come: the database's changes are not being")
        )
        assert text_of(page, "#connection") == "Connected"
        shop.execute("create publication not_made_yet for all tables")
        server.wait_for_log("streaming from database")
        # It looks again from time to time.
        page.wait_for("document.getElementById('trouble').hidden")


def test_a_refused_join_says_why_and_can_be_taken_back(
    browser: Browser, server: ServerProcess
) -> None:
    hash_ = urlencode([("topic", "elsewhere:*"), ("topic", "realtime:*")])
    with browser.page(f"{server.page_url}#{hash_}") as page:
        page.wait_for("document.querySelector('#channels [data-state=refused]')")
        assert text_of(page, "[data-topic='elsewhere:*'] .detail") == "unmatched topic"
        click(page, "[data-topic='elsewhere:*'] button:last-child")
        page.wait_for("document.querySelectorAll('#channels li').length === 1")
        assert page.complaints == []
