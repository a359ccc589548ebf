"""What the server's tests share: changes made by hand, and a client that speaks Phoenix."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from psycopg.conninfo import conninfo_to_dict
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from realtime_core import (
    LSN,
    Column,
    Delete,
    Insert,
    Record,
    Relation,
    ReplicaIdentity,
    SourceStats,
    Transaction,
    Truncate,
    Update,
)
from realtime_core.records import Field
from realtime_core.sources.catalog import SlotStatus
from realtime_server.auth.grant import Grant
from realtime_server.config import ServerConfig
from realtime_server.errors import RefusedError
from realtime_server.fanout.frames import Frames
from realtime_server.fanout.hub_stats import HubStats
from realtime_server.fanout.registrar import Registered
from realtime_server.fanout.topic_parser import Topic
from realtime_server.metrics import Metrics
from realtime_server.net.slow_clients import Backlog, OutboxLimits
from realtime_server.phoenix.joins import Binding

__all__ = [
    "COMMIT_TIME",
    "DEADLINE",
    "RECENTLY",
    "TRANSACTION",
    "FakeTransport",
    "NullRegistrar",
    "PhoenixClient",
    "Recently",
    "RecordingOutbox",
    "Vsn",
    "delete",
    "dev_config",
    "make_backlog",
    "make_metrics",
    "open_config",
    "insert",
    "make_relation",
    "open_client",
    "slot_status",
    "texts",
    "truncate",
    "update",
]

Vsn = Literal["1.0.0", "2.0.0"]

DEADLINE: Final = 30.0
"""Seconds after which what should have happened will not: the machine may be busy."""

COMMIT_TIME: Final = datetime(2026, 11, 24, 5, 36, 0, 166595, tzinfo=UTC)
TRANSACTION: Final = Transaction(730, LSN(0x1000), COMMIT_TIME)

_refs = (f"fence {number}" for number in itertools.count(1))


# Changes without a database.


def make_relation(
    schema: str = "public",
    table: str = "todos",
    columns: Iterable[tuple[str, str, bool]] = (("id", "int8", True), ("details", "text", False)),
    identity: ReplicaIdentity = ReplicaIdentity.DEFAULT,
    *,
    oid: int = 16385,
) -> Relation:
    """Make a relation of (name, type, whether it is key) columns."""
    described = (Column(name, 0, kind, "pg_catalog", -1, key) for name, kind, key in columns)
    return Relation(oid, schema, table, identity, tuple(described))


def insert(relation: Relation, *fields: Field) -> Insert:
    return Insert(TRANSACTION, 0, relation, Record(relation.shape, fields))


def update(relation: Relation, new: Iterable[Field], old: Record | None = None) -> Update:
    return Update(TRANSACTION, 0, relation, Record(relation.shape, tuple(new)), old)


def delete(relation: Relation, old: Record) -> Delete:
    return Delete(TRANSACTION, 0, relation, old)


def truncate(*relations: Relation) -> Truncate:
    return Truncate(TRANSACTION, 0, relations, False, False)


# What goes out, read as a client would.


def slot_status(name: str, place: LSN, *, end: int) -> SlotStatus:
    """Return the state of a slot of pgoutput in the database db.

    Args:
        name: the slot's name.
        place: the LSN up to which it has given up everything.
        end: the LSN of the end of the WAL.
    """
    return SlotStatus(
        name=name,
        slot_type="logical",
        plugin="pgoutput",
        database="db",
        temporary=False,
        active_pid=None,
        restart_lsn=place,
        confirmed_flush_lsn=place,
        retained_bytes=end - place,
        wal_status="reserved",
        invalidation_reason=None,
        failover=False,
    )


def texts(data: bytes) -> list[str]:
    """Read WebSocket text frames with websockets' own parser."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    found = []
    while reader.buffer:
        try:
            next(Frame.parse(reader.read_exact, mask=False))
        except StopIteration as stop:
            frame: Frame = stop.value
        assert (frame.opcode, frame.fin) == (Opcode.TEXT, True)
        found.append(bytes(frame.data).decode())
    return found


class RecordingOutbox:
    """Remembers each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_behind = False

    def write(self, frames: Frames) -> None:
        assert texts(frames.plain) == [payload.decode() for payload in frames.payloads]
        self.writes.append(frames.plain)

    @property
    def frames(self) -> list[Any]:
        """All that was written, as JSON."""
        return [json.loads(text) for text in texts(b"".join(self.writes))]


class FakeTransport(asyncio.Transport):
    """Keeps what is written to it, as a transport does whose peer reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = b""
        self.protocol: asyncio.BaseProtocol | None = None
        self.closed = False
        self.half_closed = False
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closing()
        self.waiting += bytes(data)

    def sent(self) -> bytes:
        """Let the peer read; return what it gets."""
        data, self.waiting = self.waiting, b""
        return data

    def write_eof(self) -> None:
        assert not self.is_closing()
        self.half_closed = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True
        self.waiting = b""


class Recently:
    """Equals every commit timestamp of the last minutes, in the form that payloads have."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", other, re.ASCII) is None:
            return False
        return abs(datetime.now(UTC) - datetime.fromisoformat(other)) < timedelta(minutes=5)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "RECENTLY"


RECENTLY: Final = Recently()


class NullRegistrar:
    """A registrar that asks no database: what there is, the hub finds out."""

    viewer = None
    notes = ()

    async def register(
        self, topic: Topic, bindings: tuple[Binding, ...] | None, grant: Grant
    ) -> Registered:
        if topic.problem is not None:
            raise topic.problem
        return self

    def watch(self, registered: Registered, tell: Callable[[RefusedError], None]) -> None:
        return None

    async def renew(self, registered: Registered, grant: Grant) -> Hashable:
        return None

    def remove(self, registered: Registered) -> None:
        return None


# A server and a client of it.


def open_config(**settings: Any) -> ServerConfig:
    """Defaults but for open channels and what is given, for a server's parts."""
    return ServerConfig(secure_channels=False, **settings)


def make_backlog(
    *, max_bytes: int = 1 << 30, max_age: float = 1000.0, total_bytes: int = 1 << 30
) -> Backlog:
    return Backlog(OutboxLimits(max_bytes, max_age, total_bytes))


def make_metrics(stats: SourceStats | None = None, subscriptions: int = 0) -> Metrics:
    """Metrics without a server."""
    return Metrics(
        stats=lambda: stats or SourceStats(),
        hub=lambda: HubStats(subscriptions),
        backlog=make_backlog(),
    )


def dev_config(dsn: str, **settings: str) -> ServerConfig:
    """Development defaults for the database of ``dsn``, on a free port, quick to retry."""
    database = conninfo_to_dict(dsn)
    environ = {
        "DB_HOST": str(database.get("host", "localhost")),
        "DB_PORT": str(database.get("port", 5432)),
        "DB_NAME": str(database.get("dbname", "postgres")),
        "DB_USER": str(database.get("user", "postgres")),
        "DB_PASSWORD": str(database.get("password", "")),
        "DB_RECONNECT_BACKOFF_MIN": "10",
        "DB_RECONNECT_BACKOFF_MAX": "100",
        "PORT": "0",
        "PUBLICATIONS": '["shop"]',
    }
    return ServerConfig.from_env({**environ, **settings}, dev=True)


class PhoenixClient:
    """A client of one version of the protocol. It shows frames as they came, as JSON."""

    def __init__(self, websocket: ClientConnection, vsn: Vsn) -> None:
        self.websocket = websocket
        self.vsn = vsn

    # Frames as this version writes them.

    def frame(
        self, topic: str, event: str, payload: Any, *, ref: Any = None, join_ref: Any = None
    ) -> Any:
        """Return a frame as the server sends it."""
        if self.vsn == "1.0.0":
            return {"topic": topic, "event": event, "payload": payload, "ref": ref}
        return [join_ref, ref, topic, event, payload]

    def reply(
        self, topic: str, response: Any, *, status: str = "ok", ref: Any = "1", join_ref: Any = None
    ) -> Any:
        payload = {"status": status, "response": response}
        return self.frame(topic, "phx_reply", payload, ref=ref, join_ref=join_ref)

    def refusal(self, topic: str, reason: str, *, ref: Any = "1", join_ref: Any = None) -> Any:
        return self.reply(topic, {"reason": reason}, status="error", ref=ref, join_ref=join_ref)

    # Messages.

    async def send(
        self, topic: str, event: str, payload: Any, *, ref: Any = "1", join_ref: Any = None
    ) -> None:
        """Send a message, in V1 with a join_ref if there is one, as stock clients do."""
        frame = self.frame(topic, event, payload, ref=ref, join_ref=join_ref)
        if self.vsn == "1.0.0" and join_ref is not None:
            frame["join_ref"] = join_ref
        await self.send_raw(json.dumps(frame))

    async def send_raw(self, data: str | bytes) -> None:
        await self.websocket.send(data)

    async def receive(self) -> Any:
        async with asyncio.timeout(DEADLINE):
            return json.loads(await self.websocket.recv(decode=True))

    async def join(self, *topics: str, ref: str = "1") -> None:
        """Join each topic; the join_ref is the ref, as stock clients have it."""
        for topic in topics:
            await self.send(topic, "phx_join", {}, ref=ref, join_ref=ref)
            assert await self.receive() == self.reply(topic, {}, ref=ref, join_ref=ref)

    async def drain(self) -> list[Any]:
        """Return what the server has written so far: a heartbeat's reply comes behind it."""
        ref = next(_refs)
        await self.send("phoenix", "heartbeat", {}, ref=ref)
        end = self.reply("phoenix", {}, ref=ref)
        frames = []
        while (frame := await self.receive()) != end:
            frames.append(frame)
        return frames

    async def closed(self) -> tuple[int, str]:
        """Wait for the end; return code and reason, 1006 where no close frame came."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.receive()
        websocket = self.websocket
        assert websocket.close_code is not None
        return websocket.close_code, websocket.close_reason or ""


@contextlib.asynccontextmanager
async def open_client(
    port: int,
    vsn: Vsn = "1.0.0",
    *,
    path: str = "/socket/websocket",
    query: str | None = None,
    ping_interval: float | None = 20,
) -> AsyncIterator[PhoenixClient]:
    """Connect to a server on this machine.

    Args:
        query: instead of ``vsn=…``.
        ping_interval: seconds between pings; None for one that reads nothing for long, as it would
            not read the pongs.
    """
    uri = f"ws://127.0.0.1:{port}{path}?{f'vsn={vsn}' if query is None else query}"
    async with connect(
        uri, compression=None, proxy=None, open_timeout=DEADLINE, ping_interval=ping_interval
    ) as websocket:
        yield PhoenixClient(websocket, vsn)
