"""The schema ``realtime`` is made, and an existing one brought up to date."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from realtime_core.errors import PrivilegeError
from realtime_server.cli import main
from realtime_server.rls.setup.migrations import MIGRATIONS, pending
from realtime_server.rls.setup.nobody_role import NOBODY
from realtime_server.rls.setup.privileges import missing_privileges
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.rls_helpers import make_nobody, membership, migrated, roles, wal

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]

ORIGINAL = sorted((Path(__file__).parents[1] / "data" / "rls").glob("original_*.sql"))

OBJECTS = """
    select 'function ' || p.oid::regprocedure || ' ' || pg_get_function_result(p.oid)
    from pg_proc p where p.pronamespace = 'realtime'::regnamespace
    union all
    select 'column ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, -1)
        || ' ' || a.attnotnull
    from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.relnamespace = 'realtime'::regnamespace and a.attnum > 0 and not a.attisdropped
        and c.relkind in ('r', 'c')
    union all
    select 'value ' || e.enumtypid::regtype || ' ' || e.enumlabel
    from pg_enum e join pg_type t on t.oid = e.enumtypid
    where t.typnamespace = 'realtime'::regnamespace
    order by 1
"""


@pytest.fixture
def empty(pg: Server) -> Iterator[Database]:
    with fresh_database(pg) as database:
        yield database


@pytest.fixture(scope="module")
def objects(pg: Server) -> set[str]:
    """What there is after migrating an empty database."""
    with fresh_database(pg) as database:
        asyncio.run(migrated(database.dsn))
        return {row[0] for row in database.execute(OBJECTS)}


async def test_a_second_run_has_nothing_to_do(empty: Database) -> None:
    assert await migrated(empty.dsn) == list(MIGRATIONS)
    assert await migrated(empty.dsn) == []


async def test_each_step_applied_again_changes_nothing(empty: Database, objects: set[str]) -> None:
    await migrated(empty.dsn)
    empty.execute("delete from realtime.core_migration")
    assert await migrated(empty.dsn) == list(MIGRATIONS)
    assert {row[0] for row in empty.execute(OBJECTS)} == objects


async def test_servers_that_start_together_migrate_once(empty: Database) -> None:
    applied = await asyncio.gather(*(migrated(empty.dsn) for _ in range(5)))
    assert sorted(map(len, applied)) == [0, 0, 0, 0, len(MIGRATIONS)]


@pytest.mark.parametrize("path", ORIGINAL, ids=lambda path: path.stem)
def test_an_installation_of_the_original_is_taken_over(
    empty: Database, objects: set[str], path: Path
) -> None:
    empty.execute(path.read_text(encoding="utf-8"))
    asyncio.run(migrated(empty.dsn))
    now = {row[0] for row in empty.execute(OBJECTS)}
    assert objects - now == set()
    # What is more than ours is the original's own, and works as before.
    assert now - objects <= {
        "function realtime.list_changes(name) SETOF realtime.wal_rls",
        "value realtime.action TRUNCATE",
    }
    empty.execute("create table t (id int primary key)")
    empty.execute(
        "insert into realtime.subscription (subscription_id, entity, claims)"
        " values (gen_random_uuid(), 't', '{\"role\": \"postgres\"}')"
    )
    message = (
        '{"action":"I","schema":"public","table":"t","timestamp":"2026-11-24 05:36:00+00",'
        '"columns":[{"name":"id","type":"integer","typeoid":23,"value":1}],'
        '"pk":[{"name":"id","type":"integer"}]}'
    )
    rows = empty.execute("select wal -> 'record', errors from realtime.apply_rls(%s)", (message,))
    assert rows == [({"id": 1}, [])]


def test_there_are_forms_of_the_original_to_take_over() -> None:
    assert len(ORIGINAL) >= 2


# Privileges.


def role_dsn(database: Database, role: str) -> str:
    return make_conninfo(database.dsn, user=role)


async def test_a_role_that_is_no_superuser_can_migrate(pg: Server) -> None:
    with roles(pg, "server", options="login replication") as (name,), fresh_database(pg) as db:
        with pytest.raises(PrivilegeError, match=f"GRANT CREATE ON DATABASE {db.name} TO {name}"):
            await migrated(role_dsn(db, name))
        db.execute(
            sql.SQL("grant create on database {} to {}").format(
                sql.Identifier(db.name), sql.Identifier(name)
            )
        )
        assert await migrated(role_dsn(db, name)) == list(MIGRATIONS)


async def test_a_schema_of_somebody_else_says_whose_it_is(pg: Server) -> None:
    with roles(pg, "server", options="login") as (name,), fresh_database(pg) as database:
        database.execute("create schema realtime")
        with pytest.raises(PrivilegeError, match="it belongs to postgres") as caught:
            await migrated(role_dsn(database, name))
        assert f"GRANT postgres TO {name}" in str(caught.value)
        # The other way that it names: its owner migrates, and grants.
        await migrated(database.dsn)
        for grant in re.findall(r"GRANT ALL[^;]*", str(caught.value)):
            database.execute(grant)
        assert await migrated(role_dsn(database, name)) == []
        database.execute(f"create table t (id int primary key); grant select on t to {name}")
        with psycopg.connect(role_dsn(database, name)) as connection:
            connection.execute(
                "insert into realtime.subscription (subscription_id, entity, claims)"
                " values (gen_random_uuid(), 't', %s)",
                (json.dumps({"role": name}),),
            )
            rows = connection.execute(
                "select wal -> 'record' from realtime.apply_rls(%s)",
                (wal(connection, "I", "t", [("id", "integer", 1)]),),
            ).fetchall()
            assert rows == [({"id": 1},)]
            connection.rollback()
        database.execute(f"drop owned by {name}")


async def test_nothing_to_do_needs_no_privilege(pg: Server) -> None:
    with roles(pg, "server", options="login") as (name,), fresh_database(pg) as database:
        await migrated(database.dsn)
        database.execute(f"grant usage on schema realtime to {name}")
        database.execute(f"grant select on realtime.core_migration to {name}")
        assert await migrated(role_dsn(database, name)) == []


async def test_what_is_missing_is_printed_as_grants(
    pg: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        roles(pg, "server", options="login") as (name,),
        roles(pg, "reader", "My-Reader", "stranger") as (reader, mine, stranger),
        fresh_database(pg) as database,
    ):
        make_nobody(pg)
        database.execute("create table t (id int primary key, body text)")
        database.execute("create publication shop for table t")
        database.execute(f"grant select on t to {reader}")
        database.execute(f'grant select (id) on t to "{mine}"')
        expected = [
            f"ALTER ROLE {name} REPLICATION;",
            f"GRANT CREATE ON DATABASE {database.name} TO {name};",
            f'GRANT "{mine}" TO {name}{membership(pg)};',
            f"GRANT {reader} TO {name}{membership(pg)};",
            f"GRANT {NOBODY} TO {name}{membership(pg)};",
        ]
        async with await AsyncConnection.connect(
            role_dsn(database, name), autocommit=True
        ) as connection:
            missing = await missing_privileges(connection, ["shop"])
        assert (missing.own, missing.roles, missing.nobody) == (
            tuple(expected[:2]),
            tuple(expected[2:4]),
            tuple(expected[4:]),
        )

        point_at(monkeypatch, role_dsn(database, name))
        assert await asyncio.to_thread(main, ["--dev", "migrate", "--dry-run"]) == 0
        printed = capsys.readouterr().out
        assert [f"    {line}" for line in expected] == printed.splitlines()[-5:]
        assert stranger not in printed

        for line in expected:
            database.execute(line)
        assert await asyncio.to_thread(main, ["--dev", "migrate"]) == 0
        assert "lacks privileges" not in capsys.readouterr().out
        database.execute(f"drop owned by {reader}, {name}, {NOBODY}")
        database.execute(f'drop owned by "{mine}"')


# The command.


def point_at(monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    database = conninfo_to_dict(dsn)
    for variable, name in (
        ("HOST", "host"),
        ("PORT", "port"),
        ("NAME", "dbname"),
        ("USER", "user"),
    ):
        monkeypatch.setenv(f"DB_{variable}", str(database[name]))
    monkeypatch.setenv("PUBLICATIONS", '["shop"]')


def test_the_command_shows_and_applies(
    empty: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(monkeypatch, empty.dsn)
    assert main(["--dev", "migrate", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"would apply {each}" for each in MIGRATIONS]
    with pytest.raises(psycopg.errors.UndefinedTable):
        empty.execute("select from realtime.subscription")

    assert main(["--dev", "migrate"]) == 0
    lines = [f"applied {each}" for each in MIGRATIONS]
    out = capsys.readouterr().out.splitlines()
    made = [line for line in out if line.startswith("made the partition realtime.messages_")]
    assert len(made) == 5
    assert out == [*lines, *made, "the schema realtime is up to date"]
    assert main(["--dev", "migrate"]) == 0
    assert capsys.readouterr().out == "the schema realtime is up to date\n"


def test_the_command_lets_nobody_use_the_schemas_of_types_that_readers_may_use(
    pg: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with roles(pg, "reader") as (reader,), fresh_database(pg) as database:
        for statement in (
            "create schema extensions",
            "create extension citext schema extensions",
            "create table item (id int primary key, name extensions.citext)",
            "create publication shop for table item",
            f"grant select on item to {reader}",
            f"grant usage on schema extensions to {reader}",
        ):
            database.execute(statement)
        asyncio.run(migrated(database.dsn))
        point_at(monkeypatch, database.dsn)
        compared = "select realtime.check_equality_op('eq', 'extensions.citext', 'A', 'a')"
        with pytest.raises(psycopg.Error):
            database.execute(compared)
        assert main(["--dev", "migrate", "--dry-run"]) == 0
        shown = "would let realtime_nobody use the schema extensions"
        assert shown in capsys.readouterr().out
        assert main(["--dev", "migrate"]) == 0
        told = "realtime_nobody may use the schema extensions from now on"
        assert told in capsys.readouterr().out
        assert database.execute(compared) == [(True,)]
        assert main(["--dev", "migrate"]) == 0
        assert "extensions" not in capsys.readouterr().out


def test_the_command_says_what_keeps_it(
    empty: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(monkeypatch, empty.dsn)
    monkeypatch.setenv("DB_NAME", "nothing_of_this_name")
    assert main(["--dev", "migrate"]) == 1
    assert 'database "nothing_of_this_name" does not exist' in capsys.readouterr().err


async def test_pending_reads_only(empty: Database) -> None:
    async with await AsyncConnection.connect(empty.dsn, autocommit=True) as connection:
        assert await pending(connection) == list(MIGRATIONS)
    assert empty.execute("select to_regnamespace('realtime')") == [(None,)]
