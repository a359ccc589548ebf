"""What each socket gets is what SELECT with its role and claims sees: nothing more, ever.

Random tables, policies, roles, claims, filters and changes. Each write is waited out, so that
the row which is looked up is the one that was written; with RLS_STRICT nothing is waited for.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import pytest_asyncio

from tests.fix_postgres import Server, unique_name
from tests.fix_rls import Stream
from tests.integration.rls_stage import RlsClient, RlsStage, open_rls_stage
from tests.nats_server import NatsServer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
]

ROUNDS = int(os.environ.get("RLS_LEAK_ROUNDS", "2"))
STEPS = 40

POLICIES = [
    "owner = current_setting('request.jwt.claims')::jsonb ->> 'sub'",
    "owner = (select current_setting('request.jwt.claims')::jsonb ->> 'sub')",
    "n % 2 = (current_setting('request.jwt.claims')::jsonb ->> 'odd')::int",
    "n < 4 or owner is null",
    "exists (select from friends f where f.a = owner"
    " and f.b = current_setting('request.jwt.claims')::jsonb ->> 'sub')",
    "current_user like 'narrow%' or body <> 'hidden'",
    "false",
]
# As a topic has it, and in SQL.
FILTERS = [
    ("", "true"),
    ("id=gt.3", "id > 3"),
    ("id=in.(1,2,5)", "id in (1, 2, 5)"),
    ("n=not.eq.2", "not n = 2"),
    ("and(id.lt.7,or(n.eq.1,n.eq.2,n.is.null))", "id < 7 and (n in (1, 2) or n is null)"),
]


@attrs.define(eq=False)
class Seat:
    """A client on a topic, and what it must have got."""

    client: RlsClient
    table: str
    filter: str
    role: str
    claims: dict[str, Any]
    got: list[tuple[str, Any, Any]] = attrs.field(factory=list)
    expected: list[tuple[str, Any]] = attrs.field(factory=list)


class Judge:
    """Says what SELECT shows, on a connection of its own."""

    def __init__(self, stage: RlsStage) -> None:
        self._connection = stage.database.connect()

    def close(self) -> None:
        self._connection.close()

    def visible(self, seat: Seat, key: int) -> dict[str, Any] | None:
        """Return what SELECT as the seat's role, with its claims, sees of a row."""
        run = self._connection.execute
        [passes] = run(
            f"select exists (select from {seat.table} where id = {key} and {seat.filter})"
        ).fetchone() or [False]
        if not passes:
            return None
        columns = ", ".join(sorted(self.allowed(seat)))
        run("select set_config('request.jwt.claims', %s, false)", (json.dumps(seat.claims),))
        run(f'set role "{seat.role}"')
        try:
            row = run(
                f"select to_jsonb(r) from (select {columns} from {seat.table} where id = {key}) r"
            ).fetchone()
        finally:
            run("reset role")
        return None if row is None else row[0]

    def allowed(self, seat: Seat) -> set[str]:
        """Return the columns that the seat's role may SELECT."""
        rows = self._connection.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0"
            " and not attisdropped and has_column_privilege(%s, attrelid, attnum, 'select')",
            (seat.table, seat.role),
        ).fetchall()
        return {row[0] for row in rows}


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["false", "true"])
async def stage(stream: Stream, request: pytest.FixtureRequest) -> AsyncIterator[RlsStage]:
    async with open_rls_stage(stream.server, **stream.settings, RLS_STRICT=request.param) as stage:
        yield stage


async def sit_down(
    stage: RlsStage, stack: contextlib.AsyncExitStack, chance: random.Random, tables: list[str]
) -> list[Seat]:
    seats = []
    servers = itertools.cycle((stage.server, *stage.others))
    for sub in ("ann", "bob", "eve"):
        for role in (stage.reader, stage.narrow, stage.admin):
            odd = chance.randrange(2)
            client = await stack.enter_async_context(
                stage.client(sub, role, server=next(servers), odd=odd)
            )
            claims = {"role": role, "sub": sub, "odd": odd}
            for table in tables:
                text, condition = chance.choice(FILTERS)
                topic = stage.topic(table, *([text] if text else []))
                await client.sit(topic)
                seats.append(Seat(client, f"{stage.schema}.{table}", condition, role, claims))
    return seats


def statement(chance: random.Random, table: str, keys: set[int]) -> tuple[str, str, int]:
    """Return what happens, the statement, and the key of the row."""
    key = chance.randrange(1, 9)
    owner = chance.choice(["'ann'", "'bob'", "null"])
    n = chance.choice(["1", "2", "3", "5", "null"])
    body = chance.choice(["'text'", "'hidden'", "repeat('x', 3000)"])
    if key not in keys:
        keys.add(key)
        return "INSERT", f"insert into {table} values ({key}, {owner}, {n}, {body})", key
    if chance.random() < 0.7:
        change = f"update {table} set owner = {owner}, n = {n}, body = {body} where id = {key}"
        return "UPDATE", change, key
    keys.remove(key)
    return "DELETE", f"delete from {table} where id = {key}", key


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_nothing_more_and_nothing_less(stage: RlsStage, seed: int) -> None:
    await play(stage, seed)


async def test_nor_on_one_of_two_servers_that_share_a_log(pg17: Server, nats: NatsServer) -> None:
    settings = {"NATS_URL": nats.url, "SLOT_NAME": unique_name("cluster")}
    async with open_rls_stage(pg17, others=1, **settings) as stage:
        for seed in range(ROUNDS // 2):
            await play(stage, seed)


async def play(stage: RlsStage, seed: int) -> None:
    chance = random.Random(seed)
    with stage.scene():
        stage.execute(
            "create table friends (a text, b text)",
            "insert into friends values ('ann', 'bob'), ('bob', 'bob')",
            "grant select on friends to public",
        )
        tables = ["one", "two"]
        for table in tables:
            policy = None if chance.random() < 0.2 else chance.choice(POLICIES)
            narrow = chance.choice(["id, n", "id, owner, n, body", "id, n, body"])
            columns = "id int primary key, owner text, n int, body text"
            stage.make(table, columns, policy, narrow=narrow)
            if chance.random() < 0.5:
                stage.execute(f"alter table {table} replica identity full")
        judge = Judge(stage)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(judge.close)
            seats = await sit_down(stage, stack, chance, tables)
            if stage.server.config.rls_strict:
                await play_in_a_hurry(stage, judge, chance, tables, seats)
            else:
                await play_slowly(stage, judge, chance, tables, seats)


async def collect(stage: RlsStage, seats: list[Seat]) -> None:
    by_topic: dict[tuple[int, str], list[Any]] = {}
    for client in {id(seat.client): seat.client for seat in seats}.values():
        for frame in await client.drain():
            payload = frame["payload"]
            assert payload["errors"] is None, payload
            key = (id(client), f"{payload['schema']}.{payload['table']}")
            by_topic.setdefault(key, []).append(
                (payload["type"], payload.get("record"), payload.get("old_record"))
            )
    for seat in seats:
        seat.got += by_topic.get((id(seat.client), seat.table), [])


async def play_slowly(
    stage: RlsStage,
    judge: Judge,
    chance: random.Random,
    tables: list[str],
    seats: list[Seat],
) -> None:
    keys: dict[str, set[int]] = {table: set() for table in tables}
    for _ in range(STEPS):
        table = chance.choice(tables)
        kind, change, key = statement(chance, table, keys[table])
        stage.execute(change)
        await stage.settle()
        name = f"{stage.schema}.{table}"
        for seat in seats:
            if seat.table != name:
                continue
            if kind == "DELETE":
                continue
            row = judge.visible(seat, key)
            if row is not None:
                seat.expected.append((kind, row))
    await collect(stage, seats)
    assert sum(len(seat.expected) for seat in seats) > STEPS
    for seat in seats:
        got = [(kind, record) for kind, record, _ in seat.got if kind != "DELETE"]
        assert got == seat.expected, seat
        check_old_records(stage, judge, seat)


async def play_in_a_hurry(
    stage: RlsStage,
    judge: Judge,
    chance: random.Random,
    tables: list[str],
    seats: list[Seat],
) -> None:
    """Whatever is shown is a version that was visible when it was the newest."""
    keys: dict[str, set[int]] = {table: set() for table in tables}
    seen: dict[int, list[Any]] = {id(seat): [] for seat in seats}
    for _ in range(STEPS):
        table = chance.choice(tables)
        _, change, key = statement(chance, table, keys[table])
        stage.execute(change)
        name = f"{stage.schema}.{table}"
        for seat in seats:
            if seat.table == name and (row := judge.visible(seat, key)) is not None:
                seen[id(seat)].append(row)
    await stage.settle()
    # The newest version of each row has been shown by now.
    await collect(stage, seats)
    for seat in seats:
        shown = [record for kind, record, _ in seat.got if kind != "DELETE"]
        for record in shown:
            assert record in seen[id(seat)], seat
        for key in keys[seat.table.partition(".")[2]]:
            newest = judge.visible(seat, key)
            if newest is not None:
                assert newest in shown, seat
        check_old_records(stage, judge, seat)


def check_old_records(stage: RlsStage, judge: Judge, seat: Seat) -> None:
    """Old rows have the key alone where row level security is on, and never what is hidden."""
    [(has_rls,)] = stage.execute(
        f"select relrowsecurity from pg_class where oid = '{seat.table}'::regclass"
    )
    allowed = judge.allowed(seat)
    for kind, _, old in seat.got:
        if kind == "INSERT":
            assert old is None
        elif has_rls:
            assert old.keys() == {"id"}
        else:
            assert old.keys() <= allowed
