"""The server's own path and realtime.apply_rls say the same of every change.

Where they differ on purpose, :func:`ours` says how.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio
from psycopg import AsyncConnection

from realtime_core import Delete, Insert, RowChange, Update
from realtime_core.filters import Comparison, Filter, Operator, Reference
from realtime_core.pgoutput import ChangeDecoder
from realtime_core.sources.catalog import enum_orders
from realtime_core.wal2json import Wal2JsonDecoder
from realtime_server.config import OutputPlugin
from realtime_server.rls.checker import Checker
from realtime_server.rls.counters import Counters
from realtime_server.rls.lookup.questions import VisibilityAnswer
from realtime_server.rls.lookup.visibility import Visibility
from realtime_server.rls.payloads import ErrorView
from realtime_server.rls.pending_changes import PendingChange
from realtime_server.rls.subscription_rows import condition as condition_of
from realtime_server.rls.viewers import Viewer
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.rls_helpers import at, migrated, roles

pytestmark = [pytest.mark.integration, pytest.mark.pg17]

MAX_RECORD_BYTES = 8000

OPTIONS = """
    'format-version', '2', 'include-transaction', 'true', 'include-timestamp', 'true',
    'include-type-oids', 'true', 'include-pk', 'true', 'include-lsn', 'true',
    'include-xids', 'true', 'numeric-data-types-as-string', 'true',
    'include-domain-data-type', 'true'
"""

OWN = "owner = current_setting('request.jwt.claims')::jsonb ->> 'sub'"


class Bench:
    """A slot, subscribers, and both ways to decide."""

    def __init__(
        self,
        database: Database,
        visibility: Visibility,
        checker: Checker,
        reader: str,
        narrow: str,
        admin: str,
        *,
        plugin: OutputPlugin,
    ) -> None:
        self.database = database
        self.plugin = plugin
        self.connection = database.connect()
        self.visibility = visibility
        self.checker = checker
        self.slot = unique_name("slot")
        self.roles = (reader, narrow, admin)
        self.subscriptions: dict[uuid.UUID, Viewer] = {}
        self.decoder = Wal2JsonDecoder()
        self.stream = ChangeDecoder()
        for slot, name in ((self.slot, "wal2json"), (f"{self.slot}_pgoutput", "pgoutput")):
            self.execute(f"select pg_create_logical_replication_slot('{slot}', '{name}', true)")

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            cursor = self.connection.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
        return rows

    def subscribe(self, table: str) -> None:
        """Subscribe two people of each role."""
        for role in self.roles:
            for sub in ("ann", "bob"):
                viewer = Viewer.of({"role": role, "sub": sub})
                subscription = uuid.uuid4()
                self.connection.execute(
                    "insert into realtime.subscription (subscription_id, entity, claims)"
                    " values (%s, %s::regclass, %s)",
                    (subscription, table, viewer.claims),
                )
                self.subscriptions[subscription] = viewer

    async def look_up(
        self, *asked: Any, may_retry: bool = True, **more: Any
    ) -> list[VisibilityAnswer]:
        """Ask for everybody, however long it takes."""
        return await self.visibility.check(*asked, **more)

    async def compare(self) -> int:
        """Compare the two on every change since the last time; return how many there were."""
        rows = self.connection.execute(
            f"select data from pg_logical_slot_get_changes('{self.slot}', null, null, {OPTIONS})"
        ).fetchall()
        texts, changes = [], []
        for (text,) in rows:
            [event] = self.decoder.feed(text)
            if isinstance(event, Insert | Update | Delete) and event.relation.schema == "public":
                texts.append(text)
                changes.append(event)
        if self.plugin is OutputPlugin.PGOUTPUT:
            changes = self._changes_of_pgoutput()
        for text, change in zip(texts, changes, strict=True):
            await self._compare(text, change)
        return len(texts)

    def _changes_of_pgoutput(self) -> list[RowChange]:
        """Return the same changes as pgoutput writes them."""
        rows = self.connection.execute(
            f"select data from pg_logical_slot_get_binary_changes('{self.slot}_pgoutput', null,"
            " null, 'proto_version', '1', 'publication_names', 'shop')"
        ).fetchall()
        return [
            event
            for event in self.stream.decode([row[0] for row in rows])
            if isinstance(event, Insert | Update | Delete) and event.relation.schema == "public"
        ]

    def _payloads(self, text: str, change: RowChange, most: int) -> dict[Viewer, Any]:
        """Return what apply_rls says, of a change of at most so many bytes as a whole."""
        payloads: dict[Viewer, Any] = {}
        for wal, is_rls_enabled, ids, errors in self.connection.execute(
            "select wal::text, is_rls_enabled, subscription_ids, errors"
            " from realtime.apply_rls(%s::jsonb, %s)",
            (text, most),
        ):
            for subscription in ids:
                payload = ours(exactly(wal), is_rls_enabled, errors)
                payloads[self.subscriptions[subscription]] = payload
                if self.plugin is OutputPlugin.PGOUTPUT:
                    # Columns that have come since then are not in the change.
                    payload["columns"] = [
                        column
                        for column in payload["columns"]
                        if column["name"] in change.relation.shape.index
                    ]
        return payloads

    async def _compare(self, text: str, change: RowChange) -> None:
        entity = f'"{change.relation.schema}"."{change.relation.table}"'
        whole = self._payloads(text, change, 1 << 30)
        short = self._payloads(text, change, MAX_RECORD_BYTES)
        # What a viewer is not shown makes no change too large for it.
        expected = {
            viewer: short[viewer] if size_of(payload) > MAX_RECORD_BYTES else payload
            for viewer, payload in whole.items()
        }
        subscribed = {
            self.subscriptions[row[0]]
            for row in self.connection.execute(
                "select subscription_id from realtime.subscription where entity = %s::regclass",
                (entity,),
            )
        }
        candidate = PendingChange(change, len(text.encode()), frozenset(subscribed))
        [shown] = (await self.checker.check([candidate], self.look_up)).shown
        found = {}
        for viewer, view in shown.items():
            is_error = isinstance(view, ErrorView)
            payload = view.payload(has_time=False) if is_error else view.payload()
            found[viewer] = exactly(payload.decode())
        for payload in found.values():
            assert payload.pop("position").startswith(f"{change.transaction.commit_lsn}:")
        assert found == expected, text


def size_of(payload: dict[str, Any]) -> int:
    """Return about how many bytes the values of a payload have."""
    rows = (payload.get("record", {}), payload.get("old_record", {}))
    return sum(len(str(value).encode()) for row in rows for value in row.values())


def exactly(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def ours(wal: dict[str, Any], is_rls_enabled: bool, errors: list[str]) -> dict[str, Any]:
    """Turn what apply_rls says into the payload of a frame."""
    event = wal["type"]
    wal["errors"] = errors or None
    if "columns" not in wal:
        wal["columns"] = []
        wal["commit_timestamp"] = None
        if event != "DELETE":
            wal["record"] = {}
        if event != "INSERT":
            wal["old_record"] = {}
    elif event == "UPDATE" and is_rls_enabled:
        # The old values may have been another owner's: the primary key alone goes out.
        wal["old_record"] = {k: v for k, v in wal["old_record"].items() if k in ("id", "id2")}
    elif event == "DELETE" and is_rls_enabled:
        # How large the rest of it was is not told.
        wal["errors"] = None
    return wal


@pytest_asyncio.fixture(params=OutputPlugin)
async def bench(pg17: Server, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    plugin = request.param
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    with (
        roles(pg17, "Reader", "narrow") as (reader, narrow),
        roles(pg17, "admin", options="bypassrls") as (admin,),
        fresh_database(pg17) as database,
    ):
        await migrated(database.dsn)
        database.execute("create publication shop for all tables")
        async with Visibility(at(database.dsn), timeout=20) as visibility:
            checker = Checker(
                visibility,
                Counters(),
                publications=["shop"] if plugin is OutputPlugin.WAL2JSON else (),
                max_record_bytes=MAX_RECORD_BYTES,
            )
            bench = Bench(database, visibility, checker, reader, narrow, admin, plugin=plugin)
            yield bench
            bench.connection.close()


def grant(bench: Bench, table: str, columns: str = "id") -> None:
    reader, narrow, admin = bench.roles
    bench.execute(f'grant select on {table} to "{reader}", "{admin}"')
    bench.execute(f'grant select ({columns}) on {table} to "{narrow}"')


@pytest.mark.parametrize("identity", ["default", "full"])
@pytest.mark.parametrize("has_rls", [True, False])
async def test_inserts_updates_and_deletes(bench: Bench, identity: str, has_rls: bool) -> None:
    bench.execute(
        "create table notes (id int primary key, owner text, body text)",
        f"alter table notes replica identity {identity}",
        f"create policy own on notes using ({OWN})",
        "create policy empty on notes as restrictive using (body <> 'hidden')",
        *(["alter table notes enable row level security"] if has_rls else []),
    )
    grant(bench, "notes", "id, body")
    bench.subscribe("notes")
    steps = [
        "insert into notes values (1, 'ann', 'a'), (2, 'bob', 'b'), (3, 'ann', 'hidden')",
        "insert into notes values (4, null, repeat('x', 20000))",
        "update notes set body = 'c' where id = 1",
        "update notes set owner = 'bob' where id = 1",
        "update notes set id = 9 where id = 2",
        "delete from notes where id in (1, 4)",
    ]
    compared = 0
    for step in steps:
        bench.execute(step)
        compared += await bench.compare()
    assert compared == 9


async def test_no_primary_key_and_one_that_may_not_be_selected(bench: Bench) -> None:
    bench.execute(
        "create table bare (id int, body text)",
        "create table hidden (id int, id2 int, body text, primary key (id, id2))",
        "alter table hidden enable row level security",
        "create policy all_of_it on hidden using (true)",
    )
    grant(bench, "bare")
    grant(bench, "hidden", "id, body")
    bench.subscribe("bare")
    bench.subscribe("hidden")
    bench.execute(
        "alter table bare replica identity full",
        "insert into bare values (1, 'x')",
        "update bare set body = 'y'",
        "delete from bare",
        "insert into hidden values (1, 2, 'x')",
        "update hidden set body = 'y'",
        "delete from hidden",
    )
    assert await bench.compare() == 6


async def test_a_role_that_may_not_select_the_key(bench: Bench) -> None:
    bench.execute("create table notes (id int primary key, body text)")
    grant(bench, "notes", "body")
    bench.subscribe("notes")
    bench.execute(
        "insert into notes values (1, 'x')", "update notes set body = 'y'", "delete from notes"
    )
    assert await bench.compare() == 3


async def test_large_records_keep_their_short_values(bench: Bench) -> None:
    bench.execute(
        "create table large (id int primary key, long text, short text, none text, nums int[],"
        " doc jsonb, more jsonb)",
        "alter table large replica identity full",
    )
    grant(bench, "large")
    bench.subscribe("large")
    bench.execute(
        "insert into large values (1, repeat('x', 10000), 'short', null,"
        " array(select generate_series(10, 24)), '{\"a\": [1, 2]}', to_jsonb(repeat('é', 40)))",
        "update large set short = repeat('y', 62)",
        "update large set short = repeat('y', 63)",
        "delete from large",
    )
    assert await bench.compare() == 4


async def test_unchanged_toast(bench: Bench) -> None:
    bench.execute(
        "create table toast (id int primary key, long text, n int)",
        "alter table toast alter long set storage external",
    )
    grant(bench, "toast")
    bench.subscribe("toast")
    bench.execute(
        "insert into toast values (1, repeat('x', 3000), 1)",
        "update toast set n = 2",
        "alter table toast replica identity full",
        "update toast set n = 3",
    )
    assert await bench.compare() == 3


async def test_columns_that_come_and_go(bench: Bench) -> None:
    """The changes are older than the table as it is now."""
    bench.execute("create table notes (id int primary key, a text, b int)")
    grant(bench, "notes")
    bench.subscribe("notes")
    bench.execute(
        "insert into notes values (1, 'x', 1)",
        "alter table notes drop column a",
        "alter table notes add column c date default current_date",
        "insert into notes values (2, 2)",
    )
    assert await bench.compare() == 2


TYPES = """
    a int2, b int8, c numeric, d float4, e float8, f boolean, g text, h varchar(20), i char(6),
    j bytea, k uuid, l json, m jsonb, n date, o time, p timetz, q timestamp, r timestamptz,
    s interval, t int[], u text[], v numeric[], w jsonb[], x int4range, y inet, z money,
    aa mood, ab mood[], ac code, ad code[], ae pair, af pair[], ag hstore, ah citext,
    ai box[], aj bit(3), ak xml, al tsvector, am oid, an name, ao codes, ap "char", aq point,
    ar int8multirange, at macaddr, au pg_lsn, av int2vector, aw bool[], ax timestamptz[]
"""

VALUES = [
    """
    -32768, 9223372036854775807, 12345678901234567890.123456789, 1.5, 1e300, true, 'é"\\\n',
    'x', 'ab', '\\x00ff', '11111111-2222-3333-4444-555555555555', '{"a": 1,  "b": [null]}',
    '{"b": 1.50, "a": "x"}', '2026-11-24', '05:36:00.5', '05:36:00+02', '2026-11-24 05:36:00.5',
    '2026-11-24 05:36:00.5+02', '1 year 2 days 03:04:05.6', '{1,NULL,3}', '{"a b",NULL,"\\"","{}"}',
    '{1.50,NaN}', array['{"a": 1}', 'null', '"x"']::jsonb[], '[1,5)', '10.0.0.1', '12.50',
    'glad', '{glad,sad}', 7, '{7,8}', '(1,"a,b")', array['(1,x)', null]::pair[], 'a=>1, b=>NULL',
    'MiXed', '{(1,1),(0,0);(2,2),(0,0)}', '101', '<a/>', 'a:1 b', 42, 'name', '{1,2}', 'z',
    '(1,2)', '{[1,3),[5,9)}', '08:00:2b:01:02:03', '16/B374D848', '1 2', '{t,f}',
    '{"2026-01-01 00:00+00"}'
    """,
    """
    0, 9007199254740993, 'NaN', 'Infinity', '-Infinity', false, '', '', '', '', null, 'null',
    'null', 'infinity', '24:00:00', null, '-infinity', '0044-03-15 00:00 BC', '-1 mon', '{}',
    '[0:1]={a,b}', '{{1.0,2},{3,4}}', '{}', 'empty', '::1/64', '-1', 'sad', '{}', 0, null,
    '(,)', '{}', '', '', null, '000', null, '', 0, '', '{}', '', '(0,0)', '{}', null, '0/0', '',
    '{}', '{infinity}'
    """,
]


async def test_values_of_every_type(bench: Bench) -> None:
    bench.execute(
        "create extension hstore",
        "create extension citext",
        "create type mood as enum ('sad', 'glad')",
        "create domain code as int check (value < 1000)",
        "create domain codes as int[]",
        "create type pair as (n int, t text)",
        f"create table types (id int primary key, {TYPES})",
        "alter table types replica identity full",
    )
    grant(bench, "types")
    bench.subscribe("types")
    for place, values in enumerate(VALUES):
        bench.execute(f"insert into types values ({place}, {values})")
    bench.execute("insert into types (id) values (9)", "delete from types")
    assert await bench.compare() == 6


FILTERED = {
    "int4": ["-1", "0", "7"],
    "int8": ["9007199254740993", "9007199254740992"],
    "numeric": ["1.50", "1.5", "NaN", "-2"],
    "float8": ["0.1", "1e300", "Infinity"],
    "bool": ["t", "false"],
    "text": ["a", "B", "é", "", 'q"\\,{}'],
    "varchar(5)": ["a", "ab"],
    "char(4)": ["ab", "ab  ", "abc"],
    "uuid": ["11111111-2222-3333-4444-555555555555", "{AAAAAAAA-2222-3333-4444-555555555555}"],
    "date": ["2026-11-24", "infinity"],
    "timestamptz": ["2026-11-24 05:36:00+00", "2026-11-24T07:36:00+02:00"],
    "interval": ["1 day", "24:00:00", "1 mon"],
    "jsonb": ['{"a": 1}', '{"a":1.0}', '"x"'],
    "mood": ["sad", "glad"],
    "code": ["7", "8"],
    "citext": ["MiXed", "mixed", "other", "ÜBER"],
    "address": ["A@b", "a@B", "c"],
    "bytea": ["\\x00ff", "\\x00fe"],
    "inet": ["10.0.0.1", "10.0.0.0/8"],
}
OPERATORS = ["eq", "neq", "lt", "lte", "gt", "gte", "in"]


async def test_filters(bench: Bench) -> None:
    """The engine and the database's own comparison say the same of each row."""
    bench.execute(
        "create extension citext",
        "create type mood as enum ('sad', 'glad')",
        "create domain code as int check (value < 1000)",
        "create domain address as citext check (value <> 'nowhere')",
    )
    columns = {f"c{place}": kind for place, kind in enumerate(FILTERED)}
    described = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    bench.execute(f"create table filtered (id int primary key, {described})")
    bench.execute("alter table filtered replica identity full")
    grant(bench, "filtered")
    claims = json.dumps({"role": bench.roles[0]})
    filters: dict[uuid.UUID, Filter] = {}
    for name, kind in columns.items():
        for operator in OPERATORS:
            for value in FILTERED[kind]:
                literal: Any = (value,) if operator == "in" else value
                node = Comparison(Reference(name), Operator(operator), literal)
                filter_ = Filter(node, str(node))
                condition = condition_of(node)
                assert condition is not None
                subscription = uuid.uuid4()
                bench.connection.execute(
                    "insert into realtime.subscription"
                    " (subscription_id, entity, claims, filters) values (%s, 'filtered', %s,"
                    " array[(%s, %s, %s)::realtime.user_defined_filter])",
                    (subscription, claims, *condition),
                )
                filters[subscription] = filter_
    for place in range(5):
        values = [texts[place % len(texts)] for texts in FILTERED.values()]
        bench.connection.execute(
            f"insert into filtered values ({place}{', %s' * len(values)})", values
        )
    bench.execute("insert into filtered (id) values (9)", "delete from filtered where id = 1")
    async with await AsyncConnection.connect(bench.database.dsn) as connection:
        enums = await enum_orders(connection)
    compared = 0
    # Types have their schemas then, as for the server.
    bench.execute("set search_path = ''")
    rows = bench.execute(
        f"select data from pg_logical_slot_get_changes('{bench.slot}', null, null, {OPTIONS})"
    )
    bench.execute("reset search_path")
    for (text,) in rows:
        for change in bench.decoder.feed(text):
            if not isinstance(change, Insert | Update | Delete):
                continue
            if change.relation.table != "filtered":
                continue
            [(ids,)] = bench.connection.execute(
                "select subscription_ids from realtime.apply_rls(%s::jsonb)", (text,)
            ).fetchall()
            for subscription, filter_ in filters.items():
                passes = filter_.compile(change.relation, enums=enums).passes(change)
                assert (subscription in ids) == passes, (str(filter_), text)
                compared += 1
    assert compared == 7 * len(filters)


async def test_random_changes(bench: Bench) -> None:
    """Many tables, many policies, many changes: and each time the same answer."""
    chance = random.Random(8)
    policies = [
        OWN,
        "owner = (select current_setting('request.jwt.claims')::jsonb ->> 'sub')",
        "n % 2 = 0",
        "n < 5 or owner is null",
        "current_user like 'Reader%'",
        "exists (select from friends f where f.owner = random.owner)",
    ]
    bench.execute("create table friends (id int primary key, owner text)")
    bench.execute("insert into friends values (1, 'ann')", "grant select on friends to public")
    total = 0
    for number in range(6):
        bench.execute("drop table if exists random cascade")
        key = chance.choice(["primary key (id)", "primary key (id, owner)", "unique (id)"])
        bench.execute(
            f"create table random (id int, owner text default '', n int, body text, {key})",
            f"alter table random replica identity {chance.choice(['full', 'default'])}"
            if "primary" in key
            else "alter table random replica identity full",
            f"create policy p on random using ({policies[number]})",
        )
        if chance.random() < 0.8:
            bench.execute("alter table random enable row level security")
        grant(bench, "random", chance.choice(["id", "id, owner", "id, n, body", "body"]))
        bench.subscribe("random")
        statements = [_statement(chance) for _ in range(40)]
        bench.execute(*statements)
        total += await bench.compare()
    assert total > 100


def _statement(chance: random.Random) -> str:
    row, owner = chance.randrange(8), chance.choice(["ann", "bob", ""])
    match chance.randrange(4):
        case 0 | 1:
            size = chance.choice([3, 3, 3, 9000])
            return (
                f"insert into random values ({row}, '{owner}', {chance.randrange(9)},"
                f" repeat('x', {size})) on conflict do nothing"
            )
        case 2:
            return (
                f"update random set n = n + 1, owner = '{owner}' where id = {row} and not"
                f" exists (select from random r where r.id = {row} and r.owner = '{owner}')"
            )
        case _:
            return f"delete from random where id = {row}"


async def test_two_databases_do_not_disturb_each_other(bench: Bench) -> None:
    """Many decisions at once share the connections, and none of what they are set to."""
    bench.execute(
        "create table notes (id int primary key, owner text)",
        f"create policy own on notes using ({OWN})",
        "alter table notes enable row level security",
    )
    grant(bench, "notes")
    bench.execute("insert into notes select i, 'ann' from generate_series(1, 50) i")
    rows = bench.execute(
        f"select data from pg_logical_slot_get_changes('{bench.slot}', null, null, {OPTIONS})"
    )
    changes = [event for (text,) in rows for event in bench.decoder.feed(text)]
    viewers = [Viewer.of({"role": bench.roles[0], "sub": sub}) for sub in ("ann", "bob")]
    batches = [
        [
            PendingChange(change, 1, frozenset(viewers))
            for change in changes
            if isinstance(change, Insert)
        ]
        for _ in range(20)
    ]
    for verdict in await asyncio.gather(
        *(bench.checker.check(one, bench.look_up) for one in batches)
    ):
        assert len(verdict.shown) >= 50
        for candidate, shown in zip(batches[0], verdict.shown, strict=True):
            mine = candidate.change.relation.table == "notes"
            assert shown.keys() == ({viewers[0]} if mine else set())
