"""Stock clients where the server offers permessage-deflate: they get the same, in fewer bytes.

The server sends every client the same compressed frames. A client that asks for a smaller
window cannot read those, and gets plain ones.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.e2e.conftest import SHOP
from tests.e2e.program import NodeProgram, Program
from tests.e2e.server_process import ServerProcess
from tests.e2e.test_realtime_js_1 import (
    ALL,
    PUBLIC,
    TOPICS,
    USERS,
    payload,
    received,
    without_times,
)
from tests.e2e.test_todays_clients import Start, changes, pg, start
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database

__all__ = ["pg", "start"]

pytestmark = [pytest.mark.e2e, pytest.mark.integration]

DRIFT = "Schnee ☃ und Öl 😀; " * 8000
NOISE = "".join(map(chr, random.Random(7).choices(range(0x4E00, 0x9F00), k=40_000)))
"""Hardly compressible."""
SONGS = {number: f"{number} bottles of beer on the wall, " * 100 for number in range(10, 50)}

Row = tuple[str, str, dict[str, Any], dict[str, Any]]
"""What a statement did to one: kind, table, the new row, the old one."""


def user(number: int, name: str) -> dict[str, Any]:
    return {"id": number, "name": name, "tags": None, "created": None}


def todo(number: int, task: str, *, done: bool = False) -> dict[str, Any]:
    return {"id": number, "task": task, "done": done}


STEPS: list[tuple[str, list[Row]]] = [
    ("insert into users values (1, 'Grace')", [("INSERT", "users", user(1, "Grace"), {})]),
    (f"insert into users values (2, '{DRIFT}')", [("INSERT", "users", user(2, DRIFT), {})]),
    (
        f"update users set name = '{NOISE}' where id = 2",
        [("UPDATE", "users", user(2, NOISE), {})],
    ),
    ("delete from users where id = 2", [("DELETE", "users", {}, {"id": 2})]),
    # This table shows all of its old rows.
    (f"insert into todos values (1, '{DRIFT}', false)", [("INSERT", "todos", todo(1, DRIFT), {})]),
    (
        f"update todos set task = '{NOISE}'",
        [("UPDATE", "todos", todo(1, NOISE), todo(1, DRIFT))],
    ),
    ("delete from todos", [("DELETE", "todos", {}, todo(1, NOISE))]),
    (
        "insert into todos values "
        + ", ".join(f"({number}, '{song}', false)" for number, song in SONGS.items()),
        [("INSERT", "todos", todo(number, song), {}) for number, song in SONGS.items()],
    ),
    (
        "update todos set done = true",
        [
            ("UPDATE", "todos", todo(number, song, done=True), todo(number, song))
            for number, song in SONGS.items()
        ],
    ),
    (
        "delete from todos",
        [("DELETE", "todos", {}, todo(number, song, done=True)) for number, song in SONGS.items()],
    ),
    ("insert into users values (3, 'the last')", [("INSERT", "users", user(3, "the last"), {})]),
    # For the next client.
    ("delete from users", [("DELETE", "users", {}, {"id": number}) for number in (1, 3)]),
]
ROWS = [row for _, rows in STEPS for row in rows]

BINDINGS = [{"event": "*", "schema": "public", "table": table} for table in ("users", "todos")]
# A message is compressed from 1 KB on by `ws`.
MANY = [*BINDINGS, *({**BINDINGS[0], "filter": f"id=eq.{10**9 + number}"} for number in range(60))]

EXPECTED = [
    [
        0 if table == "users" else 1,
        kind,
        f"public.{table}",
        new,
        # A key that did not change is in the new row alone, and told all the same.
        old or {"id": new["id"]} if kind == "UPDATE" else old,
    ]
    for kind, table, new, old in ROWS
]


@pytest.fixture(scope="module")
def shared_shop(pg: Server) -> Iterator[Database]:
    with fresh_database(pg) as shop:
        shop.execute(SHOP)
        yield shop


@pytest.fixture
def shop(shared_shop: Database) -> Iterator[Database]:
    """The one shop of all tests, whose tables are empty between them."""
    yield shared_shop
    shared_shop.execute("delete from users; delete from todos")
    # Rows are updated in the order in which they lie there, which is that of insertion once more.
    shared_shop.execute("vacuum full users")
    shared_shop.execute("vacuum full todos")


@pytest.fixture(scope="module")
def server(shared_shop: Database) -> Iterator[ServerProcess]:
    """A server that offers compression, and takes no client for one that was there before."""
    settings = {"WEBSOCKET_COMPRESSION": "true", "REPLAY_WINDOW": "0"}
    with ServerProcess(shared_shop, publications='["changes"]', **settings) as server:
        yield server


def sent_bytes(server: ServerProcess) -> float:
    """Return the bytes of all frames that the server has written."""
    with urlopen(f"{server.page_url}metrics") as response:
        text = response.read().decode()
    (number,) = re.findall(r"^realtime_sent_bytes_total (.*)$", text, re.M)
    return float(number)


def size(said: list[Any]) -> int:
    """Return how many bytes of JSON that takes."""
    return sum(len(json.dumps(each, ensure_ascii=False).encode()) for each in said)


NO_TAKEOVER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
COMPRESSED = [
    ("js", True, NO_TAKEOVER),
    ("js-vsn1", True, NO_TAKEOVER),
    ("phoenix", True, NO_TAKEOVER),
    ("phoenix", {"clientNoContextTakeover": True}, NO_TAKEOVER),
    (
        "js",
        {"serverNoContextTakeover": True, "clientMaxWindowBits": 10},
        f"{NO_TAKEOVER}; client_max_window_bits=10",
    ),
    # It has no options for that, and says nothing of it.
    ("py", None, None),
]
PLAIN = [
    ("js", False, None),
    ("js", {"serverMaxWindowBits": 10}, f"{NO_TAKEOVER}; server_max_window_bits=10"),
    ("phoenix", {"serverMaxWindowBits": 9}, f"{NO_TAKEOVER}; server_max_window_bits=9"),
]


@pytest.mark.parametrize(
    ("client", "deflate", "agreed", "is_compressed"),
    [*((*each, True) for each in COMPRESSED), *((*each, False) for each in PLAIN)],
)
def test_todays_clients_get_every_row_whole(
    start: Start,
    shop: Database,
    server: ServerProcess,
    client: str,
    deflate: Any,
    agreed: str | None,
    is_compressed: bool,
) -> None:
    options = {} if client == "py" else {"deflate": deflate}
    before = sent_bytes(server)
    with start(client, server.websocket_url, **options) as program:
        program.tell(subscribe="room", bindings=MANY)
        program.wait_for(channel="room", status="SUBSCRIBED")
        for statement, _ in STEPS:
            shop.execute(statement)
        program.wait_until(lambda: len(changes(program)) >= len(EXPECTED))
        assert changes(program) == EXPECTED
        assert_size(sent_bytes(server) - before, size(changes(program)), is_compressed)
        if client != "py":
            assert [line["agreed"] for line in program.said if "agreed" in line] == [agreed]


@pytest.mark.parametrize("deflate", [None, True])
def test_the_originals_client_gets_every_row_whole(
    clients: Path, shop: Database, server: ServerProcess, deflate: bool | None
) -> None:
    options = json.dumps({"deflate": deflate})
    before = sent_bytes(server)
    with NodeProgram(clients / "readme_examples.mjs", server.websocket_url, options) as program:
        for topic in TOPICS:
            program.wait_for(joined=topic)
        for statement, _ in STEPS:
            shop.execute(statement)
        expected = [line for row in ROWS for line in as_the_original(*row)]
        program.wait_until(lambda: len(payloads(program)) >= len(expected))
        said = payloads(program)
        assert without_times(said) == expected
        # Each message is told by two callbacks.
        assert_size(sent_bytes(server) - before, size(said) // 2, deflate is not None)
        if deflate:
            assert program.count(agreed=NO_TAKEOVER) == 1


def assert_size(sent: float, plain: int, is_compressed: bool) -> None:
    """Compare what was written with what the clients made of it."""
    assert sent < 0.5 * plain if is_compressed else sent > 0.9 * plain


def payloads(program: Program) -> list[Any]:
    return [line for line in [*program.said] if "payload" in line]


def as_the_original(
    kind: str, table: str, new: dict[str, Any], old: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return what the callbacks of the README's examples say of a change."""
    rows: dict[str, Any] = {}
    if kind != "DELETE":
        rows["record"] = as_text(new)
    if kind != "INSERT":
        rows["old_record"] = as_text(old)
    topics = [PUBLIC, ALL] + ([USERS] if table == "users" else [])
    return received(payload(kind, "public", table, **rows), *topics)


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    texts = {True: "t", False: "f", None: None}
    return {
        name: texts[value] if value is None or isinstance(value, bool) else str(value)
        for name, value in row.items()
    }
