"""DatabaseReader: a server that reads the database for others, and has no clients itself.

So reading has a process, or a machine, of its own, however much the clients ask of the others. It
sends the webhooks, too, and answers `/health`, `/ready` and `/metrics`.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

from realtime_core import SourceStats

from ..config import ServerConfig
from ..fanout.hub_stats import HubStats
from ..fanout.source_attachment import why_not_ready
from ..metrics import CONTENT_TYPE, Metrics
from ..net.http import HttpRequest, Response, Site
from ..net.http_listener import HttpListener
from ..net.listener import PATHS, bind
from ..net.slow_clients import Backlog, OutboxLimits
from ..webhooks.service import Webhooks, make_webhooks
from ..webhooks.stats import WebhookStats
from .node import NoFeed
from .setup import make_node

__all__ = ["DatabaseReader"]

logger = logging.getLogger("realtime.server")

_NO_CLIENTS: Final = b"This server has no clients: its CLUSTER_ROLE is reader.\n"


class DatabaseReader:
    """Leads whenever it can while it is open as a context manager.

    Args:
        config: the settings, with ``CLUSTER_ROLE=reader``.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        """The settings."""
        self._node = make_node(config, lambda *_: NoFeed())
        # Sends changes to webhooks; None if the configuration file has none.
        self._webhooks: Webhooks | None = None
        if config.configuration_file.webhooks:
            self._webhooks = make_webhooks(config, others=self._stats)
        # Nothing is sent to clients here.
        self._backlog = Backlog(OutboxLimits(max_bytes=1, max_age=1.0, total_bytes=1))
        self._metrics = Metrics(
            stats=self._stats,
            hub=HubStats,
            backlog=self._backlog,
            webhooks=WebhookStats if self._webhooks is None else self._webhooks.stats,
            cluster=self._node.stats,
        )
        # Answers requests; made when this is opened.
        self._listener: HttpListener
        self.port = config.port
        """The port that this listens on, once it is open."""

    async def __aenter__(self) -> Self:
        """Listen for requests, and begin to look whether the database can be read.

        Raises:
            ServerError: if the port is in use.
        """
        config = self.config
        sock = bind(config.port, loopback=config.loopback, ip_version=config.realtime_ip_version)
        self.port = sock.getsockname()[1]
        site = Site(
            why_not_ready=self.why_not_ready,
            metrics=self._metrics.render if config.expose_metrics else None,
            metrics_type=CONTENT_TYPE,
            more={f"{path}{end}": _say_no_clients for path in PATHS for end in ("", "/")},
        )
        self._listener = HttpListener(sock, site, config, self._metrics, self._backlog)
        await self._listener.start()
        await self._node.__aenter__()
        if self._webhooks is not None:
            await self._webhooks.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop reading, which frees the slot, and close the port."""
        closing = asyncio.create_task(self._close_webhooks())
        try:
            await self._node.__aexit__()
            await self._listener.close()
        finally:
            await closing

    @property
    def is_attached(self) -> bool:
        """Whether the database's changes are being read, here or by another server."""
        return self._node.leader_stats() is not None

    def why_not_ready(self) -> str | None:
        """Return why no changes would come into the log now; None if they would."""
        return self._node.why_not_ready() or why_not_ready(self._stats(), self.config)

    async def listening(self) -> None:
        """Return at once: an open server listens already."""

    async def wait(self) -> None:
        """Wait until reading ends, which it does only with an error that nobody has thought of.

        Raises:
            Exception: that error.
        """
        tasks = set(self._node.running)
        if self._webhooks is not None:
            tasks.add(self._webhooks.running)
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()

    def reload_keys(self) -> None:
        """Log that there are no keys for tokens here."""
        logger.warning("no keys are read, because CLUSTER_ROLE is reader")

    def cut_off(self) -> None:
        """Do nothing: there are no clients whose end would have to be waited for."""

    def _stats(self) -> SourceStats:
        return self._node.leader_stats() or SourceStats()

    async def _close_webhooks(self) -> None:
        if self._webhooks is not None:
            await self._webhooks.__aexit__(None, None, None)


def _say_no_clients(_: HttpRequest) -> Response:
    return Response(HTTPStatus.NOT_FOUND, body=_NO_CLIENTS)
