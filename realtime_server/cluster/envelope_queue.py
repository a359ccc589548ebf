"""EnvelopeQueue: envelopes that have come, and the events that are made of them when they are asked
for.

It is what the feed of a worker and that of a server on the log have in common. A step that is
cancelled loses nothing: what it has not returned is in the queue still.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from realtime_core import Begin, Commit, Event, Gap, GapReason, Position, StreamIdentity
from realtime_core.errors import RealtimeError
from realtime_core.positions import LAST_INDEX
from realtime_core.sources.prompt_future import PromptFuture

from ..fanout.turns import Turn
from .chain import HoleError
from .envelope import HEAD_BYTES, Envelope, EnvelopeError, Place, position_at, position_behind
from .unpacker import Unpacker, Wants

__all__ = ["EnvelopeQueue", "Steps"]

logger = logging.getLogger("realtime.cluster")

MAX_BYTES: Final = 1024 * 1024
"""How many bytes of envelopes the queue has before nothing more is to be put in."""


class EnvelopeQueue:
    """Envelopes of one chain, in order.

    Args:
        unpacker: makes the events.
        tells_holes: whether a hole in the chain becomes a gap, and so an envelope of which the
            changes cannot be read. Where nothing can be missing, it is an error.
    """

    def __init__(self, unpacker: Unpacker, *, tells_holes: bool = False) -> None:
        self.unpacker = unpacker
        """Makes the events."""
        self.wants: Wants | None = None
        """Whose rows are made events of; None: those of all tables."""
        self.gaps = 0
        """How many gaps were handed over, ..."""
        self.holes = 0
        """... and how many of them were holes in the chain."""
        self.done: Place | None = None
        """The place up to which all that was handed over is acknowledged; None before that."""
        self._tells_holes = tells_holes
        # The envelopes that were not unpacked yet, with their sequence and whether they begin
        # another chain; None where the tables are to be described anew.
        self._waiting_envelopes: deque[tuple[int, Envelope, bool] | None] = deque()
        self.size = 0
        """How many bytes of envelopes wait."""
        # The envelopes whose events were handed over: the place of the last one, the stream that
        # their positions have, and the sequence.
        self._handed: deque[tuple[Place, StreamIdentity | None, int]] = deque()
        # Why nothing more comes; and why what has come cannot be read.
        self._error: Exception | None = None
        self._unreadable: RealtimeError | None = None
        # Up to where everything was handed over before a hole, and whether there is one.
        self._before_hole: Position | None = None
        self._is_in_hole = False
        # Those that wait for something to come, and the one that waits for room.
        self._waiting: dict[PromptFuture, None] = {}
        self._room: PromptFuture | None = None
        # The slice of time of the side that empties it; None while that waits.
        self._turn: Turn | None = None

    # The side that fills it

    def put(self, sequence: int, envelope: Envelope, *, is_anew: bool = False) -> None:
        """Add an envelope; call :meth:`wake` behind the last one of several.

        Args:
            sequence: its number.
            envelope: the envelope.
            is_anew: whether it begins another chain: what is between the two is lost.
        """
        self._waiting_envelopes.append((sequence, envelope, is_anew))
        self.size += HEAD_BYTES + len(envelope.body)

    def describe_anew(self) -> None:
        """Have the tables of all envelopes that are put in from now on be described anew.

        What filters have made of a table's description may depend on what has changed.
        """
        self._waiting_envelopes.append(None)

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be put in."""
        return self.size > MAX_BYTES

    async def room(self) -> None:
        """Wait while the queue is full."""
        while self.is_full:
            self._room = PromptFuture()
            try:
                await self._room
            finally:
                self._room = None

    def end(self, error: Exception) -> None:
        """Have an error raised when everything that has come was handed over."""
        if self._error is None:
            self._error = error
        self.wake()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes."""
        return self._error is not None

    def wake(self) -> None:
        """Have those look again who wait for something."""
        for waiter in list(self._waiting):
            waiter.resume()

    # The side that empties it

    async def something(self) -> None:
        """Wait until :meth:`wake` is called.

        Raises:
            Exception: the one that :meth:`end` was called with, if nothing will come any more.
        """
        if self._error is not None:
            raise self._error
        waiter = PromptFuture()
        self._waiting[waiter] = None
        try:
            await waiter
        finally:
            del self._waiting[waiter]

    async def next_batch(self) -> list[Event]:
        """Return the events of the next envelope that has any; cancelling this loses nothing.

        It does not wait while envelopes are there, and what is done with their events need not
        either. So it gives way now and then, or nothing else would run until the queue is empty.

        Raises:
            RealtimeError: if an envelope cannot be read.
            Exception: the one that :meth:`end` was called with, if nothing will come any more.
        """
        if self._unreadable is not None:
            # Whoever reads ahead leaves an error to the next step.
            raise self._unreadable
        while True:
            while not self._waiting_envelopes:
                await self.something()
                self._turn = None
            if self._turn is None:
                self._turn = Turn()
            elif self._turn.is_over:
                await self._turn.give_way()
            first = self._waiting_envelopes.popleft()
            if first is None:
                self.unpacker.describe_anew()
                continue
            sequence, envelope, is_anew = first
            self.size -= HEAD_BYTES + len(envelope.body)
            if self._room is not None and not self.is_full:
                self._room.resume()
            try:
                events = self._unpack(envelope, sequence, is_anew)
            except RealtimeError as exc:
                self._unreadable = exc
                raise
            last = self.unpacker.last
            if last is not None:
                self._handed.append((last, self.unpacker.stream, sequence))
            if events:
                if type(events[0]) is Gap:
                    # Behind a hole there may be another one.
                    self.gaps += list(map(type, events)).count(Gap)
                return events

    def acknowledged(self, upto: Event | Position) -> int | None:
        """Return the sequence of the last envelope of which everything is acknowledged now.

        That is None if it is the same as before. A Begin or a Gap acknowledges nothing.
        """
        if isinstance(upto, Begin | Gap):
            return None
        position = upto if isinstance(upto, Position) else upto.position
        # The position of a Commit is that of the last change, and an envelope ends behind it.
        index = LAST_INDEX if isinstance(upto, Commit) else position.index
        place = (position.lsn, index)
        # What was read ahead may be behind a gap, where LSNs may be lower. The unpacker gives the
        # positions from one gap to the next the same object as their stream. Their generations may
        # differ all the same: a log that was made anew goes on with 0.
        count = 0
        for number, (end, stream, _) in enumerate(self._handed, 1):
            if stream is position.stream:
                if end[1:] > place:
                    break
                count = number
        done: int | None = None
        for _ in range(count):
            self.done, _, done = self._handed.popleft()
        return done

    def _unpack(self, envelope: Envelope, sequence: int, is_anew: bool) -> list[Event]:
        if is_anew:
            self._enter_hole()
        try:
            events = self._feed(envelope, sequence)
        except EnvelopeError as exc:
            if not self._tells_holes:
                raise
            logger.error("the clients are told of a gap: %s", exc)
            self._enter_hole()
            self.unpacker = Unpacker(envelope.last, envelope.stream)
            return [self._hole(position_behind(envelope.last, envelope.stream))]
        if self._is_in_hole and self.unpacker.last is not None:
            # Of a piece in parts, the first ones may be missing: then it is part of the hole.
            return [self._hole(position_behind(envelope.prev, envelope.stream)), *events]
        return events

    def _feed(self, envelope: Envelope, sequence: int) -> list[Event]:
        try:
            return self.unpacker.feed(envelope, sequence, self.wants)
        except HoleError:
            if not self._tells_holes:
                raise
            self._enter_hole()
            return self.unpacker.feed(envelope, sequence, self.wants)

    def _hole(self, until: Position) -> Gap:
        self._is_in_hole = False
        self.holes += 1
        return Gap(self._before_hole, until, GapReason.LOG_BEHIND)

    def _enter_hole(self) -> None:
        last, stream = self.unpacker.last, self.unpacker.stream
        if not self._is_in_hole:
            known = None if last is None or stream is None else position_at(last, stream)
            self._before_hole = known
        self._is_in_hole = True
        self.unpacker.begin_anew()


class Steps(AsyncIterator[list[Event]]):
    """An iterator whose steps may be cancelled, which would end an async generator.

    Args:
        step: returns the next batch.
    """

    def __init__(self, step: Callable[[], Awaitable[list[Event]]]) -> None:
        self._step = step

    async def __anext__(self) -> list[Event]:
        return await self._step()
