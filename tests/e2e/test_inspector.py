"""The page at `/` in a real browser, while real rows change: the list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.e2e.browser import Browser, Page
from tests.e2e.inspector_page import (
    ROWS,
    click,
    is_joined,
    join,
    one_server,
    row_count_is,
    text_of,
    use_phone,
)
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

pg = one_server


@pytest.fixture
def page(browser: Browser, server: ServerProcess) -> Iterator[Page]:
    """The page, joined to everything."""
    with browser.page(server.page_url) as page:
        page.wait_for(is_joined("realtime:*"))
        yield page
        assert page.complaints == []


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
    changed = "[...document.querySelectorAll('.field:has(ins) i')].map((name) => name.textContent)"
    assert page.evaluate(changed) == ["task", "done"]
    assert text_of(page, "#kinds [data-kind=INSERT] output") == "3"
    assert text_of(page, "#total") == "7"
    assert page.evaluate("window.sameDocument")
    assert text_of(page, "#feed > li").endswith("DELETE\npublic.users\nid\n8")


TABLE = """[...document.querySelectorAll("#feed details[open] tr")].map((row) =>
    [...row.children].map((cell) => cell.textContent).join("|"))"""


def test_an_opened_row_shows_record_and_old_record_first(page: Page, shop: Database) -> None:
    shop.execute("insert into todos values (1, 'bake', true)")
    shop.execute("update todos set task = null, done = false")
    page.wait_for(row_count_is(2))
    click(page, "#feed summary")
    page.wait_for("document.querySelector('#feed table')")
    assert page.evaluate(TABLE) == [
        "column|record|old_record",
        "id int4|1|1",
        "task text|null|bake",
        "done bool|f|t",
    ]
    changed = "[...document.querySelectorAll('tr.changed')].map((row) => row.rowIndex)"
    assert page.evaluate(changed) == [2, 3]
    # The message as it came is there, behind them.
    order = "[...document.querySelector('.whole').children].map(({ tagName }) => tagName)"
    assert page.evaluate(order) == ["TABLE", "P", "DETAILS"]
    message = page.evaluate("JSON.parse(document.querySelector('.whole pre').textContent)")
    assert message["record"] == {"id": "1", "task": None, "done": "f"}
    assert (message["type"], message["errors"]) == ("UPDATE", None)


@pytest.mark.parametrize("clipboard", ["navigator.clipboard", "undefined"])
def test_records_can_be_copied_also_where_the_browser_has_no_clipboard(
    page: Page, shop: Database, clipboard: str
) -> None:
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    page.evaluate(
        f"""window.clipboard = navigator.clipboard;
        Object.defineProperty(navigator, "clipboard", {{ value: {clipboard} }}); null"""
    )
    shop.execute("insert into todos values (1, 'bake', true)")
    shop.execute("update todos set task = 'eat'")
    page.wait_for(row_count_is(2))
    click(page, "#feed summary")
    page.wait_for("document.querySelector('#feed table')")
    labels = "[...document.querySelectorAll('.whole button')].map(({ textContent }) => textContent)"
    assert page.evaluate(labels) == ["Copy record", "Copy old_record", "Copy message"]
    for place, task in ((1, "eat"), (2, "bake")):
        copy = f".whole button:nth-of-type({place})"
        click(page, copy)
        page.wait_for(f"document.querySelector('{copy}').textContent === 'Copied'")
        copied = json.loads(page.evaluate("window.clipboard.readText()"))
        assert copied == {"id": "1", "task": task, "done": "t"}


TOP = "document.querySelector('#feed details[open]').getBoundingClientRect().top"


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_an_opened_row_stays_where_it_is_and_new_ones_are_counted(
    page: Page, shop: Database, phone: bool
) -> None:
    if phone:
        use_phone(page)
    shop.execute("insert into todos values (0)")
    page.wait_for(row_count_is(1))
    click(page, "#feed summary")
    page.wait_for("document.querySelector('#feed table')")
    top = page.evaluate(TOP)
    shop.execute("insert into todos select generate_series(1, 1500)")
    page.wait_for("document.getElementById('new').innerText === '1,500 new'")
    assert page.evaluate(row_count_is(1))
    # Nor does what counts them take its place.
    assert page.evaluate(TOP) == top
    assert text_of(page, "#total") == "1,501"
    click(page, "#new")
    assert page.evaluate(f"{ROWS}[0]").startswith("INSERT public.todos id 1500 ")
    assert page.evaluate("document.getElementById('new').hidden")
    # An opened row that is out of sight holds nothing back.
    shop.execute("insert into todos values (1501)")
    page.wait_for(f"{ROWS}[0].includes('id 1501 ')")


def test_closing_a_row_lets_the_new_ones_in(page: Page, shop: Database) -> None:
    shop.execute("insert into todos values (1)")
    page.wait_for(row_count_is(1))
    click(page, "#feed summary")
    page.wait_for("document.querySelector('#feed table')")
    shop.execute("insert into todos values (2)")
    page.wait_for("document.getElementById('new').innerText === '1 new'")
    click(page, "#new")
    assert page.evaluate(row_count_is(2))
    # It is still open and in sight.
    shop.execute("insert into todos values (3)")
    page.wait_for("document.getElementById('new').innerText === '1 new'")
    click(page, "#feed details[open] summary")
    page.wait_for(row_count_is(3))


def test_a_list_that_is_scrolled_down_stays_where_it_is(page: Page, shop: Database) -> None:
    shop.execute("insert into todos select generate_series(1, 100)")
    page.wait_for(row_count_is(100))
    page.evaluate("scrollTo({ top: 1000, behavior: 'instant' })")
    shop.execute("insert into todos values (101)")
    page.wait_for("document.getElementById('new').innerText === '1 new'")
    assert page.evaluate(row_count_is(100))
    click(page, "#new")
    assert page.evaluate("scrollY") == 0
    assert page.evaluate(row_count_is(101))
    page.evaluate("scrollTo({ top: 1000, behavior: 'instant' })")
    shop.execute("insert into todos values (102)")
    page.wait_for("document.getElementById('new').innerText === '1 new'")
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    page.wait_for(row_count_is(102))


def test_what_rows_contain_is_text_never_html(page: Page, shop: Database) -> None:
    hostile = "<img src=x onerror=\"document.title='pwned'\"><b>bold</b>"
    shop.execute('create table "<b>table</b>" ("<i>column</i>" text)')
    shop.execute('insert into "<b>table</b>" values (%s)', (hostile,))
    page.wait_for(row_count_is(1))
    assert page.evaluate(ROWS) == [f"INSERT public.<b>table</b> <i>column</i> {hostile}"]
    click(page, "#feed summary")
    page.wait_for("document.querySelector('#feed table')")
    assert page.evaluate(TABLE)[1] == f"<i>column</i> text|{hostile}"
    # The page has elements of these names itself, each with nothing but text in it.
    assert page.evaluate("document.querySelectorAll('main :is(img, b *, i *, td * *)').length") == 0
    assert page.evaluate("document.title") == "Realtime inspector"


def test_a_script_that_came_with_the_page_would_not_run(page: Page) -> None:
    page.evaluate(
        """(() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'pwned'";
            document.body.append(script);
        })()"""
    )
    assert page.evaluate("document.title") == "Realtime inspector"
    [complaint] = page.complaints
    assert "Content Security Policy" in complaint
    page.complaints.clear()


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
    kinds = "[...document.querySelectorAll('#feed b')].map((kind) => kind.textContent)"
    assert page.evaluate(kinds) == ["UPDATE", "INSERT", "DELETE", "INSERT"]


def test_a_paused_list_stands_still_and_a_cleared_one_is_empty(page: Page, shop: Database) -> None:
    shop.execute("insert into todos values (1)")
    page.wait_for(row_count_is(1))
    click(page, "#pause")
    assert text_of(page, "#pause") == "Resume"
    # Only rows of the kinds that are shown are worth a click.
    click(page, "#kinds input[value=UPDATE]")
    shop.execute("insert into todos values (2), (3); update todos set done = true where id = 3")
    page.wait_for("document.getElementById('new').innerText === '2 new'")
    page.wait_for("document.getElementById('total').innerText === '4'")
    assert page.evaluate(row_count_is(1))
    assert text_of(page, "#new") == "2 new"
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
    click(page, "#notices button")
    assert text_of(page, "#notices") == ""


def test_a_flood_is_counted_and_only_the_newest_rows_are_kept(page: Page, shop: Database) -> None:
    shop.execute("insert into todos select generate_series(1, 5000)")
    page.wait_for("document.getElementById('total').innerText === '5,000'")
    page.wait_for(f"{row_count_is(200)} && {ROWS}[0].includes('id 5000 ')")
    assert page.evaluate(f"{ROWS}[199]") == "INSERT public.todos id 4801 task null done null"


def test_on_a_phone_the_first_change_is_in_sight(page: Page, shop: Database) -> None:
    use_phone(page)
    join(page, "realtime:public:todos:done=is.false,id=gt.100")
    page.wait_for(is_joined("realtime:public:todos:done=is.false,id=gt.100"))
    long = "a name that is longer than the screen of a phone is wide, and has no end at all"
    shop.execute("insert into users values (9007199254740993, %s, '{a,b}', now())", (long,))
    page.wait_for(row_count_is(1))
    page.evaluate("new Promise(requestAnimationFrame)")
    row = page.evaluate("document.querySelector('#feed > li').getBoundingClientRect().toJSON()")
    assert page.evaluate("scrollY") == 0
    assert row["bottom"] < 667
    assert (row["left"] >= 0, row["right"] <= 375) == (True, True)
    # Nothing makes the page wider than the screen.
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    click(page, "#feed summary")
    page.wait_for("document.querySelector('#feed table')")
    click(page, "#watch")
    click(page, "#channels button")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
