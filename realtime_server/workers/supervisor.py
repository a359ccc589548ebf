"""Supervisor: reads a database's changes once, for several server processes on one port.

Each worker is a server with a listener of its own on the same port, between which the system
spreads connections. What the database is read for once is here: the slot, or the log that several
machines share, the webhooks, and what `/ready` and `/metrics` tell of all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from ..cluster.room_setup import make_outside
from ..cluster.source_stats import stats_to_json
from ..config import ReplicationMode, ServerConfig
from ..config.database.source import make_raw_source
from ..fanout.cancellation import cancel_within
from ..fanout.hub_stats import HubStats
from ..fanout.source_attachment import why_not_ready
from ..metrics import Metrics
from ..net.listener import reserve
from ..net.slow_clients import Backlog, OutboxLimits
from ..replay.check import warn_of_leftovers
from ..webhooks.service import Webhooks, make_webhooks
from ..webhooks.stats import WebhookStats
from .forks import Forks
from .in_flight import InFlight
from .links import EnvelopeSource, Links
from .processes import Processes
from .room_switch import RoomSwitch
from .slot_envelopes import SlotEnvelopes
from .stats import WorkerStats

if TYPE_CHECKING:
    from ..cluster.node import ClusterNode
    from .log_envelopes import LogEnvelopes

__all__ = ["Supervisor"]

logger = logging.getLogger("realtime.server")

_LOOK: Final = 0.1
"""Seconds from one look at the source to the next. Workers are told at once when something has
changed that joins and replay depend on, ..."""
_TELL: Final = 1.0
"""... and how far the stream is behind, and whether they are alive, each second."""
_PATIENCE: Final = 10.0
"""Seconds that a worker may take to end besides DRAIN_TIMEOUT. RLS mode takes up to seven while the
database does not answer."""
_NOT_FOR_WORKERS: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""Variables that are about the process that the service manager has started."""


class Supervisor:
    """Keeps several servers on one port while it is open as a context manager.

    Args:
        config: the settings, with more than one worker.
        dev: whether workers take the defaults of ``--dev``.
        environ: the environment variables, from which the workers read the same settings.
    """

    def __init__(
        self, config: ServerConfig, *, dev: bool, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.config = config
        """The settings."""
        self._dev = dev
        self._environ = environ
        # This machine's place among others that share a log; None if it shares none.
        self._node: ClusterNode[LogEnvelopes] | None = None
        self.source: EnvelopeSource[Any]
        """Reads the database's changes, or those that another server reads."""
        if config.nats_url is None:
            self.source = SlotEnvelopes(make_raw_source(config))
        else:
            # Only then is the client of NATS needed.
            from ..cluster.setup import make_node
            from .log_envelopes import LogEnvelopes

            self._node = make_node(config, LogEnvelopes)
            self.source = self._node.feed
        # Sends changes to webhooks; None if the configuration file has none.
        self._webhooks: Webhooks | None = None
        if config.configuration_file.webhooks:
            self._webhooks = make_webhooks(config, others=self.source.stats)
        # Nothing is sent to clients here.
        backlog = Backlog(OutboxLimits(max_bytes=1, max_age=1.0, total_bytes=1))
        # Passes on what clients broadcast at other workers and machines.
        self._rooms = RoomSwitch(make_outside(config) if config.broadcast else None)
        self._metrics = Metrics(
            stats=self.source.stats,
            hub=HubStats,
            backlog=backlog,
            webhooks=WebhookStats if self._webhooks is None else self._webhooks.stats,
            workers=self._worker_stats,
            rooms=self._rooms.stats,
            cluster=None if self._node is None else self._node.stats,
        )
        # In RLS mode a worker waits while the database cannot say who may see a change.
        is_rls = config.replication_mode is ReplicationMode.RLS
        self._links = Links(
            self.source,
            InFlight[Any](),
            workers=config.worker_count,
            clock=time.monotonic,
            stalled=None if is_rls else lambda worker: self._processes.kill(worker),
        )
        # Made when the port is known: what starts the workers, and what keeps them.
        self._forks: Forks
        self._processes: Processes
        # The task that reads changes, and the one that tells the workers of the source.
        self._reading: asyncio.Task[None]
        self._telling: asyncio.Task[None]
        # The task that carries what clients broadcast to other machines, if there are any.
        self._carrying: asyncio.Task[None]
        # The task that looks for what replay may have left over.
        self._warning: asyncio.Task[None]
        # Keeps the port.
        self._reserved: socket.socket
        self.port = config.port
        """The port that the workers listen on, once this is open."""

    async def __aenter__(self) -> Self:
        """Start the workers, and begin to attach to the database.

        Raises:
            ServerError: if the port is in use.
        """
        config = self.config
        # Nobody else gets the port while no worker has it.
        self._reserved = reserve(
            config.port, loopback=config.loopback, ip_version=config.realtime_ip_version
        )
        self.port = self._reserved.getsockname()[1]
        environment = {
            name: value for name, value in self._environ.items() if name not in _NOT_FOR_WORKERS
        }
        self._forks = Forks(
            ("--dev",) if self._dev else (), {**environment, "PORT": str(self.port)}
        )
        self._processes = Processes(
            config.worker_count,
            start=self._forks.start,
            links=self._links,
            rooms=self._rooms,
            names=self._node.writers if self._node and config.keeps_journal else set(),
            metrics=self._metrics.render,
        )
        await self.source.__aenter__()
        if self._node is not None:
            await self._node.__aenter__()
        self._warning = asyncio.create_task(warn_of_leftovers(config, self.source.attached))
        self._reading = asyncio.create_task(self._links.run())
        self._telling = asyncio.create_task(self._tell_for_ever())
        self._carrying = asyncio.create_task(self._rooms.run())
        self._processes.start()
        if self._webhooks is not None:
            await self._webhooks.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop: read no more changes, have the workers drain and end, and free the slot.

        What the workers have handed out until they end is acknowledged.
        """
        self._reading.cancel()
        self._forks.close()
        closing = asyncio.create_task(self._close_webhooks())
        # Another server reads the database from now on.
        leaving = asyncio.create_task(self._leave())
        try:
            await self._processes.stop(self.config.drain_timeout / 1000 + _PATIENCE)
        finally:
            await leaving
            tasks = {self._reading, self._telling, self._warning, self._carrying}
            await cancel_within(tasks, 0)
            await self.source.aclose()
            self._reserved.close()
            await closing

    @property
    def is_attached(self) -> bool:
        """Whether the database's changes are being read, and every worker has accepted
        connections."""
        return self._processes.all_started.is_set() and self.source.stats().connected

    def why_not_ready(self) -> str | None:
        """Return why clients would not get changes now, None if they would."""
        if self._node is not None and (why := self._node.why_not_ready()) is not None:
            return why
        return why_not_ready(self.source.stats(), self.config)

    async def listening(self) -> None:
        """Wait until every worker accepts connections."""
        await self._processes.all_started.wait()

    async def wait(self) -> None:
        """Wait until the stream ends, which it does only if it cannot go on.

        Raises:
            RealtimeError: if the stream cannot go on, or a worker cannot.
        """
        workers = asyncio.create_task(self._processes.wait())
        tasks = {self._reading, self._telling, self._carrying, workers}
        if self._webhooks is not None:
            tasks.add(self._webhooks.running)
        if self._node is not None:
            tasks |= self._node.running
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            workers.cancel()
        for task in ended:
            task.result()

    def reload_keys(self) -> None:
        """Have every worker read the file JWT_JWKS_FILE again."""
        self._processes.send_signal(signal.SIGHUP)

    def cut_off(self) -> None:
        """Have the workers close the remaining connections at once, while stopping."""
        self._processes.send_signal(signal.SIGUSR1)

    def _worker_stats(self) -> WorkerStats:
        return WorkerStats(self._processes.running, self._processes.restarts)

    async def _tell_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        told: object = None
        next_look = 0.0
        while True:
            stats = self.source.stats()
            timeline = None if stats.stream is None else stats.stream.timeline
            # Of the database itself the workers know what the source counts.
            why = None if self._node is None else self._node.why_not_ready()
            writers = None if self._node is None else self._node.all_writers()
            news = (
                *(stats.connected, stats.gaps, stats.stream, timeline, stats.confirmed_lsn),
                *(why, writers),
            )
            is_due = loop.time() >= next_look
            if is_due:
                self._processes.look()
                self._links.look()
            if is_due or news != told:
                told, next_look = news, loop.time() + _TELL
                self._processes.tell(stats_to_json(stats), why, writers)
            await asyncio.sleep(_LOOK)

    async def _close_webhooks(self) -> None:
        if self._webhooks is not None:
            await self._webhooks.__aexit__(None, None, None)

    async def _leave(self) -> None:
        if self._node is not None:
            await self._node.__aexit__()
