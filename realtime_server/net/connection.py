"""Connection: serves one WebSocket client until it disconnects.

It receives messages, gives them to the socket's state, and carries out the actions that come of
them; what concerns channels is done by :class:`~realtime_server.net.channels.Channels`. websockets
does the handshake, receives, answers pings and closes. Frames to the client go through the outbox,
which writes to the same transport, so that replies and changes keep their order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.protocol import State

from ..auth.authorizer import ConnectRequest
from ..fanout.frames import Frames
from ..fanout.rooms import Rooms
from ..fanout.turns import SLICE, Turns
from ..logs import named
from ..messages.policies.questions import Extension
from ..phoenix.actions import (
    Action,
    Channel,
    CheckGrants,
    Close,
    Departure,
    Join,
    Publish,
    Refresh,
    RefuseBinary,
    RefuseBroadcast,
    RefusePayload,
    RefusePresence,
    Release,
    Send,
    Subscribe,
    Track,
    Untrack,
)
from ..phoenix.message_handler import SocketState
from ..phoenix.messages import Message
from ..phoenix.policy_reasons import PolicyReason
from ..phoenix.reasons import BroadcastReason
from ..phoenix.serializers import Serializer
from ..replay.visit import Visit
from .channel_queues import ChannelQueues
from .channels import Channels
from .frame_limits import close_within
from .idle_timer import IdleTimer
from .outbox import SocketOutbox
from .refusals import Refusals
from .room_pushes import RoomPushes
from .services import Services
from .stream_notices import StreamNotices

__all__ = ["Connection"]

logger = logging.getLogger("realtime.connection")

_AT_ONCE: Final = 16
"""Broadcasts and joins of one client that are taken before others have their turn: each member of
the room gets the broadcasts in one write, and joins wait for turns of their own. After a broadcast
that is refused others have their turn at once."""
_SHORT: Final = 4096
"""Bytes up to which a message is one of these: to check a longer one takes its time."""

_LONG: Final = 16 * 1024
"""Bytes from which on a message waits for a turn, as it may take milliseconds to read: else one
client with many connections would hold up all others, and the end of the server."""

NEXT_WITHIN: Final = 1.0
"""Seconds that a ``phx_close`` waits for the next message, where that may make it superfluous: a
client may join again when it has got the answer to its leave."""


class Connection:
    """Serves one client until it disconnects.

    Args:
        websocket: open.
        request: its handshake, already authorized.
        serializer: the wire format that the client asked for.
        services: of the server.
        peer: names the client in the log.
        address: of the client, without a port; empty if it is not known.
    """

    def __init__(
        self,
        websocket: ServerConnection,
        request: ConnectRequest,
        serializer: Serializer,
        services: Services,
        *,
        peer: str,
        address: str = "",
    ) -> None:
        config, metrics = services.config, services.metrics
        self._websocket = websocket
        self._serializer = serializer
        self._config = config
        self._metrics = metrics
        # Says what each message means; what it has carried out is in the objects below.
        self._state = SocketState(
            serializer,
            max_payload_bytes=config.max_payload_bytes,
            serves_broadcast=services.rooms is not None,
            max_presence_bytes=None if services.presence is None else config.max_presence_bytes,
        )
        self._peer = peer
        self._refusals = Refusals(self._peer, metrics, asyncio.get_running_loop().time)
        self._outbox = SocketOutbox(
            websocket,
            backlog=services.backlog,
            counters=metrics.outbox,
            peer=self._peer,
            proofs=None if services.replay is None else services.replay.proofs,
        )
        # The connection, as far as channels are brought back to where they were.
        self._visit: Visit | None = None
        if services.replay is not None:
            state = self._state
            self._visit = services.replay.visit(
                request, address, self._outbox, lambda: state.last_ref
            )
        self._channels = Channels(
            request,
            serializer,
            self._state,
            outbox=self._outbox,
            refusals=self._refusals,
            perform=self._perform_all,
            peer=self._peer,
            visit=self._visit,
            services=services,
        )
        self._notices = StreamNotices(services.attachment, self._state, self._channels.perform)
        self._rooms = services.rooms
        self._presence = services.presence
        # What its channels send to their rooms; made when one of them becomes a member of a room.
        self._pushes: RoomPushes | None = None
        # Made when policies are asked for the first time.
        self._queues: ChannelQueues | None = None
        self._idle = IdleTimer(websocket, config.idle_timeout / 1000, metrics)
        # Broadcasts and joins that were taken in this round of the event loop.
        self._at_once = 0

    async def run(self) -> None:
        """Answer messages until the connection ends."""
        logger.info("connected: %s", self._peer, extra=named(self._peer, "connect"))
        self._metrics.connections.inc()
        try:
            while True:
                data = await self._receive()
                is_brief = False
                if len(data) > _LONG and self._is_open():
                    await Turns.shared().begin()
                # Messages that came before the end may still be queued; nobody is there for the
                # answers.
                if self._is_open():
                    message = self._state.decode(data) if self._queues else None
                    if message is None or not await self._waits(message.topic, data):
                        is_brief = await self._carry_out(data, message)
                if is_brief and len(data) <= _SHORT and self._at_once < _AT_ONCE:
                    # If another has come as well, both are written together.
                    if not self._at_once:
                        asyncio.get_running_loop().call_soon(self._end_round)
                    self._at_once += 1
                    continue
                # recv() does not give way while messages are queued: one client that floods
                # the server must not keep the others waiting.
                await asyncio.sleep(0)
        except ConnectionClosed:
            pass
        finally:
            self._idle.close()
            self._outbox.close()
            self._notices.close()
            if self._pushes is not None:
                self._pushes.close()
            self._channels.close(self._departure())
            self._refusals.close()
            code = self._close_code()
            self._metrics.connections.dec()
            self._metrics.closed(code)
            extra = named(self._peer, "close", code=code)
            logger.info("closed: %s (%s)", self._peer, code, extra=extra)
            if self._queues is not None:
                await self._queues.aclose()

    def _end_round(self) -> None:
        self._at_once = 0

    def _is_open(self) -> bool:
        return self._websocket.protocol.state is State.OPEN

    def _read(self, data: str | bytes, message: Message | None = None) -> list[Action]:
        """Return what a message asks for. One that took long to read lets others come first."""
        if len(data) <= _LONG:
            return self._state.receive(data, message)
        loop = asyncio.get_running_loop()
        began = loop.time()
        actions = self._state.receive(data)
        if loop.time() - began > SLICE:
            Turns.shared().rest()
        return actions

    async def _waits(self, topic: str, data: str | bytes) -> bool:
        """Have a message wait if its channel does; return whether it was so."""
        if self._queues is None or topic not in self._queues:
            return False
        await self._queues.put(topic, data)
        return True

    async def _carry_out(self, data: str | bytes, message: Message | None) -> bool:
        """Carry out a message, or begin to; return whether it was a broadcast that was taken, or a
        join."""
        actions = self._read(data, message)
        if self._channels.access.has_private:
            for place, action in enumerate(actions):
                channel = self._channels.access.must_ask(action)
                if channel is not None:
                    await self._perform(actions[:place])
                    await self._ask(channel, actions[place:], data)
                    return isinstance(action, Join)
        is_brief = await self._perform(actions)
        self._done()
        return is_brief

    async def _ask(self, channel: Channel, actions: list[Action], data: str | bytes) -> None:
        """Carry out actions before which policies are asked; other channels go on meanwhile."""
        if self._queues is None:
            self._queues = ChannelQueues(self._carry_out_held, self._fail)

        async def work() -> None:
            await self._perform(actions)
            self._done()

        await self._queues.begin(channel.topic, work, data)

    async def _carry_out_held(self, data: str | bytes) -> None:
        if self._is_open():
            await self._perform(self._read(data))
        self._done()

    def _done(self) -> None:
        """Note that a message was carried out."""
        if self._visit is not None:
            self._visit.proof.carried_out()

    async def _fail(self) -> None:
        """End the connection, because the server has a defect."""
        await close_within(self._websocket, CloseCode.INTERNAL_ERROR, "")

    def _departure(self) -> Departure:
        """Return whether the client may come back: a page that was closed will not."""
        if self._visit is None:
            return Departure.LOST
        protocol = self._websocket.protocol
        received = protocol.close_rcvd
        if received is None or not protocol.close_rcvd_then_sent:
            return Departure.LOST
        return Departure.CLOSED if received.code == CloseCode.GOING_AWAY else Departure.LOST

    def _close_code(self) -> int | None:
        """Return the code that the client was sent, or else its own; 1006 without either."""
        sent = self._websocket.protocol.close_sent
        return self._websocket.close_code if sent is None else sent.code

    async def _receive(self) -> str | bytes:
        """Return the next message."""
        if self._state.is_waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NEXT_WITHIN):
                    return await self._websocket.recv()
            self._perform_all(self._state.part())
        with self._idle:
            return await self._websocket.recv()

    async def _perform(self, actions: list[Action]) -> bool:
        """Carry out actions; return whether they were one broadcast, which was taken, or a join."""
        is_taken = False
        for action in actions:
            match action:
                case Join(channel, payload):
                    await self._channels.join(channel, payload)
                case Refresh(channel, token):
                    await self._channels.refresh(channel, token)
                    self._attend(channel)
                case Publish(channel, message, broadcast) if self._pushes is not None:
                    access = self._channels.access
                    why = await access.why_not_write(channel, Extension.BROADCAST)
                    if why is None:
                        is_taken = self._pushes.publish(channel, message, broadcast)
                    else:
                        self._pushes.refuse(channel, message, why)
                case Track(channel, message) if self._pushes is not None:
                    access = self._channels.access
                    why = await access.why_not_write(channel, Extension.PRESENCE)
                    if why is None:
                        await access.decide_on_presence(channel)
                        self._perform_now(action)
                    else:
                        self._pushes.refuse_presence(message, why)
                case Close(code, reason):
                    extra = named(self._peer, "closing", code=code, reason=reason)
                    logger.info("closing %s: %s", self._peer, reason, extra=extra)
                    await close_within(self._websocket, code, reason)
                case _:
                    self._perform_now(action)
        return len(actions) == 1 and (is_taken or isinstance(actions[0], Join))

    def _perform_all(self, actions: list[Action]) -> None:
        """Carry out actions of which none takes time."""
        for action in actions:
            self._perform_now(action)

    def _perform_now(self, action: Action) -> None:
        match action:
            case Send(message):
                self._outbox.write(Frames.of(self._serializer.encode(message)))
            case RefuseBroadcast(channel, message, why):
                if self._pushes is not None:
                    self._pushes.refuse(channel, message, why)
                else:
                    self._refusals.of_broadcast(message, why)
                    self._perform_all(self._state.fail_broadcast(channel, message, why))
            case Track(channel, message, meta) if self._pushes is not None:
                sees = self._channels.access.reads(channel, Extension.PRESENCE)
                self._pushes.track(channel, message, meta, sees=sees)
            case Untrack(channel, message) if self._pushes is not None:
                self._pushes.untrack(channel, message)
            case RefusePresence(message, refused):
                if self._pushes is not None:
                    self._pushes.refuse_presence(message, refused)
                else:
                    told = self._refusals.of_presence(message, refused)
                    self._perform_all(self._state.refuse(message, told))
            case Subscribe(channel):
                self._channels.subscribe(channel)
                if self._rooms is not None and channel.config is not None:
                    self._enter(self._rooms, channel)
            case Release(channel, how):
                if self._pushes is not None:
                    self._pushes.leave(channel)
                self._notices.leave(channel)
                self._channels.release(channel, how)
            case CheckGrants():
                self._channels.check_grants()
            case RefusePayload(message):
                reason = self._refusals.of_payload(message, self._config.max_payload_bytes)
                self._perform_all(self._state.refuse(message, reason))
            case RefuseBinary(message):
                self._refusals.of_broadcast(message, BroadcastReason.BINARY_PUSH)
                told_why = self._state.refuse_broadcast(message, BroadcastReason.BINARY_PUSH)
                self._perform_all(told_why)

    def _enter(self, rooms: Rooms, channel: Channel) -> None:
        """Make a channel a member of its room."""
        if self._pushes is None:
            self._pushes = RoomPushes(
                rooms,
                self._config,
                self._serializer,
                self._state,
                outbox=self._outbox,
                refusals=self._refusals,
                perform=self._channels.perform,
                presence=self._presence,
            )
        hears = self._channels.access.reads(channel, Extension.BROADCAST)
        hold = self._channels.access.take_hold(channel)
        self._pushes.join(channel, hears=hears, hold=hold)
        if hold is not None and hold.is_full:
            # After its join is done with.
            asyncio.get_running_loop().call_soon(self._give_up, channel)
            return
        self._notices.join(channel)
        self._attend(channel)

    def _give_up(self, channel: Channel) -> None:
        """End a channel that would miss something; its client joins again."""
        reason = PolicyReason.REPLAY.told()
        self._perform_all(self._state.end(channel, reason, for_good=False))

    def _attend(self, channel: Channel) -> None:
        """Have a channel get what is sent in its room, as far as it may."""
        if self._pushes is None:
            return
        access = self._channels.access
        if access.reads(channel, Extension.BROADCAST):
            self._pushes.hear(channel)
        if access.reads(channel, Extension.PRESENCE):
            self._pushes.watch(channel)
