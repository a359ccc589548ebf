"""StreamMode: puts the parts of STREAM mode together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Self

from ...config import ServerConfig
from ...config.database.addresses import resolve_dsn
from ...config.database.source import ServerSource
from ...messages.janitor import keep_messages
from ...metrics import Metrics
from ..hub import Hub
from .broadcaster import LiveStream, WithoutMessages, broadcast
from .join_checks import CatalogRegistrar
from .table_lookup import TableLookup

__all__ = ["StreamMode"]


class StreamMode(CatalogRegistrar):
    """Reads changes, and sends each to all clients whose channels ask for it.

    Args:
        config: of the server.
        source: of the changes. The mode enters and closes it.
        hub: hands the changes to the subscriptions.
        metrics: of the server.
        replay: is told of each batch of the stream; None: nobody is.
        begun: called when changes are being read, before the first is handed out.
    """

    def __init__(
        self,
        config: ServerConfig,
        source: ServerSource,
        hub: Hub,
        metrics: Metrics,
        *,
        replay: LiveStream | None = None,
        begun: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(
            TableLookup(
                partial(resolve_dsn, config), config.publications, enum_orders=source.enum_orders
            ),
            is_attached=lambda: source.stats().connected,
            attached=source.attached,
        )
        self._config = config
        self._source = source
        self._hub = hub
        self._metrics = metrics
        self._begun = begun
        self._replay = replay
        if replay is not None and config.broadcast_from_database:
            self._replay = WithoutMessages(replay)

    async def __aenter__(self) -> Self:
        """Begin to attach to the database's changes, in the background."""
        await self._source.__aenter__()
        await self._lookup.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._lookup.__aexit__(exc_type, exc, traceback)
        await self._source.aclose()

    async def attached(self) -> None:
        """Wait until changes are being read.

        Raises:
            RealtimeError: if the source cannot go on.
            RuntimeError: if it was closed.
        """
        await self._source.attached()

    async def drain(self, within: float) -> None:
        """Do nothing: whatever was read is in the clients' outboxes."""

    async def run(self) -> None:
        """Send changes to the hub's subscriptions until the source ends.

        Raises:
            DecodeError: if the database sends what cannot be decoded.
        """
        self._hub.on_relation = self.forget
        beside = {asyncio.create_task(self.check_later())}
        if self._config.broadcast_from_database:
            dsn = partial(resolve_dsn, self._config)
            beside.add(asyncio.create_task(keep_messages(dsn, self.attached)))
        try:
            await self._source.attached()
            await self._begun()
            await broadcast(self._source, self._hub, self._metrics, replay=self._replay)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
