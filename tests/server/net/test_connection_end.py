"""What connections that have ended leave behind in memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Final, TypeAlias

import pytest

from realtime_server.net.channels import ServedChannel
from realtime_server.server import RealtimeServer
from tests.hostile.wire import frame, handshake, join, message
from tests.server_helpers import DEADLINE, dev_config, open_client
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]

OURS: Final = (
    "realtime_server.",
    "websockets.",
    "h11.",
    "asyncio.selector_events",
    "asyncio.trsock",
)
"""How the names of modules begin whose objects a connection has."""
KEPT: Final = ("Absence", "Key", "FairShares", "_Ordered")
"""What stays of clients that may come back."""

Steps: TypeAlias = tuple[tuple[bytes, bytes | None], ...]
TO_THE_END: Final = b""
OPEN: Final = (handshake(), b"101 Switching")
JOINED: Final = (OPEN, (join(), b'"ok"'))
DEFLATED: Final = handshake(extensions="Sec-WebSocket-Extensions: permessage-deflate\r\n")
REFUSED: Final = handshake().replace(b"Version: 13", b"Version: 7")
TOO_LARGE: Final = bytes((0x81, 0xFF)) + (1 << 40).to_bytes(8) + bytes(4)
FLOOD: Final = frame(b"", 9) * 3000
POST: Final = b"POST /health HTTP/1.1\r\nHost: localhost\r\ncontent-length: 100\r\n\r\n"
BAD_BODY: Final = (
    b"POST /health HTTP/1.1\r\nHost: localhost\r\ntransfer-encoding: chunked\r\n\r\nnothing\r\n"
)
ENDINGS: Final[dict[str, Steps]] = {
    "lost before anything came": (),
    "lost with half a request": ((b"GET / HT", None),),
    "no HTTP": ((b"hello\r\n\r\n", TO_THE_END),),
    "a request for a page": ((b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", TO_THE_END),),
    "a request with a body": ((POST, TO_THE_END),),
    "a request with a malformed body": ((BAD_BODY, TO_THE_END),),
    "refused for the path": ((handshake().replace(b"/socket", b"/s"), TO_THE_END),),
    "refused by the library": ((REFUSED, TO_THE_END),),
    "malformed": ((handshake().replace(b"Host: ", b"Host "), TO_THE_END),),
    "lost without a channel": (OPEN,),
    "lost": JOINED,
    "lost, and compressed": ((DEFLATED, b"101 Switching"), *JOINED[1:]),
    "lost while many channels are joined": (OPEN, (join() * 30, None)),
    "lost within a message": (*JOINED, (frame(b"half", fin=0), None)),
    "lost within a frame": (*JOINED, (frame(b"half")[:-2], None)),
    "a channel refused": (OPEN, (message("nonsense", "phx_join", {}), b'"error"')),
    "a channel with bindings": (OPEN, (join(["id=eq.1"]), None)),
    "closed by a page that goes": (*JOINED, (frame(struct.pack("!H", 1001), 8), TO_THE_END)),
    "closed": (*JOINED, (frame(struct.pack("!H", 1000), 8), TO_THE_END)),
    "no frame": (*JOINED, (frame(b"x", 3), TO_THE_END)),
    "no UTF-8": (*JOINED, (frame(b"\xff\xfe"), TO_THE_END)),
    "no JSON": (*JOINED, (frame(b"{{{"), None)),
    "too large": (*JOINED, (TOO_LARGE, TO_THE_END)),
    "too many": (*JOINED, (FLOOD, TO_THE_END)),
}
"""What clients send, and for what they wait then."""
IN_ROOM: Final = (
    OPEN,
    (message("realtime:room", "phx_join", {"config": {"broadcast": {"ack": True}}}), b'"ok"'),
)
PUSH: Final = message("realtime:room", "broadcast", {"event": "m", "payload": 1})
SEND: Final = b"POST /api/broadcast/room/events/m HTTP/1.1\r\nHost: localhost\r\n"
BROADCASTS: Final[dict[str, Steps]] = {
    "a member of a room": IN_ROOM,
    "a broadcast": (*IN_ROOM, (PUSH, b'"response":{}')),
    "lost with broadcasts": (*IN_ROOM, (PUSH * 20, None)),
    "a broadcast refused": (
        *IN_ROOM,
        (message("realtime:room", "broadcast", None), b"invalid_payload"),
    ),
    "sent by HTTP": ((SEND + b"content-length: 1\r\n\r\n1", TO_THE_END),),
    "refused by HTTP": ((SEND + b"content-length: 1\r\n\r\n{", TO_THE_END),),
    "too large by HTTP": ((SEND + b"content-length: 9999999\r\n\r\n", TO_THE_END),),
    "malformed by HTTP": ((SEND + b"transfer-encoding: chunked\r\n\r\nno\r\n", TO_THE_END),),
    "lost within a body": ((SEND + b"content-length: 9\r\n\r\n1", None),),
}
"""Those of clients that broadcast."""
LATE: Final[dict[str, Steps]] = {"no request in time": ((b"", TO_THE_END),)}


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Let nothing be freed that refers to itself."""
    # What is logged would be kept with the test's report, and exceptions with it.
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    logging.disable(logging.NOTSET)


def there() -> Counter[str]:
    """Count the objects that may be of connections, by type."""
    types = Counter(map(type, gc.get_objects()))
    return Counter(
        {
            one.__name__: count
            for one, count in types.items()
            if str(one.__module__).startswith(OURS) and one.__name__ not in KEPT
        }
    )


async def visit(port: int, steps: Steps) -> None:
    """Be a client: send, wait, and reset the connection at last."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await loop.sock_connect(sock, ("127.0.0.1", port))
        for sent, awaited in steps:
            received = b""
            try:
                await loop.sock_sendall(sock, sent)
                while awaited is not None and (not awaited or awaited not in received):
                    some = await loop.sock_recv(sock, 65536)
                    assert some or not awaited, received
                    received += some
                    if not some:
                        break
            except OSError:
                # It was sent more than the server has read.
                assert awaited == TO_THE_END


@pytest.mark.parametrize(
    ("endings", "settings"),
    [
        (ENDINGS, {"REPLAY_WINDOW": "0"}),
        (ENDINGS, {"REPLAY_WINDOW": "300000"}),
        (BROADCASTS, {}),
        (LATE, {"HANDSHAKE_TIMEOUT": "10"}),
    ],
    ids=["without replay", "with replay", "broadcasts", "late"],
)
async def test_they_are_freed_without_a_collection_of_garbage(
    no_collections: None, endings: dict[str, Steps], settings: dict[str, str]
) -> None:
    # Joins are answered although the database is not there.
    config = dev_config("host=127.0.0.1 port=1", **settings)
    async with RealtimeServer(config) as server, asyncio.timeout(DEADLINE):

        async def visits() -> None:
            await asyncio.gather(*(visit(server.port, steps) for steps in endings.values()))
            await eventually(lambda: server.open_connections == 0)

        # What there is once for all, comes with the first ones.
        await visits()
        await eventually(lambda: gc.collect() or "Connection" not in there())
        before = there()
        await visits()
        with contextlib.suppress(AssertionError):
            await eventually(lambda: there() - before == Counter(), within=DEADLINE / 3)
        assert there() - before == Counter()


async def test_a_channel_that_was_left_is_freed_without_a_collection_of_garbage(
    no_collections: None,
) -> None:
    def channels() -> int:
        return sum(type(one) is ServedChannel for one in gc.get_objects())

    config = dev_config("host=127.0.0.1 port=1")
    bindings = {"config": {"postgres_changes": [{"event": "*", "schema": "public"}]}}
    async with RealtimeServer(config) as server, open_client(server.port) as client:
        # It is told that its bindings are in place when the database is there, and never is.
        await client.send("realtime:a", "phx_join", bindings, ref="1", join_ref="1")
        await client.receive()
        assert channels() == 1
        await client.send("realtime:a", "phx_leave", {}, ref="2", join_ref="1")
        await client.receive()
        await eventually(lambda: channels() == 0)
