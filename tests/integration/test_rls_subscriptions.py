"""Rows of realtime.subscription: checked, written, renewed, removed and kept up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

from realtime_core.filters import parse_filter
from realtime_server.config.database.connections import Connections
from realtime_server.errors import RefusedError
from realtime_server.fanout.subscription_specs import SubscriptionSpec
from realtime_server.rls import subscription_table
from realtime_server.rls.subscription_table import Registration
from realtime_server.rls.subscriptions import SubscriptionRegistry
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.rls_helpers import at, membership, migrated, roles
from tests.waiting import eventually

pytestmark = pytest.mark.integration

NOTES = SubscriptionSpec("public", "notes")
ODD = SubscriptionSpec("public", "odd", parse_filter("n=eq.71717"))
ODD_TABLE = """
    create function check_n(n int) returns bool language plpgsql as 'begin return true; end';
    create domain odd_n as int check (check_n(value));
    create table odd (id int primary key, n odd_n);
"""
SLOW_CHECK = """
    create or replace function check_n(n int) returns bool language plpgsql as $$ begin
        if current_setting('application_name') like 'realtime_server%' then
            perform pg_sleep(60);
        end if;
        return true;
    end $$
"""


class Desk:
    """A database with a table, a role that may read two of its columns, and a registry."""

    def __init__(
        self,
        database: Database,
        pool: Connections,
        reader: str,
    ) -> None:
        self.database = database
        self.pool = pool
        self.reader = reader
        self.registry = self.open()

    def open(self, node: str = "this", interval: float = 3600, **more: Any) -> SubscriptionRegistry:
        return SubscriptionRegistry(
            self.pool,
            publications=["shop"],
            node=node,
            interval=interval,
            enum_orders={},
            **more,
        )

    def claims(self, sub: str = "ann", **more: Any) -> dict[str, Any]:
        return {"role": self.reader, "sub": sub, **more}

    async def register(self, *wishes: SubscriptionSpec, **claims: Any) -> Registration:
        return await self.registry.register([wishes or (NOTES,)], {**self.claims(), **claims})

    async def refusal(self, *wishes: SubscriptionSpec, **claims: Any) -> str:
        with pytest.raises(RefusedError) as caught:
            await self.register(*wishes, **claims)
        assert self.rows() == []
        return caught.value.reason

    def rows(self, columns: str = "entity::text, filters::text") -> list[tuple[Any, ...]]:
        return self.database.execute(
            f"select {columns} from realtime.subscription order by entity::text, id"
        )


@pytest_asyncio.fixture
async def desk(pg: Server) -> AsyncIterator[Desk]:
    with roles(pg, "Reader") as (reader,), fresh_database(pg) as database:
        await migrated(database.dsn)
        database.execute("create table notes (id int primary key, owner text, secret text)")
        database.execute(f'grant select (id, owner) on notes to "{reader}"')
        database.execute("create publication shop for all tables")
        pool = Connections(at(database.dsn), name="test", size=4)
        async with pool:
            yield Desk(database, pool, reader)


def filtered(text: str) -> SubscriptionSpec:
    return SubscriptionSpec("public", "notes", parse_filter(text))


async def test_a_registration_is_a_row_before_it_returns(desk: Desk) -> None:
    registration = await desk.register()
    assert desk.rows("subscription_id, entity::text, claims, claims_role::text, node") == [
        (registration.id, "notes", desk.claims(), f'"{desk.reader}"', "this")
    ]
    assert desk.rows("filters::text, action_filter, selected_columns") == [("{}", "*", None)]


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("id=eq.1", '{"(id,eq,1)"}'),
        ("id=gt.1,owner=neq.x", '{"(id,gt,1)","(owner,neq,x)"}'),
        ("id=in.(1,2)", r'{"(id,in,\"{\"\"1\"\",\"\"2\"\"}\")"}'),
        # What a row cannot say is left out.
        ("or(id.eq.1,id.eq.2)", "{}"),
        ("id=lt.5,owner=like.a*", '{"(id,lt,5)"}'),
        ("id=not.eq.1", "{}"),
    ],
)
async def test_the_conjuncts_that_a_row_can_say_are_in_it(
    desk: Desk, text: str, stored: str
) -> None:
    await desk.register(filtered(text))
    assert desk.rows("filters::text") == [(stored,)]


async def test_an_action_and_selected_columns_are_in_the_row(desk: Desk) -> None:
    await desk.register(
        SubscriptionSpec("public", "notes", action="INSERT", select=frozenset({"owner", "id"}))
    )
    assert desk.rows("action_filter, selected_columns") == [("INSERT", ["id", "owner"])]


async def test_a_wildcard_is_a_row_for_each_table_that_the_role_may_read(desk: Desk) -> None:
    desk.database.execute(
        "create schema far; create table far.off (id int);"
        f' grant select on far.off to "{desk.reader}"; grant usage on schema far to public;'
        " create table hidden (id int);"
        " create schema shut; create table shut.off (id int);"
        f' grant select on shut.off to "{desk.reader}"'
    )
    await desk.register(SubscriptionSpec(None, None))
    assert [row[0] for row in desk.rows()] == ["far.off", "notes"]
    await desk.register(SubscriptionSpec("public", None))
    assert [row[0] for row in desk.rows()] == ["far.off", "notes", "notes"]


async def test_a_wildcard_takes_published_tables_only(desk: Desk) -> None:
    desk.database.execute("drop publication shop; create publication shop")
    await desk.register(SubscriptionSpec(None, None))
    assert desk.rows() == []


async def test_of_several_readings_the_possible_ones_count(desk: Desk) -> None:
    """A colon may belong to a schema's or to a table's name."""
    await desk.register(SubscriptionSpec("public:notes", "x"), NOTES)
    assert [row[0] for row in desk.rows()] == ["notes"]


async def test_ignored_claims_do_not_make_another_viewer(desk: Desk) -> None:
    registry = desk.open(ignored_claims=["exp", "session_id"])
    first = await registry.register([(NOTES,)], desk.claims(exp=1, session_id="a"))
    second = await registry.register([(NOTES,)], desk.claims(session_id="b", exp=2))
    assert first.viewer == second.viewer
    other = await registry.register([(NOTES,)], desk.claims("bob", exp=1))
    assert other.viewer != first.viewer


# Refusals.


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (filtered("nothing=eq.1"), "invalid column for filter nothing"),
        (filtered("secret=eq.1"), "invalid column for filter secret"),
        (filtered("or(id.eq.1,secret.like.a*)"), "invalid column for filter secret"),
        (
            SubscriptionSpec("public", "notes", select=frozenset({"secret"})),
            "invalid column for select secret",
        ),
    ],
)
async def test_what_cannot_be_is_refused(desk: Desk, wish: SubscriptionSpec, reason: str) -> None:
    assert await desk.refusal(wish) == reason


async def test_a_value_that_does_not_cast_is_refused(desk: Desk) -> None:
    assert "'x' cannot be read as int4" in await desk.refusal(filtered("id=eq.x"))


async def test_a_domain_is_compared_as_its_base_type(desk: Desk) -> None:
    desk.database.execute(
        "create schema extensions; create extension citext schema extensions;"
        " grant usage on schema extensions to realtime_nobody;"
        " create domain address as extensions.citext;"
        " alter table notes add address address, add plain extensions.citext;"
        f' grant select on notes to "{desk.reader}"'
    )
    await desk.register(filtered("address=gt.A,address=like.a*,plain=gt.B"))
    assert desk.rows("filters::text") == [('{"(address,gt,A)","(plain,gt,B)"}',)]


async def test_an_enum_that_was_made_since_is_compared_in_its_order(desk: Desk) -> None:
    desk.database.execute(
        "create type level as enum ('low', 'high'); alter table notes add level level;"
        f' grant select on notes to "{desk.reader}"'
    )
    await desk.register(filtered("level=gt.low"))
    desk.database.execute("alter type level add value 'highest'")
    await desk.register(filtered("level=lt.highest"))
    assert desk.rows("filters::text") == [
        ('{"(level,gt,low)"}',),
        ('{"(level,lt,highest)"}',),
    ]


async def test_former_values_cannot_be_asked_for(desk: Desk) -> None:
    assert "old." in await desk.refusal(filtered("old.id=eq.1"))


async def test_a_table_that_is_not_published_is_refused(desk: Desk) -> None:
    desk.database.execute("drop publication shop; create publication shop")
    assert "is not published" in await desk.refusal()


async def test_a_column_that_is_not_published_is_refused(desk: Desk) -> None:
    desk.database.server.needs(15, "a column list")
    desk.database.execute("drop publication shop; create publication shop for table notes (id)")
    assert await desk.refusal(filtered("owner=eq.x")) == "invalid column for filter owner"


async def test_a_table_that_the_role_may_not_read_is_refused(desk: Desk) -> None:
    desk.database.execute(f'revoke select (id, owner) on notes from "{desk.reader}"')
    hidden, missing = (
        await desk.refusal(),
        await desk.refusal(SubscriptionSpec("public", "nothing")),
    )
    assert hidden == f"there is no table public.notes that role {desk.reader!r} may SELECT from"
    assert missing == hidden.replace("notes", "nothing")


async def test_a_table_of_which_nothing_readable_is_published_is_refused(desk: Desk) -> None:
    desk.database.server.needs(15, "a column list")
    desk.database.execute(
        "drop publication shop; create publication shop for table notes (id);"
        f' revoke select (id) on notes from "{desk.reader}"'
    )
    assert "no column of public.notes that role" in await desk.refusal()


async def test_for_a_channel_that_asks_for_no_changes_the_database_is_not_asked(desk: Desk) -> None:
    registry = desk.registry
    async with desk.pool.one(), desk.pool.one(), desk.pool.one(), desk.pool.one():
        registration = await registry.register([], desk.claims())
        former = registration.viewer
        assert await registry.renew(registration, desk.claims("bob")) is registration.viewer
    assert registration.viewer is not former
    registry.remove(registration)
    assert desk.rows() == []
    with pytest.raises(RefusedError, match="has no role"):
        await registry.register([], {"sub": "ann"})


@pytest.mark.parametrize("role", [None, "", 7, "bad\0role"])
async def test_a_token_without_a_role_is_refused(desk: Desk, role: object) -> None:
    assert "has no role" in await desk.refusal(role=role)


async def test_a_role_that_is_not_there_is_refused(desk: Desk) -> None:
    assert await desk.refusal(role="nobody") == "there is no role 'nobody' in the database"


async def test_a_role_that_the_server_may_not_be_is_refused_and_the_grant_logged(
    desk: Desk, pg: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with roles(pg, "server", options="login") as (server,):
        desk.database.execute(
            f"grant usage on schema realtime to {server};"
            f" grant select, insert, delete on realtime.subscription to {server};"
            f" grant execute on all functions in schema realtime to {server}"
        )
        dsn = make_conninfo(desk.database.dsn, user=server)
        pool = Connections(at(dsn), name="test", size=4)
        async with pool:
            registry = SubscriptionRegistry(
                pool, publications=["shop"], node="that", interval=3600, enum_orders={}
            )
            with pytest.raises(RefusedError, match="may not act as role"):
                await registry.register([(NOTES,)], desk.claims())
            grant = f'GRANT "{desk.reader}" TO {server}{membership(pg)}'
            assert grant in caplog.text
            pg.execute(grant)
            await registry.register([(NOTES,)], desk.claims())
        desk.database.execute(f"drop owned by {server}")


async def test_a_database_that_is_away_is_a_refusal_of_its_own(desk: Desk, pg: Server) -> None:
    with pg.down(), pytest.raises(RefusedError, match="join again"):
        await desk.register()


# Changes.


async def test_new_claims_replace_the_row(desk: Desk) -> None:
    registration = await desk.register(filtered("id=eq.1"))
    viewer = await desk.registry.renew(registration, desk.claims("bob"))
    assert viewer == registration.viewer
    assert desk.rows("subscription_id, claims ->> 'sub', filters::text") == [
        (registration.id, "bob", '{"(id,eq,1)"}')
    ]


async def test_the_same_claims_change_nothing(desk: Desk) -> None:
    registration = await desk.register()
    before = desk.rows("id")
    await desk.registry.renew(registration, dict(reversed(desk.claims().items())))
    assert desk.rows("id") == before


async def test_claims_that_do_not_do_leave_the_row(desk: Desk) -> None:
    registration = await desk.register()
    with pytest.raises(RefusedError, match="no role"):
        await desk.registry.renew(registration, {"role": "nobody"})
    assert desk.rows("claims ->> 'sub'") == [("ann",)]


async def test_one_that_is_removed_while_it_is_renewed_leaves_no_row(desk: Desk) -> None:
    registration = await desk.register()
    before = registration.viewer
    async with running(desk.registry):
        renewing = asyncio.create_task(desk.registry.renew(registration, desk.claims("bob")))
        await asyncio.sleep(0)
        desk.registry.remove(registration)
        assert await renewing is before
        await eventually(lambda: desk.rows() == [])


@pytest.mark.parametrize(
    "check",
    [
        "perform pg_sleep(60)",
        # It catches the cancellation.
        "loop begin perform pg_sleep(60); exception when query_canceled then null; end; end loop",
    ],
)
async def test_a_filter_that_takes_too_long_to_check_is_refused(desk: Desk, check: str) -> None:
    desk.registry = desk.open(statement_timeout=0.5)
    desk.database.execute(ODD_TABLE + f'grant select on odd to "{desk.reader}"')
    desk.database.execute(SLOW_CHECK.replace("perform pg_sleep(60)", check))
    assert (await desk.refusal(ODD)).startswith("the database takes too long to check this")


@contextlib.asynccontextmanager
async def running(registry: SubscriptionRegistry) -> AsyncIterator[None]:
    task = asyncio.create_task(registry.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_removed_registration_has_no_row_soon(desk: Desk) -> None:
    kept, gone = await desk.register(), await desk.register()
    async with running(desk.registry):
        desk.registry.remove(gone)
        await eventually(lambda: desk.rows("subscription_id") == [(kept.id,)])


async def test_a_cancelled_registration_leaves_no_row(desk: Desk) -> None:
    async with running(desk.registry):
        for _ in range(20):
            task = asyncio.create_task(desk.register())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
        await eventually(lambda: desk.rows() == [])
        last = await desk.register()
        assert desk.rows("subscription_id") == [(last.id,)]


async def test_rows_are_compared_now_and_then(desk: Desk) -> None:
    registry = desk.registry = desk.open(interval=0.05)
    one = await desk.register()
    wildcard = await desk.register(SubscriptionSpec(None, None))
    desk.database.execute(
        "delete from realtime.subscription;"
        " insert into realtime.subscription (subscription_id, entity, claims, node)"
        " values (gen_random_uuid(), 'notes', '{\"role\": \"postgres\"}', 'this');"
        f' create table late (id int); grant select on late to "{desk.reader}"'
    )
    async with running(registry):
        expected = [
            ("late", wildcard.id),
            *sorted([("notes", one.id), ("notes", wildcard.id)]),
        ]
        await eventually(lambda: sorted(desk.rows("entity::text, subscription_id")) == expected)


async def test_a_filter_that_takes_too_long_to_check_leaves_the_other_rows_written(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.registry = desk.open(interval=0.05, statement_timeout=0.5)
    desk.database.execute(ODD_TABLE + f'grant select on odd to "{desk.reader}"')
    await desk.register(ODD)
    other = await desk.register()
    desk.database.execute(SLOW_CHECK)
    desk.database.execute("delete from realtime.subscription")
    async with running(desk.registry):
        await eventually(lambda: desk.rows("subscription_id") == [(other.id,)])
        told = "subscriptions to public.odd are not in"
        await eventually(lambda: told in caplog.text)
    assert "71717" not in caplog.text


@pytest.mark.parametrize("sqlstate", ["P0001", "54001", "42501"])
async def test_a_filter_whose_check_fails_leaves_the_other_rows_written(
    desk: Desk, caplog: pytest.LogCaptureFixture, sqlstate: str
) -> None:
    desk.registry = desk.open(interval=0.05)
    desk.database.execute(ODD_TABLE + f'grant select on odd to "{desk.reader}"')
    await desk.register(ODD)
    other, gone = await desk.register(), await desk.register()
    desk.database.execute(
        SLOW_CHECK.replace("perform pg_sleep(60)", f"raise 'not %', n using errcode = '{sqlstate}'")
    )
    desk.database.execute(
        "delete from realtime.subscription where subscription_id <> %s", [gone.id]
    )
    async with running(desk.registry):
        desk.registry.remove(gone)
        await eventually(lambda: desk.rows("subscription_id") == [(other.id,)])
        await eventually(lambda: f"they cannot be checked ({sqlstate})" in caplog.text)
    assert "71717" not in caplog.text


async def test_nodes_leave_each_others_rows_alone(desk: Desk) -> None:
    # A node lives for three times as long, and this machine may be busy.
    other = desk.open("other", interval=0.5)
    desk.registry = desk.open("this", interval=0.5)
    mine, theirs = await desk.register(), await other.register([(NOTES,)], desk.claims())
    desk.database.execute(
        "insert into realtime.subscription (subscription_id, entity, claims)"
        " values ('00000000-0000-0000-0000-000000000000', 'notes', '{\"role\": \"postgres\"}')"
    )
    async with running(desk.registry), running(other):
        third = await desk.register()
        # Until they know of each other, each takes the other's rows for a dead one's.
        nodes = "select count(*) from realtime.core_node"
        await eventually(lambda: desk.database.execute(nodes) == [(2,)])
        everybodys = {mine.id, theirs.id, third.id}
        await eventually(lambda: {row[0] for row in desk.rows("subscription_id")} >= everybodys)
        other.remove(theirs)
        await eventually(lambda: {row[0] for row in desk.rows("node")} == {"this", None})
        assert {row[0] for row in desk.rows("subscription_id")} >= {mine.id, third.id}
        # Of a script, which has no node.
        assert (None,) in desk.rows("node")


async def test_rows_of_a_dead_node_are_removed_by_age(desk: Desk) -> None:
    dead = desk.open("dead", interval=0.05)
    async with running(dead):
        await dead.register([(NOTES,)], desk.claims())
        known = "select 1 from realtime.core_node where node = 'dead'"
        await eventually(lambda: desk.database.execute(known))
    desk.registry = desk.open("this", interval=0.05)
    async with running(desk.registry):
        await desk.register()
        await eventually(lambda: desk.rows("node") == [("this",)])


async def test_an_end_in_good_order_leaves_no_row(desk: Desk) -> None:
    await desk.register()
    await desk.registry.close()
    assert desk.rows() == []


async def test_a_fault_while_comparing_is_logged_and_not_the_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk.registry = desk.open(interval=0.05)
    kept, gone = await desk.register(), await desk.register()
    faults = [ValueError("unexpected")]

    async def fail_once(connection: AsyncConnection[Any]) -> dict[tuple[str, str], Any]:
        if faults:
            raise faults.pop()
        return {}

    monkeypatch.setattr(subscription_table, "read_enum_orders", fail_once)
    async with running(desk.registry):
        desk.registry.remove(gone)
        await eventually(lambda: desk.rows("subscription_id") == [(kept.id,)])
        await eventually(lambda: "please report it" in caplog.text)


async def test_rows_are_deleted_though_comparing_fails_for_good(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    kept, gone = await desk.register(), await desk.register()
    desk.database.execute("drop table realtime.core_node cascade")
    async with running(desk.registry):
        await eventually(lambda: "cannot be kept up to date" in caplog.text)
        desk.registry.remove(gone)
        await eventually(lambda: desk.rows("subscription_id") == [(kept.id,)])


async def test_an_outage_is_made_up_for(desk: Desk, pg: Server) -> None:
    desk.registry = desk.open(interval=0.05)
    kept, gone = await desk.register(), await desk.register()
    async with running(desk.registry):
        with pg.down():
            desk.registry.remove(gone)
        await eventually(lambda: _ids(desk) == [(kept.id,)])


def _ids(desk: Desk) -> list[tuple[Any, ...]]:
    try:
        return desk.rows("subscription_id")
    except psycopg.OperationalError:
        return []


LATEST = """
    select max(query_start)::text, count(*) from pg_stat_activity
    where application_name = 'realtime_server test' and datname = current_database()
"""


async def test_without_channels_nothing_is_asked_until_somebody_joins(desk: Desk) -> None:
    registry = desk.registry = desk.open(interval=0.05)
    async with running(registry):
        await eventually(lambda: registry.is_quiet)
        before = desk.database.execute(LATEST)
        # As long as ten comparisons.
        await asyncio.sleep(0.5)
        assert desk.database.execute(LATEST) == before
        # A type that it has not heard of.
        desk.database.execute(
            "create type mood as enum ('sad', 'glad'); create table moods (id int primary key, m"
            f' mood); grant select on moods to "{desk.reader}"'
        )
        before_it = desk.database.execute("select now()")[0]
        registration = await desk.register(
            SubscriptionSpec("public", "moods", parse_filter("m=gt.sad"))
        )
        # It lives, for all to see, before the join is answered.
        nodes = "select node from realtime.core_node where expires_at > %s"
        assert desk.database.execute(nodes, before_it) == [("this",)]
        assert desk.rows("subscription_id") == [(registration.id,)]
        # And it compares again.
        desk.database.execute("delete from realtime.subscription")
        await eventually(lambda: desk.rows("subscription_id") == [(registration.id,)])
