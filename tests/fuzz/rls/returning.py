"""Clients that lose their connection and come back in the same session."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from random import Random
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from tests.fuzz.rls.clients import (
    FENCE_BINDING,
    PATIENCE,
    Channel,
    Client,
    ProtocolError,
    Viewer,
    connect_to,
)
from tests.waiting import eventually

__all__ = ["ReturningClient"]

ORDINAL: Final = 8
"""Bytes of a ping whose answer proves what came before."""


class ReturningClient(Client):
    """A client that counts its messages over its whole life, as stock clients do.

    Each of its channels listens to the fence itself: of two channels that have come back, one may
    be brought up to now before the other.

    Args:
        websocket: connected.
        vsn: the protocol's version.
        schema: of the world.
        port: of the server.
        session: names the client.
    """

    _further_bindings = (FENCE_BINDING,)

    def __init__(
        self, websocket: ClientConnection, vsn: str, schema: str, port: int, session: str
    ) -> None:
        super().__init__(websocket, vsn, schema)
        self._vsn = vsn
        self._port = port
        self._session = session
        self._ref = 0
        self._join_refs: dict[str, str] = {}
        # Whether a ping has come behind the last message.
        self._is_asked = False
        self.is_away = False
        self._watch()

    @classmethod
    async def begin(
        cls, port: int, vsn: str, viewer: Viewer, schema: str, random: Random
    ) -> ReturningClient:
        """Connect with a session of its own."""
        session = f"{random.getrandbits(128):032x}"
        websocket = await connect_to(port, vsn, viewer, f"&session={session}")
        return cls(websocket, vsn, schema, port, session)

    @property
    def channels(self) -> Mapping[str, Channel]:
        """The channels that it has joined, by topic."""
        return self._channels

    async def until_proven(self) -> None:
        """Wait until the server knows that everything so far has come."""
        await eventually(lambda: self._is_asked, within=PATIENCE)
        # One message after the other is dealt with, and the answer to the ping was the first.
        await self._send("phoenix", "heartbeat", {}, "")
        await self._until(lambda topic, event, _: topic == "phoenix" and event == "phx_reply")

    async def cut(self) -> None:
        """Lose the connection, without a close frame; take what has come until then."""
        sock: socket.socket = self._websocket.transport.get_extra_info("socket")
        # A reset instead of an end.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._websocket.transport.abort()
        self.is_away = True
        try:
            while True:
                self._take(*self._parse(await self._websocket.recv(decode=False)))
        except ConnectionClosed:
            pass

    async def come_back(self, viewer: Viewer) -> None:
        """Connect again and join all channels; whether each goes on where it was stands with it.

        Args:
            viewer: whose token the connection has.
        """
        self._websocket = await connect_to(
            self._port, self._vsn, viewer, f"&session={self._session}"
        )
        self._watch()
        self.is_away = False
        channels = list(self._channels.values())
        for channel in channels:
            channel.by_id.clear()
            channel.last = (0, 0)
        await self.join(channels)
        left = [one for one in channels if one.refusal is None]
        if not all(map(_has_heard, left)):
            await self._until(lambda *message: self._has_told(message, left))

    def _has_told(self, message: tuple[str, str, Any], channels: list[Channel]) -> bool:
        self._take(*message)
        return all(map(_has_heard, channels))

    async def read_until_fence(self, number: int) -> None:
        left = set(self._channels)

        def is_it(topic: str, event: str, payload: Any) -> bool:
            if event == "postgres_changes":
                data = payload["data"]
                if data["table"] == "fence" and data["record"]["n"] == number:
                    left.discard(topic)
            return not left

        if left:
            await self._until(is_it)

    async def close(self) -> None:
        if not self.is_away:
            await super().close()

    def _take(self, topic: str, event: str, payload: Any) -> None:
        channel = self._channels.get(topic)
        absence = None if channel is None else channel.absence
        if event != "system" or channel is None or absence is None:
            super()._take(topic, event, payload)
        elif "gap" in payload:
            channel.has_gap = True
        elif payload["status"] != "ok":
            raise ProtocolError(f"{topic} is told {payload}")
        elif "resumed" in payload:
            absence.is_resumed = payload["resumed"]

    async def _listen_to_the_fence(self, viewer: Viewer) -> None:
        """Do nothing: each channel listens to it."""

    async def _send(self, topic: str, event: str, payload: Any, ref: str) -> None:
        self._ref += 1
        if event == "phx_join":
            self._join_refs[topic] = str(self._ref)
        await self._write(self._join_refs.get(topic), str(self._ref), topic, event, payload)

    def _watch(self) -> None:
        protocol = self._websocket.protocol
        receive = protocol.recv_frame

        def recv_frame(frame: Frame) -> None:
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                self._is_asked = False
            elif frame.opcode is Opcode.PING and len(frame.data) == ORDINAL:
                self._is_asked = True
            receive(frame)

        protocol.recv_frame = recv_frame  # type: ignore[method-assign]


def _has_heard(channel: Channel) -> bool:
    return channel.absence is None or channel.absence.is_resumed is not None
