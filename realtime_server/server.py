"""RealtimeServer: puts the parts of the server together."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from websockets.asyncio.server import ServerConnection

from realtime_core import ConfigError

from .auth.authorizer import ConnectRequest, TokenAuthorizer, make_authorizer
from .config import ReplicationMode, ServerConfig
from .config.database.source import ServerSource, make_source
from .config.process_memory import memory_limit
from .fanout.allowed_topics import TopicRules
from .fanout.cancellation import cancel_within
from .fanout.hub import Hub
from .fanout.late_start import BeginningFeed, late_start, patience
from .fanout.message_rows import DatabaseBroadcastStats
from .fanout.room_stats import RoomStats
from .fanout.source_attachment import Attachment, why_not_ready
from .fanout.stream.mode import StreamMode
from .metrics import Metrics
from .net.connection import Connection
from .net.filter_limits import FilterBudget
from .net.listener import Listener, bind
from .net.private_channels import make_private_channels
from .net.room_services import make_rooms
from .net.services import Services
from .net.site import make_site
from .net.slow_clients import Backlog, OutboxLimits
from .phoenix.serializers import Serializer
from .replay.check import warn_of_leftovers
from .replay.guarded_replay import GuardedReplay
from .replay.past import Shared
from .replay.proofs import Proofs
from .replay.publishing import one_at_a_time
from .replay.replay import Replay
from .replay.setup import make_replay, rows_to_read
from .replay.stats import ReplayStats
from .rls.catch_up_publisher import CatchUpPublisher, make_catch_up_publisher
from .rls.counters import Counters
from .rls.mode import RlsMode
from .webhooks.service import Webhooks, make_webhooks
from .webhooks.stats import WebhookStats

if TYPE_CHECKING:
    from .cluster.feed import LogFeed
    from .cluster.node import ClusterNode
    from .workers.worker import Worker

__all__ = ["RealtimeServer"]

logger = logging.getLogger("realtime.server")

_SHARE: Final = 4
"""Which part of the memory may wait for all clients, unless a setting says it: a quarter."""
_PATIENCE: Final = 1.0
"""How many seconds reading may take to end, and then what waits for row level security, at most."""


class RealtimeServer:
    """Broadcasts a database's changes while it is open as a context manager.

    Example::

        async with RealtimeServer(ServerConfig.from_env(os.environ)) as server:
            await server.wait()

    Clients may connect at once. The server attaches to the database in the background, and logs
    and retries everything that fails there.

    Args:
        config: the settings.
        worker: the links to the supervisor, if this is one of several workers: the changes come
            from there; None: this server reads the database itself.
    """

    def __init__(self, config: ServerConfig, worker: Worker | None = None) -> None:
        self.config = config
        """The settings."""
        self._worker = worker
        # Decides who may connect, and who may join which topic.
        self._authorizer = make_authorizer(config)
        # This server's place among others that share a log; None if it shares none.
        self._node: ClusterNode[LogFeed] | None = None
        source: ServerSource
        # What brings the changes, if another process reads them.
        feed: BeginningFeed | None = None
        share: Shared | None = None
        if worker is not None:
            source = feed = worker.source
            share = worker.share(config)
        elif config.nats_url is not None:
            # Only then is the client of NATS needed.
            from .cluster.setup import make_server_node

            self._node, share = make_server_node(config)
            source = feed = self._node.feed
        else:
            source = make_source(config)
        self.source = source
        """Reads the database's changes, or those that another server or process reads."""
        is_rls = config.replication_mode is ReplicationMode.RLS
        proofs: Proofs | None = None
        if config.replays:
            proofs = Proofs(interval=config.replay_ping_interval / 1000, clock=time.monotonic)
        rules = config.configuration_file.realtime
        new_hub = partial(
            Hub,
            TopicRules((rule.relation, rule.events) for rule in rules),
            enums=source.enum_orders,
            max_record_bytes=config.max_record_bytes,
            names_columns=not is_rls,
            ordinals=proofs,
        )
        self.hub = new_hub()
        """Where channels subscribe to changes."""
        self.replay: Replay | None = None
        """Brings channels back to where they were; None if nothing is replayed."""
        guarded: GuardedReplay | None = None
        checks = Counters()
        # Publishes in RLS mode to clients that come back.
        publisher: CatchUpPublisher | None = None
        if proofs is not None:
            if is_rls:
                publisher = make_catch_up_publisher(config, checks)
            publish = publisher or one_at_a_time()
            self.replay = make_replay(
                config,
                self.hub,
                new_hub,
                proofs,
                publish,
                attached=lambda: self.mode.attached(),
                stats=source.stats,
                share=share,
            )
            # What everything else sees of it.
            guarded = GuardedReplay(self.replay, self.hub)
        # Sends changes to webhooks; None if the configuration file has none.
        self._webhooks: Webhooks | None = None
        if config.configuration_file.webhooks and worker is None:
            self._webhooks = make_webhooks(config, others=source.stats)
        backlog = Backlog(
            OutboxLimits(
                max_bytes=config.outbox_max_bytes,
                max_age=config.outbox_max_age / 1000,
                total_bytes=config.outbox_total_bytes
                or memory_limit() // _SHARE // config.worker_count,
            )
        )
        # Where clients broadcast to each other.
        links = None if worker is None else worker.rooms
        rooms = make_rooms(config, links) if config.broadcast else None
        self.room_node = None if rooms is None else rooms.node
        """Brings what happens in rooms to other processes; None if there are none."""
        broadcasts = None if rooms is None else rooms.database
        self.metrics = Metrics(
            stats=source.stats,
            hub=self.hub.stats,
            backlog=backlog,
            checks=checks,
            webhooks=WebhookStats if self._webhooks is None else self._webhooks.stats,
            replay=ReplayStats if guarded is None else guarded.stats,
            cluster=None if self._node is None else self._node.stats,
            rooms=RoomStats if rooms is None else rooms.stats,
            database=DatabaseBroadcastStats if broadcasts is None else broadcasts.stats,
        )
        attachment = Attachment(
            lambda: self.is_attached,
            lambda: self.mode.attached(),
            patience=patience(config),
            late_start=lambda: late_start(config, source.stats(), feed),
        )
        self.mode: StreamMode | RlsMode
        """The mode, which decides how the changes that the server reads are sent."""
        if is_rls:
            self.mode = RlsMode(
                config,
                source,
                self.hub,
                self.metrics,
                checks,
                replay=guarded,
                publisher=publisher,
                places=None if self.replay is None else self.replay.queues,
                broadcasts=broadcasts,
                begun=attachment.begin,
            )
        else:
            if broadcasts is not None:
                self.hub.broadcast_rows_by(broadcasts)
            self.mode = StreamMode(
                config, source, self.hub, self.metrics, replay=guarded, begun=attachment.begin
            )
            if self._node is not None:
                self._node.feed.pass_over_unless(rows_to_read(self.hub.wanted, self.replay))
        # What all connections share.
        self._services = Services(
            hub=self.hub,
            attachment=attachment,
            authorizer=self._authorizer,
            registrar=self.mode,
            backlog=backlog,
            budget=FilterBudget(config),
            config=config,
            metrics=self.metrics,
            replay=guarded,
            rooms=None if rooms is None else rooms.rooms,
            presence=None if rooms is None else rooms.presence,
            private=None
            if rooms is None
            else make_private_channels(
                config, self.metrics, None if broadcasts is None else broadcasts.commits
            ),
        )
        # Accepts connections, sends changes, brings channels back; made when the server is opened.
        self._listener: Listener
        self._broadcasting: asyncio.Task[None]
        self._replaying: asyncio.Task[None] | None = None
        # Looks for what replay may have left over; in a worker, hears the supervisor; likewise.
        self._looking: asyncio.Task[None]
        # Brings what is broadcast to other processes, and theirs here.
        self._carrying: asyncio.Task[None] | None = None
        self.port = config.port
        """The port that the server listens on, once it is open."""

    async def __aenter__(self) -> Self:
        """Listen for clients, and begin to attach to the database.

        Raises:
            ServerError: if the server cannot listen on the port.
        """
        config = self.config
        sock = bind(
            config.port,
            loopback=config.loopback,
            ip_version=config.realtime_ip_version,
            send_buffer_bytes=config.send_buffer_bytes,
            shared=self._worker is not None,
        )
        self.port = sock.getsockname()[1]
        site = make_site(
            self._services,
            why_not_ready=self.why_not_ready,
            all_metrics=None if self._worker is None else self._worker.metrics,
        )
        self._listener = Listener(
            sock,
            self._serve,
            self._authorizer,
            site=site,
            config=config,
            metrics=self.metrics,
            backlog=self._services.backlog,
        )
        if self._services.private:
            await self._services.private.__aenter__()
        if self.room_node is not None:
            self._carrying = asyncio.create_task(self.room_node.run())
        await self._listener.start()
        await self.mode.__aenter__()
        if self._node is not None:
            await self._node.__aenter__()
        self._broadcasting = asyncio.create_task(self.mode.run())
        if self._services.replay is not None:
            self._replaying = asyncio.create_task(self._services.replay.run())
        if self._worker is None:
            self._looking = asyncio.create_task(warn_of_leftovers(config, self.mode.attached))
        else:
            self._looking = asyncio.create_task(self._worker.run(self.metrics.render))
            self._worker.started()
        if self._webhooks is not None:
            await self._webhooks.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop: refuse new clients, read no more changes, close all connections, free the slot.

        In this order clients get all that was read, or are told of a gap, if row level security
        takes too long, and miss nothing: no other server reads the slot until it is free, and the
        clients have reconnected to that server before.
        """
        self._listener.stop_accepting()
        self._broadcasting.cancel()
        self._looking.cancel()
        if self._replaying is not None:
            self._replaying.cancel()
        # Beside the sockets: an endpoint may take as long as they.
        closing = asyncio.create_task(self._close_webhooks())
        # Another server reads the database from now on.
        leaving = asyncio.create_task(self._leave())
        try:
            tasks = {self._broadcasting, self._looking} | (
                {self._replaying} if self._replaying else set()
            )
            await cancel_within(tasks, _PATIENCE)
            loop = asyncio.get_running_loop()
            within = self.config.drain_timeout / 1000
            deadline = loop.time() + within
            # The sockets need time for what this sends them.
            await self.mode.drain(min(_PATIENCE, within / 2))
            await self._listener.close(within=max(deadline - loop.time(), 0.0))
            if self._services.replay is not None:
                await self._services.replay.aclose()
        finally:
            await leaving
            if self._carrying is not None:
                await cancel_within({self._carrying}, 0)
            await self.mode.__aexit__(exc_type, exc, traceback)
            if self._services.private:
                await self._services.private.__aexit__(exc_type, exc, traceback)
            await closing

    @property
    def is_attached(self) -> bool:
        """Whether the database's changes are being read."""
        return self.source.stats().connected

    def why_not_ready(self) -> str | None:
        """Return why clients would not get changes now, None if they would; for ``/ready``."""
        if self._worker is not None and (why := self._worker.why_not_ready()) is not None:
            return why
        if self._node is not None and (why := self._node.why_not_ready()) is not None:
            return why
        return why_not_ready(self.source.stats(), self.config)

    async def listening(self) -> None:
        """Return at once: an open server accepts connections already.

        The supervisor of several servers waits here until all of them do.
        """

    @property
    def open_connections(self) -> int:
        """How many connections are open, WebSockets and others; MAX_CONNECTIONS bounds them."""
        return len(self._listener.acceptor.connections)

    async def wait(self) -> None:
        """Wait until the stream ends, which it does only if it cannot go on.

        Raises:
            RealtimeError: if the stream cannot go on, for instance because the database has sent
                something that cannot be decoded.
        """
        tasks = {self._broadcasting}
        if self._replaying is not None:
            tasks.add(self._replaying)
        if self._webhooks is not None:
            tasks.add(self._webhooks.running)
        if self._worker is not None:
            tasks.add(self._looking)
        if self._node is not None:
            tasks |= self._node.running
        if self._carrying is not None:
            tasks.add(self._carrying)
        # A cancellation of this ends none of them.
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()

    def reload_keys(self) -> None:
        """Read the file JWT_JWKS_FILE again; if its keys are invalid, log it and keep the old ones.

        The tokens of joined channels are verified again with the next heartbeat.
        """
        if not isinstance(self._authorizer, TokenAuthorizer):
            logger.warning("no keys are read, because SECURE_CHANNELS is false")
            return
        try:
            self._authorizer.reread_keys(self.config)
        except ConfigError as exc:
            logger.error("the keys stay as they are: %s", exc)
        else:
            logger.info("keys read again from %r", self.config.jwt_jwks_file)

    def cut_off(self) -> None:
        """Close the remaining connections at once, while stopping; the clients see code 1006."""
        logger.info("cutting off the clients that are left")
        self._listener.cut_off()

    async def _close_webhooks(self) -> None:
        if self._webhooks is not None:
            await self._webhooks.__aexit__(None, None, None)

    async def _leave(self) -> None:
        if self._node is not None:
            await self._node.__aexit__()

    async def _serve(
        self, websocket: ServerConnection, request: ConnectRequest, serializer: Serializer
    ) -> None:
        acceptor, transport = self._listener.acceptor, websocket.transport
        connection = Connection(
            websocket,
            request,
            serializer,
            self._services,
            peer=acceptor.peer(transport),
            address=acceptor.client_address(transport),
        )
        await connection.run()
