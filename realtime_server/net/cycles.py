"""Cycles: lets what is left of a connection that has ended be freed at once.

CPython frees an object as soon as nothing refers to it any more. Objects that refer to each other
in a circle wait for a collection of garbage, which here looks at old objects once in an hour (see
:mod:`.garbage`). The objects of asyncio and websockets are such circles: a transport keeps a method
of its own, a parser is a generator that refers to the protocol which has it, and an exception that
a connection keeps has a traceback, whose frames refer to the connection.

Each of these functions takes what has ended, and is never used again but to read what it was.
"""

from __future__ import annotations

import asyncio
from typing import Final

from websockets.asyncio.server import ServerConnection
from websockets.protocol import Protocol

__all__ = [
    "start_parser",
    "stop_parser",
    "untie_exception",
    "untie_transport",
    "untie_websocket",
]

_ON_READABLE: Final = "_read_ready_cb"
"""The attribute in which asyncio's transport keeps the method that is called when its socket can be
read. From Python 3.13 on, asyncio deletes it itself where a transport is closed, but not where it
is aborted. The transports of uvloop have none."""


def untie_transport(transport: asyncio.BaseTransport) -> None:
    """Let a transport be freed whose connection is lost."""
    if hasattr(transport, _ON_READABLE):
        setattr(transport, _ON_READABLE, None)


def untie_websocket(websocket: ServerConnection) -> None:
    """Let websockets' connection be freed, which is lost."""
    protocol = websocket.protocol
    stop_parser(protocol)
    # Version 16 of the library calls recv_exc what later ones call connection_exc.
    for name in ("connection_exc", "recv_exc"):
        untie_exception(getattr(websocket, name, None))
    untie_exception(protocol.parser_exc)
    untie_exception(protocol.handshake_exc)


def untie_exception(exc: BaseException | None) -> None:
    """Let the frames be freed through which an exception has passed, and those that it came of."""
    left, known = [exc], set[int]()
    while left:
        one = left.pop()
        if one is not None and id(one) not in known:
            known.add(id(one))
            one.__traceback__ = None
            left += (one.__cause__, one.__context__)


def stop_parser(protocol: Protocol) -> None:
    """Let websockets' protocol be freed, which has read the end, or nothing yet."""
    protocol.parser.close()


def start_parser(protocol: Protocol) -> None:
    """Let a protocol read that has read nothing yet, after :func:`stop_parser`."""
    protocol.parser = protocol.parse()
    next(protocol.parser)
