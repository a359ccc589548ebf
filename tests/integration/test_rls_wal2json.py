"""RLS mode from a slot of wal2json's: publications are applied to what it writes; and what is said
where a slot has another plugin than is asked for."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.rls_stage import OWN, RlsStage, open_rls_stage
from tests.recording_server import read_record
from tests.rls_helpers import roles
from tests.server_process import ServerProcess
from tests.tokens import SECRET
from tests.waiting import eventually

pytestmark = [
    pytest.mark.integration,
    pytest.mark.pg17,
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stage(pg17: Server) -> AsyncIterator[RlsStage]:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    async with open_rls_stage(pg17, OUTPUT_PLUGIN="wal2json") as stage:
        yield stage


@pytest.fixture
def stage(module_stage: RlsStage) -> Iterator[RlsStage]:
    """Publication ``shop`` has the fence, and what a test publishes."""
    with module_stage.scene():
        module_stage.execute(
            "drop publication shop", "create publication shop for table public.fence"
        )
        yield module_stage
        module_stage.execute(
            "drop publication shop", "create publication shop for table public.fence"
        )


def seen(payloads: list[Any]) -> list[Any]:
    return [
        (one["table"], one["type"], (one.get("record") or one["old_record"])["id"])
        for one in payloads
    ]


async def test_what_is_not_published_is_shown_to_nobody(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text", None)
    async with stage.client() as client:
        reply = await client.try_join(stage.topic("notes"))
        assert reply["response"]["reason"].endswith("is not published; add it to the publication")
        await client.sit("realtime:*")
        assert await stage.payloads(client, "insert into notes values (1, 'ann')") == []
        # From the first row on, though it is in the same transaction.
        payloads = await stage.payloads(
            client,
            "begin; alter publication shop add table notes; insert into notes values (2, 'ann');"
            " commit",
        )
        assert seen(payloads) == [("notes", "INSERT", 2)]
        stage.execute("alter publication shop drop table notes")
        assert await stage.payloads(client, "insert into notes values (3, 'ann')") == []


async def test_kinds_of_changes_and_column_lists_are_obeyed(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text, body text", None)
    stage.execute(
        "drop publication shop",
        "create publication shop for table public.fence, notes (id, owner)"
        " with (publish = 'insert, delete')",
    )
    async with stage.client() as client:
        await client.sit(stage.topic("notes"))
        payloads = await stage.payloads(
            client,
            "insert into notes values (1, 'ann', 'x')",
            "update notes set body = 'y'",
            "truncate notes",
            "insert into notes values (2, 'ann', 'x')",
            "delete from notes",
        )
    assert seen(payloads) == [
        ("notes", "INSERT", 1),
        ("notes", "INSERT", 2),
        ("notes", "DELETE", 2),
    ]
    assert payloads[0]["record"] == {"id": 1, "owner": "ann"}
    assert [column["name"] for column in payloads[0]["columns"]] == ["id", "owner"]


async def test_stored_generated_columns_are_there(stage: RlsStage) -> None:
    stage.make("sums", "id int primary key, twice int generated always as (id * 2) stored", "true")
    stage.execute("alter publication shop add table sums")
    async with stage.client() as client:
        await client.sit(stage.topic("sums", "twice=eq.2"))
        [payload] = await stage.payloads(client, "insert into sums values (1), (2)")
    assert payload["record"] == {"id": 1, "twice": 2}


async def test_filters_know_the_order_of_an_enum_that_the_search_path_has(
    stage: RlsStage,
) -> None:
    # The stage's own schema is not in the search path of whoever connects.
    feeling = f"public.{unique_name('feeling')}"
    stage.execute(f"create type {feeling} as enum ('sad', 'ok', 'happy')")
    try:
        stage.make("moods", f"id int primary key, mood {feeling}, moods {feeling}[]", "true")
        stage.execute("alter publication shop add table moods")
        async with stage.client() as client:
            await client.sit(stage.topic("moods", "mood=gte.ok"))
            await client.sit(stage.topic("moods", "moods=gt.{ok}"))
            payloads = await stage.payloads(
                client,
                "insert into moods values (1, 'happy', '{happy}'), (2, 'sad', '{sad}')",
                "insert into moods values (3, 'ok', '{ok,sad}')",
            )
        assert sorted(seen(payloads)) == [("moods", "INSERT", 1)] * 2 + [("moods", "INSERT", 3)] * 2
    finally:
        stage.execute(f"drop type {feeling} cascade")


async def test_partitions_have_names_of_their_own(stage: RlsStage) -> None:
    """What is said of the table above them goes for them."""
    stage.execute(
        "create table notes (id int primary key, owner text, body text) partition by range (id)",
        "create table low partition of notes for values from (0) to (100)",
        f'grant select on low, notes to "{stage.reader}"',
        "alter table low enable row level security",
        f"create policy p on low using ({OWN})",
        "drop publication shop",
        "create publication shop for table public.fence, notes (id, owner)"
        " with (publish_via_partition_root = true)",
    )
    async with stage.client() as client:
        reply = await client.try_join(stage.topic("notes"))
        assert "is not published under its own name" in reply["response"]["reason"]
        await client.sit(stage.topic("low"))
        payloads = await stage.payloads(
            client, "insert into notes values (1, 'ann', 'x'), (2, 'bob', 'x')"
        )
    assert [one["record"] for one in payloads] == [{"id": 1, "owner": "ann"}]


async def test_a_row_filter_that_comes_later_closes_its_table(
    stage: RlsStage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.make("notes", "id int primary key, owner text", None)
    stage.execute("alter publication shop add table notes")
    async with stage.client() as client:
        await client.sit(stage.topic("notes"))
        stage.execute("alter publication shop set table public.fence, notes where (id > 1)")
        payloads = await stage.payloads(client, "insert into notes values (1, ''), (2, '')")
        payloads += await stage.payloads(client, "insert into notes values (3, '')")
        assert payloads == []
        line = f"changes of {stage.schema}.notes are shown to no role: the publication has a row"
        assert caplog.text.count(line) == 1
        reply = await client.try_join(stage.topic("notes", "id=eq.4"))
        assert "has a row filter in the publication" in reply["response"]["reason"]
        stage.execute("alter publication shop set table public.fence, notes")
        assert seen(await stage.payloads(client, "insert into notes values (4, '')")) == [
            ("notes", "INSERT", 4)
        ]


# Processes.


SETTINGS = {
    "REPLICATION_MODE": "RLS",
    "SECURE_CHANNELS": "true",
    "JWT_SECRET": SECRET,
    "PUBLICATIONS": '["shop"]',
    "DB_RECONNECT_BACKOFF_MAX": "200",
}


@pytest.fixture
def reader(pg17: Server) -> Iterator[str]:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    with roles(pg17, "reader") as (reader,):
        yield reader


@pytest.fixture
def shop(pg17: Server, reader: str) -> Iterator[Database]:
    with fresh_database(pg17) as database:
        database.execute(
            f"create table item (id int8 primary key); grant select on item to {reader};"
            " create publication shop for table item"
        )
        yield database


def make_slot(database: Database, plugin: str) -> str:
    slot = unique_name("slot")
    database.execute("select pg_create_logical_replication_slot(%s, %s)", (slot, plugin))
    return slot


async def test_publications_that_cannot_be_applied_are_waited_for(shop: Database) -> None:
    shop.execute("drop publication shop")
    settings = {**SETTINGS, "OUTPUT_PLUGIN": "wal2json", "SLOT_NAME": unique_name("slot")}
    with ServerProcess(shop.dsn, **settings) as server:
        server.wait_for_log(re.compile('CREATE PUBLICATION "shop"'))
        # A slot that nobody can read would only hold back WAL.
        assert (
            shop.execute("select from pg_replication_slots where database = %s", (shop.name,)) == []
        )
        shop.execute("create publication shop for table item where (id > 1)")
        server.wait_for_log(re.compile(r"row filters \(on public\.item\).*trying again"))
        shop.execute("alter publication shop set table item")
        server.wait_until_streaming()


@pytest.mark.parametrize(("found", "wanted"), [("wal2json", "pgoutput"), ("pgoutput", "wal2json")])
async def test_a_slot_of_the_other_plugin_is_told_with_the_ways_out(
    shop: Database, found: str, wanted: str
) -> None:
    slot = make_slot(shop, found)
    with ServerProcess(shop.dsn, **SETTINGS, SLOT_NAME=slot, OUTPUT_PLUGIN=wanted) as server:
        match = server.wait_for_log(
            re.compile(
                f"slot '{slot}' uses the output plugin '{found}', not {wanted}; set "
                rf"(OUTPUT_PLUGIN)=({found}) to go on with it, or drop it with (SELECT .*?), and "
                "the changes in it are lost, or choose another SLOT_NAME; trying again"
            )
        )
        variable, value, drop = match.groups()
        shop.execute(drop)
        server.wait_until_streaming()
    shop.execute("select pg_drop_replication_slot(%s)", (slot,))
    slot = make_slot(shop, found)
    with ServerProcess(shop.dsn, **SETTINGS, SLOT_NAME=slot, **{variable: value}) as server:
        server.wait_until_streaming()


async def test_stream_mode_names_no_variable_that_it_would_refuse(shop: Database) -> None:
    slot = make_slot(shop, "wal2json")
    with ServerProcess(shop.dsn, PUBLICATIONS='["shop"]', SLOT_NAME=slot) as server:
        match = server.wait_for_log(re.compile("uses the output plugin 'wal2json'.*"))
        assert "pg_drop_replication_slot" in match[0]
        assert "OUTPUT_PLUGIN" not in match[0]


async def test_the_former_versions_slot_goes_on_without_a_hole(
    shop: Database, tmp_path: Path
) -> None:
    """It polled with wal2json, and advanced the slot behind what it had handed over."""
    slot = make_slot(shop, "wal2json")
    shop.execute("insert into item values (1)")
    options = "'format-version', '2', 'include-transaction', 'true', 'include-lsn', 'true'"
    polled = shop.execute(
        f"select data from pg_logical_slot_peek_changes('{slot}', null, null, {options})"
    )
    assert len(polled) == 3
    shop.execute(f"select pg_replication_slot_advance('{slot}', pg_current_wal_flush_lsn())")
    # While no server runs.
    shop.execute("insert into item values (2)")
    record = tmp_path / "record"
    record.touch()
    settings = {**SETTINGS, "SLOT_NAME": slot, "OUTPUT_PLUGIN": "wal2json", "RECORD": str(record)}
    with ServerProcess(shop.dsn, module="tests.recording_server", **settings):
        await eventually(lambda: read_record(record))
        shop.execute("insert into item values (3)")
        await eventually(lambda: len(read_record(record)) > 1)
    assert read_record(record) == [2, 3]
