"""A client that counts its messages over its whole life, as stock clients do, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from tests.server_helpers import DEADLINE
from tests.waiting import eventually

__all__ = ["ReplayClient"]


class ReplayClient:
    """One client object of an application, over all its connections.

    Args:
        port: of the server.
        session: names the client object; None: nothing does.
        token: of its connection and its joins.
        topic: that it joins.
        binding: what it asks for in its join; empty: nothing, as the topic says it.
        answer: what its pongs hold instead of what the pings hold; empty: it sends none.
        headers: of its requests.
    """

    def __init__(
        self,
        port: int,
        *,
        session: str | None = None,
        token: str | None = None,
        topic: str = "realtime:room",
        binding: dict[str, Any] | None = None,
        answer: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.port = port
        self.session = session
        self.token = token
        self.topic = topic
        if binding is None:
            binding = {"event": "*", "schema": "public", "table": "item"}
        self.binding = binding
        self.answer = answer
        self.headers = headers or {}
        self.ref = 0
        """Of the last message."""
        self.ids: list[int] = []
        """Of the rows that came, in the order in which they came, repeated ones as well."""
        self.systems: list[Any] = []
        """The payloads of the channel's ``system`` messages."""
        self.websocket: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._join_ref: str | None = None
        self._replies: dict[str, Any] = {}

    # Connections

    async def connect(self) -> None:
        query = "vsn=1.0.0"
        if self.session is not None:
            query += f"&session={self.session}"
        if self.token is not None:
            query += f"&apikey={self.token}"
        self.websocket = await connect(
            f"ws://127.0.0.1:{self.port}/socket/websocket?{query}",
            compression=None,
            proxy=None,
            open_timeout=DEADLINE,
            ping_interval=None,
            additional_headers=self.headers,
        )
        if self.answer is not None:
            _answer_otherwise(self.websocket, self.answer)
        self._reading = asyncio.create_task(self._read(self.websocket))

    async def cut(self) -> None:
        """Lose the connection, without a close frame."""
        assert self.websocket is not None
        sock: socket.socket = self.websocket.transport.get_extra_info("socket")
        # A reset instead of an end.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.websocket.transport.abort()
        await self._ended()

    async def close(self, code: int = 1000) -> None:
        assert self.websocket is not None
        await self.websocket.close(code)
        await self._ended()

    def freeze(self) -> None:
        """Read nothing more, and answer nothing, as behind a network that is gone."""
        assert self.websocket is not None
        self.websocket.transport.pause_reading()

    def thaw(self) -> None:
        """Read and answer again."""
        assert self.websocket is not None
        self.websocket.transport.resume_reading()

    def forget_connection(self) -> ClientConnection:
        """Leave the connection as it is, for a new one; return it."""
        assert self.websocket is not None
        websocket, self.websocket = self.websocket, None
        assert self._reading is not None
        self._reading.cancel()
        return websocket

    async def ended(self) -> int | None:
        """Wait until the connection has ended; return its close code."""
        websocket, reading = self.websocket, self._reading
        assert websocket is not None
        assert reading is not None
        await asyncio.wait({reading})
        self.websocket = None
        return websocket.close_code

    async def _ended(self) -> None:
        assert self._reading is not None
        await self._reading
        self.websocket = None

    async def _read(self, websocket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in websocket:
                self._take(json.loads(text))

    def _take(self, frame: Any) -> None:
        payload = frame["payload"]
        match frame["event"]:
            case "phx_reply":
                self._replies[frame["ref"]] = payload
            case "postgres_changes":
                self.ids.append(payload["data"]["record"]["id"])
            case "INSERT":
                self.ids.append(int(payload["record"]["id"]))
            case "system":
                self.systems.append(payload)

    # Messages

    async def send(self, event: str, payload: Any, *, ref: str | None = None) -> str:
        assert self.websocket is not None
        self.ref += 1
        ref = str(self.ref) if ref is None else ref
        topic = "phoenix" if event == "heartbeat" else self.topic
        if event == "phx_join":
            self._join_ref = ref
        frame = {"topic": topic, "event": event, "payload": payload, "ref": ref}
        if event != "heartbeat":
            frame["join_ref"] = self._join_ref
        await self.websocket.send(json.dumps(frame))
        return ref

    async def ask(self, event: str, payload: Any, *, ref: str | None = None) -> Any:
        """Send a message, and return the payload of its reply."""
        ref = await self.send(event, payload, ref=ref)
        await eventually(lambda: ref in self._replies)
        return self._replies.pop(ref)

    async def beat(self) -> None:
        await self.ask("heartbeat", {})

    async def join(self, *, ref: str | None = None) -> Any:
        """Join, and return the ``system`` message that says where the channel begins."""
        known = len(self.systems)
        payload: dict[str, Any] = {}
        if self.binding:
            payload["config"] = {"postgres_changes": [self.binding]}
        if self.token is not None:
            payload["access_token"] = self.token
        reply = await self.ask("phx_join", payload, ref=ref)
        assert reply["status"] == "ok", reply
        if not self.binding:
            return None
        await eventually(lambda: self._subscribed(known))
        return self._subscribed(known)[0]

    def _subscribed(self, known: int) -> list[Any]:
        new = self.systems[known:]
        return [one for one in new if one["message"] == "Subscribed to PostgreSQL"]

    async def come(self) -> Any:
        """Connect and join."""
        await self.connect()
        return await self.join()

    @property
    def gaps(self) -> list[str]:
        """The reasons of the gaps that it was told of."""
        return [one["gap"]["reason"] for one in self.systems if "gap" in one]

    async def until(self, last: int) -> None:
        """Wait for a row."""
        await eventually(lambda: last in self.ids)


def _answer_otherwise(websocket: ClientConnection, answer: bytes) -> None:
    """Let a connection's pongs hold something else than what it was sent, or send none."""
    protocol = websocket.protocol
    send_frame = protocol.send_frame

    def send(frame: Frame) -> None:
        if frame.opcode is not Opcode.PONG:
            send_frame(frame)
        elif answer:
            send_frame(Frame(Opcode.PONG, answer))

    protocol.send_frame = send  # type: ignore[method-assign]
