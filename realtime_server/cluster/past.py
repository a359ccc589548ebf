"""LogPast: what clients of former processes have missed, in the log that several servers share.

A server that begins reads a part of the log twice, beside the changes that come now, and with a
reader of its own. First it looks for the journal's records among what was appended within some
time. From these it knows which clients may come back, and up to which place each has everything.
If there are any, it finds the lowest of these places in the log, and reads the changes from there
to where its own feed begins. Then it stops.

What a process has written into the journal leaves the log sooner or later. So one of the servers
tells everything again now and then, also of processes that have ended.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Final, Protocol, TypeVar

from realtime_core import LSN, DecodeError, Event, Idle, LogicalMessage
from realtime_core.pgoutput import ChangeDecoder

from ..fanout.turns import Turn
from ..replay.older_changes import LostError
from ..replay.past import Telling
from ..replay.places import Place as ReplayPlace
from .chain import Chain, HoleError
from .envelope import Envelope, EnvelopeError, Kind, Place, messages_of, position_at
from .errors import LogError
from .log import Log
from .log_reader import LogReader
from .unpacker import Unpacker

__all__ = ["FeedOfLog", "LogPast"]

Result = TypeVar("Result")

logger = logging.getLogger("realtime.cluster")

_PAUSE: Final = 0.2
"""Seconds until the log is tried again."""
_PATIENCE: Final = 30.0
"""Seconds without anything from the log after which it is given up."""
_PART_OF_LOG: Final = 8
"""Everything is told again when so small a part of the log's bytes has come since."""
_MESSAGE: Final = ord("M")
_TRANSACTIONAL: Final = b"\1"
_NODE_BYTES: Final = 4
"""How many bytes of what a process is known by in the journal are those of its own name. The others
are those of the cluster's, so that the servers of another cluster are not taken for members."""


class FeedOfLog(Protocol):
    """What is needed here of what brings a process the changes that come now."""

    @property
    def begin(self) -> Place | None:
        """The place that these changes begin behind; None until it is known."""
        ...

    @property
    def begin_sequence(self) -> int:
        """The number in the log of the last envelope before them, ..."""
        ...

    @property
    def log_created(self) -> str | None:
        """... and when the log was made that it is in; None until it is known."""
        ...

    @property
    def read_bytes(self) -> int:
        """How many bytes of envelopes were read."""
        ...

    def passed(self) -> LSN:
        """Return an LSN before which everything that committed was handed out to the clients."""
        ...


class LogPast:
    """Reads the log once from an earlier place, and has everything told again now and then.

    Args:
        make_reader: makes a reader of the log, with a connection of its own.
        feed: the changes of this server.
        cluster: 4 bytes or more that all servers have in common which share the log, and no others.
        node: the server's own name, 16 hexadecimal digits.
        others: returns the names of the other servers that are there; None if that is not known.
        span: seconds whose records of the journal are looked for.
        interval: seconds from one time to the next that everything is told.
        max_bytes: how many bytes the log keeps.
        clock: seconds, which only grow.
    """

    keeps_slot = False
    left_out: Collection[bytes] = ()
    wal_bytes = 0
    lost = 0

    def __init__(
        self,
        make_reader: Callable[[], LogReader],
        feed: FeedOfLog,
        *,
        cluster: bytes,
        node: str,
        others: Callable[[], set[str] | None],
        span: float,
        interval: float,
        max_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self.floor: ReplayPlace | None = None
        self._make_reader = make_reader
        self._feed = feed
        self._cluster = cluster[:_NODE_BYTES]
        self._node = node
        self._others = others
        self._span = span
        self._interval = interval
        self._max_bytes = max_bytes
        self._clock = clock
        # When everything was told last, and how many bytes had been read then.
        self._told_at = -interval
        self._told_bytes = 0

    # This server among the others

    @property
    def past(self) -> LogPast:
        """This, since whoever has the log finds there what clients have missed."""
        return self

    @property
    def slot(self) -> bytes:
        return self._slot_of(self._node)

    def _slot_of(self, node: str) -> bytes:
        return self._cluster + bytes.fromhex(node)[:_NODE_BYTES]

    def begin(self) -> ReplayPlace:
        begin = self._feed.begin
        assert begin is not None
        return begin[1:]

    def passed(self) -> LSN:
        return self._feed.passed()

    def ended(self, slots: Collection[bytes]) -> Collection[bytes]:
        others = self._others()
        if others is None or not self._is_first_of(others):
            return ()
        there = {self._slot_of(node) for node in (*others, self._node)}
        return {slot for slot in slots if slot.startswith(self._cluster)} - there

    async def keep(self, telling: Telling) -> None:
        others = self._others()
        if others is None or not self._is_first_of(others) or not telling.has_channels:
            return
        now, read = self._clock(), self._feed.read_bytes
        is_much = _PART_OF_LOG * (read - self._told_bytes) >= self._max_bytes
        if (is_much or now - self._told_at >= self._interval) and await telling.tell_all(
            self.passed()
        ):
            self._told_at, self._told_bytes = now, read

    def _is_first_of(self, others: set[str]) -> bool:
        """Return whether this server does what one of them has to do."""
        return self._node < min(others, default="g")

    # Reading

    async def read(
        self,
        begin: ReplayPlace,
        read_message: Callable[[LogicalMessage], Awaitable[None]],
        needed: Callable[[], ReplayPlace | None],
    ) -> AsyncGenerator[Sequence[Event], None]:
        reader = self._make_reader()
        try:
            await _persist(lambda: reader.begin_with(self._find_span))
            async for message in self._messages(reader):
                await read_message(message)
            lowest = needed()
            if lowest is None or lowest >= begin:
                self.floor = begin
                return
            lsn, index, *_ = lowest
            place = (self._generation(), lsn, index)
            await _persist(lambda: reader.begin_with(lambda log: log.find(place)))
            async for events in self._changes(reader):
                yield events
        except LogError:
            self.floor = None
            raise
        finally:
            await reader.aclose()

    async def read_older(self, after: ReplayPlace) -> AsyncGenerator[Sequence[Event], None]:
        reader = self._make_reader()
        lsn, index, *_ = after
        place = (self._generation(), lsn, index)
        unpacker = Unpacker(place)
        try:
            await _persist(lambda: reader.begin_with(lambda log: log.find(place)))
            async for envelope, sequence in self._envelopes(reader, is_endless=True):
                if envelope.last[0] != place[0]:
                    # The memory has all of another stream that anybody may need.
                    raise LogError("the log goes on with another stream")
                try:
                    events = unpacker.feed(envelope, sequence)
                except HoleError as exc:
                    if envelope.part < envelope.parts:
                        # The last part of the change says where that ends.
                        continue
                    raise LostError(exc.until[1:]) from None
                if events:
                    assert unpacker.last is not None
                    end = position_at(unpacker.last, envelope.stream)
                    # What has only messages brings the reader on as well.
                    yield [*_without_messages(events), Idle(end)]
        finally:
            await reader.aclose()

    async def _find_span(self, log: Log) -> int:
        return await log.find_since(self._span)

    def _generation(self) -> int:
        assert self._feed.begin is not None
        return self._feed.begin[0]

    async def _messages(self, reader: LogReader) -> AsyncGenerator[LogicalMessage, None]:
        """Yield the messages that are in no transaction; rows are not looked at."""
        chain = Chain()
        async for envelope, sequence in self._envelopes(reader):
            try:
                whole = chain.feed(envelope, sequence)
            except HoleError:
                # What is missing is noticed where the changes are read.
                chain.begin_anew()
                whole = chain.feed(envelope, sequence)
            if whole is None or whole.kind is not Kind.CHANGES:
                continue
            chain.last, chain.stream = whole.last, whole.stream
            try:
                messages = _messages_in(whole, sequence)
            except DecodeError as exc:
                logger.error("passing over a message of the log: %s", exc)
                continue
            for message in messages:
                yield message

    async def _changes(self, reader: LogReader) -> AsyncGenerator[Sequence[Event], None]:
        """Yield the changes, and note behind which place they are all there."""
        unpacker = Unpacker()
        floor: Place | None = None
        message: LogicalMessage | None = None
        async for envelope, sequence in self._envelopes(reader):
            try:
                try:
                    events = unpacker.feed(envelope, sequence)
                except HoleError as exc:
                    logger.warning("what clients have missed is not all in the log: %s", exc)
                    unpacker.begin_anew()
                    # The rest of a piece whose first parts are missing is part of the hole.
                    floor = None
                    events = unpacker.feed(envelope, sequence)
            except EnvelopeError as exc:
                # The next one says whether something is missing.
                logger.error("passing over a message of the log: %s", exc)
                continue
            if floor is None and unpacker.last is not None:
                # Where another stream begins, places of the former one say nothing.
                floor = envelope.last if envelope.kind is Kind.GAP else envelope.prev
            changes: list[Event] = _without_messages(events)
            if envelope.kind is Kind.GAP and message is not None:
                # Whoever has everything up to the message has to be told of the gap behind it.
                changes.insert(0, message)
            if events:
                message = events[-1] if isinstance(events[-1], LogicalMessage) else None
            if changes:
                yield changes
        begin = self._feed.begin
        assert begin is not None
        # The log may have let go of the last ones, too.
        has_all = floor is not None and unpacker.last is not None and unpacker.last >= begin
        self.floor = floor[1:] if floor is not None and has_all else self.begin()

    async def _envelopes(
        self, reader: LogReader, *, is_endless: bool = False
    ) -> AsyncGenerator[tuple[Envelope, int], None]:
        """Yield the envelopes of the stream that the feed begins with, or later ones.

        Args:
            reader: the reader.
            is_endless: whether to go on behind where the feed begins.

        Raises:
            LogError: if the log cannot be read, or is another one.
        """
        feed, generation, turn = self._feed, self._generation(), Turn()
        end = math.inf if is_endless else feed.begin_sequence
        while reader.sequence < end:
            reads = await _persist(reader.next)
            if reader.created != feed.log_created:
                raise LogError("the log was made anew")
            for read in reads:
                if read.sequence > end:
                    return
                if read.envelope.last[0] >= generation:
                    yield read.envelope, read.sequence
                await turn.give_way()


def _without_messages(events: Sequence[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, LogicalMessage)]


def _messages_in(envelope: Envelope, sequence: int) -> list[LogicalMessage]:
    """Return the messages of an envelope that are in no transaction; rows are not looked at.

    Raises:
        DecodeError: if it cannot be read.
    """
    decoder = ChangeDecoder(envelope.stream)
    parts = [
        part
        for part in messages_of(envelope.body, sequence)
        if part[0] == _MESSAGE and part[1:2] != _TRANSACTIONAL
    ]
    events = decoder.decode(parts)
    return [event for event in events if isinstance(event, LogicalMessage)]


async def _persist(step: Callable[[], Awaitable[Result]]) -> Result:
    """Return what a step returns, which is tried again while NATS is away for a while.

    Raises:
        LogError: if it takes too long.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    while True:
        try:
            return await step()
        except LogError:
            if loop.time() > deadline:
                raise
        await asyncio.sleep(_PAUSE)
