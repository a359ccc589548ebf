"""RLS mode's processes: killed, stopped, started with what cannot work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest

from realtime_server.rls.lookup import commit_visibility
from realtime_server.rls.setup.migrations import LOCK
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server, unique_name
from tests.fix_rls import Stream
from tests.integration.conftest import fresh_database
from tests.integration.rls_stage import FENCE, open_rls_stage, rls_config
from tests.integration.test_life import RESTARTED, Load, collect, id_of
from tests.recording_server import read_record
from tests.rls_helpers import roles
from tests.server_helpers import open_client
from tests.server_process import ServerProcess
from tests.tokens import SECRET, make_token
from tests.waiting import eventually, eventually_sync

pytestmark = pytest.mark.integration

TOPIC = "realtime:public:item"
KILLS = int(os.environ.get("RLS_KILLS", "5"))
ROWS = int(os.environ.get("RLS_ROWS", "200000"))
SETTINGS = {
    "REPLICATION_MODE": "RLS",
    "SECURE_CHANNELS": "true",
    "JWT_SECRET": SECRET,
    "PUBLICATIONS": '["shop"]',
}


@attrs.frozen
class Shop:
    """A database with a table that everybody may see, and how it is read."""

    database: Database
    reader: str
    plugin: str
    slot: str = attrs.field(factory=lambda: unique_name("slot"))

    @property
    def settings(self) -> dict[str, str]:
        return {**SETTINGS, "OUTPUT_PLUGIN": self.plugin, "SLOT_NAME": self.slot}

    def token(self) -> str:
        return make_token({"role": self.reader, "sub": "ann"})

    def server(self, **settings: str) -> ServerProcess:
        return ServerProcess(self.database.dsn, **{**self.settings, **settings})


@pytest.fixture
def shop(stream: Stream) -> Iterator[Shop]:
    with roles(stream.server, "reader") as (reader,), fresh_database(stream.server) as database:
        database.execute(
            "create table item (id int8 primary key, filling text);"
            " alter table item enable row level security;"
            " create policy all_of_it on item using (true);"
            f" grant select on item to {reader};"
            " create publication shop for table item"
        )
        yield Shop(database, reader, stream.plugin)


async def join(server: ServerProcess, client: Any, token: str) -> None:
    await client.send(TOPIC, "phx_join", {"user_token": token}, ref="1")
    assert (await client.receive())["payload"]["status"] == "ok"


@pytest.mark.slow
@pytest.mark.every_plugin
def test_a_server_that_is_killed_time_and_again_skips_nothing(shop: Shop, tmp_path: Path) -> None:
    record = tmp_path / "record"
    record.touch()
    settings = {**shop.settings, "RECORD": str(record)}
    dsn = shop.database.dsn
    shop.database.execute(
        "select pg_create_logical_replication_slot(%s, %s)", (shop.slot, shop.plugin)
    )
    chance = random.Random(9)
    with Load(shop.database) as load:
        for _ in range(KILLS):
            before = len(read_record(record))
            with ServerProcess(dsn, module="tests.recording_server", **settings) as server:
                server.wait_until_streaming()
                # At random points: by rows handed over, and then by the clock.
                wanted = before + chance.randrange(1, 200)
                eventually_sync(lambda: len(read_record(record)) >= wanted)  # noqa: B023
                time.sleep(chance.random() * 0.02)
                server.process.send_signal(signal.SIGKILL)
                server.process.wait()
        rows = load.stop()
    with ServerProcess(dsn, module="tests.recording_server", **settings):
        eventually_sync(lambda: rows - 1 in read_record(record)[-2000:])
    assert set(read_record(record)) == set(range(rows))


async def test_a_stop_hands_out_what_was_read_and_frees_slot_and_rows(shop: Shop) -> None:
    token = shop.token()
    with shop.server() as server:
        server.wait_until_streaming()
        async with open_client(server.port, query=f"apikey={token}") as client:
            await join(server, client, token)
            frames: list[Any] = []
            collecting = asyncio.create_task(collect(client, frames))
            with Load(shop.database) as load:
                await eventually(lambda: len(frames) > 100)
                server.process.send_signal(signal.SIGTERM)
                assert await collecting == RESTARTED
                load.stop()
        assert await asyncio.to_thread(server.process.wait, 30) == 0
    ids = [id_of(frame) for frame in frames]
    assert ids == list(range(ids[0], ids[-1] + 1))
    assert shop.database.execute("select node from realtime.subscription") == []
    assert shop.database.execute(
        "select active from pg_replication_slots where slot_name = %s", (shop.slot,)
    ) == [(False,)]
    # The next one goes on where this one ended.
    with shop.server() as server:
        server.wait_until_streaming()


async def test_a_stop_tells_of_what_a_slow_policy_has_not_decided(shop: Shop) -> None:
    token = shop.token()
    shop.database.execute("alter policy all_of_it on item using (id <> 7 or pg_sleep(60) is null)")
    with shop.server(RLS_CHECK_TIMEOUT="50000") as server:
        server.wait_until_streaming()
        async with open_client(server.port, query=f"apikey={token}") as client:
            await join(server, client, token)
            shop.database.execute("insert into item values (7)")
            asleep = (
                "select 1 from pg_stat_activity where datname = current_database()"
                " and application_name like '%rls apart%' and wait_event = 'PgSleep'"
            )
            await eventually(lambda: shop.database.execute(asleep))
            server.process.send_signal(signal.SIGTERM)
            frames: list[Any] = []
            assert await collect(client, frames) == RESTARTED
        assert await asyncio.to_thread(server.process.wait, 30) == 0
    assert [frame["payload"]["message"] for frame in frames] == ["Gap: server_stopped"]


def test_what_cannot_work_is_refused_with_the_line_that_mends_it(shop: Shop) -> None:
    base = shop.server().environment
    for changes, complaint in (
        ({"SECURE_CHANNELS": "false"}, "set SECURE_CHANNELS=true and JWT_SECRET"),
        ({"JWT_SECRET": ""}, "JWT_SECRET"),
    ):
        result = subprocess.run(
            [sys.executable, "-m", "realtime_server", "--dev"],
            env={**base, **changes},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 2
        assert complaint in result.stderr


async def test_a_join_while_the_server_starts_is_answered_when_it_has(shop: Shop) -> None:
    token = shop.token()
    with shop.database.connect() as migrating:
        migrating.execute("select pg_advisory_lock(%s)", [LOCK])
        with shop.server() as server:
            async with open_client(server.port, query=f"apikey={token}") as client:
                await client.send(TOPIC, "phx_join", {"user_token": token}, ref="1")
                # Once this is answered, the join has been read.
                await (await client.websocket.ping())
                migrating.execute("select pg_advisory_unlock(%s)", [LOCK])
                assert (await client.receive())["payload"] == {"status": "ok", "response": {}}


async def test_a_database_that_is_away_is_waited_for(shop: Shop) -> None:
    token = shop.token()
    with shop.server(DB_RECONNECT_BACKOFF_MAX="200") as server:
        server.wait_until_streaming()
        async with open_client(server.port, query=f"apikey={token}") as client:
            await join(server, client, token)
            shop.database.execute("insert into item values (1)")
            assert id_of(await client.receive()) == 1
            shop.database.server.restart("immediate")
            shop.database.execute("insert into item values (2)")
            assert id_of(await client.receive()) == 2
            # A join works again, too.
            await client.send("realtime:*", "phx_join", {"user_token": token}, ref="2")
            assert (await client.receive())["payload"]["status"] == "ok"


async def test_a_gap_is_told_to_every_channel(stream: Stream) -> None:
    async with (
        open_rls_stage(stream.server, **stream.settings) as stage,
        stage.client() as client,
    ):
        await client.sit("realtime:*")
        stage.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where backend_type = 'walsender' and datname = current_database()"
        )
        frame = await client.receive()
        assert (frame["event"], frame["payload"]["status"]) == ("system", "ok")
        assert frame["payload"]["gap"]["reason"] == "temporary_slot"
        fence = await stage.fence.receive()
        assert (fence["topic"], fence["event"]) == (FENCE, "system")


async def test_a_policy_that_sleeps_holds_the_others_up_once(one_pg: Server) -> None:
    async with open_rls_stage(one_pg, RLS_CHECK_TIMEOUT="250") as stage:
        with stage.scene():
            sleeps = "current_setting('request.jwt.claims')::jsonb ->> 'sub' = 'sleeper'"
            stage.make(
                "notes",
                "id int primary key",
                f"case when {sleeps} and id % 10 = 3 then pg_sleep(60) is not null else true end",
            )
            async with stage.client("sleeper") as sleeper, stage.client("ann") as ann:
                await sleeper.sit(stage.topic("notes"))
                await ann.sit(stage.topic("notes"))
                for number in range(20):
                    stage.execute(f"insert into notes values ({number})")
                ids = [id_of(await ann.receive()) for _ in range(20)]
                assert ids == list(range(20))
                # What the sleeper may see comes later, in order; two rows take too long.
                frames = [await sleeper.receive() for _ in range(20)]
                seen = [frame["payload"]["record"].get("id") for frame in frames]
                assert [one for one in seen if one is not None] == [
                    number for number in range(20) if number % 10 != 3
                ]
                errors = [
                    frame["payload"]["errors"] for frame in frames if frame["payload"]["errors"]
                ]
                assert (
                    errors
                    == [["Error 500: Internal Server Error, row level security took too long"]] * 2
                )
            metrics = stage.server.metrics.render().decode()
            assert "realtime_rls_timeouts_total 2.0" in metrics


def standby_away(server: Server) -> AbstractContextManager[None]:
    """Have every commit wait for a synchronous standby that is not there."""
    return server.setting("synchronous_standby_names", "nobody")


async def test_a_commit_that_others_do_not_see_yet_is_waited_for(
    one_pg: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in WAL and waits for a standby: the row that is looked up is not there yet."""
    monkeypatch.setattr(commit_visibility, "_PATIENCE", 0.0)
    async with open_rls_stage(one_pg) as stage, stage.client("ann") as ann:
        with stage.scene():
            stage.make("notes", "id int primary key, owner text")
            await ann.sit(stage.topic("notes"))
            insert = f"insert into {stage.schema}.notes values (1, 'ann')"
            with (
                psycopg.connect(stage.database.dsn, autocommit=True) as connection,
                standby_away(one_pg),
            ):
                connection.execute("set synchronous_commit = local")
                await eventually(
                    lambda: (
                        connection.execute("show synchronous_standby_names").fetchone()
                        == ("nobody",)
                    )
                )
                committing = asyncio.create_task(asyncio.to_thread(stage.database.execute, insert))
                await eventually(lambda: "(synchronous_standby_names is 'nobody')" in caplog.text)
                [(xid,)] = connection.execute(
                    "select backend_xid from pg_stat_activity where wait_event = 'SyncRep'"
                    " and datname = current_database()"
                ).fetchall()
                line = f"changes wait for transaction {xid}, which is committed and not visible yet"
                assert caplog.text.count(line) == 1
                assert await ann.drain() == []
            await committing
            assert (await ann.receive())["payload"]["record"] == {"id": 1, "owner": "ann"}


async def test_column_lists_of_the_publication_are_applied(stream: Stream) -> None:
    async with open_rls_stage(stream.server, **stream.settings) as stage:
        with stage.scene():
            stage.make("notes", "id int primary key, owner text, body text", None)
            stage.execute(
                "drop publication shop",
                "create publication shop for table public.fence, notes (id, owner)",
            )
            async with stage.client() as client:
                await client.sit(stage.topic("notes"))
                reply = await client.try_join(stage.topic("notes", "body=eq.x"))
                assert reply["response"] == {"reason": "invalid column for filter body"}
                [payload] = await stage.payloads(client, "insert into notes values (1, 'ann', 'x')")
            assert payload["record"] == {"id": 1, "owner": "ann"}
            assert [column["name"] for column in payload["columns"]] == ["id", "owner"]


async def test_row_filters_of_the_publication_are_applied(one_pg: Server) -> None:
    async with open_rls_stage(one_pg) as stage:
        with stage.scene():
            stage.make("notes", "id int primary key, owner text", None)
            stage.execute(
                "drop publication shop",
                "create publication shop for table public.fence, notes where (id > 1)",
            )
            async with stage.client() as client:
                await client.sit(stage.topic("notes"))
                payloads = await stage.payloads(
                    client, "insert into notes values (1, 'ann'), (2, 'ann')"
                )
            assert [payload["record"]["id"] for payload in payloads] == [2]


@pytest.mark.slow
async def test_a_policy_that_hangs_amid_a_large_transaction_holds_up_nobody_else(
    stream: Stream,
) -> None:
    """And what waits for it is bounded."""
    sleeps = "current_setting('request.jwt.claims')::jsonb ->> 'sub' = 'sleeper'"
    settings = {
        **SETTINGS,
        **stream.settings,
        "RLS_CHECK_TIMEOUT": "250",
        # Reading all of it takes longer.
        "IDLE_TIMEOUT": "900000",
    }
    with roles(stream.server, "reader") as (reader,), fresh_database(stream.server) as database:
        database.execute(
            f"create table item (id int8 primary key); grant select on item to {reader};"
            " alter table item enable row level security; create policy p on item using"
            f" (case when {sleeps} then pg_sleep(600) is not null else true end);"
            " create publication shop for table item"
        )
        with ServerProcess(database.dsn, **settings) as server:
            server.wait_until_streaming()
            async with contextlib.AsyncExitStack() as stack:
                clients = []
                for sub, topic in (("sleeper", TOPIC), ("ann", f"{TOPIC}:id=gt.{ROWS - 10}")):
                    token = make_token({"role": reader, "sub": sub})
                    client = await stack.enter_async_context(
                        open_client(server.port, query=f"apikey={token}", ping_interval=None)
                    )
                    await client.send(topic, "phx_join", {"user_token": token}, ref="1")
                    assert (await client.receive())["payload"]["status"] == "ok"
                    clients.append(client)
                sleeper, ann = clients
                before = server.peak_memory() if sys.platform == "linux" else 0
                database.execute(f"insert into item select generate_series(1, {ROWS})")
                async with asyncio.timeout(600):
                    frames = [json.loads(await ann.websocket.recv()) for _ in range(10)]
                assert [id_of(frame) for frame in frames] == list(range(ROWS - 9, ROWS + 1))
                # What waits is 10,000 changes at most, and what is in the sockets.
                if sys.platform == "linux":
                    assert server.peak_memory() - before < 50_000_000
                while (frame := await sleeper.receive())["event"] != "system":
                    assert frame["payload"]["errors"]
                assert frame["payload"]["gap"]["reason"] == "rls_too_slow"


async def test_a_server_that_has_nothing_to_tell_asks_the_database_nothing(
    stream: Stream,
) -> None:
    queries = (
        "select pid, query_start, query from pg_stat_activity where datname = current_database()"
        " and application_name like 'realtime_server%' order by pid"
    )
    with fresh_database(stream.server) as database:
        database.execute("create table item (id int primary key)")
        database.execute("create publication shop for table item")
        config = rls_config(database.dsn, **stream.settings, SUBSCRIPTION_SYNC_INTERVAL="20")
        async with RealtimeServer(config) as server:
            await eventually(lambda: server.is_attached)
            # When it has looked for the rows of servers that were killed.
            silent = f"select now() - max(query_start) > '0.3 s' from ({queries}) as q"
            await eventually(lambda: database.execute(silent) == [(True,)])
            before, changes = database.execute(queries), server.source.stats().changes
            for _ in range(20):
                # Nobody listens.
                database.execute("insert into item select coalesce(max(id), 0) + 1 from item")
            await eventually(lambda: server.source.stats().changes == changes + 20)
            assert database.execute(queries) == before


async def test_claims_that_no_policy_reads_share_a_check(one_pg: Server) -> None:
    async with open_rls_stage(one_pg, RLS_IGNORED_CLAIMS='["exp", "session_id"]') as stage:
        with stage.scene():
            stage.make("notes", "id int primary key, owner text")
            async with (
                stage.client("ann", session_id="1") as one,
                stage.client("ann", session_id="2") as two,
            ):
                for client in (one, two):
                    await client.sit(stage.topic("notes"))
                await stage.payloads(one, "insert into notes values (1, 'ann')")
                assert len(await two.drain()) == 1
            metrics = stage.server.metrics.render().decode()
            # One for the two; the fence's table has no row level security.
            assert "realtime_rls_checks_total 1.0" in metrics
