"""RlsMode: puts the parts of RLS mode together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from types import TracebackType
from typing import Final, Self

import psycopg

from realtime_core.errors import SourceError
from realtime_core.sources.failures import one_line

from ..auth.grant import Grant
from ..config import OutputPlugin, RlsDelete, ServerConfig
from ..config.database.addresses import resolve_dsn
from ..config.database.connections import OWN_PATH, Connections, connect
from ..config.database.publications import check_for_wal2json
from ..config.database.source import ServerSource
from ..config.process_memory import memory_limit
from ..errors import RefusedError
from ..fanout.database_broadcasts import DatabaseBroadcasts
from ..fanout.hub import Hub
from ..fanout.registrar import Registered
from ..fanout.stream.broadcaster import LiveStream
from ..fanout.subscription_specs import specs_of
from ..fanout.topic_parser import Topic
from ..messages.janitor import keep_messages
from ..metrics import Metrics
from ..phoenix.joins import TRUNCATE, Binding
from ..phoenix.reasons import RlsReason
from ..replay.queue_places import QueuePlaces
from .broadcaster import Broadcaster
from .catch_up_publisher import CatchUpPublisher
from .checker import Checker
from .counters import Counters
from .delivery import Delivery
from .lookup.shared_check import FEW
from .lookup.visibility import Visibility
from .lookup.visibility_query import Said
from .matcher import Matcher
from .reader import BatchReader
from .setup.migrations import LOCK, migrate
from .setup.powers import excess_powers
from .setup.privileges import missing_privileges
from .setup.type_schemas import open_schemas
from .slow_viewers import SlowViewers
from .subscription_table import Registration
from .subscriptions import SubscriptionRegistry

__all__ = ["RlsMode"]

logger = logging.getLogger("realtime.rls")

_CONNECTIONS: Final = 4
"""How many connections check rows at once. Two more check for the viewers whose policies take too
long, and two for those whose checks were cancelled because of these. Each of several workers has
half of all these."""
_SHARE: Final = 4
"""Which part of the memory may wait for slow policies, unless a setting says it: a quarter."""
_PATIENCE: Final = 5.0
"""Seconds that a join waits until the schema ``realtime`` is set up. Clients come back
while a server starts, and some topic clients do not join again when they are refused."""


class RlsMode:
    """Reads changes, and sends each to the clients that may see its row.

    It is also the registrar, which checks the joins of the server's clients.

    Args:
        config: the server's settings.
        source: where the changes come from. The mode enters and closes it.
        hub: has the joined channels.
        metrics: the server's metrics.
        counters: counts the checks, and the changes that could not be sent.
        replay: is told of each batch of the stream; None: nobody is.
        publisher: publishes to those who come back; None: nobody does. The mode opens and closes
            its connections.
        places: told of what waits for slow policies; None if nobody needs to know.
        broadcasts: gets the rows of ``realtime.messages``; None: they go to nobody.
        begun: called when changes are being read, before the first is handed out.
    """

    def __init__(
        self,
        config: ServerConfig,
        source: ServerSource,
        hub: Hub,
        metrics: Metrics,
        counters: Counters,
        *,
        replay: LiveStream | None = None,
        publisher: CatchUpPublisher | None = None,
        places: QueuePlaces | None = None,
        broadcasts: DatabaseBroadcasts | None = None,
        begun: Callable[[], Awaitable[None]],
    ) -> None:
        self._config = config
        self._begun = begun
        # Whether the changes come from wal2json, which does not know publications.
        self._is_wal2json = config.output_plugin is OutputPlugin.WAL2JSON
        self._source = source
        # Returns the database's connection string.
        self._dsn = dsn = partial(resolve_dsn, config)
        timeout = config.rls_check_timeout / 1000
        said = Said()
        few = 1 if config.worker_count > 1 else 2
        # Three pools of connections that check rows: for all viewers together, for those who were
        # too slow there, and for those of whom it is not known whether they are.
        self._visibility = Visibility(dsn, timeout=timeout, size=_CONNECTIONS // 2 * few, said=said)
        self._apart = Visibility(dsn, timeout=timeout, name="rls apart", size=few, said=said)
        self._on_trial = Visibility(dsn, timeout=timeout, name="rls on trial", size=few, said=said)
        self._publisher = publisher
        # A pool of connections that check joins.
        self._connections = Connections(
            dsn,
            name="subscriptions",
            size=2,
            # Code that checks a filter's value may prepare another statement with the same name.
            prepares=False,
            settings=OWN_PATH,
        )
        # The joined channels, and their rows in realtime.subscription.
        self._registry = SubscriptionRegistry(
            self._connections,
            publications=config.publications,
            plugin=config.output_plugin,
            node=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
            interval=config.subscription_sync_interval / 1000,
            enum_orders=source.enum_orders,
            ignored_claims=config.rls_ignored_claims,
            asks_for_deleted=config.rls_delete is RlsDelete.POLICY,
        )
        checker = Checker(
            self._visibility,
            counters,
            publications=config.publications if self._is_wal2json else (),
            max_record_bytes=config.max_record_bytes,
            strict=config.rls_strict,
            asks_for_deleted=config.rls_delete is RlsDelete.POLICY,
            few=FEW,
        )
        delivery = Delivery(hub, counters)
        # Checks changes, and keeps those of viewers whose policies are slow in queues.
        self.slow_viewers = slow = SlowViewers(
            checker,
            self._apart,
            self._on_trial,
            delivery,
            counters,
            max_bytes=config.rls_waiting_bytes or memory_limit() // _SHARE // config.worker_count,
            places=places,
        )
        # Takes batches of changes from the reader to the channels.
        self._broadcaster = Broadcaster(
            Matcher(hub),
            slow.check,
            delivery,
            slow.telling,
            metrics,
            self._renew,
            replay=replay,
            broadcasts=broadcasts,
        )
        # Divides the stream into batches.
        self._reader = BatchReader(
            source,
            limit=config.max_changes,
            interval=config.replication_poll_interval / 1000,
        )
        # Set when the schema realtime is set up, and the source attaches.
        self._ready = asyncio.Event()
        # Closes what was opened.
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open the pools of connections; they connect when they are used."""
        asking = (self._visibility, self._apart, self._on_trial)
        for part in (*asking, self._connections, self.slow_viewers):
            await self._stack.enter_async_context(part)
        if self._publisher is not None:
            await self._stack.enter_async_context(self._publisher)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._source.aclose()
        if self._ready.is_set():
            await self._registry.close()
        await self._stack.aclose()

    async def attached(self) -> None:
        """Wait until the database's changes are being read.

        Raises:
            RealtimeError: if the source cannot go on.
            RuntimeError: if the source was closed.
        """
        await self._ready.wait()
        await self._source.attached()

    async def run(self) -> None:
        """Send changes to the clients that may see them until the stream ends.

        Raises:
            RealtimeError: if the stream cannot go on.
        """
        await self._prepare()
        # The source attaches in the background.
        await self._source.__aenter__()
        self._ready.set()
        beside = {asyncio.create_task(self._registry.run())}
        if self._config.broadcast_from_database:
            beside.add(asyncio.create_task(keep_messages(self._dsn, self.attached)))
        try:
            await self._source.attached()
            await self._begun()
            await self._broadcaster.run(self._reader)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    async def drain(self, within: float) -> None:
        """Send the changes that wait for slow policies, when nothing more is read from the stream.

        Args:
            within: seconds until the rest is given up, and its channels are told of a gap.
        """
        await self.slow_viewers.drain(within)

    async def _prepare(self) -> None:
        """Check the publications, and set up the schema ``realtime``; retry until both work."""
        delay = self._config.db_reconnect_backoff_min / 1000
        while True:
            try:
                # Not from a pool, which would try for long, and not say what to do.
                async with await connect(await self._dsn(), name="setup") as connection:
                    if self._is_wal2json:
                        await check_for_wal2json(connection, self._config.publications)
                    for migration in await migrate(connection):
                        logger.info("migrated the schema realtime: %s", migration)
                    for name in await open_schemas(
                        connection, self._config.publications, lock=LOCK
                    ):
                        logger.info("realtime_nobody may use the schema %s from now on", name)
                    missing = await missing_privileges(connection, self._config.publications)
                    for grant in missing.every:
                        logger.warning("a privilege for RLS mode is missing: %s", grant)
                    excess = await excess_powers(connection, self._config.publications)
                    if excess is not None:
                        logger.warning(
                            "the server's role should have fewer powers: %s. %s",
                            excess.message,
                            " ".join(excess.sql),
                        )
                await self._registry.refresh_enum_orders()
            except (SourceError, psycopg.Error) as exc:
                logger.warning("%s; trying again in %.1f s", one_line(exc), delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, self._config.db_reconnect_backoff_max / 1000)
            else:
                return

    async def _renew(self) -> None:
        """Query another server from now on, since the changes come from there."""
        asking = (self._visibility, self._apart, self._on_trial)
        for connections in (*asking, self._connections):
            await connections.renew()
        if self._publisher is not None:
            await self._publisher.renew()

    # The registrar.

    async def register(
        self, topic: Topic, bindings: tuple[Binding, ...] | None, grant: Grant
    ) -> Registered:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._ready.wait()
        except TimeoutError:
            raise RefusedError(RlsReason.NOT_ATTACHED.told()) from None
        if any(binding.leaves for binding in bindings or ()):
            raise RefusedError(RlsReason.LEAVES.told())
        if any(binding.event == TRUNCATE for binding in bindings or ()):
            raise RefusedError(RlsReason.TRUNCATE.told())
        registration = await self._registry.register(specs_of(topic, bindings), grant.claims)
        self.slow_viewers.add_channel(registration.viewer)
        return registration

    def watch(self, registered: Registered, tell: Callable[[RefusedError], None]) -> None:
        """Do nothing: in RLS mode all problems are known at the join."""

    async def renew(self, registered: Registered, grant: Grant) -> Hashable:
        assert isinstance(registered, Registration)
        former = registered.viewer
        viewer = await self._registry.renew(registered, grant.claims)
        if viewer is not former:
            self.slow_viewers.add_channel(viewer)
            self.slow_viewers.remove_channel(former)
        return viewer

    def remove(self, registered: Registered) -> None:
        assert isinstance(registered, Registration)
        self._registry.remove(registered)
        self.slow_viewers.remove_channel(registered.viewer)
