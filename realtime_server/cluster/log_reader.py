"""LogReader: reads the log's envelopes in order.

It has an ordered pull consumer of its own: in NATS's memory, without acknowledgements, with one
request outstanding. Whatever is odd (silence, a number that skips, a status that is not known, a
broken connection) ends it, and the next one begins behind the last envelope. Before it does, the
log is asked whether that envelope is still what it was: NATS may have lost the end of the log, and
others may have appended since, or the log was made anew. Then the place is looked for in what the
log has now. So where an envelope is returned that does not follow the one before it, the log does
not have what is between them.

What cannot be read is passed over: the envelope behind it says whether something is missing.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from realtime_core.errors import RealtimeError

from .connection import Message, NatsConnection, Subscription
from .envelope import (
    Envelope,
    EnvelopeError,
    NoEnvelopeError,
    Place,
    VersionError,
    decode,
    place_in,
)
from .errors import LogError, MissingError
from .inbox import Inbox
from .log import Log

__all__ = ["LogReader", "Read"]

logger = logging.getLogger("realtime.cluster")

_BATCH: Final = 256
"""How many messages are asked for at once, ..."""
_BYTES: Final = 4 * 1024 * 1024
"""... and how many bytes; a message may have more."""
_SECOND: Final = 1_000_000_000
"""In nanoseconds, as JetStream wants times."""
_EXPIRES: Final = 30
"""Seconds until a request ends that was not filled."""
_HEARTBEAT: Final = 1
"""Seconds of silence after which the consumer says that it is there."""
_SILENCE: Final = 2.5 * _HEARTBEAT
"""Seconds of silence after which it is taken to be gone."""
_INACTIVE: Final = 30
"""Seconds after which NATS drops a consumer that nobody asks."""
_ENDS: Final = ("Message Size Exceeds MaxBytes", "Batch Completed")
"""What a 409 says at the end of a request that was filled."""


@attrs.define
class Read:
    """An envelope that was read."""

    sequence: int
    envelope: Envelope
    data: bytes
    """Its bytes."""
    is_anew: bool = False
    """Whether it belongs to a log that was made anew, with places that cannot be compared to those
    before."""


class LogReader:
    """Reads one log from one place on, over one connection after the other.

    Args:
        connect: opens a connection.
        log: makes the log's view of a connection.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[NatsConnection]],
        log: Callable[[NatsConnection], Log],
    ) -> None:
        self._connect = connect
        self._log_of = log
        self.sequence = 0
        """The sequence of the last envelope that was returned, or that this begins behind."""
        self.place: Place | None = None
        """Where the chain stands behind that envelope; None before the first one."""
        self.created: str | None = None
        """When the stream was made that was read from last; None before it was found."""
        self.is_between_pieces = True
        """Whether this begins behind a whole piece, and not among the parts of one."""
        self.resyncs = 0
        """How often another consumer was made than the first one."""
        self.pending = 0
        """How many messages the log had behind the last one, when that was sent."""
        self.newer: VersionError | None = None
        """Why the last message could not be read, if a newer server has written it."""
        self._connection: NatsConnection | None = None
        # Where what comes is looked for, and what asks for it.
        self._subscription: Subscription | None = None
        self._consumer: str | None = None
        # What has come and was not looked at yet.
        self._arrived = Inbox(_SILENCE)
        self._inbox = self._subject = ""
        # How many messages may still come of the request under way, the consumer's own number of
        # the last one, and whether the next envelope is the first one of this consumer.
        self._left = self._delivered = 0
        self._is_first = True
        # The last envelope that has moved the place; and whether that is not in the log any more.
        self._last: Envelope | None = None
        self._is_lost = False
        # Whether it was said that others write to the log, and up to where that one is unreadable.
        self._is_told = False
        self._told = 0

    async def begin(self) -> Envelope | None:
        """Begin behind the last whole piece of the log; return the last envelope, None if none is.

        Raises:
            LogError: if NATS cannot be reached.
            VersionError: if a newer server has written the end.
        """
        log = await self._reach()
        await log.prepare()
        self.created = (await log.state()).created
        self.sequence, envelope = await log.tail()
        self.place, self._last = None if envelope is None else envelope.last, envelope
        if envelope is not None and envelope.part < envelope.parts:
            # The others come, or have come since.
            before = self.sequence - envelope.part
            self.is_between_pieces = await log.is_first_part(before + 1, envelope)
            self.sequence = before if self.is_between_pieces else self.sequence
        return envelope

    async def begin_with(self, find: Callable[[Log], Awaitable[int]]) -> None:
        """Begin with the message whose sequence a function finds.

        Raises:
            LogError: if NATS cannot be reached.
        """
        log = await self._reach()
        await self._drop()
        self.created = (await log.state()).created
        self.sequence, self.place, self._last = await find(log) - 1, None, None

    async def next(self) -> list[Read]:
        """Return the next envelopes, at least one. A cancelled call loses nothing.

        Raises:
            LogError: if something is odd. Pause, and call this again to look for the place.
        """
        try:
            if self._consumer is None:
                await self._open()
            while True:
                found = self._take()
                if found:
                    return found
                if not self._left:
                    self._ask()
                await self._something()
        except LogError:
            await self._drop()
            raise

    async def aclose(self) -> None:
        """Close the connection."""
        await self._drop()
        self._arrived.close()
        if self._connection is not None:
            await self._connection.aclose()
            self._connection = None

    # Where to begin

    async def _reach(self) -> Log:
        if self._connection is not None and self._connection.closed.is_set():
            self._connection = None
        if self._connection is None:
            self._connection = await self._connect()
            self._connection.on_closed(self._arrived.wake)
        return self._log_of(self._connection)

    async def _open(self) -> None:
        log = await self._reach()
        start = await self._start(log)
        connection = log.connection
        self._arrived.messages.clear()
        self._inbox = connection.new_inbox()
        self._subscription = await connection.subscribe(self._inbox, self._arrived.put)
        self._consumer = await log.make_consumer(
            {
                "name": f"r{secrets.token_hex(8)}",
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": start,
                "ack_policy": "none",
                "max_deliver": 1,
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": _INACTIVE * _SECOND,
            }
        )
        self._subject = log.next_of(self._consumer)
        self._left = self._delivered = 0
        self._is_first = True

    async def _start(self, log: Log) -> int:
        """Return the sequence to go on at."""
        state = await log.state()
        is_same = self.created in (None, state.created)
        self.created = state.created
        if self.place is None or not is_same:
            if not is_same:
                logger.warning("the log was made anew; going on at its begin")
                self._is_lost = True
                self.sequence = state.first - 1
            return self.sequence + 1
        if state.first <= self.sequence <= state.last:
            try:
                if (await log.envelope_at(self.sequence)).last == self.place:
                    return self.sequence + 1
            except EnvelopeError:
                # Others have written behind the last envelope.
                self.sequence = await log.find(self.place) - 1
                return self.sequence + 1
            except MissingError:
                pass
        elif state.first > state.last == self.sequence:
            # Everything has expired, and nothing was appended since.
            return self.sequence + 1
        self._is_lost = True
        self.sequence = await log.find(self.place) - 1
        logger.warning(
            "the log does not have any more what was read last; going on with message %d of it",
            self.sequence + 1,
        )
        return self.sequence + 1

    async def _drop(self) -> None:
        """Give up the consumer."""
        if self._consumer is None and self._subscription is None:
            return
        self.resyncs += 1
        self._consumer = None
        subscription, self._subscription = self._subscription, None
        self._arrived.messages.clear()
        if subscription is not None:
            await subscription.aclose()

    # What comes

    async def _something(self) -> None:
        """Wait until a message has come.

        Raises:
            LogError: if none does.
        """
        connection, arrived = self._connection, self._arrived
        assert connection is not None
        if not arrived.messages and not connection.closed.is_set():
            await arrived.something()
        if not arrived.messages:
            raise LogError("the connection to NATS has ended")

    def _ask(self) -> None:
        connection = self._connection
        assert connection is not None
        self._left = _BATCH
        request = {
            "batch": _BATCH,
            "max_bytes": max(_BYTES, 2 * connection.max_payload),
            "expires": _EXPIRES * _SECOND,
            "idle_heartbeat": _HEARTBEAT * _SECOND,
        }
        connection.send(self._subject, json.dumps(request).encode(), reply=self._inbox)

    def _take(self) -> list[Read]:
        """Return the envelopes among what has come.

        Raises:
            LogError: if something is odd; the envelopes before it come first.
        """
        found: list[Read] = []
        arrived = self._arrived.messages
        while arrived:
            message = arrived[0]
            status = message.status
            try:
                if not status:
                    found += self._envelope(message)
                elif status in ("404", "408") or (status == "409" and message.description in _ENDS):
                    self._left = 0
                elif status != "100":
                    raise LogError(f"the log's consumer has ended: {status} {message.description}")
            except RealtimeError:
                if found:
                    # It comes again, since the message is still there.
                    return found
                raise
            arrived.popleft()
        return found

    def _envelope(self, message: Message) -> list[Read]:
        """Return the envelope that has come, or nothing if it is none that can be read."""
        sequence, delivered, pending = _numbers(message.reply)
        if delivered != self._delivered + 1:
            raise LogError(f"the log's consumer has sent message {delivered} as the next one")
        data, place, last = message.data, self.place, self._last
        try:
            envelope = decode(data, sequence)
        except EnvelopeError as exc:
            self._pass_over(exc, sequence)
            self._took(delivered, pending)
            return []
        self.newer = None
        if place is not None and last is not None:
            place = place_in(envelope, place, last.stream)
        if not self._is_first and place is not None and envelope.prev > place:
            raise LogError(f"message {sequence} of the log does not follow the one before it")
        is_anew = self._is_lost and place is not None and _cannot_follow(envelope, place, last)
        self._took(delivered, pending)
        self.sequence, self.place = sequence, place
        if place is None or envelope.last > place or is_anew:
            self.place, self._last = envelope.last, envelope
        self._is_first = self._is_lost = False
        return [Read(sequence, envelope, data, is_anew)]

    def _pass_over(self, problem: EnvelopeError, sequence: int) -> None:
        """Say that a message is not read."""
        if isinstance(problem, NoEnvelopeError):
            if not self._is_told:
                logger.warning(
                    "passing over message %d of the log, which none of its servers has written: "
                    "see to it that nobody else may publish to its subject",
                    sequence,
                )
            self._is_told = True
            return
        is_said = self.newer is not None or sequence <= self._told
        self.newer = problem if isinstance(problem, VersionError) else None
        self._told = max(self._told, sequence)
        if not is_said:
            logger.error("passing over a message of the log: %s", problem)

    def _took(self, delivered: int, pending: int) -> None:
        self._delivered, self.pending = delivered, pending
        self._left = max(self._left - 1, 0)


def _cannot_follow(envelope: Envelope, place: Place, last: Envelope | None) -> bool:
    """Return whether an envelope says nothing of a place in what was the log before."""
    return envelope.last[0] < place[0] or (last is not None and envelope.stream != last.stream)


def _numbers(reply: str) -> tuple[int, int, int]:
    """Return a message's sequence in the log, its number at the consumer, and what is behind it.

    They stand in the subject that an acknowledgement would go to, of which there are two forms.

    Raises:
        LogError: if it is no such subject.
    """
    parts = reply.split(".")
    at = 5 if len(parts) == 9 else 7
    try:
        return int(parts[at]), int(parts[at + 1]), int(parts[at + 3])
    except (ValueError, IndexError):
        raise LogError(
            f"the log's consumer has sent a message with the subject {reply!r}"
        ) from None
