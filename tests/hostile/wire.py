"""What hostile clients send: frames, and joins, by hand, and how they wait for the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import uuid
from collections.abc import AsyncIterator
from typing import Any

from tests.tokens import make_token

__all__ = [
    "connection",
    "flood",
    "frame",
    "frame_head",
    "handshake",
    "join",
    "message",
    "new_token",
    "until_closed",
    "websocket",
]


def new_token(role: str = "reader") -> str:
    """Sign a token of whose claims there is no other."""
    return make_token({"role": role, "sub": str(uuid.uuid4())})


_OWN_TOKEN = new_token()
"""A server without tokens does not look at it."""


def handshake(token: str = _OWN_TOKEN, extensions: str = "") -> bytes:
    """Return a request for a WebSocket."""
    return (
        f"GET /socket/websocket?apikey={token} HTTP/1.1\r\nHost: localhost\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"{extensions}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()


@contextlib.asynccontextmanager
async def connection(
    port: int, *, limit: int = 65536, receive_buffer: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Be connected.

    Args:
        port: of the server on this machine.
        limit: bytes that are read ahead.
        receive_buffer: bytes that the system holds.
    """
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
    except BaseException:
        sock.close()
        raise
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def websocket(
    port: int,
    *,
    token: str = _OWN_TOKEN,
    extensions: str = "",
    limit: int = 65536,
    receive_buffer: int | None = None,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with connection(port, limit=limit, receive_buffer=receive_buffer) as (reader, writer):
        writer.write(handshake(token, extensions))
        await reader.readuntil(b"\r\n\r\n")
        yield reader, writer


async def flood(port: int, frames: bytes, *, token: str = _OWN_TOKEN, extensions: str = "") -> None:
    """Send all that, and read what comes, until the server ends it."""
    async with websocket(port, token=token, extensions=extensions) as (reader, writer):
        writer.write(frames)
        await until_closed(reader)


async def until_closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass


def join(
    filters: list[str] | None = None,
    *,
    bindings: list[Any] | None = None,
    topic: str = "realtime:room",
    table: str = "item",
    **payload: Any,
) -> bytes:
    """A join with a binding for each filter, or these bindings; without both, without config."""
    if filters is not None:
        binding = {"event": "*", "schema": "public", "table": table}
        bindings = [{**binding, "filter": each} for each in filters]
    if bindings is not None:
        payload["config"] = {"postgres_changes": bindings}
    return message(topic, "phx_join", payload)


def message(topic: str, event: str, payload: Any) -> bytes:
    """A frame of the first format."""
    sent = {"topic": topic, "event": event, "payload": payload, "ref": "1"}
    return frame(json.dumps(sent, separators=(",", ":")).encode())


def frame_head(opcode: int, size: int, *, fin: int = 0x80) -> bytes:
    """A client's frame's head; a mask of zeros changes nothing."""
    head = bytes((fin | opcode,))
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 65536:
        head += bytes((0xFE,)) + size.to_bytes(2)
    else:
        head += bytes((0xFF,)) + size.to_bytes(8)
    return head + bytes(4)


def frame(payload: bytes, opcode: int = 1, *, fin: int = 0x80) -> bytes:
    return frame_head(opcode, len(payload), fin=fin) + payload
