"""Joins in STREAM mode are held against the database's tables: what can never come is said."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest
from psycopg import AsyncConnection

from realtime_server.config.database.tables import Table, TableName
from realtime_server.fanout.stream import table_lookup as lookup
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server
from tests.integration.conftest import Stage, fresh_database, until_streaming
from tests.proxy import Proxy
from tests.server_helpers import DEADLINE, PhoenixClient, dev_config, open_client
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ROOM = "realtime:room"

TABLES = (
    "create table item (id int primary key, details text, hidden text, "
    "twice int generated always as (id * 2) stored)",
    "create view seen as select * from item",
    "create unlogged table draft (id int primary key)",
    "create table part (id int, kind int, primary key (id, kind)) partition by list (kind)",
    "create table part_1 partition of part for values in (1)",
)


async def answer(client: PhoenixClient, topic: str, payload: dict[str, Any]) -> Any:
    """Join; return the reply's payload."""
    await client.send(topic, "phx_join", payload, ref="1", join_ref="1")
    return payload_of(await client.receive())


async def join(client: PhoenixClient, *bindings: dict[str, Any], topic: str = ROOM) -> None:
    """Join with bindings, which are in place at once."""
    assert (await answer(client, topic, config(*bindings)))["status"] == "ok"
    assert payload_of(await client.receive())["message"] == "Subscribed to PostgreSQL"


def payload_of(frame: Any) -> Any:
    return frame["payload"] if isinstance(frame, dict) else frame[4]


def config(*bindings: dict[str, Any]) -> dict[str, Any]:
    return {"config": {"postgres_changes": list(bindings)}}


def refusal(reason: str) -> dict[str, Any]:
    return {"status": "error", "response": {"reason": reason}}


async def told(client: PhoenixClient) -> str:
    """Return what ``system`` says next to be wrong."""
    payload = payload_of(await client.receive())
    assert (payload["extension"], payload["status"]) == ("postgres_changes", "error")
    return str(payload["message"])


MISFITS = [
    ("item", "nowhere=eq.1", "invalid column for filter nowhere"),
    ("item", "or=(id.eq.1,nowhere.is.null)", "invalid column for filter nowhere"),
    # The stream has none.
    ("item", "twice=eq.4", "invalid column for filter twice"),
    (
        "item",
        "id=eq.x",
        "cannot filter by 'id=eq.x': 'x' cannot be read as int4: it is not an integer "
        "(at character 7 of 'id=eq.x')",
    ),
    (
        "item",
        "details=is.true",
        "cannot filter by 'details=is.true': details is text, not boolean, which is.true is for "
        "(at character 9 of 'details=is.true')",
    ),
]
ABSENT = [
    ("nothing", "there is no table {schema}.nothing"),
    ("seen", "there is no table {schema}.seen"),
    ("draft", "table {schema}.draft is not published; add it to the publication"),
    (
        "part",
        "table {schema}.part is not published under its own name; see whether it is added to the "
        "publication, and what publish_via_partition_root is",
    ),
]


@pytest.mark.parametrize(("table", "filter", "reason"), MISFITS)
async def test_a_filter_that_does_not_fit_is_refused_in_a_topic_and_in_a_binding(
    stage: Stage, table: str, filter: str, reason: str
) -> None:
    stage.execute(*TABLES)
    binding = {"event": "*", "schema": stage.schema, "table": table, "filter": filter}
    async with stage.client() as client:
        topic = f"{stage.topic(table)}:{filter}"
        assert await answer(client, topic, {}) == refusal(reason)
        assert await answer(client, ROOM, config(binding)) == refusal(reason)


async def test_a_selected_column_that_is_not_sent_is_refused(stage: Stage) -> None:
    stage.database.server.needs(15, "a column list")
    stage.execute(*TABLES)
    whole = {"event": "*", "schema": stage.schema, "table": "item"}
    async with stage.client() as client:
        for name in ("nowhere", "twice"):
            wanted = config(whole, {**whole, "select": ["id", name]})
            reason = f"invalid column for select {name}"
            assert await answer(client, ROOM, wanted) == refusal(reason)
        await join(client, whole, {**whole, "select": ["id", "details"]})


@pytest.mark.parametrize(("table", "reason"), ABSENT)
async def test_a_binding_to_what_has_no_changes_is_refused_and_a_topic_told(
    stage: Stage, table: str, reason: str
) -> None:
    stage.execute(*TABLES)
    reason = reason.format(schema=stage.schema)
    async with stage.client() as client:
        binding = {"event": "INSERT", "schema": stage.schema, "table": table}
        assert await answer(client, ROOM, config(binding)) == refusal(reason)
        for topic in (stage.topic(table), stage.topic(table, "id", "1")):
            assert (await answer(client, topic, {}))["status"] == "ok"
            assert await told(client) == reason


async def test_what_is_there_is_joined_without_a_word(stage: Stage) -> None:
    stage.execute(*TABLES)
    async with stage.client() as client:
        topics = ["realtime:", "realtime:*", "realtime:elsewhere", stage.topic()]
        topics += [stage.topic("item"), stage.topic("item", "id", "1"), stage.topic("part_1")]
        for topic in topics:
            assert (await answer(client, topic, {}))["status"] == "ok"
        assert await stage.frames(client) == []


async def test_a_column_that_no_change_has_shown_yet_is_joined_and_served(stage: Stage) -> None:
    stage.execute("create table item (id int primary key)", "insert into item values (1)")
    await stage.settle()
    binding = {"event": "*", "schema": stage.schema, "table": "item"}
    async with stage.client() as client:
        # One that keeps what the server knows of the table from being forgotten.
        await client.join(stage.topic("item", "id", "0"))
        stage.execute("alter table item add extra text")
        topic = stage.topic("item", "extra", "x")
        assert (await answer(client, topic, {}))["status"] == "ok"
        chosen = [{**binding, "filter": "extra=eq.x"}, {**binding, "select": ["extra"]}]
        await join(client, *chosen)
        frames = await stage.frames(client, "insert into item values (2, 'x')")
        events = [(frame["topic"], frame["event"]) for frame in frames]
        assert events == [
            (topic, "INSERT"),
            (ROOM, "postgres_changes"),
            (ROOM, "postgres_changes"),
        ]


async def test_a_refusal_is_never_what_was_true_before(stage: Stage) -> None:
    stage.execute("create table item (id int primary key)")
    binding = {"event": "*", "schema": stage.schema, "table": "item"}
    late = [
        {**binding, "filter": "extra=eq.1"},
        {**binding, "select": ["extra"]},
        {**binding, "table": "later"},
    ]
    async with stage.client() as client:
        await join(client, binding)
        for each in late:
            assert (await answer(client, "realtime:hall", config(each)))["status"] == "error"
        stage.execute("alter table item add extra int", "create table later (id int)")
        for each in late:
            await join(client, each, topic="realtime:hall")


async def test_names_that_cannot_be_are_not_there(stage: Stage) -> None:
    async with stage.client() as client:
        for name in ("a\0b", "\x7f\u202e", "x" * 4000, "", "%s", '"; drop table item'):
            binding = {"event": "*", "schema": stage.schema, "table": name}
            reason = f"there is no table {stage.schema}.{name}"
            assert await answer(client, ROOM, config(binding)) == refusal(reason)


@contextlib.asynccontextmanager
async def serving(database: Database, dsn: str = "", **settings: str) -> AsyncIterator[int]:
    """Serve a database; give the port."""
    async with RealtimeServer(dev_config(dsn or database.dsn, **settings)) as server:
        yield server.port


async def test_columns_and_tables_that_are_not_published_are_not_there(pg: Server) -> None:
    pg.needs(15, "a column list")
    with fresh_database(pg) as database:
        database.execute(";".join(TABLES))
        database.execute("create publication shop for table item (id, details)")
        database.execute("create table other (id int primary key)")
        binding = {"event": "*", "schema": "public", "table": "item"}
        async with serving(database) as port, open_client(port) as client:
            await until_streaming(database)
            absent = "table public.other is not published; add it to the publication"
            for more, reason in (
                ({"filter": "hidden=eq.x"}, "invalid column for filter hidden"),
                ({"select": ["hidden"]}, "invalid column for select hidden"),
                ({"table": "other"}, absent),
            ):
                wanted = config({**binding, **more})
                assert await answer(client, ROOM, wanted) == refusal(reason)
            assert (await answer(client, "realtime:public:other", {}))["status"] == "ok"
            assert await told(client) == absent
            # A topic's client need not join again.
            database.execute("alter publication shop add table other")
            database.execute("insert into other values (1)")
            assert (await client.receive())["event"] == "INSERT"


async def test_several_publications_are_one(one_pg: Server) -> None:
    with fresh_database(one_pg) as database:
        database.execute("create table one (id int primary key)")
        database.execute("create table two (id int primary key)")
        database.execute("create publication first for table one")
        database.execute("create publication second for table two")
        names = '["first", "second"]'
        async with serving(database, PUBLICATIONS=names) as port, open_client(port) as client:
            await until_streaming(database)
            for name in ("one", "two"):
                topic = f"realtime:public:{name}:id=eq.1"
                assert (await answer(client, topic, {}))["status"] == "ok"
                database.execute(f"insert into {name} values (1)")
                assert (await client.receive())["topic"] == topic


async def test_partitions_may_be_published_as_their_table(pg: Server) -> None:
    with fresh_database(pg) as database:
        database.execute(";".join(TABLES))
        database.execute("create publication shop for table part with (publish_via_partition_root)")
        async with serving(database) as port, open_client(port) as client:
            await until_streaming(database)
            binding = {"event": "*", "schema": "public", "table": "part_1"}
            assert await answer(client, ROOM, config(binding)) == refusal(
                "table public.part_1 is not published under its own name; see whether it is added "
                "to the publication, and what publish_via_partition_root is"
            )
            topic = "realtime:public:part:kind=eq.1"
            assert (await answer(client, topic, {}))["status"] == "ok"
            database.execute("insert into part values (7, 1)")
            assert (await client.receive())["topic"] == topic


async def test_an_enum_that_was_made_since_the_server_came_is_compared_in_its_order(
    one_stage: Stage,
) -> None:
    one_stage.execute(
        "create type mood as enum ('sad', 'ok', 'happy')",
        "create table person (id int primary key, mood mood, days mood[])",
    )
    async with one_stage.client() as client:
        names = [f"{one_stage.topic('person')}:{text}" for text in ("mood=gt.ok", "days=gt.{sad}")]
        for name in names:
            assert (await answer(client, name, {}))["status"] == "ok"
        frames = await one_stage.frames(client, "insert into person values (1, 'happy', '{ok}')")
        assert [frame["topic"] for frame in frames] == names


class Counted:
    """Counts the questions that the database is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.questions: list[set[TableName]] = []
        real = lookup.read_tables

        async def read(
            connection: AsyncConnection[Any],
            names: Collection[TableName],
            roles: Collection[str],
            publications: Collection[str],
        ) -> dict[TableName, Table]:
            self.questions.append(set(names))
            return await real(connection, names, roles, publications)

        monkeypatch.setattr(lookup, "read_tables", read)


async def test_many_that_join_at_once_are_a_few_questions(
    one_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_stage.execute(*TABLES)
    counted = Counted(monkeypatch)
    topics = [
        one_stage.topic("item"),
        one_stage.topic("item", "id", "1"),
        one_stage.topic("part_1"),
    ]
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(one_stage.client()) for _ in range(100)]
        for topic in topics:
            for client in clients:
                await client.send(topic, "phx_join", {}, ref="1")
        for client in clients:
            for _ in topics:
                assert payload_of(await client.receive())["status"] == "ok"
    # Of each of two tables, by who came first and by those who came while that was answered; a
    # machine that is busy may need some more for 300 joins.
    assert 1 <= len(counted.questions) <= 20
    known = {(one_stage.schema, "item"), (one_stage.schema, "part_1")}
    assert set().union(*counted.questions) == known


async def test_many_that_are_refused_share_their_questions(
    one_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    binding = {"event": "*", "schema": one_stage.schema, "table": "nothing"}
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(one_stage.client()) for _ in range(100)]
        for client in clients:
            await client.send(ROOM, "phx_join", config(binding), ref="1")
        for client in clients:
            assert payload_of(await client.receive())["status"] == "error"
    assert 1 <= len(counted.questions) < 50


async def test_a_name_that_the_databases_encoding_does_not_have_spoils_nobodys_join(
    one_pg: Server,
) -> None:
    with fresh_database(one_pg, "encoding 'LATIN1' locale 'C' template template0") as database:
        database.execute("create table item (id int primary key)")
        database.execute("create publication shop for table item")
        async with serving(database) as port, open_client(port) as client:
            await until_streaming(database)
            good, bad = ({"schema": "public", "table": name} for name in ("item", "漢字"))
            assert await answer(client, ROOM, config(good, bad)) == refusal(
                "there is no table public.漢字"
            )
            await join(client, good)


async def test_a_name_that_no_table_can_have_does_not_make_others_be_asked_for_one_by_one(
    one_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    tables = ["no\0table", *(f"nothing{number}" for number in range(99))]
    bindings = [{"event": "*", "schema": one_stage.schema, "table": table} for table in tables]
    async with one_stage.client() as client:
        reply = await answer(client, ROOM, config(*bindings))
        reason = f"there is no table {one_stage.schema}.no\0table"
        assert reply == refusal(reason)
    # Who asks while a question is under way waits for the next one.
    assert len(counted.questions) <= 3


# The database cannot be asked.


@contextlib.asynccontextmanager
async def through_a_proxy(server: Server) -> AsyncIterator[tuple[Database, Proxy, int]]:
    """Serve a database through a proxy that closes every new connection, once it streams."""
    with fresh_database(server) as database:
        database.execute("create table item (id int primary key)")
        database.execute("create publication shop for table item")
        async with Proxy() as proxy, serving(database, proxy.lead_to(database.dsn)) as port:
            await until_streaming(database)
            yield database, proxy, port


async def test_where_the_database_cannot_be_asked_joins_are_accepted_and_judged_later(
    one_pg: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "realtime.catalog")
    item = {"event": "*", "schema": "public", "table": "item"}
    async with (
        through_a_proxy(one_pg) as (database, proxy, port),
        open_client(port) as client,
        open_client(port) as other,
    ):
        proxy.refusing = True
        joins = {
            "realtime:public:nothing": {},
            "realtime:public:item:nowhere=eq.1": {},
            ROOM: config({**item, "filter": "id=eq.x"}),
        }
        for topic, payload in joins.items():
            assert (await answer(client, topic, payload))["status"] == "ok"
        assert payload_of(await client.receive())["message"] == "Subscribed to PostgreSQL"
        # What was joined rightly is served, and hears nothing.
        assert (await answer(other, "realtime:public:item", {}))["status"] == "ok"
        database.execute("insert into item values (1)")
        assert (await other.receive())["event"] == "INSERT"
        # The filters are held against what the change tells.
        assert await told(client) == (
            "public.item has no column 'nowhere'; it has id (at character 1 of 'nowhere=eq.1')"
        )
        assert "does not fit it: 'x' cannot be read as int4" in await told(client)
        proxy.refusing = False
        assert {await told(client) for _ in joins} == {
            "there is no table public.nothing",
            "invalid column for filter nowhere",
            "cannot filter by 'id=eq.x': 'x' cannot be read as int4: it is not an integer "
            "(at character 7 of 'id=eq.x')",
        }
        # From now on joins are refused at once again.
        bad = config({**item, "table": "nothing"})
        assert await answer(other, ROOM, bad) == refusal("there is no table public.nothing")
        database.execute("insert into item values (2)")
        assert (await other.receive())["payload"]["record"] == {"id": "2"}
    lines = [record.message for record in caplog.records if record.name == "realtime.catalog"]
    assert len(lines) == 2
    assert lines[0].startswith(
        "joins are accepted unchecked while the database cannot be queried: "
    )
    assert lines[1] == "joins are checked against the database again"


async def test_a_connection_that_has_died_is_made_anew(one_stage: Stage) -> None:
    one_stage.execute("create table item (id int primary key)")
    kill = (
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
        " where datname = current_database() and application_name = 'realtime_server catalog'"
    )
    async with one_stage.client() as client:
        for _ in range(3):
            binding = {"event": "*", "schema": one_stage.schema, "table": "nothing"}
            assert (await answer(client, ROOM, config(binding)))["status"] == "error"
            assert one_stage.execute(kill) == [(True,)]


async def test_nobody_waits_long_for_a_database_that_says_nothing(
    one_pg: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with through_a_proxy(one_pg) as (_, proxy, port), open_client(port) as client:
        topic = "realtime:public:nothing"
        await answer(client, topic, {})
        assert await told(client) == "there is no table public.nothing"
        proxy.stall()
        begun = time.monotonic()
        assert (await answer(client, topic, {}))["status"] == "ok"
        first = time.monotonic() - begun
        # Clients give a join up after ten seconds.
        assert first < 5
        for number in range(5):
            assert (await answer(client, f"{topic}{number}", {}))["status"] == "ok"
        assert time.monotonic() - begun - first < 5
        assert "while the database cannot be queried: it takes more than 1 s" in caplog.text
        proxy.flow()
        assert {await told(client) for _ in range(6)} == {
            f"there is no table public.nothing{number}" for number in ["", *range(5)]
        }


@pytest.mark.usefixtures("impatient")
async def test_while_the_publication_is_missing_nobody_is_told_that_a_table_is_not_in_it(
    one_pg: Server,
) -> None:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int primary key)")
        database.execute("create table other (id int primary key)")
        binding = {"event": "*", "schema": "public", "table": "item"}
        async with serving(database) as port, open_client(port) as client:
            # But what the publication has nothing to do with.
            for wrong, reason in (
                ({"table": "nothing"}, "there is no table public.nothing"),
                ({"table": "", "schema": "realtime"}, "the schema realtime is the server's own: "),
            ):
                reply = await answer(client, ROOM, config({**binding, **wrong}))
                assert reply["response"]["reason"].startswith(reason)
            topics = ["realtime:public:item", "realtime:public:other"]
            for topic in topics:
                assert (await answer(client, topic, {}))["status"] == "ok"
            assert (await answer(client, ROOM, config(binding)))["status"] == "ok"
            database.execute("create publication shop for table item")
            await until_streaming(database)
            frames = [await client.receive() for _ in range(4)]
            assert {(frame["topic"], payload_of(frame)["message"]) for frame in frames} == {
                (ROOM, "Subscribed to PostgreSQL"),
                (topics[1], "table public.other is not published; add it to the publication"),
                # Rows may have been written before the temporary slot was made.
                *((topic, "Gap: late_start") for topic in topics),
            }
            database.execute("insert into item values (1)")
            async with asyncio.timeout(DEADLINE):
                assert (await client.receive())["topic"] == topics[0]


async def test_the_connection_is_closed_when_nobody_asks(
    one_pg: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_IDLE", 0.05)
    there = (
        "select 1 from pg_stat_activity where datname = current_database()"
        " and application_name = 'realtime_server catalog'"
    )
    async with through_a_proxy(one_pg) as (database, _, port), open_client(port) as client:
        for number in range(2):
            await answer(client, f"realtime:public:nothing{number}", {})
            assert await told(client) == f"there is no table public.nothing{number}"
            await eventually(lambda: database.execute(there) == [])
