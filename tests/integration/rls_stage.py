"""A stage in RLS mode: a server whose role is no superuser, and clients with tokens."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from psycopg.conninfo import make_conninfo

from realtime_server.config import ServerConfig
from realtime_server.rls.mode import RlsMode
from realtime_server.rls.setup.nobody_role import NOBODY
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Rows, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.rls_helpers import grant_role, make_nobody, roles
from tests.server_helpers import PhoenixClient, Vsn, dev_config, open_client
from tests.server_process import ServerProcess
from tests.tokens import SECRET, make_token
from tests.waiting import eventually

__all__ = ["OWN", "RlsClient", "RlsStage", "open_rls_stage", "rls_config"]

FENCE = "realtime:public:fence"
OWN = "owner = current_setting('request.jwt.claims')::jsonb ->> 'sub'"


def rls_config(dsn: str, **settings: str) -> ServerConfig:
    """The configuration of a server in RLS mode."""
    ours = {
        "REPLICATION_MODE": "RLS",
        "SECURE_CHANNELS": "true",
        "JWT_SECRET": SECRET,
        # A channel that ended would be kept for a while; tests of replay ask for that.
        "REPLAY_WINDOW": "0",
    }
    return dev_config(dsn, **{**ours, **settings})


class RlsClient(PhoenixClient):
    """A client who is somebody."""

    token: str

    async def try_join(self, topic: str, payload: Any = None, ref: str = "1") -> Any:
        """Join with the client's token; return the reply's payload."""
        sent = {"user_token": self.token} if payload is None else payload
        await self.send(topic, "phx_join", sent, ref=ref, join_ref=ref)
        frame = await self.receive()
        return frame["payload"] if isinstance(frame, dict) else frame[-1]

    async def sit(self, *topics: str) -> None:
        """Join topics with the client's token."""
        for topic in topics:
            assert await self.try_join(topic) == {"status": "ok", "response": {}}


class RlsStage:
    """What a test plays on."""

    def __init__(
        self,
        database: Database,
        server: RealtimeServer,
        reader: str,
        narrow: str,
        admin: str,
        *others: RealtimeServer,
    ) -> None:
        self.database = database
        self.server = server
        self.others = others
        """More servers on the same slot."""
        self.reader = reader
        self.narrow = narrow
        self.admin = admin
        self.schema = "public"
        self.fence: RlsClient
        self.other_fences: list[RlsClient] = []
        self._connection = database.connect()

    def execute(self, *statements: str) -> Rows:
        rows: Rows = []
        for statement in statements:
            cursor = self._connection.execute(statement, prepare=False)
            rows = cursor.fetchall() if cursor.description else []
        return rows

    @contextlib.contextmanager
    def scene(self) -> Iterator[None]:
        """Have a schema of its own, which everybody may use, inside the block."""
        self.schema = unique_name("s")
        self.execute(
            f"create schema {self.schema}",
            f"grant usage on schema {self.schema} to public",
            f"set search_path to {self.schema}, public",
        )
        yield
        self.execute("rollback", f"drop schema {self.schema} cascade")

    def make(self, table: str, columns: str, policy: str | None = OWN, *, narrow: str = "") -> None:
        """Make a table which reader and admin may read, with a policy unless it is None.

        Args:
            narrow: the columns that the narrow role may read.
        """
        self.execute(
            f"create table {table} ({columns})",
            f'grant select on {table} to "{self.reader}", "{self.admin}"',
        )
        if narrow:
            self.execute(f'grant select ({narrow}) on {table} to "{self.narrow}"')
        if policy is not None:
            self.execute(
                f"alter table {table} enable row level security",
                f"create policy p on {table} using ({policy})",
            )

    def topic(self, *parts: str) -> str:
        return ":".join(("realtime", self.schema, *parts))

    def token(self, sub: str = "ann", role: str | None = None, **more: Any) -> str:
        return make_token({"role": role or self.reader, "sub": sub, **more})

    @contextlib.asynccontextmanager
    async def client(
        self,
        sub: str = "ann",
        role: str | None = None,
        vsn: Vsn = "1.0.0",
        *,
        server: RealtimeServer | ServerProcess | None = None,
        **claims: Any,
    ) -> AsyncIterator[RlsClient]:
        token = self.token(sub, role, **claims)
        query = f"vsn={vsn}&apikey={token}"
        async with open_client((server or self.server).port, vsn, query=query) as plain:
            client = RlsClient(plain.websocket, vsn)
            client.token = token
            yield client

    def metric(self, name: str) -> float:
        for line in self.server.metrics.render().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(f"there is no metric {name}")

    async def settle(self) -> None:
        """Return when each server has handed out everything committed so far.

        What slow viewers get is not waited for; what those get is who are new.
        """
        self.execute("insert into public.fence default values")
        for fence in (self.fence, *self.other_fences):
            await fence.receive()
        for server in (self.server, *self.others):
            mode = server.mode
            assert isinstance(mode, RlsMode)
            slow = mode.slow_viewers
            await eventually(lambda: not slow.busy_on_trial)  # noqa: B023

    async def frames(self, client: PhoenixClient, *statements: str) -> list[Any]:
        """Run statements; return every frame that the client got from them."""
        self.execute(*statements)
        await self.settle()
        return [frame for frame in await client.drain() if not _is_fence(frame)]

    async def payloads(self, client: PhoenixClient, *statements: str) -> list[Any]:
        """The same, of each frame its payload."""
        return [
            frame["payload"] if isinstance(frame, dict) else frame[-1]
            for frame in await self.frames(client, *statements)
        ]

    def close(self) -> None:
        self._connection.close()


def _is_fence(frame: Any) -> bool:
    payload = frame["payload"] if isinstance(frame, dict) else frame[-1]
    return bool(payload.get("table") == "fence")


@contextlib.asynccontextmanager
async def open_rls_stage(
    server: Server, *, others: int = 0, **settings: str
) -> AsyncIterator[RlsStage]:
    """Set a stage: publication ``shop`` for all tables, a temporary slot.

    Args:
        server: has the database.
        others: how many more servers there are with the same settings, which share a log.
        settings: environment variables.
    """
    with (
        roles(server, "Reader", "narrow") as (reader, narrow),
        roles(server, "admin", options="bypassrls") as (admin,),
        roles(server, "server", options="login replication") as (name,),
        fresh_database(server) as database,
    ):
        make_nobody(server)
        for role in (reader, narrow, admin, NOBODY):
            grant_role(server, role, to=name)
        database.execute(f"grant create on database {database.name} to {name}")
        database.execute("create table fence (id serial primary key)")
        database.execute(f'grant select on fence to "{reader}"')
        database.execute("create publication shop for all tables")
        config = rls_config(make_conninfo(database.dsn, user=name), **settings)
        async with contextlib.AsyncExitStack() as stack:
            servers = [
                await stack.enter_async_context(RealtimeServer(config)) for _ in range(1 + others)
            ]
            stage = RlsStage(database, servers[0], reader, narrow, admin, *servers[1:])
            stack.enter_context(contextlib.closing(stage))
            await eventually(lambda: all(one.is_attached for one in servers))
            fences = [
                await stack.enter_async_context(stage.client("fence", server=one))
                for one in servers
            ]
            for fence in fences:
                await fence.sit(FENCE)
            stage.fence, *stage.other_fences = fences
            yield stage
