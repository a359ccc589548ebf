"""The server as a process, and what it says when settings or the database do not fit."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from realtime_server.demo.embedded import EmbeddedPostgres
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database, until_streaming
from tests.server_helpers import PhoenixClient, dev_config, open_client
from tests.server_process import ServerProcess
from tests.waiting import eventually

pytestmark = pytest.mark.integration

VARIABLES = re.compile(
    r"(DB_\w+|PORT|PUBLICATIONS|SLOT_NAME|TEMPORARY_SLOT|SECURE_CHANNELS|REPLICATION_MODE"
    r"|OUTBOX_MAX_BYTES)"
)


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not VARIABLES.fullmatch(name)}
    return {**kept, **settings}


def run_to_its_end(*arguments: str, **settings: str) -> tuple[int, str, list[str]]:
    """Run the server; return exit code, stdout, and stderr's lines."""
    done = subprocess.run(
        [sys.executable, "-m", "realtime_server", *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


# Settings.


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        (
            {"REPLICATION_MODE": "stream", "SECURE_CHANNELS": "false"},
            ["REPLICATION_MODE is 'stream'; use STREAM or RLS"],
        ),
        (
            {"PUBLICATIONS": "shop", "PORT": "x", "SECURE_CHANNELS": "false"},
            [
                "PUBLICATIONS is 'shop'; use a JSON array of names, as in [\"supabase_realtime\"]",
                "PORT is 'x'; use a whole number between 0 and 65535",
            ],
        ),
        (
            {},
            [
                "JWT_SECRET is missing: SECURE_CHANNELS=true (the default) needs it or JWT_JWKS; "
                "set SECURE_CHANNELS=false where every client may see every change"
            ],
        ),
    ],
)
def test_bad_settings_end_with_one_line_each_and_exit_code_2(
    settings: dict[str, str], lines: list[str]
) -> None:
    expected = [f"configuration error: {line}" for line in lines]
    assert run_to_its_end(**settings) == (2, "", expected)


def test_a_port_in_use_ends_with_one_line_and_exit_code_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_to_its_end("--dev", PORT=str(port)) == (
            2,
            "",
            [f"error: port {port} is in use; stop the other program or set PORT to a free port"],
        )


# A process from its beginning to its end.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_closes_sockets_with_1012_and_ends_it_quickly_with_0(
    one_pg: Server, number: signal.Signals
) -> None:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int8 primary key)")
        database.execute("create publication shop for table item")
        slot = unique_name("slot")
        settings = {"PUBLICATIONS": '["shop"]', "SLOT_NAME": slot}
        with ServerProcess(database.dsn, **settings) as server:
            server.wait_until_streaming()
            async with (
                open_client(server.port, "1.0.0") as v1,
                open_client(server.port, "2.0.0") as v2,
            ):
                await v1.join("realtime:*")
                await v2.join("realtime:*")
                database.execute("insert into item values (1)")
                assert (await v1.receive())["payload"]["record"] == {"id": "1"}
                assert (await v2.receive())[4]["record"] == {"id": "1"}
                server.process.send_signal(number)
                assert await v1.closed() == (1012, "the server restarts")
                assert await v2.closed() == (1012, "the server restarts")
            await eventually(lambda: server.process.poll() is not None)
            assert server.process.returncode == 0
        assert not [line for line in server.log if "Traceback" in line or "ERROR" in line]
        free = database.execute("select active from pg_replication_slots")
        assert free == [(False,)]


async def test_it_ends_as_quickly_while_it_waits_for_the_database() -> None:
    nowhere = "host=127.0.0.1 port=1 dbname=none user=nobody"
    with ServerProcess(nowhere, DB_RECONNECT_BACKOFF_MIN="60000") as server:
        server.wait_for_log(re.compile(r"trying again in \d+\.\d s"))
        server.process.send_signal(signal.SIGTERM)
        # Sooner than it would have tried again.
        await eventually(lambda: server.process.poll() is not None)
        assert server.process.returncode == 0


async def test_log_lines_are_json_objects_when_asked_for(one_pg: Server) -> None:
    with fresh_database(one_pg) as database:
        database.execute("create publication shop for all tables")
        settings = {"PUBLICATIONS": '["shop"]', "LOG_FORMAT": "json", "LOG_LEVEL": "debug"}
        with ServerProcess(database.dsn, **settings) as server:
            server.wait_until_streaming()
            async with open_client(server.port) as client:
                await client.join("realtime:*")
            assert server.stop() == 0
            lines = [json.loads(line) for line in server.log]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    assert [line["message"] for line in lines if line["logger"] == "realtime.server"] == [
        f"listening on 127.0.0.1, port {server.port}",
        "stopping: closing connections, for at most 5000 ms",
        "stopped",
    ]


# What the database says: one line with the remedy, tried again, and it works once it is mended.


class Attempt:
    """A server that tries to attach, and what it logs."""

    def __init__(self, client: PhoenixClient, caplog: pytest.LogCaptureFixture) -> None:
        self.client = client
        self._caplog = caplog

    def warnings(self) -> list[str]:
        return [
            record.getMessage()
            for record in self._caplog.records
            if record.name == "realtime.source" and record.levelno >= logging.WARNING
        ]

    async def says(self, pattern: str) -> None:
        """Wait for two attempts that failed with this line, remedy and wait included."""
        line = re.compile(pattern + r"; trying again in \d+\.\d s")

        def found() -> list[str]:
            return [warning for warning in self.warnings() if line.fullmatch(warning)]

        try:
            await eventually(lambda: len(found()) >= 2)
        except AssertionError:
            raise AssertionError(f"{pattern} is not in {self.warnings()[:3]}") from None
        assert all("\n" not in warning for warning in self.warnings())

    async def works(self, dsn: str) -> None:
        """Show that changes arrive now."""
        name = str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])
        database = Database(Server(dsn), name)
        await until_streaming(database)
        database.execute("create table if not exists item (id serial primary key)")
        database.execute("insert into item default values")
        told = {"there is no table public.item", "Gap: late_start"}
        while (frame := await self.client.receive())["event"] in ("phx_reply", "system"):
            payload = frame["payload"]
            assert payload.get("message") in told or payload == {"status": "ok", "response": {}}
        assert (frame["topic"], frame["event"]) == ("realtime:public:item", "INSERT")


@contextlib.asynccontextmanager
async def attempt(
    dsn: str, caplog: pytest.LogCaptureFixture, **settings: str
) -> AsyncIterator[Attempt]:
    caplog.set_level(logging.INFO, "realtime.source")
    async with (
        RealtimeServer(dev_config(dsn, **settings)) as server,
        open_client(server.port) as client,
    ):
        # The reply comes a second later, or when changes are read.
        await client.send("realtime:public:item", "phx_join", {})
        yield Attempt(client, caplog)


@pytest.fixture(scope="module")
def spare() -> Iterator[EmbeddedPostgres]:
    """A server that a test may stop and change."""
    with EmbeddedPostgres() as postgres:
        with psycopg.connect(postgres.dsn, autocommit=True) as connection:
            connection.execute("create publication shop for all tables")
        yield postgres


async def test_a_server_that_is_down(
    spare: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as down:
        down.enter_context(spare.down())
        async with attempt(spare.dsn, caplog) as tried:
            await tried.says(
                r"cannot connect to PostgreSQL \(.*Connection refused.*\); check that it runs and "
                r"is reachable at DB_HOST and DB_PORT"
            )
            down.close()
            await tried.works(spare.dsn)


async def test_a_wrong_password(spare: EmbeddedPostgres, caplog: pytest.LogCaptureFixture) -> None:
    rules = spare.data_dir / "pg_hba.conf"
    trusting = rules.read_text()

    def execute(statement: str) -> None:
        dsn = psycopg.conninfo.make_conninfo(spare.dsn, host=str(spare.socket_dir))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(statement)

    execute("create role reader login replication password 'other'")
    execute("create table if not exists item (id serial primary key)")
    rules.write_text("local all all trust\nhost all reader all scram-sha-256\n" + trusting)
    execute("select pg_reload_conf()")
    try:
        dsn = psycopg.conninfo.make_conninfo(spare.dsn, user="reader", password="wrong")
        async with attempt(dsn, caplog) as tried:
            await tried.says(
                r"PostgreSQL refused the connection \(.*password authentication failed for user "
                r'"reader".*\); check DB_USER and DB_PASSWORD'
            )
            assert "wrong" not in caplog.text
            execute("alter role reader password 'wrong'")
            await tried.works(spare.dsn)
    finally:
        rules.write_text(trusting)
        execute("select pg_reload_conf()")
        execute("drop role reader")


async def test_a_wal_level_that_is_too_low(
    spare: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    spare.restart(settings={"wal_level": "replica"})
    try:
        async with attempt(spare.dsn, caplog) as tried:
            await tried.says(
                r"wal_level is 'replica', logical replication needs 'logical'; run ALTER SYSTEM "
                r"SET wal_level = logical and restart PostgreSQL"
            )
            spare.restart("immediate", settings={"wal_level": "logical"})
            await tried.works(spare.dsn)
    finally:
        spare.restart("immediate", settings={"wal_level": "logical"})


async def test_a_database_that_is_not_there(
    spare: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    name = unique_name("later")
    dsn = psycopg.conninfo.make_conninfo(spare.dsn, dbname=name)
    async with attempt(dsn, caplog) as tried:
        await tried.says(
            rf'PostgreSQL refused the connection \(.*database "{name}" does not exist.*\); create '
            r"it, or choose another DB_USER or DB_NAME"
        )
        with psycopg.connect(spare.dsn, autocommit=True) as connection:
            connection.execute(f"create database {name}")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("create publication shop for all tables")
        await tried.works(dsn)


async def test_a_role_that_may_not_replicate(
    spare: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    role = unique_name("role")
    dsn = psycopg.conninfo.make_conninfo(spare.dsn, user=role)
    with psycopg.connect(spare.dsn, autocommit=True) as connection:
        connection.execute(f"create role {role} login")
        async with attempt(dsn, caplog) as tried:
            await tried.says(
                r"the role may not replicate \(.*permission denied to start WAL sender.*\); run "
                r"ALTER ROLE … REPLICATION"
            )
            connection.execute(f"alter role {role} replication")
            await tried.works(spare.dsn)


async def test_a_publication_that_is_missing(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"PUBLICATIONS": '["shop", "no\\"such"]', "SLOT_NAME": unique_name("slot")}
    async with attempt(database.dsn, caplog, **settings) as tried:
        await tried.says(
            rf'publications "shop", "no""such" not found in database \'{database.name}\'; create '
            r'it with the tables to be sent: CREATE PUBLICATION "shop" FOR TABLE a, b'
        )
        # Nobody may make a slot that is older than its publication.
        assert database.execute("select 1 from pg_replication_slots") == []
        database.execute('create publication "no""such"')
        await tried.says(
            rf'publication "shop" not found in database \'{database.name}\'; create it '
            r'with the tables to be sent: CREATE PUBLICATION "shop" FOR TABLE a, b'
        )
        database.execute("create publication shop for all tables")
        await tried.works(database.dsn)


async def test_a_slot_of_another_plugin(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute("create publication shop for all tables")
    slot = unique_name("slot")
    database.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", (slot,))
    async with attempt(database.dsn, caplog, SLOT_NAME=slot) as tried:
        await tried.says(
            rf"slot '{slot}' uses the output plugin 'test_decoding', not pgoutput; drop it with "
            rf"SELECT pg_drop_replication_slot\('{slot}'\), and the changes in it are lost, or "
            r"choose another SLOT_NAME"
        )
        database.execute("select pg_drop_replication_slot(%s)", (slot,))
        await tried.works(database.dsn)
