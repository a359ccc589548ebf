"""The demo's notes with row level security: what is made on a server, and that it goes again."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from random import Random

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PGconn, PollingStatus

from realtime_server.demo import notes
from realtime_server.demo.embedded import EmbeddedPostgres
from tests.fix_postgres import Database, execute, unique_name
from tests.server.demo.test_main import running
from tests.waiting import eventually, eventually_sync

pytestmark = pytest.mark.integration

IN_SERVER = """
    select 'database', datname, datname from pg_database
    union all select 'role', rolname, rolname from pg_roles
    union all select 'slot', slot_name, database from pg_replication_slots
    order by 1, 2
"""
IN_DATABASE = """
    select c.relname::text from pg_class c where relnamespace = 'public'::regnamespace
        and relkind = 'r'
    union all select nspname from pg_namespace where nspname !~ '^(pg_|information_schema)'
    union all select pubname from pg_publication
    order by 1
"""


def left_in(database: Database) -> list[tuple[str, str]]:
    """Return what the demo has made on the database's server, for this database."""
    return [
        (kind, name)
        for kind, name, near in database.execute(IN_SERVER)
        if near == f"realtime_demo_{database.name}"
    ]


def visible_to(there: notes.NotesDatabase, claims: str) -> set[str]:
    """Return the notes that a role with these claims may see, as the server asks for them."""
    with psycopg.connect(there.dsn) as connection:
        connection.execute(sql.SQL("set local role {}").format(sql.Identifier(there.role)))
        connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        return {note for (note,) in connection.execute("select note from notes").fetchall()}


@pytest.fixture
def humble(database: Database) -> Iterator[Database]:
    """The database with an owner who may make databases and roles, and is no superuser."""
    name = unique_name("owner")
    role = sql.Identifier(name)
    database.execute(
        sql.SQL(
            "create role {} login replication createdb createrole password 'x';"
            " alter database {} owner to {}"
        ).format(role, sql.Identifier(database.name), role)
    )
    theirs = Database(database.server, database.name)
    theirs.dsn = make_conninfo(database.dsn, user=name, password="x")
    yield theirs
    database.execute(
        sql.SQL("drop owned by {} cascade; alter database {} owner to current_user").format(
            role, sql.Identifier(database.name)
        )
    )
    database.execute(sql.SQL("drop role {}").format(role))


async def test_the_policy_shows_who_owns_what_and_fails_for_nobody(humble: Database) -> None:
    async with notes.open_notes(humble.dsn) as there:
        execute(
            there.dsn,
            "insert into notes (owner, shared, note) values"
            " ('Ann', false, 'a'), ('Bob', false, 'b'), ('Ann', true, 'c')",
        )
        for claims, expected in (
            ('{"sub": "Ann"}', {"a", "c"}),
            ('{"sub": "Bob"}', {"b", "c"}),
            ('{"role": "somebody"}', {"c"}),
            ("", {"c"}),
        ):
            assert visible_to(there, claims) == expected
        assert left_in(humble) == [("database", there.name), ("role", there.role)]
    assert left_in(humble) == []


async def test_what_a_killed_demo_left_is_replaced(database: Database) -> None:
    abandoned = notes.open_notes(database.dsn)
    there = await abandoned.__aenter__()
    execute(there.dsn, "insert into notes (owner, note) values ('Ann', 'old')")
    async with notes.open_notes(database.dsn) as again:
        assert again == there
        assert execute(again.dsn, "select note from notes") == []
    assert left_in(database) == []


async def test_what_another_demo_uses_is_left_alone(database: Database) -> None:
    async with notes.open_notes(database.dsn) as there:
        with psycopg.connect(there.dsn):
            with pytest.raises(psycopg.errors.ObjectInUse):
                async with notes.open_notes(database.dsn):
                    pass
            assert execute(there.dsn, "select count(*) from notes") == [(0,)]


@pytest.mark.parametrize("kind", ["database", "role"])
async def test_what_is_somebody_elses_is_left_alone(database: Database, kind: str) -> None:
    name = f"realtime_demo_{database.name}"
    identifier = sql.Identifier(name)
    database.execute(sql.SQL(f"create {kind} {{}}").format(identifier))
    try:
        with pytest.raises(notes.NotesError, match=f"there is a {kind} {name}, .* not the demo's"):
            async with notes.open_notes(database.dsn):
                pass
        assert left_in(database) == [(kind, name)]
    finally:
        database.execute(sql.SQL(f"drop {kind} {{}}").format(identifier))


async def test_half_of_it_goes_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_TABLE", "select 1 / 0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with notes.open_notes(database.dsn):
            pass
    assert left_in(database) == []


async def test_the_writer_writes_private_and_shared_notes_of_both_within_bounds(
    database: Database,
) -> None:
    counts = "select count(distinct (owner, shared)), count(*) from notes"
    async with notes.open_notes(database.dsn) as there:
        writer = asyncio.create_task(notes.write_forever(there.dsn, interval=0, random=Random(1)))
        inserted = "select coalesce(max(id), 0) from notes"
        async with asyncio.timeout(30):
            while (await asyncio.to_thread(execute, there.dsn, inserted))[0][0] < 100:
                assert not writer.done()
        writer.cancel()
        await asyncio.wait([writer])
        [(kinds, count)] = execute(there.dsn, counts)
        assert kinds == 4
        assert count <= 31


async def abandon_login(dsn: str) -> None:
    """Begin to log in, and leave it as psycopg leaves an attempt that was cancelled."""
    login = PGconn.connect_start(f"{dsn}?sslmode=disable".encode())
    await eventually(lambda: login.connect_poll() == PollingStatus.READING)
    beginning = "select 1 from pg_stat_activity where state = 'starting'"
    await eventually(lambda: execute(dsn, beginning))
    circle: list[object] = [login]
    circle.append(circle)


async def test_a_login_that_was_given_up_halfway_does_not_hold_the_end_up() -> None:
    with EmbeddedPostgres(password="x") as postgres:
        # PostgreSQL itself gives a login up after a minute.
        async with asyncio.timeout(30), notes.open_notes(postgres.dsn):
            await abandon_login(postgres.dsn)
        assert execute(postgres.dsn, "select datname from pg_database where datname ~ 'demo'") == []


def test_a_demo_on_ones_own_database_leaves_the_sample_tables_and_nothing_else(
    humble: Database,
) -> None:
    with running(DEMO_DSN=humble.dsn) as demo:
        assert demo.views_url()
        assert "-c '\\c realtime_demo_" in demo.snippet("Write as Ann")
        # The server has its slot in the notes' database.
        eventually_sync(lambda: "slot" in [kind for kind, _ in left_in(humble)])
        demo.stop(signal.SIGTERM)
        assert demo.process.returncode == 0
    assert left_in(humble) == []
    assert humble.execute(IN_DATABASE) == [
        ("orders",),
        ("public",),
        ("supabase_realtime",),
        ("todos",),
        ("users",),
    ]


def test_without_the_rights_for_it_it_is_left_out_and_the_rest_works(
    database: Database, humble: Database
) -> None:
    role = conninfo_to_dict(humble.dsn)["user"]
    database.execute(sql.SQL("alter role {} nocreatedb").format(sql.Identifier(str(role))))
    with running(DEMO_DSN=humble.dsn) as demo:
        assert re.search(
            r"^What row level security shows two people is left out: "
            r"permission denied to create database\.$",
            demo.said,
            re.MULTILINE,
        )
        assert "#view=" not in demo.said
        assert left_in(humble) == []
        demo.stop(signal.SIGTERM)
        assert demo.process.returncode == 0


async def test_what_cannot_be_dropped_is_said(
    humble: Database, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    role = sql.Identifier(str(conninfo_to_dict(humble.dsn)["user"]))
    async with notes.open_notes(humble.dsn) as there:
        database.execute(sql.SQL("alter role {} nologin").format(role))
    said = capsys.readouterr().err
    assert said.startswith(f"demo: database and role {there.name} are left behind, until ")
    assert "is not permitted to log in" in said
    # The next one takes them away.
    database.execute(sql.SQL("alter role {} login").format(role))
    async with notes.open_notes(humble.dsn):
        pass
    assert left_in(database) == []
