"""The clients of today in RLS mode: each sees what its token's owner may see."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.e2e.program import Program
from tests.e2e.rls_shop import owned_rows, rls_server
from tests.e2e.server_process import ServerProcess
from tests.e2e.test_todays_clients import CLIENTS, Start, changes, normal
from tests.e2e.test_todays_clients import start as start
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.test_life import Load
from tests.tokens import make_token
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.pg17]

COLUMNS = "id int8 primary key, owner text, body text, tags text[]"


@pytest.fixture
def notes(pg17: Server, reader: str) -> Iterator[Database]:
    with owned_rows(pg17, reader, "notes", COLUMNS) as database:
        yield database


@pytest.fixture
def server(notes: Database) -> Iterator[ServerProcess]:
    with rls_server(notes) as server:
        yield server


BINDINGS: list[Any] = [
    {"event": "*", "schema": "public", "table": "notes"},
    {"event": "INSERT", "schema": "public", "table": "notes", "filter": "id=gt.9007199254740000"},
    {"event": "UPDATE", "schema": "public", "table": "notes", "select": ["body"]},
]
STEPS = [
    ("insert into notes values (1, 'ann', 'hello', array['a', 'b c'])", "ann", "INSERT", 1),
    ("insert into notes values (2, 'bob', 'secret')", "bob", "INSERT", 2),
    ("update notes set body = 'changed' where id = 1", "ann", "UPDATE", 1),
    ("update notes set body = 'changed' where id = 2", "bob", "UPDATE", 2),
]
ROW = {"id": 1, "owner": "ann", "body": "hello", "tags": ["a", "b c"]}


def wait_for_change(program: Program, kind: str, number: int) -> None:
    def has_come() -> bool:
        return any(
            kind == seen and number in (new.get("id"), old.get("id"))
            for _, seen, _, new, old in changes(program)
        )

    program.wait_until(has_come)


Token = Callable[..., str]


@pytest.fixture
def token(reader: str) -> Token:
    """Make a token for somebody."""

    def token(sub: str, **options: Any) -> str:
        return make_token({"role": reader, "sub": sub}, **options)

    return token


@contextlib.contextmanager
def seated(
    start: Start, url: str, tokens: Mapping[str, str], bindings: list[Any]
) -> Iterator[dict[str, Program]]:
    """Clients of today by their names, each with its token on a channel of its own."""
    with contextlib.ExitStack() as stack:
        programs = {}
        for name, token in tokens.items():
            program = stack.enter_context(start(name, url, apikey=token))
            program.tell(token=token)
            program.wait_for(token="set")
            program.tell(subscribe="room", bindings=bindings)
            programs[name] = program
        for program in programs.values():
            wait_until_in_place(program)
        yield programs


def wait_until_in_place(program: Program, *, times: int = 1) -> None:
    program.wait_for(channel="room", status="SUBSCRIBED", times=times)

    def is_told() -> bool:
        told = [line for line in [*program.said] if "system" in line]
        return len(told) >= times

    program.wait_until(is_told)


def test_each_client_gets_the_rows_of_its_tokens_owner(
    start: Start, notes: Database, server: ServerProcess, token: Token
) -> None:
    tokens = {**dict.fromkeys(CLIENTS, token("ann")), "bob": token("bob")}
    with seated(start, server.websocket_url, tokens, BINDINGS) as programs:
        for statement, owner, kind, number in STEPS:
            notes.execute(statement)
            for name, program in programs.items():
                if owner == ("bob" if name == "bob" else "ann"):
                    wait_for_change(program, kind, number)
        notes.execute("delete from notes")
        for program in programs.values():
            for number in (1, 2):
                wait_for_change(program, "DELETE", number)
        table = "public.notes"
        after = {**ROW, "body": "changed"}
        # A DELETE goes to everybody, with nothing but the key.
        deletes = [[0, "DELETE", table, {}, {"id": 1}], [0, "DELETE", table, {}, {"id": 2}]]
        expected = [
            [0, "INSERT", table, ROW, {}],
            [0, "UPDATE", table, after, {"id": 1}],
            [2, "UPDATE", table, {"id": 1, "body": "changed"}, {"id": 1}],
            *deletes,
        ]
        for name in CLIENTS:
            assert changes(programs[name]) == expected, name
        bobs = changes(programs["bob"])
        assert [change[3].get("owner") for change in bobs if change[1] == "INSERT"] == ["bob"]
        assert bobs[-2:] == deletes
        assert {change[3].get("id", 2) for change in bobs} == {2}


# A restart.

INSERTS: list[Any] = [{"event": "INSERT", "schema": "public", "table": "item"}]
EVEN_AND_ODD = """
    id int8 primary key,
    filling text,
    owner text generated always as (case id % 2 when 0 then 'ann' else 'bob' end) stored
"""


def ids_by_session(program: Program) -> list[list[int]]:
    """Return the rows that a client got each time that it was joined."""
    sessions: list[list[int]] = []
    for line in [*program.said]:
        if line.get("status") == "SUBSCRIBED":
            sessions.append([])
        elif "change" in line:
            sessions[-1].append(normal(line["change"])[2]["id"])
    return sessions


def test_a_server_that_restarts_gets_its_clients_back_who_see_their_own_rows(
    start: Start, pg17: Server, reader: str, token: Token
) -> None:
    tokens = {**dict.fromkeys(CLIENTS, token("ann")), "bob": token("bob")}
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(owned_rows(pg17, reader, "item", EVEN_AND_ODD))
        slot = unique_name("slot")
        with rls_server(database, SLOT_NAME=slot) as server:
            programs = stack.enter_context(seated(start, server.websocket_url, tokens, INSERTS))
            load = stack.enter_context(Load(database))
            for program in programs.values():
                program.wait_until(lambda program=program: len(changes(program)) > 50)  # type: ignore[misc]
        with rls_server(database, SLOT_NAME=slot, port=server.port):
            for program in programs.values():
                wait_until_in_place(program, times=2)
            there = load.written
            eventually_sync(lambda: load.written > there + 50)
            rows = load.stop()
            for name, program in programs.items():
                parity = int(name == "bob")
                last = rows - 1 - (rows - 1 - parity) % 2
                program.wait_until(
                    lambda program=program, last=last: last in ids_by_session(program)[-1][-1:]
                )  # type: ignore[misc]
                former, latter = ids_by_session(program)
                assert former == list(range(parity, former[-1] + 1, 2)), name
                # All that was committed once it was back, and maybe some before: what was not
                # acknowledged, or came before anybody was there, is read then.
                assert latter[0] <= there + 1, name
                assert latter == list(range(latter[0], rows, 2)), name
                assert program.count(status="CLOSED") == 0


# Another token on the open socket.

EVENTS: list[Any] = [{"event": "*", "schema": "public", "table": "notes"}]


def take(programs: Mapping[str, Program], token: str) -> None:
    """Give clients a token; return when the server has taken it."""
    for program in programs.values():
        times = program.count(token="set") + 1
        program.tell(token=token)
        program.wait_for(token="set", times=times)
        # The token is not answered. This is, after it.
        program.tell(subscribe=f"fence-{times}")
    for program in programs.values():
        program.wait_for(channel=f"fence-{program.count(token='set')}", status="SUBSCRIBED")


def test_a_token_of_somebody_elses_shows_their_rows_from_then_on(
    start: Start, notes: Database, server: ServerProcess, token: Token
) -> None:
    tokens = dict.fromkeys(CLIENTS, token("ann"))
    with seated(start, server.websocket_url, tokens, EVENTS) as programs:
        for number, owner in enumerate(["ann", "bob", "ann"]):
            if number:
                take(programs, token(owner))
            # Whose turn it is not comes first: when the other has come, it would be there.
            other = {"ann": "bob", "bob": "ann"}[owner]
            notes.execute(f"insert into notes values ({10 * number}, '{other}')")
            notes.execute(f"insert into notes values ({10 * number + 1}, '{owner}')")
            for program in programs.values():
                wait_for_change(program, "INSERT", 10 * number + 1)
        for name, program in programs.items():
            assert [change[3]["id"] for change in changes(program)] == [1, 11, 21], name
            assert program.count(status="CLOSED") == 0
            assert program.count(channel="room", status="SUBSCRIBED") == 1


def test_a_bad_token_closes_the_channel_and_says_why(
    start: Start, notes: Database, server: ServerProcess, token: Token
) -> None:
    bad = [
        (token("ann", expires_in=-1), "the token has expired"),
        (token("ann", secret="another secret"), "signature does not fit"),
        ("nonsense", "the token is not a JSON Web Token"),
        (make_token({"role": "nobody", "sub": "ann"}), "there is no role"),
        (make_token({"sub": "ann"}), "the token has no role"),
    ]
    tokens = dict.fromkeys(CLIENTS, token("ann"))
    with seated(start, server.websocket_url, tokens, EVENTS) as programs:
        room = "room"
        for number, (text, reason) in enumerate(bad):
            for program in programs.values():
                program.tell(token=text)
            for name, program in programs.items():
                program.wait_for(channel=room, status="CLOSED")
                told = [line for line in program.said if line.get("channel") == room]
                assert any(reason in str(line) for line in told), name
            notes.execute(f"insert into notes values ({2 * number}, 'ann')")
            # It is for the application to go on, with a good one.
            take(programs, token("ann", expires_in=3600 + number))
            room = f"room-{number}"
            for program in programs.values():
                program.tell(subscribe=room, bindings=EVENTS)
            for program in programs.values():
                program.wait_for(channel=room, status="SUBSCRIBED")
            notes.execute(f"insert into notes values ({2 * number + 1}, 'ann')")
            for name, program in programs.items():
                program.wait_until(lambda program=program, room=room: changes(program, room))  # type: ignore[misc]
                seen = [line["change"] for line in program.said if "change" in line]
                ids = [normal(change)[2]["id"] for change in seen]
                assert ids == list(range(1, 2 * number + 2, 2)), name
