"""The clients of today in RLS mode: each sees what its token's owner may see."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.program import Program
from tests.e2e.server_process import ServerProcess
from tests.e2e.test_todays_clients import CLIENTS, Start, changes, in_place
from tests.e2e.test_todays_clients import start as start
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.rls_helpers import roles
from tests.tokens import SECRET, make_token

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.pg17]

NOTES = """
    create table notes (id int8 primary key, owner text, body text, tags text[]);
    alter table notes enable row level security;
    create policy own on notes using (
        owner = current_setting('request.jwt.claims')::jsonb ->> 'sub'
    );
    create publication changes for all tables;
"""


@pytest.fixture
def reader(pg17: Server) -> Iterator[str]:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    with roles(pg17, "reader") as (reader,):
        yield reader


@pytest.fixture
def notes(pg17: Server, reader: str) -> Iterator[Database]:
    with fresh_database(pg17) as database:
        database.execute(f'{NOTES} grant select on notes to "{reader}"')
        yield database


@pytest.fixture
def server(notes: Database) -> Iterator[ServerProcess]:
    with ServerProcess(
        notes,
        publications='["changes"]',
        streaming=False,
        REPLICATION_MODE="RLS",
        REPLICATION_POLL_INTERVAL="20",
        SECURE_CHANNELS="true",
        JWT_SECRET=SECRET,
    ) as server:
        server.wait_for_log("polling slot")
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


def test_each_client_gets_the_rows_of_its_tokens_owner(
    start: Start, notes: Database, server: ServerProcess, reader: str
) -> None:
    with contextlib.ExitStack() as stack:
        programs = {}
        for name in (*CLIENTS, "bob"):
            owner = "bob" if name == "bob" else "ann"
            token = make_token({"role": reader, "sub": owner})
            program = stack.enter_context(start(name, server.websocket_url, apikey=token))
            program.tell(token=token)
            program.wait_for(token="set")
            program.tell(subscribe="room", bindings=BINDINGS)
            programs[name] = program
        for program in programs.values():
            program.wait_for(channel="room", status="SUBSCRIBED")
            program.wait_until(lambda program=program: in_place(program) == {"room"})  # type: ignore[misc]
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
