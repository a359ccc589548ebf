"""RealtimeServer: the parts, put together."""

from __future__ import annotations

import asyncio
from functools import partial
from types import TracebackType
from typing import Self

from websockets.asyncio.server import ServerConnection

from realtime_core import PgoutputSource

from .addresses import resolve_dsn
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
        max_lag = config.max_replication_lag_mb * 1_000_000
        self._source = PgoutputSource(
            partial(resolve_dsn, config),
            publications=config.publications,
            slot=config.slot_name,
            temporary=config.temporary_slot,
            on_gap="continue",
            persistent=True,
            # Nobody said that the slot may be dropped, unless there is a bound.
            max_lag_bytes=max_lag or None,
            on_lag="gap" if max_lag else "warn",
            replace_slot=bool(max_lag),
            backoff=(
                config.db_reconnect_backoff_min / 1000,
                config.db_reconnect_backoff_max / 1000,
            ),
        )
        self._listener: Listener
        self._broadcasting: asyncio.Task[None]
        self.port = config.port
        """The port it listens on, once it is open."""

    async def __aenter__(self) -> Self:
        """Listen, and begin to attach to the database.

        Raises:
            ServerError: if the port cannot be had.
        """
        config = self.config
        sock = bind(config.port, loopback=config.loopback, ip_version=config.realtime_ip_version)
        self.port = sock.getsockname()[1]
        self._listener = Listener(sock, self._serve, self._authorizer)
        await self._listener.start()
        # It attaches when it is read, and so in the background.
        await self._source.__aenter__()
        self._broadcasting = asyncio.create_task(broadcast(self._source, self._hub))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain: accept nobody, publish no more, close every connection, let go of the slot.

        In this order, so that clients get what was published, and nothing passes them by:
        while the slot is ours no other server reads it, and clients that come back to one
        are there before it does.
        """
        self._listener.stop_accepting()
        self._broadcasting.cancel()
        try:
            await asyncio.wait({self._broadcasting})
            await self._listener.close(within=self.config.drain_timeout / 1000)
        finally:
            await self._source.aclose()

    async def wait(self) -> None:
        """Wait for the end of the stream, which does not come unless something is wrong.

        Raises:
            DecodeError: if the database sends what cannot be decoded.
        """
        await asyncio.shield(self._broadcasting)

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
