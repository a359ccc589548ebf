"""A server's parts for one process without a network or a database, and a client's session with it.

Everything between the bytes that a socket gets and those that it is sent is the server's own: the
frames' parser, the protocol, tokens, the budget, the check against the tables, the hub. Only
what would be read of a database is at hand.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import count
from random import Random
from types import SimpleNamespace
from typing import Any, Final, cast

import attrs
from websockets.asyncio.server import Server
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from realtime_core import Change
from realtime_server.auth.authorizer import AllowAll, Authorizer, ConnectRequest, TokenAuthorizer
from realtime_server.config import ServerConfig
from realtime_server.config.database.tables import Table
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.presence import Presence, PresenceLimits
from realtime_server.fanout.rooms import Rooms
from realtime_server.fanout.source_attachment import Attachment
from realtime_server.fanout.stream.join_checks import CatalogRegistrar
from realtime_server.fanout.stream.table_lookup import FoundTables, TableLookup
from realtime_server.fanout.turns import call_later, run_steps
from realtime_server.messages.policies.policy_checks import PolicyChecks
from realtime_server.messages.stored_messages import StoredMessages
from realtime_server.metrics import Metrics
from realtime_server.net.connection import Connection
from realtime_server.net.filter_limits import FilterBudget, FilterCost
from realtime_server.net.frame_limits import BoundedConnection
from realtime_server.net.listener import deflate_factory
from realtime_server.net.outbox import cut_off
from realtime_server.net.private_channels import PrivateChannels
from realtime_server.net.services import Services
from realtime_server.phoenix.serializers import SERIALIZERS
from tests.fuzz import session_tables as tables
from tests.fuzz.session_loop import Cost, SessionLoop
from tests.fuzz.session_policies import KnownBus, Policies, Stored
from tests.fuzz.session_tokens import EPOCH, GOOD, VERIFIER
from tests.server_helpers import FakeTransport, make_backlog, make_metrics

__all__ = ["BrokenPromiseError", "Session", "TestedServer"]

REQUEST: Final = (
    b"GET /socket/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
READ_AT_ONCE: Final = 256 * 1024
"""Bytes that asyncio's transports read in one go."""
LONG: Final = 1000.0
"""Seconds after which no timer of a session's is left but those of tokens."""


class BrokenPromiseError(Exception):
    """Something that must not be, whatever a client sends."""


class Transport(FakeTransport):
    """A socket whose client reads everything at once, and ends when it is told to."""

    def __init__(self, loop: SessionLoop) -> None:
        super().__init__()
        self._loop = loop
        self._is_lost = False
        self.received = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.received += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """websockets asks for it."""

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        """What comes is waited for to be dealt with anyway."""

    def resume_reading(self) -> None:
        """Likewise."""

    def close(self) -> None:
        super().close()
        self._lose()

    def abort(self) -> None:
        super().abort()
        self._lose()

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            assert self.protocol is not None
            self._loop.call_soon(self.protocol.connection_lost, None)


class KnownTables(TableLookup):
    """Knows the tables that there are."""

    def __init__(self) -> None:
        """Ask nobody."""

    async def tables(
        self, names: Collection[tuple[str, str]], *, fresh: bool = False
    ) -> FoundTables | None:
        found: dict[tuple[str, str], Table | None] = {
            name: tables.TABLES.get(name) for name in names
        }
        return FoundTables(found, tables.ENUMS, is_fresh=True)

    def forget(self, name: tuple[str, str]) -> None:
        """Nothing is remembered."""


class TestedServer:
    """What all sessions share.

    Args:
        loop: running.
        config: bounds; the defaults, usually.
    """

    __test__ = False

    def __init__(self, loop: SessionLoop, config: ServerConfig | None = None) -> None:
        self.loop = loop
        self.config = config or ServerConfig(secure_channels=False)
        self.metrics: Metrics = make_metrics()
        self.hub = Hub(
            enums=tables.ENUMS, max_record_bytes=self.config.max_record_bytes, clock=loop.time
        )
        self.budget = FilterBudget(self.config)
        self.bus = KnownBus()
        self.policies = Policies(None)
        self.private = PrivateChannels(
            cast(PolicyChecks, self.policies),
            cast(StoredMessages, Stored(Random("stored"))),
            (),
            self.metrics,
        )
        self.rooms = Rooms(self.bus, later=call_later, clock=loop.time)
        refs = count()
        self.presence = Presence(
            self.rooms,
            PresenceLimits(
                interval=self.config.presence_interval / 1000,
                members=self.config.max_presence_members,
                state_bytes=self.config.presence_state_bytes,
            ),
            later=call_later,
            clock=loop.time,
            new_ref=lambda: f"{next(refs):016}",
        )
        self.backlog = make_backlog(
            max_bytes=self.config.outbox_max_bytes, max_age=self.config.outbox_max_age / 1000
        )
        self.attached = asyncio.Event()
        self.attached.set()
        self.attachment = Attachment(self.attached.is_set, self.attached.wait)
        self.registrar = CatalogRegistrar(
            KnownTables(), is_attached=self.attached.is_set, attached=self._attach
        )
        # By whether tokens are asked for.
        self.authorizers: dict[bool, Authorizer] = {
            False: AllowAll(),
            True: TokenAuthorizer(VERIFIER, clock=self.clock),
        }
        self.happened: Counter[str] = Counter()
        self.sessions: set[asyncio.Task[None]] = set()
        """The connections that have not ended."""
        # Of websockets' server, what a connection of it looks at.
        self.websockets = SimpleNamespace(
            handler=self._handler,
            handler_tasks=set(),
            is_serving=lambda: True,
            start_connection_handler=lambda connection: None,
        )

    def clock(self) -> float:
        """Seconds since 1970, for tokens."""
        return EPOCH + self.loop.time()

    def publish(self, changes: Sequence[Change]) -> Cost:
        """Hand changes out as the broadcaster does; return what it cost."""
        try:
            _, cost = self.loop.run(run_steps(self.hub.publishing(changes)))
        except Exception as error:
            raise BrokenPromiseError(f"changes cannot be handed out: {error!r:.1000}") from error
        return cost

    def check_nothing_is_left(self) -> None:
        """Raise BrokenPromiseError if something is left of sessions that have ended."""
        hub = self.hub
        left = {
            "subscriptions": hub.stats().subscriptions,
            "budget": "" if self.budget.held == FilterCost() else self.budget.held,
            "backlog": self.backlog.bytes,
            "hub": "" if hub.is_empty else "topics, bindings or filters",
            "unjudged": self.registrar.unchecked,
            "waits": self.attachment.waiting,
            "members": self.rooms.stats().members,
            "present": self.presence.stats().tracked,
            "connections": _value(self.metrics.connections),
            "channels": _value(self.metrics.channels),
            "problems": self.loop.problems or "",
        }
        found = {name: value for name, value in left.items() if value}
        if found:
            raise BrokenPromiseError(f"left of sessions that have ended: {found!r:.2000}")

    def abandon(self) -> None:
        """End all sessions, after something that must not be."""
        for session in self.sessions:
            session.cancel()
        self.loop.settle()
        self.loop.problems.clear()

    # What observes connections.

    def count_flood(self) -> None:
        self.happened["count_flood"] += 1

    def check_backlog(self, transport: asyncio.Transport) -> None:
        reason = self.backlog.why_too_much(transport.get_write_buffer_size())
        if reason is not None:
            cut_off(transport, self.metrics.outbox, "", reason)

    def count_malformed(self, transport: asyncio.BaseTransport) -> None:
        self.happened["no request"] += 1

    def forget(self, transport: asyncio.Transport) -> None:
        self.happened["ended"] += 1

    async def _attach(self) -> None:
        await self.attached.wait()

    async def _handler(self, connection: Any) -> None:
        """Stands for the listener's; a session calls it by itself."""


class Session:
    """One client, from its handshake to its end.

    Args:
        server: whose client it is.
        vsn: of the protocol.
        is_secure: whether tokens are asked for.
        is_deflating: whether the server offers permessage-deflate.
        is_patient: whether it may be idle for as long as it likes.
    """

    def __init__(
        self,
        server: TestedServer,
        vsn: str,
        *,
        is_secure: bool,
        is_deflating: bool,
        is_patient: bool = False,
    ) -> None:
        self._server = server
        self._loop = server.loop
        self.is_deflating = is_deflating
        config = server.config
        if is_patient:
            config = attrs.evolve(config, idle_timeout=round(1e12))
        extensions = [deflate_factory()] if is_deflating else None
        self._transport = Transport(self._loop)
        self._websocket = BoundedConnection(
            ServerProtocol(extensions=extensions, max_size=config.max_frame_bytes),
            cast(Server, server.websockets),
            frames_per_second=config.max_messages_per_second,
            observer=server,
            ping_interval=None,
            close_timeout=2.0,
        )
        self._transport.protocol = self._websocket
        self._websocket.connection_made(self._transport)
        self._websocket.data_received(REQUEST)
        self._loop.run(self._websocket.handshake(server_header=None))
        query = {"vsn": vsn, **({"apikey": GOOD} if is_secure else {})}
        connection = Connection(
            self._websocket,
            ConnectRequest("/socket/websocket", query, {}),
            SERIALIZERS[vsn],
            Services(
                hub=server.hub,
                attachment=server.attachment,
                authorizer=server.authorizers[is_secure],
                registrar=server.registrar,
                backlog=server.backlog,
                budget=server.budget,
                config=config,
                metrics=server.metrics,
                rooms=server.rooms,
                presence=server.presence,
                private=server.private,
                clock=server.clock,
            ),
            peer="client",
        )
        self._transport.received.clear()
        self._task = self._loop.create_task(self._serve(connection))
        server.sessions.add(self._task)
        self._task.add_done_callback(server.sessions.discard)
        self._loop.settle()

    async def _serve(self, connection: Connection) -> None:
        # As websockets' server does with its handler.
        try:
            await connection.run()
        finally:
            await self._websocket.close()

    @property
    def received(self) -> bytes:
        """What it has been sent since the handshake."""
        return bytes(self._transport.received)

    @property
    def is_open(self) -> bool:
        return self._websocket.protocol.state is State.OPEN and not self._task.done()

    def send(self, data: bytes) -> Cost:
        """Have bytes come from the client; return what it cost to deal with them.

        Raises:
            BrokenPromiseError: if it ends with an error that nobody has thought of.
        """
        for start in range(0, len(data), READ_AT_ONCE):
            self._loop.call_soon(self._receive, data[start : start + READ_AT_ONCE])
        cost = self._loop.settle()
        self._check()
        return cost

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        # Most of the time nothing is due.
        if self._loop.advance(seconds):
            self._loop.settle()
            self._check()

    def end(self) -> None:
        """End the session, if the server has not."""
        if self.is_open:
            self._loop.call_soon(self._hang_up)
            self._loop.settle()
        if not self._task.done():
            # It waits for the answer to its close frame.
            close = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)
            self._loop.call_soon(self._receive, close)
            self._loop.settle()
        for _ in range(5):
            if self._task.done():
                break
            self._loop.advance(LONG)
            self._loop.settle()
        if not self._task.done():
            raise BrokenPromiseError("the session does not end")
        self._check()

    def _receive(self, data: bytes) -> None:
        # As of a transport that is closing, nothing more is read.
        if not self._transport.is_closing():
            self._websocket.data_received(data)

    def _hang_up(self) -> None:
        if not self._transport.is_closing():
            self._websocket.eof_received()
            self._transport.close()

    def _check(self) -> None:
        if self._loop.problems:
            problem = self._loop.problems.pop()
            raise BrokenPromiseError(f"nobody caught {problem!r:.1000}") from problem.get(
                "exception"
            )
        if self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            if error is not None:
                raise BrokenPromiseError(f"the session ended with {error!r:.1000}") from error


def _value(gauge: Any) -> float:
    (metric,) = gauge.collect()
    value: float = metric.samples[0].value
    return value
