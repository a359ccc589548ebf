"""The server's role is neither too powerful nor, once the SQL is run that is printed, too weak."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

from realtime_server.rls.setup.migrations import LOCK, migrate
from realtime_server.rls.setup.powers import excess_powers
from realtime_server.rls.setup.privileges import missing_privileges
from realtime_server.rls.setup.type_schemas import open_schemas
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.rls_stage import rls_config
from tests.rls_helpers import make_nobody, migrated, roles
from tests.server_helpers import open_client
from tests.tokens import make_token
from tests.waiting import eventually

pytestmark = pytest.mark.integration


@contextlib.asynccontextmanager
async def connected(database: Database, user: str) -> AsyncIterator[AsyncConnection]:
    dsn = make_conninfo(database.dsn, user=user)
    async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def new_role(pg: Server) -> Iterator[str]:
    """A name for the role that is made."""
    name = unique_name("realtime")
    yield name
    pg.execute(f"drop role if exists {name}")


@pytest.fixture
def names(pg: Server, new_role: str) -> Iterator[tuple[str, str]]:
    """The new role's name, and a reader, dropped after the database."""
    with roles(pg, "reader") as (reader,):
        yield new_role, reader


@pytest.fixture
def shop(pg: Server, names: tuple[str, str]) -> Iterator[Database]:
    with fresh_database(pg) as database:
        database.execute("create table t (id int primary key)")
        database.execute(f"grant select on t to {names[1]}")
        database.execute("create publication shop for table t")
        yield database


@pytest.mark.parametrize("is_migrated", [True, False], ids=["migrated", "not yet migrated"])
@pytest.mark.parametrize("is_private", [True, False], ids=["private", "for all"])
async def test_a_superuser_is_told_how_to_make_a_right_role(
    shop: Database, names: tuple[str, str], is_migrated: bool, is_private: bool
) -> None:
    name, reader = names
    make_nobody(shop.server)
    if is_migrated:
        await migrated(shop.dsn)
    if is_private:
        shop.execute(f"revoke connect, temporary on database {shop.name} from public")
    async with connected(shop, "postgres") as connection:
        excess = await excess_powers(connection, ["shop"])
        assert excess is not None
        assert "is a superuser" in excess.message
    for statement in excess.sql:
        shop.execute(re.sub(r"\b(ROLE|TO) realtime\b", rf"\1 {name}", statement))
    async with connected(shop, name) as connection:
        assert await excess_powers(connection, ["shop"]) is None
        missing = await missing_privileges(connection, ["shop"])
        assert missing.every == ()
    config = rls_config(make_conninfo(shop.dsn, user=name))
    token = make_token({"role": reader, "sub": "ann"})
    async with RealtimeServer(config) as server:
        await eventually(lambda: server.is_attached)
        async with open_client(server.port, "1.0.0", query=f"vsn=1.0.0&apikey={token}") as client:
            await client.send(
                "realtime:public:t", "phx_join", {"user_token": token}, ref="1", join_ref="1"
            )
            assert (await client.receive())["payload"]["status"] == "ok"
            shop.execute("insert into t values (7)")
            assert (await client.receive())["payload"]["record"] == {"id": 7}


async def test_bypassrls_is_too_much(shop: Database, names: tuple[str, str]) -> None:
    name, _ = names
    shop.execute(f"create role {name} login replication bypassrls")
    async with connected(shop, name) as connection:
        excess = await excess_powers(connection, ["shop"])
        assert excess is not None
        assert "has BYPASSRLS" in excess.message
        for statement in excess.sql:
            shop.execute(statement)
        assert await excess_powers(connection, ["shop"]) is None


async def test_the_server_says_so_when_it_starts(
    shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with RealtimeServer(rls_config(shop.dsn)) as server:
        await eventually(lambda: server.is_attached)
    [line] = [each.getMessage() for each in caplog.records if "superuser" in each.getMessage()]
    assert "CREATE ROLE realtime LOGIN REPLICATION PASSWORD '…';" in line


# Without the role realtime_nobody.


@pytest.fixture
def weak(pg: Server, shop: Database) -> Iterator[str]:
    """A server's role that may neither make nor become realtime_nobody."""
    make_nobody(pg)
    with roles(pg, "server", options="login replication") as (name,):
        shop.execute(f"grant create on database {shop.name} to {name}")
        yield name
        shop.execute(f"drop owned by {name} cascade")


async def test_without_the_role_users_code_does_not_run_at_all(shop: Database, weak: str) -> None:
    shop.execute(
        "create function fails(value text) returns bool language plpgsql as"
        " $$ begin if value is not null then raise 'it ran'; end if; return true; end $$"
    )
    shop.execute("create domain odd as text check (fails(value))")
    shop.execute("create type pair as (a int, b odd)")
    shop.execute(f"alter table t add odd odd, add pair pair; grant select on t to {weak}")
    await migrated(make_conninfo(shop.dsn, user=weak))
    async with connected(shop, weak) as connection:
        for query in (
            "select realtime.cast('(1,x)', 'pair')",
            "select realtime.core_cast_all('{\"(1,x)\"}', 'pair')",
            "select realtime.check_equality_op('eq', 'odd', 'x', 'x')",
            "select realtime.check_equality_op('in', 'odd', 'x', '{x}')",
            "select realtime.value_text('{\"a\": 1}', 'pair')",
            "insert into realtime.subscription (subscription_id, entity, claims, filters)"
            f" values (gen_random_uuid(), 't', '{{\"role\": \"{weak}\"}}',"
            " '{\"(odd,eq,x)\"}')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="realtime_nobody"):
                await connection.execute(query)
        cursor = await connection.execute("select realtime.cast_or_text('(1,x)', 'pair')")
        assert await cursor.fetchone() == ("(1,x)",)
        missing = await missing_privileges(connection, ["shop"])
        assert [line.split(" TO ")[0] for line in missing.nobody] == ["GRANT realtime_nobody"]
        for statement in missing.nobody:
            shop.execute(statement)
        # Nothing is left to be applied, and it is set up all the same.
        assert await migrate(connection) == []
        cursor = await connection.execute("select realtime.core_is_confined()")
        assert await cursor.fetchone() == (True,)


@pytest.mark.parametrize(
    "change",
    [
        "alter function realtime.core_as_nobody owner to postgres",
        "alter function realtime.core_as_nobody security invoker",
        "drop function realtime.core_as_nobody",
    ],
)
async def test_a_function_that_is_not_nobodys_is_not_called(shop: Database, change: str) -> None:
    await migrated(shop.dsn)
    shop.execute("create domain odd as text check (value is not null)")
    check = "select realtime.check_equality_op('eq', 'odd', 'x', 'x')"
    assert shop.execute(check) == [(True,)]
    shop.execute(change)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="realtime_nobody"):
        shop.execute(check)
    # It is made anew.
    assert await migrated(shop.dsn) == []
    assert shop.execute(check) == [(True,)]


async def test_a_hidden_schema_of_a_type_is_told(shop: Database) -> None:
    await migrated(shop.dsn)
    shop.execute("create schema far; create type far.pair as (a int, b int)")
    shop.execute("alter table t add pairs far.pair[]")
    cast = "select realtime.cast_or_text('{\"(1,2)\"}', 'far.pair[]')"
    assert shop.execute(cast) == [('{"(1,2)"}',)]
    async with connected(shop, "postgres") as connection:
        missing = await missing_privileges(connection, ["shop"])
    assert missing.nobody == ("GRANT USAGE ON SCHEMA far TO realtime_nobody;",)
    for statement in missing.nobody:
        shop.execute(statement)
    assert shop.execute(cast) == [([{"a": 1, "b": 2}],)]


async def test_a_schema_that_readers_may_use_is_opened_to_nobody(
    shop: Database, names: tuple[str, str], weak: str
) -> None:
    await migrated(shop.dsn)
    shop.execute("create schema far; create extension citext schema far")
    shop.execute("alter table t add name far.citext")
    missing = ("GRANT USAGE ON SCHEMA far TO realtime_nobody;",)
    # A schema that no reader may use stays shut.
    async with connected(shop, "postgres") as connection:
        assert await open_schemas(connection, ["shop"], lock=LOCK) == []
        assert (await missing_privileges(connection, ["shop"])).nobody == missing
    shop.execute(f"grant usage on schema far to {names[1]}")
    # A role that may not grant it grants nothing.
    async with connected(shop, weak) as connection:
        assert await open_schemas(connection, ["shop"], lock=LOCK) == []
    async with connected(shop, "postgres") as connection:
        assert await open_schemas(connection, ["other"], lock=LOCK) == []
        both = [open_schemas(connection, ["shop"], lock=LOCK)]
        async with connected(shop, "postgres") as second:
            both.append(open_schemas(second, ["shop"], lock=LOCK))
            opened = await asyncio.gather(*both)
        assert sorted(opened) == [[], ["far"]]
        assert (await missing_privileges(connection, ["shop"])).nobody == ()
    compared = "select realtime.check_equality_op('eq', 'far.citext', 'A', 'a')"
    assert shop.execute(compared) == [(True,)]


async def test_plain_enums_need_no_role(shop: Database, weak: str) -> None:
    shop.execute("create type mood as enum ('sad', 'glad', 'content')")
    shop.execute("alter type mood add value 'low' before 'glad'")
    await migrated(make_conninfo(shop.dsn, user=weak))
    labels = [None, "sad", "low", "glad", "content"]
    signs = {"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
    async with connected(shop, weak) as connection:

        async def value(query: str, *parameters: object) -> object:
            cursor = await connection.execute(query, parameters)
            [answer] = await cursor.fetchone() or [None]
            return answer

        for left in labels:
            assert await value("select realtime.cast(%s, 'mood')", left) == left
            for right in labels:
                for op, sign in signs.items():
                    expected = await value(f"select %s::mood {sign} %s::mood", left, right)
                    query = "select realtime.check_equality_op(%s, 'mood', %s, %s)"
                    assert await value(query, op, left, right) is expected
            for items in (["sad", "low"], [None, "sad"], [], None):
                expected = await value("select %s::mood = any (%s::mood[])", left, items)
                query = "select realtime.check_equality_op('in', 'mood', %s, %s::text[]::text)"
                assert await value(query, left, items) is expected
        for query in (
            "select realtime.cast('x', 'mood')",
            "select realtime.check_equality_op('in', 'mood', null, '{x}')",
        ):
            with pytest.raises(psycopg.errors.InvalidTextRepresentation, match='mood: "x"'):
                await value(query)
