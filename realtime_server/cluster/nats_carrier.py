"""NatsCarrier: brings messages to the servers on other machines, over core NATS.

Core NATS delivers once at most, and keeps the order of each sender. A subject is subscribed to
while somebody listens to it here. What is to be sent waits here while NATS takes nothing, up to a
bound; while there is no connection nothing waits, as what would come later would be old. The
connection is the rooms' own: changes and broadcasts do not wait for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from .carrier import MAX_WAITING_BYTES, NotSent, TakeMessage
from .connection import Message, NatsConnection, Subscription
from .errors import LogError

__all__ = ["NatsCarrier"]

logger = logging.getLogger("realtime.rooms")

_PAUSE: Final = 1.0
"""Seconds until a connection is tried again."""
_STUCK: Final = 5.0
"""Seconds that NATS may take to accept a message, until it is connected to anew."""
_TOGETHER: Final = 20
"""How many messages are sent, or subjects subscribed to, until others have their turn: the client
of NATS itself does not wait for anything."""
_END: Final = 0.5
"""Seconds that sending what waits may take at the end."""
_FIRST_BYTES: Final = 1024 * 1024
"""How many bytes NATS lets a message have unless it is told otherwise, until it says so."""


class NatsCarrier:
    """A carrier to the servers that use the same NATS, and the same name.

    Args:
        name: of the cluster, which the subjects begin with.
        connect: opens a connection to NATS, on which what is sent does not come back.
    """

    def __init__(self, name: str, connect: Callable[[], Awaitable[NatsConnection]]) -> None:
        self.max_bytes = _FIRST_BYTES
        """How many bytes a message may have."""
        self.is_away = True
        """Whether the others cannot be reached now."""
        self.lost = 0
        """How many messages had been handed over and were not sent, as the connection broke."""
        self._prefix = f"{name}.rt."
        self._connect = connect
        self.changed: Callable[[], None] = lambda: None
        """Called when the others become reachable, and when they are no more."""
        self._take: TakeMessage = lambda subject, data: None
        # The subjects that are listened to, the subscriptions of this connection, and where the two
        # may differ.
        self._wanted: set[str] = set()
        self._subscriptions: dict[str, Subscription] = {}
        self._to_check: set[str] = set()
        # What is to be sent, and its bytes.
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._waiting_bytes = 0
        self._something = asyncio.Event()
        # The message that is sent when this ends.
        self._last: tuple[str, bytes] | None = None

    def begin(self, take: TakeMessage) -> None:
        self._take = take

    def send(self, subject: str, data: bytes) -> NotSent | None:
        if self.is_away:
            return NotSent.AWAY
        if len(data) > self.max_bytes:
            return NotSent.TOO_LARGE
        if self._waiting_bytes + len(data) > MAX_WAITING_BYTES:
            return NotSent.FULL
        self._waiting.append((self._prefix + subject, data))
        self._waiting_bytes += len(data)
        self._something.set()
        return None

    def listen(self, subject: str) -> None:
        self._wanted.add(subject)
        self._check(subject)

    def ignore(self, subject: str) -> None:
        self._wanted.discard(subject)
        self._check(subject)

    def leave(self, subject: str, data: bytes) -> None:
        self._last = subject, data

    def _check(self, subject: str) -> None:
        if not self.is_away:
            self._to_check.add(subject)
            self._something.set()

    async def run(self) -> None:
        """Connect again and again, and carry, until this is cancelled."""
        is_told = False
        while True:
            try:
                async with await self._connect() as connection:
                    try:
                        await self._serve(connection)
                    except asyncio.CancelledError:
                        await self._end_well(connection)
                        raise
            except LogError as exc:
                if not self.is_away or not is_told:
                    is_told = True
                    logger.warning(
                        "broadcasts reach members at this server alone, until NATS is back: %s", exc
                    )
            finally:
                self._end()
            await asyncio.sleep(_PAUSE)

    async def _serve(self, connection: NatsConnection) -> None:
        connection.on_closed(self._something.set)
        self.max_bytes = connection.max_payload
        self._to_check |= self._wanted
        self.is_away = False
        self.changed()
        logger.info("broadcasts reach members at all servers")
        while True:
            self._something.clear()
            await self._subscribe_all(connection)
            await self._send_all(connection)
            if connection.closed.is_set():
                raise LogError("the connection to NATS has ended")
            if not self._to_check:
                await self._something.wait()

    async def _end_well(self, connection: NatsConnection) -> None:
        """Send what waits, and that this ends."""
        if self._last is not None:
            self.send(*self._last)
        with contextlib.suppress(LogError, TimeoutError):
            async with asyncio.timeout(_END):
                await self._send_all(connection)

    async def _send_all(self, connection: NatsConnection) -> None:
        for count in itertools.count(1):
            if not self._waiting:
                return
            subject, data = self._waiting.popleft()
            self._waiting_bytes -= len(data)
            try:
                async with asyncio.timeout(_STUCK):
                    await connection.publish(subject, data)
            except TimeoutError:
                raise LogError(f"NATS has taken nothing for {_STUCK:g} s") from None
            if not count % _TOGETHER:
                await asyncio.sleep(0)

    async def _subscribe_all(self, connection: NatsConnection) -> None:
        for count in itertools.count(1):
            if not self._to_check:
                return
            await self._subscribe(connection, self._to_check.pop())
            if not count % _TOGETHER:
                await asyncio.sleep(0)

    async def _subscribe(self, connection: NatsConnection, subject: str) -> None:
        """Subscribe to a subject, or end that, as is wanted."""
        subscription = self._subscriptions.get(subject)
        if subject in self._wanted and subscription is None:
            self._subscriptions[subject] = await connection.subscribe(
                self._prefix + subject, self._received
            )
        elif subject not in self._wanted and subscription is not None:
            del self._subscriptions[subject]
            await subscription.aclose()

    def _received(self, message: Message) -> None:
        self._take(message.subject.removeprefix(self._prefix), message.data)

    def _end(self) -> None:
        was_away, self.is_away = self.is_away, True
        self.lost += len(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._to_check.clear()
        self._subscriptions.clear()
        if not was_away:
            self.changed()
