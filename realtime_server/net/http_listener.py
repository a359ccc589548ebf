"""HttpListener: one port for plain HTTP alone, for a server that has no clients."""

from __future__ import annotations

import asyncio
import socket

from ..config import ServerConfig
from ..metrics import Metrics
from .acceptor import Acceptor, RequestHead
from .http import Site
from .slow_clients import Backlog

__all__ = ["HttpListener"]


class HttpListener:
    """Accepts connections, with the same limits as where there are clients.

    Args:
        sock: bound and listening.
        site: answers the requests.
        config: says the limits.
        metrics: of the server.
        backlog: of the server.
    """

    def __init__(
        self,
        sock: socket.socket,
        site: Site,
        config: ServerConfig,
        metrics: Metrics,
        backlog: Backlog,
    ) -> None:
        self._socket = sock
        self._server: asyncio.Server | None = None
        self.acceptor = Acceptor(site, config, metrics, backlog)
        """Knows all open connections."""

    async def start(self) -> None:
        """Begin to accept."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: RequestHead(None, self.acceptor), sock=self._socket
        )

    async def close(self) -> None:
        """Close the port and every connection."""
        self.acceptor.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
