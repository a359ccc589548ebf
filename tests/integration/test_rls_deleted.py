"""RLS_DELETE=policy: who could see a row before its DELETE gets all of it, others get nothing.

PostgreSQL itself is asked before each DELETE what SELECT shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import psycopg
import pytest
import pytest_asyncio
from psycopg import sql

from realtime_server.config import OutputPlugin
from tests.fix_rls import Stream
from tests.integration.rls_stage import RlsClient, RlsStage, open_rls_stage
from tests.rls_helpers import roles

pytestmark = [
    pytest.mark.integration,
    pytest.mark.every_plugin,
    pytest.mark.asyncio(loop_scope="module"),
]

ROUNDS = int(os.environ.get("RLS_DELETED_ROUNDS", "6"))
STEPS = 12
CLAIM = "current_setting('request.jwt.claims')::jsonb"
SUB = f"{CLAIM} ->> 'sub'"
FULL = "alter table {} replica identity full"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stage(stream: Stream) -> AsyncIterator[RlsStage]:
    settings = {"RLS_DELETE": "policy", "RLS_CHECK_TIMEOUT": "500", "IDLE_TIMEOUT": "3600000"}
    async with open_rls_stage(stream.server, **stream.settings, **settings) as stage:
        yield stage


@pytest.fixture
def stage(module_stage: RlsStage) -> Iterator[RlsStage]:
    with module_stage.scene():
        yield module_stage


@pytest.fixture
def group(stage: RlsStage) -> Iterator[str]:
    """A role that the narrow one belongs to; the schema and what is in it go before it does."""
    with roles(stage.database.server, "group") as (group,):
        stage.execute(f'grant "{group}" to "{stage.narrow}"')
        yield group
        stage.execute("rollback", f'drop owned by "{group}"')


# At random.

POLICIES = [
    f"owner = {SUB}",
    f"owner = (select {SUB})",
    "n > 2",
    "n is null or n < 3",
    "owner is distinct from 'bob'",
    "1 / (n - 3) < 9",
    "case when owner = 'ann' then n / 0 = 1 else true end",
    f"exists (select from friends f where f.a = odd.owner and f.b = {SUB})",
    f"{SUB} in (select b from friends where a = owner)",
    f"not exists (select from friends f where f.a = odd.owner and f.b = {SUB})",
    "is_kind(odd)",
    "is_kind(odd.*) or n = 4",
    "'a' = any (tags)",
    "mood > 'sad'",
    "knows(owner)",
    '"Odd ""name" like \'%"%\' or "mine_" = 1',
    "body ->> 'k' = 'v'",
    "pair is null",
    "current_user like 'narrow%'",
    "true",
    "false",
]
FILTERS = [
    ("", "true"),
    ("n=gt.2", "n > 2"),
    ("owner=eq.ann", "owner = 'ann'"),
    ("or(n.is.null,id.lt.5)", "(n is null or id < 5)"),
]
VALUES: dict[str, list[Any]] = {
    "owner": ["ann", "bob", "eve", None],
    "n": [None, 1, 2, 3, 4, 5],
    "tags": [None, [], ["a"], ["a", 'q"', "b,c", "d\\e", None], ["NULL", ""]],
    "mood": [None, "sad", "ok", "glad"],
    "mine_": [None, 1],
    'Odd "name': [None, "", '"', "\\", "(,)", 'a "b" \\ {c}', "%$realtime$ {look_up}"],
    "body": [None, '{"k": "v", "l": ["\\"", "\\\\"]}', "[]"],
    "pair": [None, "(,)", '(1,"a ""b"" ,\\\\")'],
}


@attrs.define(eq=False)
class Seat:
    client: RlsClient
    topic: str
    condition: str
    role: str
    claims: dict[str, Any]
    columns: list[str]


def quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


class Judge:
    """Says what SELECT shows, on a connection of its own, with the server's search path."""

    def __init__(self, stage: RlsStage) -> None:
        self._connection = stage.database.connect()
        self._table = f"{stage.schema}.odd"

    def close(self) -> None:
        self._connection.close()

    def visible(self, seat: Seat, key: int) -> dict[str, Any] | None:
        run = self._connection.execute
        [[passes]] = run(
            f"select exists (select from {self._table} where id = {key} and {seat.condition})"
        ).fetchall()
        if not passes:
            return None
        run("select set_config('request.jwt.claims', %s, false)", (json.dumps(seat.claims),))
        run(f'set role "{seat.role}"')
        columns = ", ".join(map(quoted, seat.columns))
        try:
            rows = run(
                f"select to_jsonb(r) from (select {columns} from {self._table} where id = {key}) r"
            ).fetchall()
        except psycopg.Error:
            return None
        finally:
            run("reset role")
        return rows[0][0] if rows else None


def make_table(stage: RlsStage, group: str, chance: random.Random) -> None:
    stage.execute(
        "create type mood as enum ('sad', 'ok', 'glad')",
        "create type pair as (a int, b text)",
        "create table friends (a text, b text)",
        "insert into friends values ('ann', 'bob'), ('bob', 'bob'), ('eve', 'ann')",
        "alter table friends enable row level security",
        "create policy mine on friends using (a <> 'eve' or current_user like 'Reader%')",
        "create table odd (gone int, id int primary key, owner text, n int, tags text[], mood mood,"
        ' mine_ int, "Odd ""name" text, body jsonb, pair pair)',
        "alter table odd drop column gone",
        "create function is_kind(o odd) returns boolean language sql stable"
        " as $$ select o.n in (1, 5) or (o).owner = 'eve' $$",
        f"create function knows(who text) returns boolean language plpgsql security definer"
        f" set search_path = {stage.schema} as $$ begin"
        f" return exists (select from friends where a = who and b = {SUB}); end $$",
        f'grant select on odd, friends to "{stage.reader}", "{stage.admin}"',
        f'grant select on friends to "{stage.narrow}"',
        f'grant select (id, n, tags, "Odd ""name") on odd to "{stage.narrow}"',
        "alter table odd enable row level security",
        FULL.format("odd"),
    )
    if chance.random() < 0.3:
        stage.execute("alter table odd force row level security")
    if chance.random() < 0.5:
        owner = chance.choice([stage.reader, stage.narrow, group, stage.admin])
        # It has what it may SELECT by owning it, so give that to those only who have all.
        if owner in (stage.reader, stage.admin):
            stage.execute(f'alter table odd owner to "{owner}"')
    for number in range(chance.randrange(5)):
        kind = chance.choice(["permissive", "permissive", "restrictive"])
        command = chance.choice(["all", "all", "select", "select", "select", "update", "delete"])
        to = chance.choice(
            ["public", "public", f'"{stage.reader}"', f'"{stage.narrow}", "{stage.admin}"', group]
        )
        stage.execute(
            f"create policy p{chance.randrange(10)}{number} on odd as {kind} for {command}"
            f" to {to} using ({chance.choice(POLICIES)})"
        )
    if chance.random() < 0.1:
        stage.execute("alter table odd disable row level security")


def insert(stage: RlsStage, chance: random.Random, key: int) -> None:
    columns = ", ".join(map(quoted, VALUES))
    row = {name: chance.choice(values) for name, values in VALUES.items()}
    with stage.database.connect() as connection:
        connection.execute(
            f"insert into {stage.schema}.odd (id, {columns}) values"
            f" (%s, %s, %s, %s::text[], %s::{stage.schema}.mood, %s, %s, %s::jsonb,"
            f" %s::{stage.schema}.pair)",
            [key, *row.values()],
        )


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_who_could_see_it_gets_it_and_nobody_else(
    stage: RlsStage, group: str, seed: int
) -> None:
    chance = random.Random(seed)
    everything = ["id", *VALUES]
    [[database]] = stage.execute("select current_database()")
    # The names in policies are found by it, or not.
    path = chance.choice([f"{stage.schema}, public", '"$user", public'])
    stage.execute(f"alter database {database} set search_path = {path}")
    async with contextlib.AsyncExitStack() as stack:
        make_table(stage, group, chance)
        judge = Judge(stage)
        stack.callback(judge.close)
        seats = []
        for sub in ("ann", "bob"):
            for role in (stage.reader, stage.narrow, stage.admin):
                client = await stack.enter_async_context(stage.client(sub, role, session=seed))
                is_narrow = role == stage.narrow
                columns = ["id", "n", "tags", 'Odd "name'] if is_narrow else everything
                filters = [one for one in FILTERS if not (is_narrow and "owner" in one[0])]
                text, condition = chance.choice(filters)
                topic = stage.topic("odd", *([text] if text else []))
                await client.sit(topic)
                claims = {"role": role, "sub": sub, "session": seed}
                seats.append(Seat(client, topic, condition, role, claims, columns))
        for key in range(STEPS):
            insert(stage, chance, key)
        await stage.settle()
        for seat in seats:
            await seat.client.drain()
        expected: dict[int, list[Any]] = {id(seat): [] for seat in seats}
        for key in chance.sample(range(STEPS), STEPS):
            for seat in seats:
                row = judge.visible(seat, key)
                if row is not None:
                    expected[id(seat)].append(row)
            stage.execute(f"delete from odd where id = {key}")
        await stage.settle()
        for seat in seats:
            payloads = [frame["payload"] for frame in await seat.client.drain()]
            assert [one["errors"] for one in payloads] == [None] * len(payloads)
            got = [one["old_record"] for one in payloads]
            [[has_rls]] = stage.execute(
                "select relrowsecurity from pg_class where oid = 'odd'::regclass"
            )
            policies = stage.execute(
                "select polname, polpermissive, polcmd, polroles::regrole[],"
                " pg_get_expr(polqual, polrelid) from pg_policy where polrelid = 'odd'::regclass"
            )
            assert got == expected[id(seat)], (has_rls, seat.role, seat.claims, policies)


# One at a time.


async def deletes(stage: RlsStage, *roles: str, sub: str = "ann") -> list[list[Any]]:
    """Delete what is in ``notes``; return what a client of each role got of it."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for role in roles:
            client = await stack.enter_async_context(stage.client(sub, role))
            await client.sit(stage.topic("notes"))
            clients.append(client)
        stage.execute("delete from notes")
        await stage.settle()
        return [[f["payload"]["old_record"] for f in await one.drain()] for one in clients]


@pytest.mark.parametrize("names", ["ab", "ba"])
async def test_a_permissive_policy_that_is_true_spares_the_next_as_in_postgresql(
    stage: RlsStage, names: str
) -> None:
    stage.make("notes", "id int primary key", None)
    stage.execute(
        FULL.format("notes"),
        "alter table notes enable row level security",
        f"create policy {names[0]} on notes using (true)",
        f"create policy {names[1]} on notes using (1 / (id - 1) = 0)",
        "insert into notes values (1)",
    )
    with stage.database.connect() as connection:
        connection.execute(f'set role "{stage.reader}"')
        try:
            rows = connection.execute(f"select id from {stage.schema}.notes").fetchall()
        except psycopg.Error:
            rows = []
    assert await deletes(stage, stage.reader) == [[{"id": key} for (key,) in rows]]


async def test_an_error_or_a_sleep_is_as_if_it_could_not_be_seen(stage: RlsStage) -> None:
    policy = (
        "case id when 1 then 1 / (id - 1) = 0 when 2 then pg_sleep(9) is not null else true end"
    )
    stage.make("notes", "id int primary key", policy)
    stage.execute(FULL.format("notes"), "insert into notes select generate_series(1, 3)")
    async with stage.client() as client, stage.client("bob", stage.admin) as admin:
        await client.sit(stage.topic("notes"))
        await admin.sit(stage.topic("notes"))
        payloads = await stage.payloads(admin, "delete from notes")
        assert [one["old_record"] for one in payloads] == [{"id": 1}, {"id": 2}, {"id": 3}]
        frame = await client.receive()
        assert frame["payload"]["old_record"] == {"id": 3}
        # It is asked for apart now, so what comes may come later than others' rows.
        found = await stage.payloads(client, "insert into notes values (4)")
        found = found or [(await client.receive())["payload"]]
        assert [one["record"] for one in found] == [{"id": 4}]


async def test_what_a_policy_looks_for_in_the_table_itself_is_not_there(stage: RlsStage) -> None:
    stage.execute(
        "create function mine(key int) returns boolean language plpgsql security definer as"
        f" $$ begin return exists (select from {stage.schema}.notes"
        f" where id = key and owner = {SUB}); end $$"
    )
    stage.make("notes", "id int primary key, owner text", "mine(id)")
    stage.execute(FULL.format("notes"), "insert into notes values (1, 'ann')")
    assert await deletes(stage, stage.reader, stage.admin) == [[], [{"id": 1, "owner": "ann"}]]


async def test_what_is_not_known_whole_is_told_by_its_key(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text", f"owner = {SUB}")
    stage.execute("insert into notes values (1, 'bob')")
    assert await deletes(stage, stage.reader) == [[{"id": 1}]]
    if stage.database.server.version >= 18:
        # It refuses to delete from a table whose replica identity is not published whole.
        return
    stage.execute(
        FULL.format("notes"),
        "alter table notes add twice int generated always as (id * 2) stored",
        "insert into notes values (1, 'bob')",
    )
    # wal2json has such columns, and publications have not.
    is_whole = stage.server.config.output_plugin is OutputPlugin.WAL2JSON
    assert await deletes(stage, stage.reader) == [[] if is_whole else [{"id": 1}]]


async def test_an_owner_sees_all_unless_it_is_forced(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key", "false")
    stage.execute(
        FULL.format("notes"),
        f'alter table notes owner to "{stage.reader}"',
        "insert into notes values (1)",
    )
    assert await deletes(stage, stage.reader) == [[{"id": 1}]]
    stage.execute("alter table notes force row level security", "insert into notes values (1)")
    assert await deletes(stage, stage.reader) == [[]]


async def test_columns_that_the_role_may_not_select_are_left_out(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text, salary int", f"owner = {SUB}", narrow="id")
    stage.execute(FULL.format("notes"), "insert into notes values (1, 'ann', 5), (2, 'bob', 5)")
    assert await deletes(stage, stage.narrow) == [[{"id": 1}]]


@pytest.mark.parametrize("kind", ["odd", "odd[]", "pair", "span"])
async def test_a_types_check_is_not_run_and_the_key_is_told(stage: RlsStage, kind: str) -> None:
    # What becomes of a sequence is not rolled back.
    stage.execute(
        "create sequence runs",
        "grant all on runs to public",
        "create function count_me(n text) returns bool language plpgsql as $$ begin"
        f" perform nextval('{stage.schema}.runs'); return true; end $$",
        "create domain odd as text check (count_me(value))",
        "create type pair as (a odd)",
        "create type span as range (subtype = text)",
    )
    stage.make("notes", f"id int primary key, n {kind}", "false")
    stage.execute(FULL.format("notes"), "insert into notes values (1)")
    stage.execute("alter sequence runs restart")
    assert await deletes(stage, stage.reader) == [[{"id": 1}]]
    assert stage.execute("select is_called from runs") == [(False,)]


async def test_a_filter_sees_what_its_viewer_could_see(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text, salary int", f"owner = {SUB}")
    stage.execute(FULL.format("notes"), "insert into notes values (1, 'ann', 5), (2, 'bob', 5)")
    async with stage.client("ann") as ann, stage.client("bob") as bob:
        for client in (ann, bob):
            await client.sit(
                stage.topic("notes", "salary=eq.5"), stage.topic("notes", "salary=eq.6")
            )
        payload = {
            "config": {
                "postgres_changes": [
                    {
                        "event": "DELETE",
                        "schema": stage.schema,
                        "table": "notes",
                        "filter": "salary=gt.4",
                    }
                ]
            },
            "access_token": ann.token,
        }
        assert (await ann.try_join("realtime:room", payload))["status"] == "ok"
        frames = await stage.frames(ann, "delete from notes")
        assert [frame["topic"] for frame in frames if frame["event"] != "system"] == [
            stage.topic("notes", "salary=eq.5"),
            "realtime:room",
        ]
        # Nothing is to be said of the filter.
        assert len([frame for frame in frames if frame["event"] == "system"]) == 1
        assert [frame["payload"]["old_record"]["id"] for frame in await bob.drain()] == [2]
