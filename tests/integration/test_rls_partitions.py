"""Partitioned tables: changes have the name that the publication gives them, and the check asks
the table of that name. Where that has no row level security and a relative has, nobody is shown
anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from psycopg import AsyncConnection

from realtime_server.config.database.catalog import read_tables
from tests.fix_postgres import Server
from tests.integration.rls_stage import OWN, RlsStage, open_rls_stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stage(pg: Server) -> AsyncIterator[RlsStage]:
    async with open_rls_stage(pg) as stage:
        yield stage


@pytest.fixture
def stage(module_stage: RlsStage) -> Iterator[RlsStage]:
    with module_stage.scene():
        yield module_stage
        module_stage.execute(publish(via_root=False))


def publish(*, via_root: bool) -> str:
    return f"alter publication shop set (publish_via_partition_root = {via_root})"


def make(stage: RlsStage, *protected: str) -> None:
    """Make notes with partitions low and high; those that are named have a policy by owner."""
    stage.execute(
        "create table notes (id int primary key, owner text) partition by range (id)",
        "create table low partition of notes for values from (0) to (100)",
        "create table high partition of notes for values from (100) to (200)",
    )
    for table in ("notes", "low", "high"):
        stage.execute(f'grant select on {table} to "{stage.reader}", "{stage.admin}"')
    for table in protected:
        stage.execute(
            f"alter table {table} enable row level security",
            f"create policy p on {table} using ({OWN})",
        )


def seen(payloads: list[Any]) -> list[Any]:
    return [
        (one["table"], one["type"], (one.get("record") or one["old_record"])["id"])
        for one in payloads
        if one["table"] != "fence"
    ]


async def test_under_the_name_of_the_root_its_policies_decide(stage: RlsStage) -> None:
    make(stage, "notes")
    stage.execute(publish(via_root=True))
    async with stage.client("ann") as ann, stage.client("bob") as bob:
        await ann.sit("realtime:*")
        await bob.sit("realtime:*")
        payloads = []
        for statement in (
            "insert into notes values (1, 'ann'), (101, 'ann'), (2, 'bob')",
            "update notes set owner = 'ann' where id = 2",
            "delete from notes where id = 101",
        ):
            payloads += await stage.payloads(ann, statement)
        theirs = [frame["payload"] for frame in await bob.drain()]
    assert seen(payloads) == [
        ("notes", "INSERT", 1),
        ("notes", "INSERT", 101),
        ("notes", "UPDATE", 2),
        ("notes", "DELETE", 101),
    ]
    assert seen(theirs) == [("notes", "INSERT", 2), ("notes", "DELETE", 101)]


async def test_under_the_name_of_a_partition_its_policies_decide(stage: RlsStage) -> None:
    make(stage, "low", "high")
    async with stage.client("ann") as ann:
        await ann.sit("realtime:*")
        payloads = await stage.payloads(ann, "insert into notes values (1, 'ann'), (101, 'bob')")
    assert seen(payloads) == [("low", "INSERT", 1)]


async def test_without_row_level_security_all_is_shown(stage: RlsStage) -> None:
    make(stage)
    stage.execute(publish(via_root=True))
    async with stage.client("bob") as bob:
        await bob.sit("realtime:*")
        payloads = await stage.payloads(bob, "insert into notes values (1, 'ann'), (101, 'ann')")
    assert seen(payloads) == [("notes", "INSERT", 1), ("notes", "INSERT", 101)]


@pytest.mark.parametrize(
    ("via_root", "protected", "name"),
    [(False, "notes", "low"), (True, "low", "notes"), (True, "high", "notes")],
)
async def test_at_odds_nobody_is_shown_a_row(
    stage: RlsStage, via_root: bool, protected: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(stage, protected)
    stage.execute(publish(via_root=via_root))
    async with stage.client("ann") as ann, stage.client(role=stage.admin) as admin:
        await ann.sit("realtime:*")
        await admin.sit("realtime:*")
        payloads = await stage.payloads(
            ann, "insert into notes values (1, 'ann')", "update notes set owner = 'bob'"
        )
        payloads += await stage.payloads(ann, "delete from notes")
        # Who bypasses row level security sees all of it, whatever it says.
        theirs = [frame["payload"] for frame in await admin.drain()]
        assert seen(payloads) == [(name, "DELETE", 1)]
        assert payloads[0]["old_record"] == {"id": 1}
        assert seen(theirs) == [
            (name, "INSERT", 1),
            (name, "UPDATE", 1),
            (name, "DELETE", 1),
        ]
        line = f"rows of {stage.schema}.{name} are shown to no role"
        assert caplog.text.count(line) == 1
        # What the line says to do.
        stage.execute(
            f"alter table {name} enable row level security",
            f"create policy p on {name} using ({OWN})",
        )
        payloads = await stage.payloads(ann, "insert into notes values (1, 'ann')")
        assert seen(payloads) == [(name, "INSERT", 1)]


async def test_rows_of_a_table_that_inherits_are_not_its_parents(stage: RlsStage) -> None:
    """They may have the same key."""
    stage.make("parent", "id int primary key, owner text")
    stage.execute("create table child () inherits (parent)", "insert into child values (1, 'ann')")
    async with stage.client("ann") as ann:
        await ann.sit(stage.topic("parent"))
        payloads = await stage.payloads(ann, "insert into parent values (1, 'bob')")
    assert payloads == []


async def test_another_table_of_the_same_name_has_other_readers(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text")
    async with stage.client("bob") as bob:
        await bob.sit(stage.topic("notes"))
        stage.make("late", "id int primary key, owner text", None)
        # In one transaction, so that nothing is looked at in between.
        payloads = await stage.payloads(
            bob,
            "begin; insert into notes values (1, 'ann'); drop table notes;"
            " alter table late rename to notes; insert into notes values (1, 'zoe'); commit",
        )
    shown, told = payloads
    assert shown["record"]["owner"] == "zoe"
    assert told["gap"]["reason"] == "table_replaced"


@pytest.mark.parametrize("how", ["replaced", "renamed", "dropped"])
async def test_changes_of_a_table_that_is_replaced_are_told_as_a_gap(
    stage: RlsStage, how: str
) -> None:
    """In one transaction, so that nothing is looked at in between."""
    stage.make("notes", "id int primary key, owner text", narrow="id, owner")
    stage.make("late", "id int primary key, owner text")
    statements = {
        "replaced": "alter table notes rename to former; alter table late rename to notes",
        "renamed": "alter table notes rename to former",
        "dropped": "drop table notes",
    }
    given_up = stage.metric("realtime_rls_given_up_total")
    everything, filtered = "realtime:*", stage.topic("notes", "owner=eq.zoe")
    async with stage.client("ann") as ann, stage.client("ann", role=stage.narrow) as narrow:
        await ann.sit(stage.topic("notes"), filtered)
        await narrow.sit(everything)
        stage.execute(f'revoke select (id, owner) on notes from "{stage.narrow}"')
        frames = await stage.frames(
            ann,
            "begin; insert into notes values (1, 'ann'); update notes set owner = 'bob';"
            f" {statements[how]}; commit",
        )
        # Whatever their filters say.
        assert sorted(frame["topic"] for frame in frames) == [stage.topic("notes"), filtered]
        for frame in frames:
            assert frame["event"] == "system"
            assert frame["payload"]["message"] == "Gap: table_replaced"
        # Who may not read it is told nothing, as long as that is known.
        told = [frame["payload"]["message"] for frame in await narrow.drain()]
        assert told == (["Gap: table_replaced"] if how == "dropped" else [])
        viewers = 1 if told == [] else 2
        assert stage.metric("realtime_rls_given_up_total") == given_up + 2 * viewers


# What a join is told.

BOTH = ("notes", "low")
HERE = {"status": "ok", "response": {}}


@pytest.mark.parametrize(("via_root", "named"), [(False, "low"), (True, "notes")])
async def test_a_join_goes_by_the_name_that_changes_have(
    stage: RlsStage, via_root: bool, named: str
) -> None:
    make(stage)
    stage.execute(publish(via_root=via_root))
    async with stage.client() as client:
        for table in BOTH:
            reply = await client.try_join(stage.topic(table))
            if table == named:
                assert reply == HERE
            else:
                assert reply["status"] == "error"
                reason = f"table {stage.schema}.{table} is not published under its own name"
                assert reason in reply["response"]["reason"]
        # A row of realtime.subscription for each table that may come: high and low, or notes.
        await client.sit(stage.topic())
        entities = stage.execute(
            "select entity::text from realtime.subscription s join pg_class c on c.oid = s.entity"
            f" where c.relnamespace = '{stage.schema}'::regnamespace order by 1"
        )
    wanted = ["notes", "notes"] if via_root else ["high", "low", "low"]
    assert [entity for (entity,) in entities] == wanted


PUBLICATIONS = [
    "for all tables",
    "for table notes",
    "for table low",
    "for table low, notes",
    "for table middle",
    "for table notes, plain (id, body)",
    "for table plain (id), middle",
    "for tables in schema {}",
    "for tables in schema {}_x",
    "for tables in schema {}, table {}_x.far",
    "for table plain where (id > 1)",
]


@pytest.mark.parametrize("via_root", [False, True])
async def test_what_is_published_is_what_postgresql_says(stage: RlsStage, via_root: bool) -> None:
    """Of tables, partitions, partitioned partitions, schemas and column lists."""
    stage.database.server.needs(15, "a column list")
    make(stage)
    other = f"{stage.schema}_x"
    stage.execute(
        f"create schema {other}",
        "create table plain (id int primary key, body text, twice int generated always as (id * 2)"
        " stored)",
        "create unlogged table hidden (id int primary key)",
        "create table middle partition of notes for values from (200) to (400)"
        " partition by range (id)",
        "create table deep partition of middle for values from (200) to (300)",
        f"create table {other}.far partition of middle for values from (300) to (400)",
    )
    names = [(stage.schema, each) for each in ("notes", "low", "middle", "deep", "plain", "hidden")]
    names.append((other, "far"))
    options = f"with (publish_via_partition_root = {via_root})"
    async with await AsyncConnection.connect(stage.database.dsn, autocommit=True) as connection:
        for text in PUBLICATIONS:
            stage.execute(f"create publication one {text.format(*[stage.schema] * 2)} {options}")
            tables = await read_tables(connection, names, [], ["one"])
            found = {name: table.published for name, table in tables.items()}
            said = {
                (schema, table): frozenset(columns)
                for schema, table, columns in stage.execute(
                    "select schemaname::text, tablename::text, attnames::text[]"
                    " from pg_publication_tables where pubname = 'one'"
                )
            }
            if stage.database.server.version < 16:
                # There the view names generated columns, which are never sent.
                said = {name: columns - {"twice"} for name, columns in said.items()}
            stage.execute("drop publication one")
            assert found == {name: said.get(name) for name in names}, text
    stage.execute(f"drop schema {other} cascade")


async def test_a_generated_column_that_is_not_published_is_not_there(stage: RlsStage) -> None:
    stage.make("sums", "id int primary key, twice int generated always as (id * 2) stored", "true")
    async with stage.client() as client:
        reply = await client.try_join(stage.topic("sums", "twice=eq.2"))
        assert reply["response"] == {"reason": "invalid column for filter twice"}
        await client.sit(stage.topic("sums"))
        [payload] = await stage.payloads(client, "insert into sums values (1)")
        assert payload["record"] == {"id": 1}
        assert [column["name"] for column in payload["columns"]] == ["id"]
        if stage.database.server.version < 18:
            return
        stage.execute("alter publication shop set (publish_generated_columns = stored)")
        [payload] = await stage.payloads(client, "insert into sums values (2)")
        assert payload["record"] == {"id": 2, "twice": 4}
        assert await client.try_join(stage.topic("sums", "twice=eq.6")) == HERE
        payloads = await stage.payloads(client, "insert into sums values (3)")
        assert [one["record"] for one in payloads] == [{"id": 3, "twice": 6}] * 2
        stage.execute("alter publication shop set (publish_generated_columns = none)")
