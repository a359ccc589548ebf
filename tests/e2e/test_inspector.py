"""The page at `/` in a real browser, while real rows change."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.e2e.browser import Browser, Page
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

# Not innerText: rows that are out of sight have none.
ROWS = """[...document.querySelectorAll("#feed .change")].map((row) => [
    row.querySelector(".kind"),
    row.querySelector(".relation, strong"),
    ...row.querySelectorAll(".name, .value"),
].map((cell) => cell.textContent).join(" "))"""


@pytest.fixture
def page(browser: Browser, server: ServerProcess) -> Iterator[Page]:
    """The page, joined to everything."""
    with browser.page(server.page_url) as page:
        page.wait_for(is_joined("realtime:*"))
        yield page
        assert page.complaints == []


def is_joined(topic: str) -> str:
    return f"document.querySelector('[data-topic=\"{topic}\"][data-state=joined]')"


def row_count_is(number: int) -> str:
    return f"document.querySelectorAll('#feed .change').length === {number}"


def text_of(page: Page, selector: str) -> str:
    text = page.evaluate(f"document.querySelector({selector!r}).innerText")
    assert isinstance(text, str)
    return text


def click(page: Page, selector: str) -> None:
    page.evaluate(f"document.querySelector({selector!r}).click()")


def join(page: Page, topic: str) -> None:
    """Type a topic as a user does, with the keyboard, and press Enter."""
    page.evaluate("document.getElementById('topic').select()")
    page.call("Input.insertText", text=topic)
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r")


def test_changes_show_as_they_come_without_a_reload(page: Page, shop: Database) -> None:
    page.evaluate("window.sameDocument = true")
    shop.execute("insert into todos values (1, 'bake', null)")
    page.wait_for(row_count_is(1))
    shop.execute("update todos set done = false, task = ''")
    page.wait_for(row_count_is(2))
    shop.execute("delete from todos; insert into users values (7, 'Ada'); truncate users")
    shop.execute("update users set name = 'Grace'; insert into users values (8, 'Ken')")
    shop.execute("delete from users where id = 8")
    page.wait_for(row_count_is(7))
    assert page.evaluate(ROWS) == [
        "DELETE public.users id 8",
        "INSERT public.users id 8 name Ken tags null created null",
        "TRUNCATE public.users",
        "INSERT public.users id 7 name Ada tags null created null",
        "DELETE public.todos id 1 task  done f",
        "UPDATE public.todos id 1 task bake  done null f",
        "INSERT public.todos id 1 task bake done null",
    ]
    changed = "[...document.querySelectorAll('.changed .name')].map((name) => name.textContent)"
    assert page.evaluate(changed) == ["task", "done"]
    assert text_of(page, "#kinds [data-kind=INSERT] output") == "3"
    assert text_of(page, "#total") == "7"
    assert page.evaluate("window.sameDocument")
    assert text_of(page, ".change").endswith("DELETE\npublic.users\nid\n8")


def test_a_row_opens_to_the_whole_payload(page: Page, shop: Database) -> None:
    shop.execute("insert into todos values (1, 'bake', true)")
    page.wait_for(row_count_is(1))
    click(page, ".change summary")
    page.wait_for("document.querySelector('.change pre')")
    payload = page.evaluate("JSON.parse(document.querySelector('.change pre').textContent)")
    assert payload["record"] == {"id": "1", "task": "bake", "done": "t"}


def test_what_rows_contain_is_text_never_html(page: Page, shop: Database) -> None:
    hostile = "<img src=x onerror=\"document.title='pwned'\"><b>bold</b>"
    shop.execute('create table "<b>table</b>" ("<i>column</i>" text)')
    shop.execute('insert into "<b>table</b>" values (%s)', (hostile,))
    page.wait_for(row_count_is(1))
    assert page.evaluate(ROWS) == [f"INSERT public.<b>table</b> <i>column</i> {hostile}"]
    click(page, ".change summary")
    page.wait_for("document.querySelector('.change pre')")
    assert page.evaluate("document.querySelectorAll('main :is(img, b, i)').length") == 0
    assert page.evaluate("document.title") == "Realtime inspector"


def test_any_topic_can_be_joined_and_left(page: Page, shop: Database) -> None:
    topic = "realtime:public:todos:id=eq.2"
    join(page, topic)
    page.wait_for(is_joined(topic))
    click(page, "[data-topic='realtime:*'] button")
    page.wait_for("document.querySelectorAll('#channels li').length === 1")
    shop.execute("insert into todos values (1), (2), (3)")
    page.wait_for(row_count_is(1))
    assert page.evaluate(ROWS) == ["INSERT public.todos id 2 task null done null"]
    # A reload joins what was joined.
    page.evaluate("window.sameDocument = true")
    page.call("Page.reload")
    page.wait_for(f"window.sameDocument === undefined && {is_joined(topic)}")
    assert page.evaluate("document.querySelectorAll('#channels li').length") == 1


def test_a_refused_join_says_why(page: Page) -> None:
    join(page, "elsewhere:*")
    page.wait_for("document.querySelector('#channels [data-state=refused]')")
    assert text_of(page, "[data-topic='elsewhere:*'] .detail") == "unmatched topic"
    click(page, "[data-topic='elsewhere:*'] button")
    page.wait_for("document.querySelectorAll('#channels li').length === 1")


def test_the_kinds_shown_can_be_chosen(page: Page, shop: Database) -> None:
    shop.execute("insert into todos values (1); delete from todos")
    page.wait_for(row_count_is(2))
    click(page, "#kinds input[value=INSERT]")
    assert page.evaluate(ROWS) == ["DELETE public.todos id 1 task null done null"]
    click(page, "#kinds input[value=DELETE]")
    assert text_of(page, "#empty") == "Nothing of the kinds that are shown."
    shop.execute("insert into todos values (2); update todos set id = 3")
    page.wait_for(row_count_is(1))
    assert page.evaluate(ROWS) == ["UPDATE public.todos id 2 3 task null done null"]
    click(page, "#kinds input[value=INSERT]")
    click(page, "#kinds input[value=DELETE]")
    kinds = "[...document.querySelectorAll('.change .kind')].map((kind) => kind.textContent)"
    assert page.evaluate(kinds) == ["UPDATE", "INSERT", "DELETE", "INSERT"]


def test_a_paused_list_stands_still_and_a_cleared_one_is_empty(page: Page, shop: Database) -> None:
    shop.execute("insert into todos values (1)")
    page.wait_for(row_count_is(1))
    click(page, "#pause")
    shop.execute("insert into todos values (2), (3)")
    page.wait_for("document.getElementById('pause').innerText === 'Resume (2 new)'")
    assert page.evaluate(row_count_is(1))
    assert text_of(page, "#total") == "3"
    click(page, "#pause")
    page.wait_for(row_count_is(3))
    assert text_of(page, "#pause") == "Pause"
    click(page, "#clear")
    assert page.evaluate(row_count_is(0))
    assert text_of(page, "#total") == "0"
    assert text_of(page, "#empty").startswith("Waiting for changes.")


def test_a_gap_is_said_once_whatever_is_joined(page: Page, shop: Database) -> None:
    join(page, "realtime:public")
    page.wait_for(is_joined("realtime:public"))
    shop.execute(
        "select pg_terminate_backend(active_pid) from pg_replication_slots "
        "where database = current_database()"
    )
    page.wait_for("document.querySelector('#notices .notice')")
    shop.execute("insert into depot.goods values (1)")
    page.wait_for(row_count_is(2))
    [change, gap] = page.evaluate(ROWS)
    assert change == "INSERT depot.goods id 1 price null"
    assert re.fullmatch(r"GAP Changes may be missing before [\dA-F/:]+ \(temporary_slot\)", gap)
    assert page.evaluate("document.querySelectorAll('#notices .notice').length") == 1
    click(page, ".notice button")
    assert text_of(page, "#notices") == ""


NOTE_CONNECTION_TEXTS = """
    const shown = document.querySelector("#connection");
    window.connectionTexts = [];
    new MutationObserver(() => connectionTexts.push(shown.textContent))
        .observe(shown, { childList: true });
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
        page.evaluate(NOTE_CONNECTION_TEXTS)
        server.stop()
        page.wait_for("connectionTexts.some(text => text.includes('the server restarts'))")
        with ServerProcess(shop, publications='["changes"]', port=server.port):
            page.wait_for(is_joined("realtime:*"))
            assert text_of(page, "#connection") == "Connected"
            shop.execute("insert into todos values (1)")
            page.wait_for(row_count_is(1))


def test_a_flood_is_counted_and_only_the_newest_rows_are_kept(page: Page, shop: Database) -> None:
    shop.execute("insert into todos select generate_series(1, 5000)")
    page.wait_for("document.getElementById('total').innerText === '5,000'")
    page.wait_for(f"{row_count_is(200)} && {ROWS}[0].includes('id 5000 ')")
    assert page.evaluate(f"{ROWS}[199]") == "INSERT public.todos id 4801 task null done null"
