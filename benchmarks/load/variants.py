"""The server with other ways to write to its sockets, to be compared with its own.

    BENCH_WRITE_PATH=broadcast python -m benchmarks.load.variants

``broadcast`` hands each message to :func:`websockets.broadcast`, ``send`` awaits each
connection's ``send()``, ``own`` is the server as it is. All else is the same code.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from functools import cache
from typing import cast

from websockets.asyncio.connection import broadcast
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import enable_server_permessage_deflate

from realtime_core import Event
from realtime_server import cli, server
from realtime_server.fanout import hub
from realtime_server.fanout.dispatch import Dispatch, Members, Outbox
from realtime_server.fanout.frames import Frame
from realtime_server.fanout.hub import AddressedMessages, Hub
from realtime_server.fanout.stream import broadcaster
from realtime_server.fanout.turns import Steps
from realtime_server.net import listener
from realtime_server.net.frame_limits import BoundedConnection
from realtime_server.net.outbox import SocketOutbox


def _connections(members: Members) -> list[ServerConnection]:
    return [cast(SocketOutbox, outbox).websocket for outbox in members]


class BroadcastingDispatch(Dispatch):
    """Lets the library write each message to all connections."""

    def add(self, members: Members, frame: Frame, left_out: Outbox | None = None) -> None:
        _say_so("broadcast")
        broadcast(_connections(members), frame.payload, text=True)


class SendingHub(Hub):
    """Yields what is to be sent, for ``_send_all`` to send it."""

    def publishing(self, events: Iterable[Event]) -> Steps:
        return cast(Steps, iter([m for event in events for m in self._messages(event)]))


async def _send_all(messages: Steps) -> None:
    _say_so("send")
    for members, message in cast(AddressedMessages, messages):
        for connection in _connections(members):
            with contextlib.suppress(ConnectionClosed):
                await connection.send(message, text=True)


@cache
def _say_so(path: str) -> None:
    """Let the benchmark know that it compares what it means to compare."""
    print(f"writes by {path}", file=sys.stderr, flush=True)


def _as_the_library_has_it() -> None:
    """Take back what only the server's own way of writing needs of a connection."""
    for method in ("send_data", "pause_writing", "resume_writing"):
        delattr(BoundedConnection, method)
    default = enable_server_permessage_deflate(None)
    listener.deflate_factory = lambda: default[0]  # type: ignore[assignment,return-value]


if __name__ == "__main__":
    if os.environ["BENCH_WRITE_PATH"] != "own":
        _as_the_library_has_it()
    match os.environ["BENCH_WRITE_PATH"]:
        case "broadcast":
            hub.Dispatch = BroadcastingDispatch  # type: ignore[attr-defined]
        case "send":
            server.Hub = SendingHub  # type: ignore[misc]
            broadcaster.run_steps = _send_all  # type: ignore[attr-defined]
    sys.exit(cli.main())
