"""The original README's RLS example, with npm's @supabase/realtime-js 1.7.5 under Node."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.program import NodeProgram
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.rls_helpers import roles
from tests.tokens import SECRET, make_token

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.pg17]

TOPIC = "realtime:public:rls_table"

SETUP = """
    create table rls_table (id int8 primary key, owner text);
    alter table rls_table enable row level security;
    create policy own on rls_table using (
        owner = current_setting('request.jwt.claims')::jsonb ->> 'sub'
    );
    create publication supabase_realtime for all tables;
"""


@pytest.fixture
def reader(pg17: Server) -> Iterator[str]:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    with roles(pg17, "reader") as (reader,):
        yield reader


@pytest.fixture
def table(pg17: Server, reader: str) -> Iterator[Database]:
    with fresh_database(pg17) as database:
        database.execute(f"{SETUP} grant select on rls_table to {reader}")
        yield database


@pytest.fixture
def server(table: Database) -> Iterator[ServerProcess]:
    with ServerProcess(
        table,
        publications='["supabase_realtime"]',
        streaming=False,
        REPLICATION_MODE="RLS",
        REPLICATION_POLL_INTERVAL="20",
        SECURE_CHANNELS="true",
        JWT_SECRET=SECRET,
    ) as server:
        server.wait_for_log("polling slot")
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
