"""What the page at `/` asks before it connects: whether it may, and which tables there are."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Server
from tests.integration.conftest import fresh_database
from tests.integration.rls_stage import open_rls_stage
from tests.server_helpers import DEADLINE, dev_config
from tests.tokens import SECRET, make_token

pytestmark = pytest.mark.integration

NOWHERE = "host=127.0.0.1 port=1 dbname=none user=nobody"
SECURE = {"SECURE_CHANNELS": "true", "JWT_SECRET": SECRET}
SHOP = """
    create table todos (id int8 primary key, task text);
    create table other (id int);
    create publication shop for table todos
"""


async def ask(port: int, token: str | None = None, *, origin: str = "") -> tuple[int, Any]:
    """Ask as the page does; return status and JSON."""
    lines = [f"GET /inspector.json?origin={quote(origin)} HTTP/1.1", "Host: localhost"]
    if token is not None:
        lines.append(f"X-Api-Key: {token}")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(DEADLINE):
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    assert "cache-control: no-store" in head
    assert "access-control-allow-origin" not in head
    return int(head.split()[1]), json.loads(body)


async def test_the_published_tables_are_listed(one_pg: Server) -> None:
    with fresh_database(one_pg) as database:
        database.execute(SHOP)
        async with RealtimeServer(dev_config(database.dsn)) as server:
            assert await ask(server.port) == (
                200,
                {
                    "has_token": False,
                    "problem": None,
                    "tables": [
                        {
                            "schema": "public",
                            "name": "todos",
                            "columns": [
                                {"name": "id", "type_name": "int8"},
                                {"name": "task", "type_name": "text"},
                            ],
                        }
                    ],
                },
            )


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (None, "no token was given"),
        ("", "the token is not a JSON Web Token, or too long"),
        (make_token(secret="SOMETHING_ELSE_THAT_IS_SECRET"), "the token's signature does not fit"),
        (make_token(expires_in=-1), "the token has expired"),
        (
            make_token(expires_in=None),
            "the token's exp is missing, or is not a whole number of seconds",
        ),
    ],
)
async def test_without_a_good_token_a_stranger_learns_nothing_but_why(
    one_pg: Server, token: str | None, reason: str
) -> None:
    with fresh_database(one_pg) as database:
        database.execute(SHOP)
        async with RealtimeServer(dev_config(database.dsn, **SECURE)) as server:
            assert await ask(server.port, token) == (401, {"reason": reason})
            status, answer = await ask(server.port, make_token())
            assert (status, answer["has_token"]) == (200, True)
            assert [table["name"] for table in answer["tables"]] == ["todos"]


async def test_a_page_of_another_origin_is_told_so() -> None:
    config = dev_config(NOWHERE, ALLOWED_ORIGINS='["https://app.example"]')
    async with RealtimeServer(config) as server:
        refusal = {"reason": "this page's origin is not in ALLOWED_ORIGINS"}
        assert await ask(server.port, origin="http://127.0.0.1:4000") == (403, refusal)
        assert await ask(server.port) == (403, refusal)
        assert (await ask(server.port, origin="https://App.example"))[0] == 200


async def test_a_database_that_is_away_does_not_keep_the_page_from_connecting() -> None:
    async with RealtimeServer(dev_config(NOWHERE)) as server:
        assert await ask(server.port) == (
            200,
            {
                "has_token": False,
                "tables": [],
                "problem": "the database cannot be asked for its tables now; the server's log "
                "says why",
            },
        )


@pytest.mark.pg17
async def test_in_rls_mode_a_role_learns_of_what_it_may_read(pg17: Server) -> None:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    async with open_rls_stage(pg17) as stage:
        with stage.scene():
            columns = "id int8 primary key, body text, secret text"
            stage.make("notes", columns, "true", narrow="id, body")
            stage.execute("create table hidden (id int)")
            found = {}
            for role in (stage.reader, stage.narrow):
                status, answer = await ask(stage.server.port, stage.token(role=role))
                assert status == 200
                found[role] = {
                    table["name"]: [column["name"] for column in table["columns"]]
                    for table in answer["tables"]
                }
            assert found == {
                stage.reader: {"fence": ["id"], "notes": ["id", "body", "secret"]},
                stage.narrow: {"notes": ["id", "body"]},
            }
            status, answer = await ask(stage.server.port, make_token({"sub": "ann"}))
            assert (status, answer["tables"]) == (200, [])
            assert "the token has no role" in answer["problem"]
