"""A WebSocket client that does next to nothing, so that it is not what a test measures.

It joins one topic in V1 frames and keeps the bytes that come, or does not even read them.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Self

__all__ = ["RawClient"]

_HEARTBEAT = b'{"topic":"phoenix","event":"heartbeat","ref":"1","payload":{}}'
_ROW_ID = re.compile(rb'"record":\{"id":"(\d+)"')
_HANDSHAKE = (
    b"GET /socket/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
# Longer than what the pattern matches, shorter than any frame.
_TAIL = 64


class RawClient(asyncio.Protocol):
    """Counts the rows of one table, whose first column is ``id``."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        """Of the rows received, in order."""
        self.received = 0
        """Bytes."""
        self.heartbeats = 0
        """Sent so far. Their replies are no rows."""
        self.lost = asyncio.get_running_loop().create_future()
        """Done when the connection is gone."""
        self.joined = asyncio.get_running_loop().create_future()
        self._tail = b""
        self._transport: asyncio.Transport

    @classmethod
    async def join(
        cls,
        port: int,
        topic: str,
        *,
        receive_buffer: int | None = None,
        heartbeat: float | None = None,
    ) -> Self:
        """Connect, join, and wait for the reply.

        Args:
            port: of the server on this machine.
            topic: to join.
            receive_buffer: bytes that the system holds for it.
            heartbeat: seconds between heartbeats, which every real client sends; None: never.
        """
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", port))
        _, client = await loop.create_connection(cls, sock=sock)
        message = {"topic": topic, "event": "phx_join", "ref": "1", "payload": {}}
        client._transport.write(_HANDSHAKE + _masked(json.dumps(message).encode()))
        await client.joined
        if heartbeat is not None:
            client._beat(heartbeat)
        return client

    def _beat(self, interval: float) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(_masked(_HEARTBEAT))
        self.heartbeats += 1
        asyncio.get_running_loop().call_later(interval, self._beat, interval)

    def stop_reading(self) -> None:
        self._transport.pause_reading()

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        data = self._tail + data
        if not self.joined.done() and b'"status":"ok"' in data:
            self.joined.set_result(None)
        end = 0
        for match in _ROW_ID.finditer(data):
            self.ids.append(int(match[1]))
            end = match.end()
        # Digits may go on in the next piece: leave room for a whole match.
        self._tail = data[max(end, len(data) - _TAIL) :]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


def _masked(payload: bytes) -> bytes:
    """A client's text frame of at most 125 bytes; a mask of zeros changes nothing."""
    return bytes((0x81, 0x80 | len(payload), 0, 0, 0, 0)) + payload
