"""The original README's RLS example, with npm's @supabase/realtime-js 1.7.5 under Node."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.program import NodeProgram
from tests.e2e.rls_shop import owned_rows, rls_server
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, Server, unique_name
from tests.tokens import make_token

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.pg17]

TOPIC = "realtime:public:rls_table"


@pytest.fixture
def table(pg17: Server, reader: str) -> Iterator[Database]:
    with owned_rows(pg17, reader, "rls_table", "id int8 primary key, owner text") as database:
        yield database


@pytest.fixture
def server(table: Database) -> Iterator[ServerProcess]:
    with rls_server(table) as server:
        yield server


def test_the_readmes_rls_example(
    clients: Path, table: Database, server: ServerProcess, reader: str
) -> None:
    def token(sub: str, expires_in: float = 3600) -> str:
        return make_token({"role": reader, "sub": sub}, expires_in=expires_in)

    def insert(number: int, owner: str) -> None:
        table.execute(f"insert into rls_table values ({number}, '{owner}')")

    first, expires = token("ann", 4), time.time() + 4
    options = json.dumps({"heartbeatIntervalMs": 300, "params": {"apikey": first}})
    with NodeProgram(clients / "lifecycle.mjs", server.websocket_url, options) as program:
        program.tell(join=TOPIC, user_token=first)
        program.wait_for(joined=TOPIC)
        program.tell(setAuth=first)
        insert(1, "bob")
        insert(2, "ann")
        program.wait_for(topic=TOPIC, id=2)
        # "Call setAuth again when there's a new valid JWT"
        program.tell(setAuth=token("ann"))
        program.wait_until(lambda: time.time() > expires)
        beats = program.count(heartbeat="ok")
        program.wait_for(heartbeat="ok", times=beats + 2)
        insert(3, "ann")
        program.wait_for(topic=TOPIC, id=3)
        # A token of somebody else's: from now on their rows.
        program.tell(setAuth=token("bob"))
        beats = program.count(heartbeat="ok")
        program.wait_for(heartbeat="ok", times=beats + 2)
        insert(4, "ann")
        insert(5, "bob")
        program.wait_for(topic=TOPIC, id=5)
        table.execute("delete from rls_table where id = 4")
        program.wait_for(topic=TOPIC, type="DELETE")
        ids = [line["id"] for line in program.said if line.get("type") == "INSERT"]
        assert ids == [2, 3, 5]
        assert program.count(frame="phx_error") == 0

        # "If the JWT is invalid, then Realtime RLS will terminate the channel."
        program.tell(setAuth=token("bob", -1))
        program.wait_for(frame="phx_error", topic=TOPIC)


def test_a_server_that_restarts_gets_its_client_back(
    clients: Path, table: Database, reader: str
) -> None:
    token = make_token({"role": reader, "sub": "ann"})
    options = json.dumps({"params": {"apikey": token}})
    slot = unique_name("slot")
    with contextlib.ExitStack() as stack:
        with rls_server(table, SLOT_NAME=slot) as server:
            program = NodeProgram(clients / "lifecycle.mjs", server.websocket_url, options)
            stack.enter_context(program)
            program.tell(join=TOPIC, user_token=token)
            program.wait_for(joined=TOPIC)
            table.execute("insert into rls_table values (1, 'ann')")
            program.wait_for(topic=TOPIC, id=1)
        with rls_server(table, SLOT_NAME=slot, port=server.port):
            program.wait_for(joined=TOPIC, times=2)
            table.execute("insert into rls_table values (2, 'bob'), (3, 'ann')")
            program.wait_for(topic=TOPIC, id=3)
        ids = [line["id"] for line in program.said if line.get("type") == "INSERT"]
        assert ids == [1, 3]
        assert program.count(refused=TOPIC) == 0
