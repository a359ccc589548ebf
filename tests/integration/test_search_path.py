"""A database whose search path begins with somebody's operators: none of them is run as us.

PostgreSQL takes the operator that fits best, wherever in the path it is; one for exactly these
types that comes before its own is it. Who may make an operator in such a schema would run code as
whoever asks the catalog.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from psycopg.conninfo import make_conninfo

from realtime_core import PgoutputSource, SnapshotComplete, diagnose
from realtime_core.sources import catalog
from realtime_core.sources._replication_connection import ReplicationConnection
from realtime_server.config import OutputPlugin
from realtime_server.config.database.published_tables import published_tables
from realtime_server.fanout.stream.check import stream_findings
from realtime_server.rls.setup.check import rls_findings
from realtime_server.rls.setup.nobody_role import NOBODY
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.integration.rls_stage import OWN, RlsStage, rls_config
from tests.rls_helpers import grant_role, make_nobody, roles
from tests.server_helpers import dev_config, open_client
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

OURS = "realtime"
OPERATORS = [
    ("=", "oid", "oid", "bool"),
    ("=", "name", "name", "bool"),
    ("=", "name", "text", "bool"),
    ("<>", "name", "text", "bool"),
    ("<>", "name", "name", "bool"),
    ("=", "text", "text", "bool"),
    ("=", '"char"', '"char"', "bool"),
    ("<>", '"char"', '"char"', "bool"),
    ("=", "int2", "int2", "bool"),
    ("=", "int4", "int4", "bool"),
    ("=", "xid", "xid", "bool"),
    (">", "int2", "int4", "bool"),
    (">", "int4", "int4", "bool"),
    (">", "int8", "int4", "bool"),
    ("<=", "int8", "int2", "bool"),
    ("-", "int8", "int4", "int8"),
    ("/", "float8", "int4", "float8"),
    ("-", "pg_lsn", "pg_lsn", "numeric"),
    (">=", "xid8", "xid8", "bool"),
    ("->>", "jsonb", "text", "text"),
    ("?", "jsonb", "text", "bool"),
    ("!~", "name", "text", "bool"),
    ("<", "timestamptz", "timestamptz", "bool"),
    (">=", "timestamptz", "timestamptz", "bool"),
]
"""Those of our statements: name, types, and what it gives."""


def trap(database: Database) -> None:
    """Put operators of somebody's before PostgreSQL's own, for sessions that begin later."""
    statements = [
        "create schema evil",
        "grant usage on schema evil to public",
        "create table evil.loot (application text, who text, query text)",
        "grant insert, select on evil.loot to public",
    ]
    for number, (name, left, right, result) in enumerate(OPERATORS):
        statements += [
            f"create function evil.f{number} ({left}, {right}) returns {result}"
            " language plpgsql as $$ begin"
            " insert into evil.loot values (pg_catalog.current_setting('application_name'),"
            " current_user, pg_catalog.current_query());"
            " return null; end $$",
            f"create operator evil.{name}"
            f" (function = evil.f{number}, leftarg = {left}, rightarg = {right})",
        ]
    for kind in ("text", "oid", "int8", "json", "jsonb"):
        statements.append(
            f"create domain evil.{kind} as pg_catalog.{kind} check (value::pg_catalog.text = '')"
        )
    statements.append(f"alter database {database.name} set search_path = evil, pg_catalog, public")
    with database.connect() as connection:
        for statement in statements:
            connection.execute(statement)


def loot(database: Database) -> list[tuple[str, ...]]:
    """Return what was run as us."""
    rows = database.execute("select application, who, query from evil.loot")
    return [row for row in rows if row[0].startswith(OURS)]


@pytest.fixture
def trapped(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create type mood as enum ('sad', 'happy')")
        database.execute("create table notes (id int primary key, mood mood)")
        database.execute("create publication shop for all tables")
        trap(database)
        yield database


def ours(database: Database) -> str:
    return make_conninfo(database.dsn, application_name=OURS)


async def test_a_source_runs_none(trapped: Database) -> None:
    async with PgoutputSource(ours(trapped), publications=["shop"]) as source:
        trapped.execute("insert into public.notes values (1, 'sad')")
        async for change in source:
            assert change.record["id"] == 1
            break
    assert loot(trapped) == []


async def test_a_snapshot_runs_none(trapped: Database) -> None:
    trapped.execute("insert into public.notes values (1, 'sad')")
    source = PgoutputSource(ours(trapped), publications=["shop"], snapshot="initial")
    async with source:
        async for event in source:
            if isinstance(event, SnapshotComplete):
                break
    assert event.rows >= 1
    assert loot(trapped) == []


async def test_nothing_that_is_asked_of_the_catalog_runs_one(trapped: Database) -> None:
    connection = await ReplicationConnection.connect(ours(trapped), "slot")
    with contextlib.closing(connection):
        sql = connection.sql
        [oid] = trapped.execute("select 'public.notes'::pg_catalog.regclass::pg_catalog.oid::int")
        assert (await catalog.server_facts(sql)).wal_sender_timeout > 0
        assert await catalog.missing_publications(sql, ["shop", "other"]) == ("other",)
        assert await catalog.slot(sql, "other") is None
        assert await catalog.blockers(sql, connection.pid) == ()
        xid = await catalog.current_xid(sql)
        assert await catalog.wal_end_behind(sql, xid) is not None
        assert await catalog.writers_before(sql, xid) == ()
        assert await catalog.primary_key(sql, *oid) == ("id",)
        assert await catalog.enum_orders(sql) == {("public", "mood"): ("sad", "happy")}
        [kind] = trapped.execute("select 'public.mood'::pg_catalog.regtype::pg_catalog.oid::int")
        assert await catalog.enum_labels(sql, *kind) == ("sad", "happy")
    assert loot(trapped) == []


async def test_the_doctor_and_the_checks_run_none(trapped: Database) -> None:
    dsn = ours(trapped)
    await diagnose(dsn, publications=["shop"], slot="other", plugin="pgoutput")
    assert [each.check for each in await stream_findings(dsn, ["shop"])] == ["all tables"]
    assert await rls_findings(dsn, ["shop"], OutputPlugin.PGOUTPUT)
    assert [table.name for table in await published_tables(dsn, ["shop"])] == ["loot", "notes"]
    assert loot(trapped) == []


async def test_the_server_runs_none_in_stream_mode(trapped: Database) -> None:
    async with RealtimeServer(dev_config(trapped.dsn)) as realtime:
        await eventually(lambda: realtime.is_attached)
        async with open_client(realtime.port) as client:
            await client.join("realtime:public:notes:mood=eq.sad")
            trapped.execute("insert into public.notes values (1, 'sad')")
            assert (await client.receive())["payload"]["record"] == {"id": "1", "mood": "sad"}
    assert loot(trapped) == []


async def test_the_server_runs_none_in_rls_mode(one_pg: Server) -> None:
    with (
        roles(one_pg, "reader") as (reader,),
        roles(one_pg, "server", options="login replication") as (name,),
        fresh_database(one_pg) as database,
    ):
        make_nobody(one_pg)
        for role in (reader, NOBODY):
            grant_role(one_pg, role, to=name)
        database.execute(f"grant create on database {database.name} to {name}")
        database.execute("create type mood as enum ('sad', 'happy')")
        database.execute("create table notes (id int primary key, owner text, mood mood)")
        database.execute(f"grant select on notes to {reader}")
        database.execute("alter table notes enable row level security")
        database.execute(f"create policy p on notes using ({OWN})")
        database.execute("create publication shop for all tables")
        trap(database)
        config = rls_config(make_conninfo(database.dsn, user=name), RLS_DELETE="policy")
        async with RealtimeServer(config) as realtime:
            await eventually(lambda: realtime.is_attached)
            stage = RlsStage(database, realtime, reader, "", "")
            with contextlib.closing(stage):
                async with stage.client() as ann:
                    await ann.sit("realtime:public:notes", "realtime:public:notes:mood=eq.sad")
                    await ann.sit("realtime:public")
                    database.execute("insert into public.notes values (1, 'ann', 'sad')")
                    for _ in range(3):
                        shown = (await ann.receive())["payload"]["record"]
                        assert shown == {"id": 1, "owner": "ann", "mood": "sad"}
        assert loot(database) == []
