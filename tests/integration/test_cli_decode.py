"""`python -m realtime_core decode` on what PostgreSQL's own tools write."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fix_postgres import DEBIAN_BINDIR, Database, Server, unique_name
from tests.integration.conftest import fresh_database

pytestmark = [pytest.mark.integration, pytest.mark.pg17]

if not (DEBIAN_BINDIR / "pg_recvlogical").exists():
    pytest.skip(f"pg_recvlogical is not installed in {DEBIAN_BINDIR}", allow_module_level=True)

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "decode.md"

# A row that is shorter than a buffer and one that is not; many line feeds in both.
WORK = (
    "create table item (id int primary key, name text)",
    "create publication shop for table item",
    "insert into item select g, repeat(E'line\\n', g) from generate_series(1, 200) g",
    "insert into item values (1000, repeat(E'B\\nC\\n', 200000))",
    "update item set name = E'\\n' where id = 10",
    "delete from item where id < 5",
    "truncate item",
)


def decode(data: bytes) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "realtime_core", "decode", "-"],
        input=data,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def worked(one_pg: Server) -> Iterator[tuple[Database, str]]:
    """A database and a slot that has not been read."""
    with fresh_database(one_pg) as database:
        yield database, work(database)


def work(database: Database) -> str:
    """Do the work; return the slot's name."""
    slot = unique_name("decode")
    create, publish, *statements = WORK
    database.execute(create)
    database.execute(publish)
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    for statement in statements:
        database.execute(statement)
    return slot


def check(changes: list[dict[str, object]]) -> None:
    kinds = [change["kind"] for change in changes]
    assert kinds == ["insert"] * 201 + ["update"] + ["delete"] * 4 + ["truncate"]
    names = [change["record"]["name"] for change in changes[:202]]  # type: ignore[index]
    assert names == ["line\n" * n for n in range(1, 201)] + ["B\nC\n" * 200_000, "\n"]


@pytest.mark.parametrize(
    "options", [("proto_version=1",), ("proto_version=4", "streaming=parallel")]
)
def test_pgoutput_from_pg_recvlogical(
    worked: tuple[Database, str], options: tuple[str, ...]
) -> None:
    database, slot = worked
    if "proto_version=4" in options:
        database.server.needs(16, options[-1])
    ((end,),) = database.execute("select pg_current_wal_lsn()::text")
    command = [
        *(str(DEBIAN_BINDIR / "pg_recvlogical"), "--start", "--no-loop", "--slot", slot),
        *("--dbname", database.dsn, "--endpos", end, "--file", "-"),
        *(part for each in (*options, "publication_names=shop") for part in ("--option", each)),
    ]
    check(decode(subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE).stdout))


def test_pgoutput_from_psql(worked: tuple[Database, str]) -> None:
    database, slot = worked
    (query,) = re.findall(r"-c \"(SELECT [^\"]*)", PAGE.read_text())
    query = query.replace("'etl'", f"'{slot}'")
    command = [str(DEBIAN_BINDIR / "psql"), "-XAt", "-d", database.dsn, "-c", query]
    check(decode(subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE).stdout))
