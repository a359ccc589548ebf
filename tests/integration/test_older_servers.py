"""PostgreSQL 14, 15 and 16: what is read, served, checked and sent, from the oldest version on.

Most tests run on 17 and 18; these go through everything once.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from realtime_core import (
    UNCHANGED,
    BackfillStep,
    Delete,
    Insert,
    LogicalMessage,
    PgoutputSource,
    Severity,
    Snapshot,
    SnapshotBegin,
    SnapshotComplete,
    Truncate,
    Update,
    diagnose,
)
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.rls_stage import RlsClient, open_rls_stage
from tests.integration.source_helpers import (
    confirmed,
    ids,
    kill_walsenders,
    open_source,
    take,
    wal_position,
)
from tests.integration.test_cli_copy import ORDERS, Copied, follow, made_copy
from tests.receiver import Receiver
from tests.server_helpers import dev_config, open_client
from tests.waiting import eventually, eventually_sync

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def shop(older_pg: Server) -> Iterator[Database]:
    with fresh_database(older_pg) as database:
        database.execute(
            "create table item (id int primary key, name text, at timestamptz, tags text[]);"
            "create table other (id int primary key);"
            "create publication shop for table item"
        )
        yield database


async def test_a_source_reads_goes_on_and_filters(shop: Database) -> None:
    slot = unique_name("slot")
    async with open_source(shop, slot=slot) as source:
        shop.execute(
            "insert into item values (1, repeat('x', 100000), '2026-11-28 06:00+02', '{a,b}');"
            "alter table item alter name set storage external;"
            "insert into item values (2, repeat('y', 100000));"
            "update item set at = null; delete from item where id = 1; truncate item"
        )
        events = await take(source, 6)
        kinds = [Insert, Insert, Update, Update, Delete, Truncate]
        assert [type(event) for event in events] == kinds
        first, _, _, updated, deleted, _ = events
        assert isinstance(first, Insert)
        assert isinstance(updated, Update)
        assert isinstance(deleted, Delete)
        assert first.record.text("at") == "2026-11-28 04:00:00+00"
        assert first.record["tags"] == ["a", "b"]
        assert updated.record["name"] is UNCHANGED
        assert dict(deleted.old_record) == {"id": 1}
        source.ack(events[-1])
        kill_walsenders(shop)
        insert_names(shop, 3, 4)
        assert ids(await take(source, 2)) == [3, 4]
        assert source.stats().gaps == 0
    # What was not acknowledged is there for the next process.
    async with open_source(shop, slot=slot, filter="name=eq.name 4") as source:
        assert ids(await take(source, 1)) == [4]


def insert_names(database: Database, *numbers: int) -> None:
    for number in numbers:
        database.execute("insert into item values (%s, %s)", (number, f"name {number}"))


async def until_its_last_step(source: PgoutputSource[Any]) -> AsyncIterator[Any]:
    """Yield the events of a backfill."""
    is_last = False
    while not is_last:
        [event] = await take(source, 1)
        is_last = isinstance(event, BackfillStep) and event.is_last
        yield event


async def test_rows_come_before_their_changes(shop: Database) -> None:
    insert_names(shop, 2, 1)
    slot = unique_name("slot")
    async with open_source(shop, slot=slot, snapshot="initial") as source:
        insert_names(shop, 3)
        begin, *rows, complete = await take(source, 4)
        assert isinstance(begin, SnapshotBegin)
        assert [row.record["id"] for row in rows if isinstance(row, Snapshot)] == [1, 2]
        assert isinstance(complete, SnapshotComplete)
        source.ack(complete)
        [change] = await take(source, 1)
        assert isinstance(change, Insert)
        assert change.record["id"] == 3
        assert isinstance(rows[0], Snapshot)
        assert change.relation.columns == rows[0].relation.columns
        await source.backfill("public.item", where="id <> 2", chunk_rows=1)
        found = [event async for event in until_its_last_step(source)]
        assert [row.record["id"] for row in found if isinstance(row, Snapshot)] == [1, 3]
        assert len(found) >= 4, "a chunk has a row"
    if shop.server.version >= 15:
        shop.execute("alter publication shop set table item (id) where (id > 1)")
        async with open_source(shop, snapshot="initial") as source:
            found = await take(source, 3)
            assert [row.record.fields for row in found[1:] if isinstance(row, Snapshot)] == [
                ("2",),
                ("3",),
            ]


async def test_a_table_is_backfilled_while_changes_come(shop: Database) -> None:
    insert_names(shop, *range(1, 7))
    rows: dict[int, Any] = {}
    async with open_source(shop, slot=unique_name("slot")) as source:
        await source.backfill("public.item", chunk_rows=2)
        for event in await take(source, 3):
            keep(rows, event)
        assert list(rows) == [1, 2]
        shop.execute(
            "update item set name = 'new' where id in (1, 6); delete from item where id = 3"
        )
        insert_names(shop, 7)
        is_done = False
        while not (is_done and 7 in rows):
            (event,) = await take(source, 1)
            keep(rows, event)
            is_done = is_done or (isinstance(event, BackfillStep) and event.is_last)
    assert sorted(rows.items()) == shop.execute("select id, name from item order by id")


def keep(rows: dict[int, Any], event: object) -> None:
    match event:
        case Snapshot(record=row) | Insert(record=row) | Update(record=row):
            rows[row["id"]] = row["name"]
        case Delete(old_record=row):
            rows.pop(row["id"], None)


@dataclass
class Item:
    id: int
    name: str
    tags: list[str] | None


def test_threads_read_rows_as_objects_each_at_its_own_pace(shop: Database) -> None:
    slot = unique_name("slot")
    with PgoutputSource.sync(shop.dsn, publications=["shop"], slot=slot) as source:
        fan_out = source.typed({"public.item": Item}).fan_out()
        quick, slow = fan_out.consumer("quick"), fan_out.consumer("slow")
        shop.execute("insert into item values (1, 'a', null, '{x,y}')")
        insert_names(shop, 2)
        written = wal_position(shop)
        rows = [Item(1, "a", ["x", "y"]), Item(2, "name 2", None)]
        for consumer in (quick, slow):
            changes = [consumer.next(30) for _ in range(2)]
            assert [change.record for change in changes if isinstance(change, Insert)] == rows
            # The slot moves to what both have acknowledged.
            assert confirmed(shop, slot) < written
            consumer.ack(changes[-1])
        eventually_sync(lambda: confirmed(shop, slot) >= written)


def test_a_heartbeat_moves_the_slot_of_a_quiet_database(shop: Database) -> None:
    slot = unique_name("slot")
    options = {"slot": slot, "heartbeat_interval": 0.05, "messages": True}
    with PgoutputSource.sync(shop.dsn, publications=["shop"], **options) as source:
        first, second = source.next(30), source.next(30)
        for beat in (first, second):
            assert isinstance(beat, LogicalMessage)
            assert (beat.prefix, beat.content) == ("realtime_core.heartbeat", slot.encode())
        position = source.position
        assert position is not None
        source.ack(second)
        eventually_sync(lambda: confirmed(shop, slot) >= position.lsn)


def test_tables_are_copied_and_follow(shop: Database) -> None:
    shop.execute(f"{ORDERS}; insert into orders values (1, 1.5, 'a')")
    with fresh_database(shop.server) as target:
        target.execute(ORDERS)
        copied = Copied(target.dsn, target.execute)
        make = made_copy(shop, copied)
        with make() as copy:
            follow(shop, copied, copy, 1)
        shop.execute("update orders set id = 2; insert into orders values (3, 2, null)")
        with make() as copy:
            follow(shop, copied, copy, 2)
        rows = "select id, amount, note from orders order by id"
        assert target.execute(rows) == shop.execute(rows)


async def test_a_large_transaction_is_streamed_before_it_is_committed(shop: Database) -> None:
    async with open_source(shop, slot=unique_name("slot"), streaming="on") as source:
        shop.execute("insert into item select n, repeat('z', 500) from generate_series(1, 20000) n")
        transactions = source.transactions(max_bytes=100_000_000)
        async for transaction in transactions:
            assert ids(transaction.changes) == list(range(1, 20001))  # type: ignore[union-attr]
            break


async def test_the_doctor_finds_nothing(shop: Database) -> None:
    diagnosis = await diagnose(
        shop.dsn, publications=["shop"], slot=None, plugin="pgoutput", persistent=True
    )
    assert diagnosis.count(Severity.PROBLEM) == 0, diagnosis.findings


async def test_the_server_sends_changes_to_clients_and_endpoints(
    shop: Database, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    slot = unique_name("slot")
    async with Receiver() as receiver:
        path.write_text(json.dumps({"webhooks": [{"config": {"endpoint": receiver.url}}]}))
        settings = {"CONFIGURATION_FILE": str(path), "WEBHOOK_SLOT_NAME": slot}
        async with (
            RealtimeServer(dev_config(shop.dsn, **settings)) as server,
            open_client(server.port) as client,
        ):
            await eventually(lambda: server.is_attached)
            await client.join("realtime:public:item:name=like.name*")
            exists = "select from pg_replication_slots where slot_name = %s and active"
            await eventually(lambda: shop.execute(f"select exists ({exists})", (slot,))[0][0])
            insert_names(shop, 7)
            frame = await client.receive()
            (taken,) = await receiver.takes(1)
            assert isinstance(frame, dict)
            assert frame["payload"]["record"]["id"] == "7"
            assert taken.records("name") == ["name 7"]


async def test_row_level_security_decides_who_gets_a_row(older_pg: Server) -> None:
    async with open_rls_stage(older_pg) as stage:
        with stage.scene():
            stage.make("notes", "id int primary key, owner text")
            async with stage.client("ann") as ann, stage.client("bob") as bob:
                for client in (ann, bob):
                    await client.sit(stage.topic("notes"))
                stage.execute(
                    "insert into notes values (1, 'ann'), (2, 'bob')",
                    "update notes set owner = 'ann' where id = 2",
                )
                anns = [await payload(ann) for _ in range(3)]
                assert [(one["type"], one["record"]["id"]) for one in anns] == [
                    ("INSERT", 1),
                    ("INSERT", 2),
                    ("UPDATE", 2),
                ]
                stage.execute("delete from notes where id = 1")
                # A row is looked up as it is by then, so Bob's may be Ann's already.
                bobs = [await payload(bob)]
                while bobs[-1]["type"] != "DELETE":
                    bobs.append(await payload(bob))
                assert all(one["record"]["owner"] == "bob" for one in bobs[:-1])
                assert bobs[-1]["old_record"] == {"id": 1}


async def payload(client: RlsClient) -> Any:
    frame = await client.receive()
    assert isinstance(frame, dict)
    return frame["payload"]
