"""The server with other ways to write to its sockets, to be compared with its own.

    BENCH_WRITE_PATH=broadcast python -m benchmarks.load.variants

``broadcast`` hands each message to :func:`websockets.broadcast`, ``send`` awaits each
connection's ``send()``, ``own`` is the server as it is. All else is the same code.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import cast

from websockets.asyncio.connection import broadcast
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from realtime_core import Event
from realtime_server import broadcaster, cli, server
from realtime_server.dispatch import Members
from realtime_server.guard import GuardedConnection
from realtime_server.hub import Hub, Messages
from realtime_server.outbox import SocketOutbox


def _connections(members: Members) -> list[ServerConnection]:
    return [cast(SocketOutbox, outbox)._websocket for outbox in members]


class BroadcastingHub(Hub):
    """Lets the library write each message to all connections."""

    def writing(self, messages: Messages) -> Iterator[float]:
        for members, message in messages:
            broadcast(_connections(members), message, text=True)
        yield from ()


class SendingHub(Hub):
    """Yields what is to be sent, for ``_send_all`` to send it."""

    def publishing(self, events: Iterable[Event]) -> Iterator[float]:
        return cast(Iterator[float], iter([m for event in events for m in self._messages(event)]))


async def _send_all(messages: Iterator[float]) -> None:
    for members, message in cast(Messages, messages):
        for connection in _connections(members):
            with contextlib.suppress(ConnectionClosed):
                await connection.send(message, text=True)


def _as_the_library_has_it() -> None:
    """Take back what only the server's own way of writing needs of a connection."""
    for method in ("send_data", "pause_writing", "resume_writing"):
        delattr(GuardedConnection, method)


if __name__ == "__main__":
    if os.environ["BENCH_WRITE_PATH"] != "own":
        _as_the_library_has_it()
    match os.environ["BENCH_WRITE_PATH"]:
        case "broadcast":
            server.Hub = BroadcastingHub  # type: ignore[misc]
        case "send":
            server.Hub = SendingHub  # type: ignore[misc]
            broadcaster.give_way = _send_all  # type: ignore[attr-defined]
    sys.exit(cli.main())
