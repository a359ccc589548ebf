"""RealtimeServer: the parts, put together."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from websockets.asyncio.server import ServerConnection

from realtime_core import PgoutputSource

from .auth import AllowAll, ConnectRequest
from .broadcaster import broadcast
from .config import ServerConfig
from .connection import Connection
from .gate import TopicGate
from .hub import Hub
from .listener import Listener, bind
from .outbox import OutboxCounters
from .phoenix.serializers import Serializer

__all__ = ["RealtimeServer"]


class RealtimeServer:
    """Broadcasts a database's changes while it is open.

    Example::

        async with RealtimeServer(ServerConfig.from_env(os.environ)) as server:
            await server.wait()

    Clients may connect at once; the database is attached in the background, and every
    trouble with it is logged and retried.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.counters = OutboxCounters()
        self._authorizer = AllowAll()
        rules = config.configuration_file.realtime
        self._hub = Hub(TopicGate((rule.relation, rule.events) for rule in rules))
        self._listener: Listener
        self._broadcasting: asyncio.Task[None]
        self.port = config.port
        """The port it listens on, once it is open."""

    async def __aenter__(self) -> Self:
        """Listen, and begin to attach to the database.

        Raises:
            ServerError: if the port cannot be had.
        """
        sock = bind(self.config.port, loopback=self.config.loopback)
        self.port = sock.getsockname()[1]
        self._listener = Listener(sock, self._serve, self._authorizer)
        await self._listener.start()
        self._broadcasting = asyncio.create_task(self._broadcast())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close every connection and let go of the slot."""
        self._broadcasting.cancel()
        await asyncio.wait({self._broadcasting})
        await self._listener.close()

    async def wait(self) -> None:
        """Wait for the end of the stream, which does not come unless something is wrong.

        Raises:
            DecodeError: if the database sends what cannot be decoded.
        """
        await asyncio.shield(self._broadcasting)

    async def _broadcast(self) -> None:
        config = self.config
        source = PgoutputSource(
            config.dsn,
            publications=config.publications,
            slot=config.slot_name,
            temporary=config.temporary_slot,
            on_gap="continue",
            persistent=True,
            backoff=(
                config.db_reconnect_backoff_min / 1000,
                config.db_reconnect_backoff_max / 1000,
            ),
        )
        async with source:
            await broadcast(source, self._hub)

    async def _serve(
        self, websocket: ServerConnection, request: ConnectRequest, serializer: Serializer
    ) -> None:
        connection = Connection(
            websocket,
            request=request,
            serializer=serializer,
            hub=self._hub,
            authorizer=self._authorizer,
            outbox_max_bytes=self.config.outbox_max_bytes,
            counters=self.counters,
        )
        await connection.run()
