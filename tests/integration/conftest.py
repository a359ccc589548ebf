"""A stage: a database, the server on it, and a way to know that everything has arrived.

It is shared by the tests of a module, each of which plays in a schema of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, LiteralString

import pytest
import pytest_asyncio

from realtime_server.fanout import late_start
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Rows, Server, unique_name
from tests.server_helpers import PhoenixClient, Vsn, dev_config, open_client
from tests.waiting import eventually

FENCE_SCHEMA = "fence"

IS_STREAMING = """
    select 1 from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
    where s.database = current_database() and r.state = 'streaming'
"""


async def until_streaming(database: Database) -> None:
    """Wait until somebody streams from the database."""
    await eventually(lambda: database.execute(IS_STREAMING))


class Stage:
    """What a test plays on.

    Args:
        fence: a client of the server; its only topic is the fence's.
    """

    def __init__(self, database: Database, server: RealtimeServer, fence: PhoenixClient) -> None:
        self.database = database
        self.server = server
        self.port = server.port
        self.schema = ""
        """The test's own, in the search path of :meth:`execute`."""
        self._fence = fence
        # One connection for all: a new one for each statement would take most of the time.
        self._connection = database.connect()

    @contextlib.contextmanager
    def scene(self) -> Iterator[None]:
        """Have a schema of its own inside the block."""
        self.schema = unique_name("s")
        self.execute(f"create schema {self.schema}", f"set search_path to {self.schema}, public")
        yield
        self.execute("rollback", f"drop schema {self.schema} cascade")

    def execute(self, *statements: str) -> Rows:
        """Run statements as one transaction each; return the rows of the last."""
        rows: Rows = []
        for statement in statements:
            # Names and types are made anew by each test: nothing is worth preparing.
            cursor = self._connection.execute(statement, prepare=False)
            rows = cursor.fetchall() if cursor.description else []
        return rows

    def topic(self, table: str = "", column: str = "", value: str = "") -> str:
        """Return the topic of the test's schema, a table in it, or a filter on that."""
        parts = ["realtime", self.schema]
        parts += [table] if table else []
        parts += [f"{column}=eq.{value}"] if column else []
        return ":".join(parts)

    async def settle(self) -> None:
        """Return when the server has handed out everything committed so far."""
        self.execute(f"insert into {FENCE_SCHEMA}.fence default values")
        await self._fence.receive()

    async def prepare(self, *statements: str) -> None:
        """Run statements, and let their changes pass before anybody joins."""
        self.execute(*statements)
        await self.settle()

    async def frames(self, client: PhoenixClient, *statements: str) -> list[Any]:
        """Run statements; return every frame that the client got from them."""
        self.execute(*statements)
        await self.settle()
        return [frame for frame in await client.drain() if not _is_fence(frame)]

    def close(self) -> None:
        self._connection.close()

    def client(self, vsn: Vsn = "1.0.0") -> contextlib.AbstractAsyncContextManager[PhoenixClient]:
        return open_client(self.port, vsn)


def _is_fence(frame: Any) -> bool:
    payload = frame["payload"] if isinstance(frame, dict) else frame[-1]
    return bool(payload.get("schema") == FENCE_SCHEMA)


@contextlib.contextmanager
def fresh_database(server: Server, options: LiteralString = "") -> Iterator[Database]:
    """An empty database, made with SQL's ``options``, dropped at the end."""
    database = Database(server, unique_name("test"))
    server.create_database(database.name, options)
    try:
        yield database
    finally:
        database.drop()


@contextlib.asynccontextmanager
async def open_stage(server: Server, *, token: str = "", **settings: str) -> AsyncIterator[Stage]:
    """Set a stage on a PostgreSQL server; ``token`` is the fence's, if it needs one."""
    with fresh_database(server) as database:
        database.execute(
            f"create schema {FENCE_SCHEMA};"
            f" create table {FENCE_SCHEMA}.fence (id serial primary key)"
        )
        database.execute("create publication shop for all tables")
        async with RealtimeServer(dev_config(database.dsn, **settings)) as realtime:
            await until_streaming(database)
            async with open_client(realtime.port, query=f"apikey={token}") as fence:
                await fence.join(f"realtime:{FENCE_SCHEMA}")
                with contextlib.closing(Stage(database, realtime, fence)) as stage:
                    yield stage


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stage(pg: Server) -> AsyncIterator[Stage]:
    async with open_stage(pg) as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_one_stage(one_pg: Server) -> AsyncIterator[Stage]:
    async with open_stage(one_pg) as stage:
        yield stage


@pytest.fixture
def stage(module_stage: Stage) -> Iterator[Stage]:
    """A stage on each version of PostgreSQL in turn, and a schema of the test's own."""
    with module_stage.scene():
        yield module_stage


@pytest.fixture
def one_stage(module_one_stage: Stage) -> Iterator[Stage]:
    """The same on one version."""
    with module_one_stage.scene():
        yield module_one_stage


@pytest.fixture
def table(database: Database) -> Database:
    """A database with a table and a publication of it, for the tests of sources."""
    make_table(database)
    return database


@pytest.fixture
def wal2json_table(pg17: Server) -> Iterator[Database]:
    """The same where wal2json is installed."""
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    with fresh_database(pg17) as database:
        make_table(database)
        yield database


def make_table(database: Database) -> None:
    database.execute("create table item (id int primary key, name text)")
    database.execute("create publication shop for table item")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have servers answer joins soon although they read no changes yet."""
    monkeypatch.setattr(late_start, "_PATIENCE", 0.01)
