"""docs/howto/rls.md: the database is prepared as the page says, and rows find their owners."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.rls_helpers import make_nobody
from tests.tokens import SECRET, make_token

pytestmark = [pytest.mark.integration, pytest.mark.pg17]

PAGE = (Path(__file__).parents[2] / "docs/howto/rls.md").read_text(encoding="utf-8")
# Before that it shows SQL of the demo's, to be read.
PREPARATION = PAGE.partition("## Prepare the database")[2]
ANN = "11111111-2222-3333-4444-555555555555"
BOB = "99999999-2222-3333-4444-555555555555"
ROLES = ("realtime", "authenticated")
CREATE_NOBODY = "CREATE ROLE realtime_nobody NOLOGIN NOINHERIT;"


@pytest.fixture
def names(pg17: Server) -> Iterator[dict[str, str]]:
    """Names of this test's own for the page's roles; dropped after the databases."""
    names = {name: unique_name(name) for name in ROLES}
    yield names
    for name in names.values():
        pg17.execute(f"drop role if exists {name}")


@pytest.fixture
def database(pg17: Server, names: dict[str, str]) -> Iterator[Database]:
    with fresh_database(pg17) as database:
        yield database


def statements(names: dict[str, str], database: Database) -> Iterator[str]:
    """Yield the page's SQL for this database, in its order."""
    for block in re.findall(r"^ *```sql\n(.*?)^ *```$", PREPARATION, re.M | re.S):
        text = textwrap.dedent(block).replace("DATABASE shop", f"DATABASE {database.name}")
        for name, own in names.items():
            text = re.sub(rf"\b{name}\b", own, text)
        # All databases share the role, and it may be there.
        text = text.replace(CREATE_NOBODY, "")
        yield text


def test_a_row_goes_to_its_owner(database: Database, names: dict[str, str]) -> None:
    database.execute("create domain task as text check (length(value) < 100)")
    database.execute("create type place as (floor int, room task)")
    database.execute("create table todos (id int primary key, owner uuid, task task, place place)")
    assert CREATE_NOBODY in PREPARATION
    make_nobody(database.server)
    for statement in statements(names, database):
        database.execute(statement)
    database.execute("create publication changes for table todos")
    settings = {
        "DB_USER": names["realtime"],
        "DB_PASSWORD": "…",
        "REPLICATION_MODE": "RLS",
        "SECURE_CHANNELS": "true",
        "JWT_SECRET": SECRET,
    }
    token = make_token({"role": names["authenticated"], "sub": ANN})
    stranger = make_token({"role": names["authenticated"], "sub": "no UUID"})
    with ServerProcess(database, publications='["changes"]', streaming=False, **settings) as server:
        server.wait_for_log("streaming from database")
        address = f"{server.websocket_url}/websocket"
        with (
            connect(f"{address}?apikey={token}") as socket,
            connect(f"{address}?apikey={stranger}") as other,
        ):
            topic = "realtime:public:todos:task=eq.hers"
            join = {"topic": topic, "event": "phx_join", "ref": "1"}
            socket.send(json.dumps({**join, "payload": {"user_token": token}}))
            assert json.loads(socket.recv())["payload"] == {"status": "ok", "response": {}}
            other.send(json.dumps({**join, "payload": {"user_token": stranger}}))
            assert json.loads(other.recv())["payload"] == {"status": "ok", "response": {}}
            database.execute(
                "insert into todos values (1, %s, 'hers', '(1,a)'), (2, %s, 'hers', '(2,b)')",
                (BOB, ANN),
            )
            change = json.loads(socket.recv(timeout=30))["payload"]
            assert change["record"] == {
                "id": 2,
                "owner": ANN,
                "task": "hers",
                "place": {"floor": 2, "room": "b"},
            }
            # From the second change on all are checked together, the stranger before it comes.
            database.execute("insert into todos values (3, %s, 'hers', '(3,c)')", (ANN,))
            assert json.loads(socket.recv(timeout=30))["payload"]["record"]["id"] == 3
            # The policy has not failed for a claim that is no UUID: that would be told.
            other.send(json.dumps({"topic": "phoenix", "event": "heartbeat", "payload": {}}))
            assert json.loads(other.recv(timeout=30))["topic"] == "phoenix"
        # The role is right: nothing is missing, and nothing is too much.
        assert not [line for line in server.log if " WARNING " in line and "realtime.rls" in line]
