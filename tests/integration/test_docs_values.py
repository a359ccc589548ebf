"""docs/reference/values.md: each value in each form, as it comes to channels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from websockets.sync.client import connect

from tests.e2e.rls_shop import rls_server
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.tokens import make_token

pytestmark = [pytest.mark.integration, pytest.mark.pg17]

PAGE = (Path(__file__).parents[2] / "docs/reference/values.md").read_text(encoding="utf-8")
WITH_CONFIG = {"config": {"postgres_changes": [{"event": "*", "schema": "public", "table": "v"}]}}


@attrs.frozen
class Example:
    """A type, a value of it in SQL, and what a channel gets."""

    type: str
    sql: str
    text: Any
    typed: Any
    in_rls_mode: Any


def parse(text: str) -> Any:
    """Read JSON and keep every digit: 1.5 is not 1.50."""
    return json.loads(text, parse_float=lambda digits: ("number", Decimal(digits).as_tuple()))


def examples() -> Iterator[Example]:
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 4 or not cells[1].startswith("`"):
            continue
        types, *values = (re.findall(r"`([^`]+)`", cell) for cell in cells)
        [sql], [text], [typed, *in_rls_mode] = values
        for name in types:
            if name != "inet":  # The value is a range's.
                yield Example(
                    name, sql, parse(text), parse(typed), parse((in_rls_mode or [typed])[0])
                )


EXAMPLES = list(examples())


@pytest.fixture
def database(pg17: Server) -> Iterator[Database]:
    with fresh_database(pg17) as database:
        [types] = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.M | re.S)
        database.execute(types)
        columns = ", ".join(f"c{place} {it.type}" for place, it in enumerate(EXAMPLES))
        database.execute(f"create table v (id int primary key, nothing text, {columns})")
        database.execute("create publication changes for table v")
        yield database


def row_for(
    database: Database, server: ServerProcess, join: dict[str, Any], token: str = "x"
) -> Any:
    """Join, insert the row of all examples, and return it as it comes."""
    topic = "realtime:room" if "config" in join else "realtime:public:v"
    with connect(f"{server.websocket_url}/websocket?apikey={token}") as socket:
        message = {"topic": topic, "event": "phx_join", "payload": join, "ref": "1"}
        socket.send(json.dumps(message))
        assert json.loads(socket.recv())["payload"]["status"] == "ok"
        values = ", ".join(f"{it.sql}::{it.type}" for it in EXAMPLES)
        database.execute("delete from v")
        database.execute(f"insert into v values (1, null, {values})")
        for frame in socket:
            payload = parse(str(frame))["payload"]
            payload = payload.get("data", payload)
            if payload.get("type") == "INSERT":
                return payload["record"]
    raise AssertionError("no row came")


def expected(form: str) -> dict[str, Any]:
    values = {f"c{place}": getattr(it, form) for place, it in enumerate(EXAMPLES)}
    return {"id": "1" if form == "text" else 1, "nothing": None, **values}


def test_the_page_has_its_examples() -> None:
    assert len(EXAMPLES) > 25
    assert sum(it.typed != it.in_rls_mode for it in EXAMPLES) == 2


def test_stream_mode_without_a_config_gives_text_and_with_one_typed_values(
    database: Database,
) -> None:
    with ServerProcess(database, publications='["changes"]') as server:
        assert row_for(database, server, {}) == expected("text")
        assert row_for(database, server, WITH_CONFIG) == expected("typed")


def test_rls_mode_gives_typed_values_in_either_case(reader: str, database: Database) -> None:
    database.execute(f'grant select on v to "{reader}"')
    token = make_token({"role": reader})
    with rls_server(database) as server:
        assert row_for(database, server, {}, token) == expected("in_rls_mode")
        assert row_for(database, server, WITH_CONFIG, token) == expected("in_rls_mode")
