"""A member of a room that only sends, for the parts of benchmarks.rooms."""

from __future__ import annotations

import asyncio
import struct

__all__ = ["BYTES", "HANDSHAKE", "JOIN", "TOPIC", "Sender", "client_frame", "pushed"]

TOPIC = "realtime:room"
BYTES = 200
HANDSHAKE = (
    b"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
JOIN = f'["1","1","{TOPIC}","phx_join",{{"config":{{"broadcast":{{}}}}}}]'


def client_frame(first: int, data: bytes) -> bytes:
    """Return a frame as a client sends it; a mask of zeros changes nothing."""
    return struct.pack("!BBH", first, 0x80 | 126, len(data)) + bytes(4) + data


def pushed(number: int) -> bytes:
    """Return a broadcast of kind 3 whose payload the load client takes for a row."""
    parts = [b"1", b"2", TOPIC.encode(), b"m", b""]
    payload = (
        b'{"commit_timestamp":"2026-11-29T00:00:00.000000Z","record":{"id":%d,"data":"' % number
    )
    payload += b"x" * (BYTES - len(payload) - 3) + b'"}}'
    return bytes([3, *map(len, parts), 1]) + b"".join(parts) + payload


class Sender:
    """A member of the room that only sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sent = 0

    @classmethod
    async def join(cls, port: int) -> Sender:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE + client_frame(0x81, JOIN.encode()))
        await reader.readuntil(b'"status":"ok"')
        return cls(reader, writer)

    async def send(self, count: int) -> None:
        """Send so many broadcasts in one write."""
        numbers = range(self._sent + 1, self._sent + count + 1)
        self._sent += count
        self._writer.write(b"".join(client_frame(0x82, pushed(number)) for number in numbers))
        await self._writer.drain()

    @property
    def port(self) -> int:
        """Its own port."""
        port: int = self._writer.get_extra_info("sockname")[1]
        return port

    def close(self) -> None:
        self._writer.close()
