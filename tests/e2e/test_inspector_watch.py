"""The page at `/`: what is watched, by topics and by bindings, and the code that watches it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from realtime_core import Column, Record, Relation, ReplicaIdentity
from realtime_core.filters import parse_filter
from tests.e2e.browser import Browser, Page
from tests.e2e.inspector_page import (
    ROWS,
    click,
    is_joined,
    join,
    one_server,
    row_count_is,
    text_of,
    type_into,
)
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, unique_name
from tests.tokens import SECRET, make_token
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

pg = one_server


@pytest.fixture
def page(browser: Browser, server: ServerProcess) -> Iterator[Page]:
    """The page, joined to everything."""
    with browser.page(server.page_url) as page:
        page.wait_for(is_joined("realtime:*"))
        yield page
        assert page.complaints == []


def choose(page: Page, selector: str, value: str) -> None:
    """Choose from a list as a keyboard does: by its value, with the events that come of it."""
    page.evaluate(
        f"""(() => {{
            const select = document.querySelector({json.dumps(selector)});
            select.value = {json.dumps(value)};
            for (const kind of ["input", "change"]) {{
                select.dispatchEvent(new Event(kind, {{ bubbles: true }}));
            }}
        }})()"""
    )
    assert page.evaluate(f"document.querySelector({json.dumps(selector)}).value") == value


def open_builder(page: Page, table: list[str]) -> None:
    click(page, "#watch")
    page.wait_for("document.querySelectorAll('#binding [name=table] optgroup').length === 2")
    choose(page, "#binding [name=table]", json.dumps(table, separators=(",", ":")))


def labels_of(page: Page) -> Any:
    return page.evaluate(
        "[...document.querySelectorAll('#feed .via')].map(({ textContent }) => textContent)"
    )


def test_any_topic_can_be_joined_and_left(page: Page, shop: Database) -> None:
    topic = "realtime:public:todos:id=eq.2"
    join(page, topic)
    page.wait_for(is_joined(topic))
    click(page, "[data-topic='realtime:*'] button:last-child")
    page.wait_for("document.querySelectorAll('#channels li').length === 1")
    shop.execute("insert into todos values (1), (2), (3)")
    page.wait_for(row_count_is(1))
    assert page.evaluate(ROWS) == ["INSERT public.todos id 2 task null done null"]
    # A reload joins what was joined, and no log of a server or a proxy has it.
    page.evaluate("window.sameDocument = true")
    page.call("Page.reload")
    page.wait_for(f"window.sameDocument === undefined && {is_joined(topic)}")
    assert page.evaluate("document.querySelectorAll('#channels li').length") == 1
    assert page.evaluate("location.search") == ""


def test_the_tables_that_there_are_can_be_chosen(page: Page, shop: Database) -> None:
    shop.execute("create table made_later (id int)")

    def is_listed() -> Any:
        # Each time it is opened it asks, and the server asks the database once in a while.
        click(page, "#watch")
        listed = "[...document.querySelectorAll('#binding option')].map(({ text }) => text)"
        return "public.made_later" in page.evaluate(listed)

    eventually_sync(is_listed)
    options = "[...document.querySelectorAll('#binding [name=table] option')].map((o) => o.text)"
    assert page.evaluate(options) == [
        "every table",
        "every table of depot",
        "depot.goods",
        "every table of public",
        "public.made_later",
        "public.todos",
        "public.users",
    ]
    # A filter needs a table.
    assert page.evaluate("document.querySelector('#binding fieldset').disabled")
    choose(page, "#binding [name=table]", '["public","users"]')
    assert not page.evaluate("document.querySelector('#binding fieldset').disabled")
    columns = (
        "[...document.querySelectorAll('.conditions li select')[0].options].map((o) => o.text)"
    )
    assert page.evaluate(columns) == [
        "id (int8)",
        "name (text)",
        "tags (_text)",
        "created (timestamptz)",
    ]
    topics = "[...document.querySelectorAll('#known-topics option')].map((o) => o.value)"
    assert "realtime:depot:goods" in page.evaluate(topics)


def test_conditions_make_a_filter_and_only_its_rows_come(page: Page, shop: Database) -> None:
    click(page, "[data-topic='realtime:*'] button:last-child")
    open_builder(page, ["public", "users"])
    choose(page, "#binding [name=event]", "INSERT")
    choose(page, ".conditions select:nth-of-type(2)", "gt")
    type_into(page, ".conditions input", "9007199254740990")
    assert (
        page.evaluate("document.querySelector('[name=filter]').value") == "id=gt.9007199254740990"
    )
    click(page, ".conditions button")
    second = ".conditions li:nth-child(2)"
    choose(page, f"{second} select", "name")
    choose(page, f"{second} select:nth-of-type(2)", "like")
    type_into(page, f"{second} input", "A*, (jr.)")
    click(page, ".conditions button")
    third = ".conditions li:nth-child(3)"
    choose(page, f"{third} select", "created")
    choose(page, f"{third} select:nth-of-type(2)", "is.null")
    assert page.evaluate(f"document.querySelector('{third} input').hidden")
    expected = 'id=gt.9007199254740990,name=like."A*, (jr.)",created=is.null'
    assert page.evaluate("document.querySelector('[name=filter]').value") == expected
    click(page, "#binding button:not([type])")
    page.wait_for(is_joined(f"INSERT public.users {expected}"))
    for key, name, created in (
        (1, "Ann, (jr.)", None),
        (9007199254740991, "Bob, (jr.)", None),
        (9007199254740992, "Ann, (jr.)", "2026-01-01"),
        (9007199254740993, "Ann, (jr.)", None),
    ):
        shop.execute("insert into users values (%s, %s, null, %s)", (key, name, created))
    shop.execute("update users set name = name")
    shop.execute("insert into users values (9007199254740995, 'A, (jr.)', '{a}')")
    page.wait_for(row_count_is(2))
    # Numbers have all of their digits, though JavaScript's own end at 2^53.
    assert page.evaluate(ROWS) == [
        'INSERT public.users id 9007199254740995 name A, (jr.) tags ["a"] created null',
        "INSERT public.users id 9007199254740993 name Ann, (jr.) tags null created null",
    ]
    # The address has it, too.
    page.evaluate("window.sameDocument = true")
    page.call("Page.reload")
    label = is_joined(f"INSERT public.users {expected}")
    page.wait_for(f"window.sameDocument === undefined && {label}")


def test_a_condition_can_be_taken_away_and_a_filter_written_by_hand(
    page: Page, shop: Database
) -> None:
    open_builder(page, ["public", "todos"])
    type_into(page, ".conditions input", "1")
    click(page, ".conditions button")
    type_into(page, ".conditions li:nth-child(2) input", "2")
    value = "document.querySelector('[name=filter]').value"
    assert page.evaluate(value) == "id=eq.1,id=eq.2"
    click(page, ".conditions li:nth-child(2) button")
    assert page.evaluate(value) == "id=eq.1"
    type_into(page, "[name=filter]", "or(id.eq.3,task.like.b*)")
    # The conditions do not say any more what the filter is.
    assert page.evaluate("document.querySelector('.conditions input').value") == ""
    click(page, "#binding button:not([type])")
    page.wait_for(is_joined("public.todos or(id.eq.3,task.like.b*)"))


def test_a_filter_that_does_not_fit_is_refused_with_its_place(page: Page, shop: Database) -> None:
    shop.execute("insert into todos values (1)")
    page.wait_for(row_count_is(1))
    open_builder(page, ["public", "todos"])
    type_into(page, "[name=filter]", "id=eq.x", enter=True)
    page.wait_for("document.querySelector('#channels [data-state=refused]')")
    assert text_of(page, "#channels .detail:not([hidden])") == (
        "cannot filter by 'id=eq.x': 'x' cannot be read as int4: it is not an integer "
        "(at character 7 of 'id=eq.x')"
    )


VALUES = [
    "1",
    "a b",
    "Smith, John (jr.)",
    'a "quoted" one',
    "back\\slash, and comma",
    "{a,b",
    "[1,2)",
    "(",
    " leading and trailing ",
    "a=eq.b",
    "null",
    "not.eq.1",
    "ü ✓ 🎉",
]


COLUMNS = ["name", "odd name", 'a"b\\c', "new.id", "x=y", "a->b", "or(", "é"]


def test_a_condition_means_its_column_and_its_value_whatever_they_contain(page: Page) -> None:
    for column in COLUMNS:
        columns = (
            Column(column, 25, "text", "pg_catalog", -1, is_key=True),
            Column("other", 25, "text", "pg_catalog", -1, is_key=False),
        )
        relation = Relation(1, "public", "t", ReplicaIdentity.FULL, columns)
        script = (
            "import('./builder.js').then(({ condition }) =>"
            f" {json.dumps(VALUES)}.map((value) => condition({json.dumps(column)}, 'eq', value)))"
        )
        for value, text in zip(VALUES, page.evaluate(script), strict=True):
            passes = parse_filter(text).compile(relation)
            assert passes(Record(relation.shape, (value, "x"))), text
            assert not passes(Record(relation.shape, (f"{value}!", value))), text
        script = (
            "import('./builder.js').then(({ condition }) =>"
            f" condition({json.dumps(column)}, 'in', 'a, b (c) ,\"d\"'))"
        )
        passes = parse_filter(page.evaluate(script)).compile(relation)
        found = [
            value
            for value in ("a", "b (c)", '"d"', "b")
            if passes(Record(relation.shape, (value, "")))
        ]
        assert found == ["a", "b (c)", '"d"'], column


def test_a_change_that_came_by_several_topics_is_one_row(page: Page, shop: Database) -> None:
    shop.execute(
        "create table twin (n numeric(6, 2), f float8, b bool, at timestamptz, day timestamp,"
        " tags text[], data jsonb, small int2, raw bytea); alter table twin replica identity full"
    )
    join(page, "realtime:public")
    page.wait_for(is_joined("realtime:public"))
    open_builder(page, ["public", "*"])
    click(page, "#binding button:not([type])")
    page.wait_for(is_joined("public.*"))
    row = (
        "12.50, 1e300, true, '2026-01-02 03:04:05.5+00', '2026-01-02 03:04:05', '{a,\"b c\"}',"
        " '{\"a\": [1]}', -3, '\\x00ff'"
    )
    # Two rows that nothing tells apart, in one transaction, are two changes.
    shop.execute(f"insert into twin values ({row}), ({row}), ({'null, ' * 8}null)")
    shop.execute("update twin set b = false where n is not null")
    shop.execute("insert into depot.goods values (1, 2)")
    shop.execute("delete from twin; truncate twin")
    everywhere = ["public.*", "realtime:*", "realtime:public"]

    def labels() -> Any:
        return [sorted(label.split(" · ")) for label in labels_of(page)]

    # The newest is the TRUNCATE.
    expected = [*[everywhere] * 3, ["realtime:*"], *[everywhere] * 5]
    eventually_sync(lambda: labels()[1:] == expected)
    assert text_of(page, "#total") == "10"


# Programs as they are shown.


@contextlib.contextmanager
def running(clients: Path, python: Path, language: str, source: str) -> Iterator[Path]:
    """Run a program beside the packages that it imports; the file is what it prints."""
    program = clients / f".{unique_name('shown')}.{'mjs' if language == 'JavaScript' else 'py'}"
    output = program.with_suffix(".out")
    # Node 20 has a WebSocket of its own only when it is asked for.
    node = ["node", "--experimental-websocket"]
    command = node if language == "JavaScript" else [str(python), "-u"]
    program.write_text(source)
    with output.open("w") as file:
        process = subprocess.Popen([*command, str(program)], stdout=file, stderr=file)
        try:
            yield output
            assert process.poll() is None, output.read_text()
        finally:
            process.kill()
            process.wait()
            program.unlink()
            output.unlink()


TOPIC = 'realtime:public:todos:task=in.("bake","a \\"cake\\"")'
BINDING = {
    "event": "INSERT",
    "schema": "public",
    "table": "todos",
    "filter": 'task=in.("bake","a \\"cake\\"")',
}


@pytest.mark.parametrize(
    ("language", "kind", "secure"),
    [
        ("JavaScript", "topic", True),
        ("JavaScript", "binding", False),
        ("Python", "topic", False),
        ("Python", "binding", True),
    ],
)
def test_the_program_that_is_shown_gets_what_is_watched(
    browser: Browser,
    shop: Database,
    clients: Path,
    python_client: Path,
    language: str,
    kind: str,
    secure: bool,
) -> None:
    settings = {"SECURE_CHANNELS": "true", "JWT_SECRET": SECRET} if secure else {}
    token = make_token()
    address = {kind: TOPIC if kind == "topic" else json.dumps(BINDING)}
    if secure:
        address["token"] = token
    with ServerProcess(shop, publications='["changes"]', **settings) as server:
        with browser.page(f"{server.page_url}#{urlencode(address)}") as page:
            page.call("Browser.grantPermissions", permissions=["clipboardReadWrite"])
            page.wait_for("document.querySelector('#channels [data-state=joined]')")
            click(page, "#channels button")
            choose(page, "#code select", language)
            click(page, "#code .row button")
            page.wait_for("document.querySelector('#code .row button').innerText === 'Copied'")
            source = page.evaluate("navigator.clipboard.readText()")
            assert source == page.evaluate("document.querySelector('#code pre').textContent")
        # Programs are passed on, tokens are not.
        assert token not in source
        assert ("eyJ…" in source) == secure
        source = source.replace("eyJ…", token)
        if kind == "binding":
            # Both versions have the same name; the tests have one of them under another.
            source = source.replace("@supabase/realtime-js", "realtime-js-2")
        joins = sum("joined: " in line for line in server.log)
        with running(clients, python_client, language, source) as output:
            eventually_sync(lambda: sum("joined: " in line for line in server.log) > joins)
            for task in ("eat", "bake", 'a "cake"'):
                shop.execute("insert into todos select count(*), %s from todos", (task,))
            eventually_sync(lambda: "cake" in output.read_text())
            assert "bake" in output.read_text()
            assert "eat" not in output.read_text()
