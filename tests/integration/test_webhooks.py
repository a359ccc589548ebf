"""Webhooks: a real PostgreSQL, real HTTP, and sockets beside them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime_server.server import RealtimeServer
from realtime_server.webhooks.dead_letters import DeadLetters
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.rls_stage import open_rls_stage
from tests.receiver import Receiver, Reply
from tests.server_helpers import RECENTLY, dev_config, open_client
from tests.waiting import eventually

pytestmark = pytest.mark.integration

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
QUICK = {"WEBHOOK_BACKOFF_MIN": "10", "WEBHOOK_BACKOFF_MAX": "50"}
TABLE = """
    create table users (id int8 primary key, name text, age int4);
    create table other (id int8 primary key);
    create publication shop for table users, other
"""


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute(TABLE)
        yield database


def hook(url: str, **more: Any) -> dict[str, Any]:
    return {"config": {"endpoint": url}, **more}


def metric(server: RealtimeServer, name: str, endpoint: str | None = None) -> float:
    label = "" if endpoint is None else f'{{endpoint="{endpoint}"}}'
    pattern = rf"^realtime_webhook_{name}{re.escape(label)} (\S+)$"
    found = re.search(pattern, server.metrics.render().decode(), re.M)
    assert found is not None, name
    return float(found[1])


class Stage:
    """A server with webhooks, whose database can be written to."""

    def __init__(self, database: Database, path: Path, **settings: str) -> None:
        self.database = database
        self.dead_letters = path / "dead.jsonl"
        self._file = path / "config.json"
        self.settings = {
            "CONFIGURATION_FILE": str(self._file),
            "WEBHOOK_DEAD_LETTERS": str(self.dead_letters),
            "WEBHOOK_SECRET": SECRET,
            **QUICK,
            **settings,
        }

    @contextlib.asynccontextmanager
    async def server(
        self, *webhooks: dict[str, Any], **settings: str
    ) -> AsyncIterator[RealtimeServer]:
        self._file.write_text(json.dumps({"webhooks": webhooks}))
        config = dev_config(self.database.dsn, **{**self.settings, **settings})
        async with RealtimeServer(config) as server:
            await eventually(lambda: metric(server, "stream_connected"))
            await eventually(lambda: server.is_attached)
            yield server

    def execute(self, statement: str) -> None:
        self.database.execute(statement)

    def dead(self) -> list[tuple[str, str]]:
        """Names of endpoints and reasons, by line."""
        if not self.dead_letters.exists():
            return []
        letters = [letter for _, letter in DeadLetters(str(self.dead_letters)).read()]
        return [(letter.name, letter.reason) for letter in letters if letter]


@pytest.fixture
def stage(shop: Database, tmp_path: Path) -> Stage:
    return Stage(shop, tmp_path)


def slot_position(database: Database, slot: str) -> Any:
    rows = database.execute(
        "select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name = %s",
        (slot,),
    )
    return rows[0][0] if rows else None


# What is sent.


async def test_a_transaction_is_sent_as_the_original_does(stage: Stage) -> None:
    async with Receiver() as receiver, stage.server(hook(receiver.url)) as server:
        stage.execute("insert into users values (1, 'Anna', 30); update users set age = 31")
        (request,) = await receiver.receives(1)
        columns = [
            {"flags": ["key"], "name": "id", "type": "int8", "type_modifier": 4294967295},
            {"flags": [], "name": "name", "type": "text", "type_modifier": 4294967295},
            {"flags": [], "name": "age", "type": "int4", "type_modifier": 4294967295},
        ]
        head = {"schema": "public", "table": "users", "commit_timestamp": RECENTLY}
        row = {**head, "errors": None, "columns": columns}
        first, second = {"id": "1", "name": "Anna", "age": "30"}, {"id": "1", "name": "Anna"}
        assert request.json == {
            "commit_timestamp": RECENTLY,
            "changes": [
                {**row, "type": "INSERT", "record": first},
                {**row, "type": "UPDATE", "record": {**second, "age": "31"}, "old_record": {}},
            ],
        }
        assert list(request.json) == ["commit_timestamp", "changes"]
        await eventually(lambda: metric(server, "delivered_total", "webhook-1") == 1)
        assert metric(server, "oldest_seconds", "webhook-1") == 0


async def test_a_request_can_be_verified_and_told_from_others(stage: Stage) -> None:
    async with (
        Receiver() as receiver,
        stage.server(hook(receiver.url), WEBHOOK_HEADERS="x-env=test:x-two=2"),
    ):
        before = time.time()
        stage.execute("insert into users values (1)")
        stage.execute("insert into users values (2)")
        first, second = await receiver.receives(2)
    headers = first.headers
    assert headers["content-type"] == "application/json"
    assert (headers["x-env"], headers["x-two"]) == ("test", "2")
    assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+:0@\d+\.1/shop", headers["x-realtime-position"])
    assert (headers["x-realtime-part"], headers["x-realtime-last-part"]) == ("1", "true")
    assert headers["idempotency-key"] == headers["webhook-id"]
    assert first.id != second.id
    assert before - 1 <= int(headers["webhook-timestamp"]) <= time.time()
    signed = b".".join((first.id.encode(), headers["webhook-timestamp"].encode(), first.body))
    key = base64.b64decode(SECRET[6:])
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert receiver.connections == 1


async def test_each_endpoint_gets_what_it_asks_for(stage: Stage) -> None:
    async with Receiver() as all_of_it, Receiver() as adults, Receiver() as truncates:
        webhooks = (
            hook(all_of_it.url, name="all"),
            hook(
                adults.url,
                name="adults",
                relation="public:users",
                events=["INSERT", "UPDATE"],
                filter="age=gte.18",
                select=["id", "age"],
            ),
            hook(truncates.url, name="truncates", event="TRUNCATE"),
        )
        async with stage.server(*webhooks):
            stage.execute(
                "insert into users values (1, 'Anna', 30), (2, 'Ben', 7);"
                " insert into other values (3); delete from users where id = 1"
            )
            stage.execute("insert into users values (4, 'Cem', 9)")
            stage.execute("truncate users")
            stage.execute("insert into users values (5, 'Dan', 40)")
            await all_of_it.receives(4)
            await adults.receives(2)
            await truncates.receives(1)
        kinds = [[change["type"] for change in each.json["changes"]] for each in all_of_it.requests]
        assert kinds == [["INSERT"] * 3 + ["DELETE"], ["INSERT"], ["TRUNCATE"], ["INSERT"]]
        records = [change["record"] for each in adults.requests for change in each.json["changes"]]
        assert records == [{"id": "1", "age": "30"}, {"id": "5", "age": "40"}]
        names = [column["name"] for column in adults.requests[0].json["changes"][0]["columns"]]
        assert names == ["id", "age"]
        assert len(truncates.requests) == 1


async def test_a_large_transaction_goes_in_numbered_parts(stage: Stage) -> None:
    most = 20_000
    async with (
        Receiver() as receiver,
        stage.server(hook(receiver.url), WEBHOOK_MAX_BYTES=str(most)),
    ):
        stage.execute("insert into users select n, repeat('x', 100) from generate_series(1, 500) n")
        stage.execute("insert into users values (501, repeat('y', 50000))")
        stage.execute("insert into users values (502)")
        await eventually(lambda: receiver.taken and receiver.taken[-1].records() == ["502"])
        *parts, large, _ = receiver.taken
    assert [int(part.headers["x-realtime-part"]) for part in parts] == [*range(1, len(parts) + 1)]
    last = [part.headers["x-realtime-last-part"] for part in parts]
    assert last == ["false"] * (len(parts) - 1) + ["true"]
    assert len(parts) > 3
    assert all(len(part.body) <= most for part in parts)
    records = [number for part in parts for number in part.records()]
    assert records == [str(number) for number in range(1, 501)]
    assert len({part.id for part in parts}) == len(parts)
    # A change that no body has room for is told without its long values.
    (change,) = large.json["changes"]
    assert (change["errors"], change["record"]) == (["Error 413: Payload Too Large"], {"id": "501"})


async def test_in_rls_mode_endpoints_get_every_row(one_pg: Server, tmp_path: Path) -> None:
    async with Receiver() as receiver:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"webhooks": [hook(receiver.url)]}))
        async with open_rls_stage(one_pg, CONFIGURATION_FILE=str(path)) as stage:
            with stage.scene():
                stage.make("secret", "id int primary key, owner text")
                await eventually(lambda: metric(stage.server, "stream_connected"))
                stage.execute("insert into secret values (7, 'nobody')")
                await eventually(
                    lambda: any(
                        change["table"] == "secret" and change["record"]["id"] == "7"
                        for each in receiver.requests
                        for change in each.json["changes"]
                    )
                )
        tables = {change["schema"] for each in receiver.requests for change in each.json["changes"]}
        assert "realtime" not in tables


async def test_with_wal2json_endpoints_get_what_is_published_by_a_slot_of_pgoutputs(
    pg17: Server, tmp_path: Path
) -> None:
    """The sockets' slot is wal2json's, which knows no row filters and no column lists."""
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    slot = unique_name("slot")
    path = tmp_path / "config.json"
    async with Receiver() as receiver:
        path.write_text(json.dumps({"webhooks": [hook(receiver.url, relation="*:secret")]}))
        settings = {
            "CONFIGURATION_FILE": str(path),
            "OUTPUT_PLUGIN": "wal2json",
            "WEBHOOK_SLOT_NAME": slot,
        }
        async with open_rls_stage(pg17, **settings) as stage:
            await eventually(lambda: metric(stage.server, "stream_connected"))
            plugins = (
                "select plugin, slot_name = %s from pg_replication_slots"
                " where database = current_database() order by plugin"
            )
            assert stage.database.execute(plugins, (slot,)) == [
                ("pgoutput", True),
                ("wal2json", False),
            ]
            with stage.scene():
                stage.make("secret", "id int primary key, owner text")
                async with stage.client() as client:
                    await client.sit(stage.topic("secret"))
                    inserted = await stage.payloads(client, "insert into secret values (7, 'ann')")
                    assert [one["record"] for one in inserted] == [{"id": 7, "owner": "ann"}]
                stage.execute("update secret set owner = 'bob'", "delete from secret")
                taken = await receiver.takes(3)
        changes = [change for each in taken for change in each.json["changes"]]
        assert [change["type"] for change in changes] == ["INSERT", "UPDATE", "DELETE"]
        rows = [change.get("record") or change["old_record"] for change in changes]
        assert rows == [{"id": "7", "owner": "ann"}, {"id": "7", "owner": "bob"}, {"id": "7"}]


# Endpoints that fail.


async def test_what_may_succeed_later_is_tried_again_in_order(stage: Stage) -> None:
    async with Receiver() as receiver, stage.server(hook(receiver.url)) as server:
        receiver.next.extend(
            [Reply(500), Reply(503), Reply(408), Reply(425), Reply(), Reply(hangs_up=True)]
        )
        for number in (1, 2):
            stage.execute(f"insert into users values ({number})")
        await receiver.takes(2)
        assert [each.records() for each in receiver.requests] == [["1"]] * 5 + [["2"]] * 2
        assert len({each.id for each in receiver.requests}) == 2
        await eventually(lambda: metric(server, "delivered_total", "webhook-1") == 2)
        assert metric(server, "retries_total", "webhook-1") == 5
        assert metric(server, "dead_total", "webhook-1") == 0
        assert receiver.at_once == 1
    assert stage.dead() == []


async def test_retry_after_is_waited_for(stage: Stage) -> None:
    async with (
        Receiver() as receiver,
        stage.server(hook(receiver.url), WEBHOOK_BACKOFF_MAX="10000"),
    ):
        receiver.next.append(Reply(429, {"retry-after": "1"}))
        stage.execute("insert into users values (1)")
        await receiver.receives(1)
        began = time.monotonic()
        await receiver.takes(1)
        assert time.monotonic() - began > 0.9


async def test_what_will_not_be_taken_is_kept_and_the_rest_goes_on(stage: Stage) -> None:
    async with Receiver() as inside, Receiver() as receiver:
        async with stage.server(hook(receiver.url, name="a"), WEBHOOK_MAX_ATTEMPTS="2") as server:
            receiver.next.extend(
                [Reply(422), Reply(307, {"location": inside.url}), Reply(500), Reply(502)]
            )
            for number in range(4):
                stage.execute(f"insert into users values ({number})")
            (taken,) = await receiver.takes(1)
            assert taken.records() == ["3"]
            assert metric(server, "dead_total", "a") == 3
        assert inside.requests == []
    assert stage.dead() == [
        ("a", "status 422"),
        ("a", "status 307, a redirect, which is not followed"),
        ("a", "status 502"),
    ]


async def test_an_endpoint_that_is_gone_is_left_alone_until_the_next_start(stage: Stage) -> None:
    async with Receiver() as gone, Receiver() as other:
        webhooks = hook(gone.url, name="gone"), hook(other.url, name="other")
        slot = unique_name("slot")
        async with stage.server(*webhooks, WEBHOOK_SLOT_NAME=slot) as server:
            gone.next.append(Reply(410))
            for number in range(3):
                stage.execute(f"insert into users values ({number})")
            await other.takes(3)
            await eventually(lambda: metric(server, "disabled", "gone") == 1)
            assert metric(server, "disabled", "other") == 0
        assert len(gone.requests) == 1
        async with stage.server(*webhooks, WEBHOOK_SLOT_NAME=slot):
            stage.execute("insert into users values (9)")
            (taken,) = await gone.takes(1)
            assert taken.records() == ["9"]


async def test_hold_holds_what_an_endpoint_that_is_gone_did_not_get_until_it_can_be_kept(
    stage: Stage,
) -> None:
    """Over restarts, too: a slot that moved behind what is in no file would have lost it."""
    slot = unique_name("slot")
    settings = {"WEBHOOK_SLOT_NAME": slot, "WEBHOOK_DEAD_LETTERS_MAX_MB": "1"}
    stage.dead_letters.write_text("x" * 1_000_000)
    async with Receiver(Reply(410)) as gone:
        for number in range(2):
            async with stage.server(hook(gone.url, name="gone"), **settings) as server:
                start = slot_position(stage.database, slot)
                stage.execute(f"insert into users values ({number})")
                await eventually(lambda: metric(server, "disabled", "gone") == 1)
                await eventually(lambda: metric(server, "waiting_bytes", "gone") > 0)
                assert metric(server, "dead_total", "gone") == 0
            assert slot_position(stage.database, slot) == start
        assert len(gone.requests) == 2
        async with stage.server(hook(gone.url, name="gone"), **settings) as server:
            await eventually(lambda: metric(server, "disabled", "gone") == 1)
            stage.dead_letters.unlink()
            await eventually(lambda: metric(server, "waiting_bytes", "gone") == 0)
            assert stage.dead() == [("gone", "status 410"), ("gone", "the endpoint is gone")]
            await eventually(lambda: slot_position(stage.database, slot) > start)


@pytest.mark.parametrize("when_full", ["hold", "drop"])
async def test_a_dead_endpoint_delays_no_socket(stage: Stage, when_full: str) -> None:
    slot = unique_name("slot")
    settings = {
        "SLOT_NAME": slot,
        "WEBHOOK_WHEN_FULL": when_full,
        "WEBHOOK_WAITING_BYTES": "20000",
        "WEBHOOK_MAX_BYTES": "10000",
        "WEBHOOK_TIMEOUT": "600000",
        "DRAIN_TIMEOUT": "100",
    }
    count = 300
    # Silent from the first request on: nothing is ever taken.
    async with (
        Receiver(Reply(is_silent=True)) as receiver,
        stage.server(hook(receiver.url, name="dead"), **settings) as server,
        open_client(server.port) as client,
    ):
        await client.join("realtime:public:users")
        start = slot_position(stage.database, f"{slot}_webhooks")
        for number in range(count):
            stage.execute(f"insert into users values ({number}, repeat('x', 1000))")
            frame = await client.receive()
            assert frame["payload"]["record"]["id"] == str(number)
        assert metric(server, "waiting_bytes", "dead") <= 20_000
        assert metric(server, "oldest_seconds", "dead") > 0
        # The sockets' slot goes on, and the webhooks' stays before what was not taken.
        await eventually(lambda: slot_position(stage.database, slot) > start + count * 1000)
        assert slot_position(stage.database, f"{slot}_webhooks") < start + 20_000
        if when_full == "hold":
            assert metric(server, "lag_bytes") > count * 1000
        else:
            await eventually(lambda: metric(server, "dead_total", "dead") > count * 0.8)
    dropped = len(stage.dead())
    assert dropped == 0 if when_full == "hold" else dropped > count * 0.8
    # All that is not in the dead letters is still in the database.
    async with Receiver() as receiver, stage.server(hook(receiver.url, name="dead"), **settings):
        last = str(count - 1 if when_full == "hold" else 0)
        await eventually(lambda: last in [n for each in receiver.taken for n in each.records()])
        taken = [int(number) for each in receiver.taken for number in each.records()]
        assert taken[0] == 0
        if when_full == "hold":
            assert taken == list(range(count))


async def test_a_slow_endpoint_does_not_hold_up_another_while_there_is_room(stage: Stage) -> None:
    async with (
        Receiver(Reply(is_silent=True)) as slow,
        Receiver() as quick,
        stage.server(
            hook(slow.url, name="slow"), hook(quick.url, name="quick"), DRAIN_TIMEOUT="100"
        ),
    ):
        for number in range(50):
            stage.execute(f"insert into users values ({number})")
        taken = await quick.takes(50)
        assert [each.records() for each in taken] == [[str(n)] for n in range(50)]
        assert len(slow.requests) == 1


# Ends.


async def test_a_stop_lets_the_request_end_that_is_under_way(stage: Stage) -> None:
    slot = unique_name("slot")
    entered, gate = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"]}")
        entered.set()
        await gate.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await reader.read()
        writer.transport.abort()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
    async with listener, stage.server(hook(url), WEBHOOK_SLOT_NAME=slot) as server:
        stage.execute("insert into users values (1)")
        await entered.wait()
        ending = asyncio.create_task(server.__aexit__(None, None, None))
        stage.execute("insert into users values (2)")
        gate.set()
        await ending
        assert metric(server, "delivered_total", "webhook-1") == 1
    # Only the second is left.
    async with Receiver() as receiver, stage.server(hook(receiver.url), WEBHOOK_SLOT_NAME=slot):
        (taken,) = await receiver.takes(1)
        assert taken.records() == ["2"]


async def test_with_a_temporary_slot_what_waits_at_a_stop_is_kept(stage: Stage) -> None:
    async with (
        Receiver(Reply(is_silent=True)) as receiver,
        stage.server(hook(receiver.url, name="a"), DRAIN_TIMEOUT="100") as server,
    ):
        for number in range(3):
            stage.execute(f"insert into users values ({number})")
        await eventually(lambda: metric(server, "waiting_bytes", "a") > 3000)
    assert stage.dead() == [("a", "the server was stopped")] * 3


async def test_with_a_temporary_slot_what_has_no_room_at_a_stop_is_kept(stage: Stage) -> None:
    """A request waits for room, and the reader is in the middle of a transaction."""
    async with (
        Receiver(Reply(is_silent=True)) as receiver,
        stage.server(
            hook(receiver.url, name="a"),
            DRAIN_TIMEOUT="100",
            WEBHOOK_WAITING_BYTES="5000",
            WEBHOOK_MAX_BYTES="2000",
        ) as server,
    ):
        stage.execute("insert into users select n, repeat('x', 300) from generate_series(1, 20) n")
        await eventually(lambda: metric(server, "waiting_bytes", "a") > 2000)
    letters = [letter for _, letter in DeadLetters(str(stage.dead_letters)).read() if letter]
    records = [
        change["record"]["id"]
        for letter in letters
        for change in json.loads(letter.request.body)["changes"]
    ]
    assert records == [str(number) for number in range(1, 21)]


async def test_what_is_committed_while_the_server_is_down_is_sent_from_a_permanent_slot(
    stage: Stage,
) -> None:
    slot = unique_name("slot")
    async with Receiver() as receiver:
        webhook = hook(receiver.url)
        async with stage.server(webhook, WEBHOOK_SLOT_NAME=slot):
            stage.execute("insert into users values (1)")
            await receiver.takes(1)
        stage.execute("insert into users values (2)")
        async with stage.server(webhook, WEBHOOK_SLOT_NAME=slot):
            taken = await receiver.takes(2)
        assert [each.records() for each in taken] == [["1"], ["2"]]


async def test_a_repeated_request_has_the_same_key_after_a_restart(stage: Stage) -> None:
    slot = unique_name("slot")
    async with Receiver(Reply(500)) as receiver:
        webhook = hook(receiver.url)
        for _ in range(2):
            async with stage.server(
                webhook, WEBHOOK_SLOT_NAME=slot, WEBHOOK_MAX_ATTEMPTS="0", WEBHOOK_BACKOFF_MAX="10"
            ):
                if not receiver.requests:
                    stage.execute("insert into users values (1)")
                await receiver.receives(len(receiver.requests) + 2)
        assert len({each.id for each in receiver.requests}) == 1
        assert len({each.body for each in receiver.requests}) == 1


async def test_a_lost_slot_is_said(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    slot = unique_name("slot")
    async with (
        Receiver() as receiver,
        stage.server(hook(receiver.url), WEBHOOK_SLOT_NAME=slot) as server,
    ):
        stage.execute("insert into users values (1)")
        await receiver.takes(1)
        # Whoever is quicker: the server makes it anew as soon as it is gone.
        stage.execute(
            f"select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
            f" where slot_name = '{slot}';"
            f" select pg_drop_replication_slot('{slot}')"
        )
        await eventually(lambda: metric(server, "gaps_total") == 1)
        await eventually(lambda: metric(server, "stream_connected"))
        stage.execute("insert into users values (2)")
        taken = await receiver.takes(2)
        assert taken[-1].records() == ["2"]
    assert any(line.startswith("webhooks may miss changes: slot_") for line in caplog.messages)


@pytest.mark.parametrize("is_written", [True, False])
async def test_what_was_not_delivered_before_a_publication_was_made_again_is_not_lost(
    stage: Stage, is_written: bool
) -> None:
    """The slot is the same behind that gap, and what is acknowledged behind it would move it."""
    slot = unique_name("slot")
    settings = {"WEBHOOK_SLOT_NAME": slot, "WEBHOOK_MAX_ATTEMPTS": "0", "DRAIN_TIMEOUT": "100"}
    async with Receiver(Reply(500)) as down, Receiver() as up:
        other = hook(up.url, name="up", relation="public:other")
        users = {"name": "down", "relation": "public:users"}
        async with stage.server(hook(down.url, **users), other, **settings) as server:
            stage.execute("insert into users values (1)")
            await down.receives(1)
            stage.execute("drop publication shop")
            stage.execute("insert into other values (1)")
            stage.execute("create publication shop for table users, other")
            await eventually(lambda: metric(server, "gaps_total") == 1)
            await eventually(lambda: metric(server, "stream_connected"))
            for number in range(2, 5):
                stage.execute(f"insert into other values ({number})")
            await eventually(lambda: metric(server, "delivered_total", "up") == 3)
            if not is_written:
                stage.dead_letters.mkdir()
        if is_written:
            assert stage.dead() == [("down", "the server was stopped")]
            return
        # The slot did not move past it: it is read again.
        stage.dead_letters.rmdir()
        async with Receiver() as back, stage.server(hook(back.url, **users), other, **settings):
            (taken,) = await back.takes(1)
            assert taken.records() == ["1"]


async def test_of_two_servers_with_one_slot_one_serves_and_the_other_takes_over(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    slot = unique_name("slot")
    async with Receiver() as receiver:
        webhook = hook(receiver.url)
        async with contextlib.AsyncExitStack() as standby_stack:
            async with stage.server(webhook, WEBHOOK_SLOT_NAME=slot):
                standby = RealtimeServer(
                    dev_config(stage.database.dsn, **stage.settings, WEBHOOK_SLOT_NAME=slot)
                )
                await standby_stack.enter_async_context(standby)
                await eventually(
                    lambda: any(f"slot {slot!r} is active for PID" in m for m in caplog.messages)
                )
                # Its sockets are served all the same.
                await eventually(lambda: standby.is_attached)
                stage.execute("insert into users values (1)")
                await receiver.takes(1)
                assert metric(standby, "stream_connected") == 0
            stage.execute("insert into users values (2)")
            taken = await receiver.takes(2)
            assert [each.records() for each in taken] == [["1"], ["2"]]
            # The receiver has answered; the server may not have read that yet.
            await eventually(lambda: metric(standby, "delivered_total", "webhook-1") == 1)


@pytest.mark.slow
async def test_the_bound_on_wal_holds_while_the_reader_waits_for_an_endpoint(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    slot = unique_name("slot")
    settings = {
        "WEBHOOK_SLOT_NAME": slot,
        "WEBHOOK_WAITING_BYTES": "20000",
        "WEBHOOK_MAX_BYTES": "10000",
        "WEBHOOK_TIMEOUT": "600000",
        "MAX_REPLICATION_LAG_MB": "5",
        "DRAIN_TIMEOUT": "100",
    }
    async with (
        Receiver(Reply(is_silent=True)) as receiver,
        stage.server(hook(receiver.url), **settings) as server,
    ):
        for number in range(10):
            stage.execute(f"insert into users values ({number}, repeat('x', 3000))")
        await receiver.receives(1)
        start = slot_position(stage.database, slot)
        stage.execute(
            "insert into users select n, repeat('x', 1000) from generate_series(100, 19999) n"
        )
        # It is made anew although nobody reads: the disk is what the bound is for.
        await eventually(
            lambda: (slot_position(stage.database, slot) or 0) > start + 15_000_000, within=120
        )
        # The operator's counter has it, though the reader, which waits, cannot say so yet.
        await eventually(lambda: metric(server, "gaps_total") >= 1)
        assert receiver.taken == []
    assert any(line.startswith("changes may be lost: lag, after") for line in caplog.messages)


async def test_a_broken_connection_to_the_database_repeats_and_loses_nothing(stage: Stage) -> None:
    slot = unique_name("slot")
    async with (
        Receiver() as receiver,
        stage.server(hook(receiver.url), WEBHOOK_SLOT_NAME=slot, WEBHOOK_MAX_BYTES="5000"),
    ):
        for round_ in range(5):
            stage.execute(
                f"insert into users select n, 'x' from generate_series({round_ * 100},"
                f" {round_ * 100 + 99}) n"
            )
            stage.execute(
                "select pg_terminate_backend(active_pid) from pg_replication_slots"
                f" where slot_name = '{slot}' and active"
            )
        await eventually(lambda: receiver.taken and receiver.taken[-1].records()[-1] == "499")
        records = [number for each in receiver.taken for number in each.records()]
        assert records == [str(number) for number in range(500)]
