"""What the database broadcasts, in both modes: rows of realtime.messages, to members of rooms."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database, until_streaming
from tests.rls_helpers import migrated, roles
from tests.server_helpers import PhoenixClient, Vsn, dev_config, open_client
from tests.server_process import ServerProcess
from tests.tokens import SECRET, make_token
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

TOPIC = "realtime:room"
SETTINGS = {
    "BROADCAST_FROM_DATABASE": "true",
    "MAX_PAYLOAD_BYTES": "20000",
    "SECURE_CHANNELS": "true",
    "JWT_SECRET": SECRET,
}
LAST = "select id::text, payload::text from realtime.messages order by inserted_at desc limit 1"


class Stage:
    def __init__(self, database: Database, server: RealtimeServer, role: str) -> None:
        self.database = database
        self.server = server
        self._token = make_token({"role": role})

    def send(self, payload: str, *, event: str = "m", topic: str = "room") -> None:
        """Send to a public room."""
        query = "select realtime.send(%s::jsonb, %s, %s, false)"
        self.database.execute(query, (payload, event, topic))

    @contextlib.asynccontextmanager
    async def client(self, vsn: Vsn = "2.0.0") -> AsyncIterator[PhoenixClient]:
        query = f"vsn={vsn}&apikey={self._token}"
        async with open_client(self.server.port, vsn, query=query) as client:
            yield client

    @contextlib.asynccontextmanager
    async def member(
        self, vsn: Vsn = "2.0.0", topic: str = TOPIC, **config: Any
    ) -> AsyncIterator[PhoenixClient]:
        async with self.client(vsn) as client:
            joined = {"config": {"broadcast": {"ack": True}, **config}}
            await client.send(topic, "phx_join", joined, ref="1", join_ref="1")
            reply = await client.receive()
            assert (reply[3] if vsn == "2.0.0" else reply["event"]) == "phx_reply"
            if config.get("postgres_changes"):
                await client.receive()
            yield client


def payload_of(frame: Any) -> Any:
    return frame["payload"] if isinstance(frame, dict) else frame[4]


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["STREAM", "RLS"])
async def module_stage(pg: Server, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    with roles(pg, "reader") as (role,), fresh_database(pg) as database:
        await migrated(database.dsn)
        database.execute(
            "create table item (id int primary key, name text);"
            f" create publication shop for all tables; grant select on item to {role}"
        )
        config = dev_config(database.dsn, REPLICATION_MODE=request.param, **SETTINGS)
        async with RealtimeServer(config) as server:
            await until_streaming(database)
            yield Stage(database, server, role)


@pytest.fixture
def stage(module_stage: Stage) -> Iterator[Stage]:
    yield module_stage
    module_stage.database.execute("truncate item")


async def test_both_versions_hear_what_the_database_sends(stage: Stage) -> None:
    async with stage.member() as new, stage.member("1.0.0") as old:
        stage.send('{"b": 12345678901234567890.10, "a": [null]}')
        frame = payload_of(await new.receive())
        [(id_, text)] = stage.database.execute(LAST)
        assert frame == {
            "type": "broadcast",
            "event": "m",
            "payload": json.loads(text),
            "meta": {"id": id_},
        }
        heard = await old.receive()
        assert payload_of(heard) == frame
        assert heard["ref"] is None
        for payload in ("17", '"text"', "[1]", "null"):
            stage.send(payload)
            assert payload_of(await new.receive())["payload"] == json.loads(payload)


async def test_bytes_come_as_kind_4_to_those_who_take_them(stage: Stage) -> None:
    async with stage.member() as new, stage.member("1.0.0") as old:
        stage.database.execute("select realtime.send_binary('\\x00ff01', 'bin', 'room', false)")
        async with asyncio.timeout(30):
            frame = await new.websocket.recv()
        assert isinstance(frame, bytes)
        assert frame[:5] == bytes((4, 13, 3, 45, 0))
        assert frame[5:21] == b"realtime:roombin"
        assert frame.endswith(b'"}\x00\xff\x01')
        assert await old.drain() == []


@pytest.mark.parametrize(
    "columns",
    [
        {"extension": "'presence'"},
        {"private": "null"},
        {"private": "true"},
        {"event": "null"},
        {"skip_broadcast": "true"},
        {"topic": "'Room'"},
        {"payload": "to_jsonb(repeat('x', 20000))"},
        {"binary_payload": "'\\x00'", "event": "repeat('e', 256)"},
        {"inserted_at": "'1999-01-01'"},
    ],
    ids=lambda columns: " ".join(columns),
)
async def test_what_is_not_broadcast(stage: Stage, columns: dict[str, str]) -> None:
    row = {"topic": "'room'", "extension": "'broadcast'", "event": "'m'", "private": "false"}
    row |= columns
    async with stage.member() as client:
        stage.database.execute(
            f"insert into realtime.messages ({', '.join(row)}) values ({', '.join(row.values())})"
        )
        stage.send('"next"')
        assert payload_of(await client.receive())["payload"] == "next"


async def test_a_transaction_that_is_rolled_back_sends_nothing(stage: Stage) -> None:
    async with stage.member() as client:
        with stage.database.connect() as connection:
            connection.execute("begin; select realtime.send('1', 'm', 'room', false); rollback")
            with connection.transaction():
                for number in range(300):
                    connection.execute(
                        "select realtime.send(%s::jsonb, 'm', 'room', false)", (str(number),)
                    )
        heard = [payload_of(await client.receive())["payload"] for _ in range(300)]
        assert heard == list(range(300))


async def test_updates_and_deletes_and_moves_of_rows_send_nothing(stage: Stage) -> None:
    async with stage.member() as client:
        stage.send('"first"')
        assert payload_of(await client.receive())["payload"] == "first"
        stage.database.execute("update realtime.messages set payload = '2'")
        # As the janitor moves them.
        stage.database.execute(
            "insert into realtime.messages (topic, extension, event, payload, private,"
            " skip_broadcast) select topic, extension, event, payload, private, true"
            " from realtime.messages"
        )
        stage.database.execute("delete from realtime.messages")
        stage.send('"next"')
        assert payload_of(await client.receive())["payload"] == "next"


async def test_who_listens_to_all_tables_gets_no_messages(stage: Stage) -> None:
    topics = ("realtime:*",) if stage.server.config.replication_mode.value == "STREAM" else ()
    bindings = [{"event": "*", "schema": "*"}, {"event": "*", "schema": "public"}]
    async with (
        stage.client("1.0.0") as listener,
        stage.member(postgres_changes=bindings) as bound,
    ):
        await listener.join(*topics)
        stage.database.execute(
            "select realtime.send('{\"secret\": 1}', 'm', 'room', private)"
            " from unnest(array[true, false]) as private"
        )
        stage.database.execute("insert into item values (1, 'a')")
        first, second = [await bound.receive() for _ in range(2)]
        assert {first[3], second[3]} == {"broadcast", "postgres_changes"}
        change = first if first[3] == "postgres_changes" else second
        assert change[4]["data"]["table"] == "item"
        assert await bound.drain() == []
        events = [frame["event"] for frame in await listener.drain()]
        assert events == ["INSERT"] * len(topics)


async def test_other_members_pushes_go_on_meanwhile(stage: Stage) -> None:
    async with stage.member() as sender, stage.member() as client:
        with stage.database.connect() as connection, connection.transaction():
            for number in range(2000):
                connection.execute(
                    "select realtime.send(%s::jsonb, 'm', 'room', false)", (str(number),)
                )
        for number in range(50):
            message = {"type": "broadcast", "event": "push", "payload": number}
            await sender.send(TOPIC, "broadcast", message, ref=str(number), join_ref="1")
        seen: dict[str, list[Any]] = {"client": [], "sender": []}
        while len(seen["client"]) < 2050:
            seen["client"].append(payload_of(await client.receive()))
        while len(seen["sender"]) < 2050:
            frame = await sender.receive()
            seen["sender"].append(payload_of(frame) if frame[3] == "broadcast" else frame[3])
        for event, count in (("m", 2000), ("push", 50)):
            assert [each["payload"] for each in seen["client"] if each["event"] == event] == list(
                range(count)
            )
        assert seen["sender"].count("phx_reply") == 50


# STREAM mode alone.


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def alone(one_pg: Server) -> AsyncIterator[Stage]:
    with fresh_database(one_pg) as database:
        await migrated(database.dsn)
        database.execute("create table item (id int primary key, name text)")
        # The table's own publication is read besides this one.
        database.execute("create publication shop for table item")
        config = dev_config(database.dsn, BROADCAST_MESSAGES="true", **SETTINGS)
        async with RealtimeServer(config) as server:
            await until_streaming(database)
            yield Stage(database, server, "postgres")


async def test_messages_and_changes_come_as_they_were_written(alone: Stage) -> None:
    bindings = [{"event": "*", "schema": "public", "table": "item"}]
    async with alone.member(postgres_changes=bindings) as client:
        with alone.database.connect() as connection:
            for begin in range(0, 40, 10):
                with connection.transaction():
                    for number in range(begin, begin + 10):
                        connection.execute("insert into item values (%s)", (number,))
                        connection.execute(
                            "select realtime.send(%s::jsonb, 'm', 'room', false)", (str(number),)
                        )
        heard: list[Any] = []
        for _ in range(80):
            frame = await client.receive()
            is_change = frame[3] == "postgres_changes"
            heard.append(
                ("change", frame[4]["data"]["record"]["id"])
                if is_change
                else ("message", frame[4]["payload"])
            )
        assert heard == [
            each for number in range(40) for each in (("change", number), ("message", number))
        ]


async def test_logical_messages_go_to_the_public_room(alone: Stage) -> None:
    async with alone.member() as client:
        for statement in (
            """select pg_logical_emit_message(false, 'realtime:broadcast', '{"topic"')""",
            """select pg_logical_emit_message(false, 'other', '{"topic":"room","event":"m"}')""",
            """select pg_logical_emit_message(true, 'realtime:broadcast',
                '{"topic":"room","event":"m","private":true}')""",
            """select pg_logical_emit_message(transactional, 'realtime:broadcast',
                '{"topic":"room","event":"m","payload":"%s"}')
                from unnest(array[true, false]) as transactional""",
        ):
            alone.database.execute(statement)
        with alone.database.connect() as connection:
            content = '{"topic":"room","event":"rolled back","id":"5"}'
            for transactional in (True, False):
                connection.execute("begin")
                connection.execute(
                    "select pg_logical_emit_message(%s, 'realtime:broadcast', %s)",
                    (transactional, content),
                )
                connection.execute("rollback")
        alone.send('"last"')
        heard = [payload_of(await client.receive()) for _ in range(4)]
        assert [(each["event"], each["payload"]) for each in heard] == [
            ("m", "%s"),
            ("m", "%s"),
            ("rolled back", {}),
            ("m", "last"),
        ]
        assert heard[2]["meta"] == {"id": "5"}
        assert "meta" not in heard[0]


async def test_the_server_keeps_the_partitions(alone: Stage) -> None:
    query = "select 1 from pg_class where relname ~ '^messages_2[0-9_]*$' and relkind = 'r'"
    await eventually(lambda: len(alone.database.execute(query)) == 5)


async def test_a_gap_is_told_to_members(alone: Stage) -> None:
    async with alone.member() as client:
        alone.database.execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots"
            " where database = current_database()"
        )
        frame = await client.receive()
        assert frame[3] == "system"
        assert frame[4]["gap"]["reason"] == "temporary_slot"
        await until_streaming(alone.database)
        alone.send('"after"')
        assert payload_of(await client.receive())["payload"] == "after"


async def test_each_of_several_workers_sends_to_its_own_members(one_pg: Server) -> None:
    with fresh_database(one_pg) as database:
        await migrated(database.dsn)
        database.execute("create publication shop")
        server = ServerProcess(
            database.dsn,
            patience=90,
            WORKERS="2",
            PUBLICATIONS='["shop"]',
            BROADCAST_FROM_DATABASE="true",
        )
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.to_thread(server.__enter__)
            stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)
            await until_streaming(database)
            members = []
            # So many that each worker has some.
            for _ in range(12):
                client = await stack.enter_async_context(open_client(server.port, "2.0.0"))
                await client.send(TOPIC, "phx_join", {"config": {}}, ref="1", join_ref="1")
                await client.receive()
                members.append(client)
            for number in range(3):
                query = "select realtime.send(%s::jsonb, 'm', 'room', false)"
                await asyncio.to_thread(database.execute, query, (str(number),))
            for client in members:
                heard = [payload_of(await client.receive())["payload"] for _ in range(3)]
                assert heard == [0, 1, 2]
                assert await client.drain() == []
            url = f"http://127.0.0.1:{server.port}/metrics"
            metrics = (await asyncio.to_thread(urllib.request.urlopen, url)).read().decode()
        # It came to each worker with the stream, and not from the other one.
        assert "realtime_bus_sent_total 0.0" in metrics


async def test_it_is_turned_on_for_a_permanent_slot_as_the_how_to_says(pg17: Server) -> None:
    with fresh_database(pg17) as database:
        database.execute("create table item (id int primary key); create publication shop")
        database.execute("alter publication shop add table item")
        settings = {
            "SLOT_NAME": unique_name("slot"),
            "REPLAY_SECRET": "the same for all servers".ljust(32, "."),
        }
        bindings = {"postgres_changes": [{"event": "*", "schema": "public", "table": "item"}]}
        async with RealtimeServer(dev_config(database.dsn, **settings)) as server:
            await until_streaming(database)
            async with Stage(database, server, "").member(**bindings) as client:
                database.execute("insert into item values (1)")
                assert payload_of(await client.receive())["data"]["record"] == {"id": 1}
                await migrated(database.dsn)
                database.execute("insert into item values (2)")
                assert payload_of(await client.receive())["data"]["record"] == {"id": 2}
        database.execute(
            "insert into item values (3); select realtime.send('4', 'm', 'room', false)"
        )
        on = {**settings, "BROADCAST_FROM_DATABASE": "true"}
        async with RealtimeServer(dev_config(database.dsn, **on)) as server:
            stage = Stage(database, server, "")
            async with stage.client() as client:
                # What the slot still has may come before the message about the subscription.
                joined = {"config": bindings}
                await client.send(TOPIC, "phx_join", joined, ref="1", join_ref="1")
                assert (await client.receive())[3] == "phx_reply"
                await until_streaming(database)
                database.execute("insert into item values (5)")
                stage.send("6")
                heard = []
                while not heard or heard[-1] != 6:
                    match await client.receive():
                        case [_, _, _, "postgres_changes", payload]:
                            heard.append(payload["data"]["record"]["id"])
                        case [_, _, _, "broadcast", payload]:
                            heard.append(payload["payload"])
                        case [_, _, _, event, _]:
                            assert event == "system"
                # What came while no server ran came from the slot.
                assert heard in ([3, 4, 5, 6], [5, 6])
                assert server.source.stats().gaps == 0
