"""Connection: one WebSocket between websockets' connection and the socket's state.

It carries the state's actions out. websockets keeps what it does well: handshake,
receiving, ping and pong, closing. Frames out go through the outbox, which writes to the
same transport, so that replies and changes keep their order.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from .auth import Authorizer, ConnectRequest, JoinRequest
from .encoding import text_frame
from .errors import RefusedError
from .hub import Hub, Subscription
from .outbox import OutboxCounters, SocketOutbox
from .phoenix.messages import Message
from .phoenix.payloads import wanted_bindings
from .phoenix.serializers import Serializer
from .phoenix.socket_state import (
    Action,
    Channel,
    Close,
    Join,
    Send,
    SocketState,
    Subscribe,
    Unsubscribe,
)
from .topics import Topic

__all__ = ["IDLE_TIMEOUT", "Connection"]

logger = logging.getLogger("realtime.connection")

IDLE_TIMEOUT: Final = 60.0
"""Seconds without a message after which a client is taken for gone; clients send heartbeats."""


class Connection:
    """Serves one client until it goes.

    Args:
        websocket: open.
        request: its handshake, already authorized.
        serializer: the format it asked for.
        hub: where its channels subscribe.
        authorizer: decides on its joins.
        outbox_max_bytes: what may wait for it.
        counters: of the server.
        idle_timeout: in seconds.
    """

    def __init__(
        self,
        websocket: ServerConnection,
        *,
        request: ConnectRequest,
        serializer: Serializer,
        hub: Hub,
        authorizer: Authorizer,
        outbox_max_bytes: int,
        counters: OutboxCounters,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        self._websocket = websocket
        self._request = request
        self._serializer = serializer
        self._hub = hub
        self._authorizer = authorizer
        self._idle_timeout = idle_timeout
        self._state = SocketState(serializer)
        self._subscriptions: dict[Channel, Subscription] = {}
        self._peer = _address(websocket)
        self._outbox = SocketOutbox(
            websocket.transport,
            lambda: websocket.protocol.state is State.OPEN and websocket.send_in_progress is None,
            max_bytes=outbox_max_bytes,
            counters=counters,
            peer=self._peer,
        )

    async def run(self) -> None:
        """Answer messages until the connection ends."""
        logger.info("connected: %s", self._peer)
        try:
            while True:
                async with asyncio.timeout(self._idle_timeout):
                    data = await self._websocket.recv()
                await self._perform(self._state.receive(data))
        except TimeoutError:
            await self._websocket.close(1000, "no message within the idle time")
        except ConnectionClosed:
            pass
        finally:
            for subscription in self._subscriptions.values():
                self._hub.unsubscribe(subscription)
            logger.info("closed: %s (%s)", self._peer, self._websocket.close_code)

    async def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(message):
                    self._outbox.write(text_frame(self._serializer.encode(message)))
                case Subscribe(channel):
                    self._subscribe(channel)
                case Unsubscribe(channel):
                    self._hub.unsubscribe(self._subscriptions.pop(channel))
                case Join(message):
                    await self._join(message)
                case Close(code, reason):
                    logger.info("closing %s: %s", self._peer, reason)
                    await self._websocket.close(code, reason)

    async def _join(self, message: Message) -> None:
        try:
            if wanted_bindings(message.payload):
                raise RefusedError(
                    "postgres_changes in a join's config is not supported yet; join the topic "
                    "realtime:<schema>:<table> without config instead"
                )
            Topic.parse(message.topic)
            await self._authorizer.join(JoinRequest(self._request, message.topic, message.payload))
        except RefusedError as exc:
            logger.info("join of %r by %s refused: %s", message.topic, self._peer, exc.reason)
            await self._perform(self._state.refuse(message, exc.reason))
        else:
            logger.info("joined: %r by %s", message.topic, self._peer)
            await self._perform(self._state.accept(message))

    def _subscribe(self, channel: Channel) -> None:
        subscription = Subscription(Topic.parse(channel.topic), self._serializer, self._outbox)
        self._subscriptions[channel] = subscription
        self._hub.subscribe(subscription)


def _address(websocket: ServerConnection) -> str:
    address = websocket.remote_address
    return f"{address[0]}:{address[1]}" if address else "?"
