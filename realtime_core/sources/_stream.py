"""StreamSource: the part that all sources share which stream from a replication slot.

Theory of operation. Attaching checks the server, the plugin's needs and the slot by SQL,
then starts the stream on the same connection; that is tried as often as it takes by
:class:`~realtime_core.sources._attempts.Attempts`. Reading is on demand: while the consumer
is busy nothing is read, TCP holds the server back, and a timer sends the status updates that
keep the connection alive. After a break PostgreSQL repeats what was not acknowledged; what
was handed over already is recognised by its place and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import Iterable, Iterator
from itertools import chain
from operator import itemgetter
from random import Random
from time import monotonic
from typing import Final, Self, Unpack

import attrs

from ..changes import Begin, Event, Gap, GapReason, Idle
from ..errors import (
    PositionMismatchError,
    RealtimeError,
    SlotLostError,
    SourceError,
)
from ..lsn import LSN
from ..positions import Position, StreamIdentity
from ..replication.progress import Place
from ..replication.protocol import (
    TAG_KEEPALIVE,
    TAG_XLOG_DATA,
    XLOG_DATA_HEADER,
    Keepalive,
    parse_copy_data,
)
from ..replication.sequence import NOWHERE, Sequence
from ._attach import Attachment, OutputPlugin, PayloadDecoder, ResumePoint
from ._attempts import Attempts
from ._connection import ReplicationConnection
from ._feedback import Feedback
from ._filtering import RowFilter
from ._lag import LagGuard
from ._meter import Meter
from ._queue import EventQueue
from ._skips import Skips
from .base import Acknowledgeable, E, SourceStats
from .options import Dsn, StreamOptions, StreamSettings

__all__ = ["StreamSource"]

logger = logging.getLogger("realtime.source")

_STOP_TIMEOUT: Final = 2.0
"""Seconds that closing waits for the server to let go of the slot."""
_COMMIT_TIMEOUT: Final = 0.5
"""Seconds that closing waits for the Commit of a transaction that was read to its last change."""
_STABLE: Final = 5.0
"""Seconds after which a stream that breaks off counts as one that had worked."""
_SILENCE: Final = 60.0
"""Seconds of silence after which a server without wal_sender_timeout is given up."""
_CHUNK: Final = 256
"""Events that are decoded ahead, at most: a transaction that was held comes lazily."""
_TURN: Final = 0.002
"""Seconds for which they are decoded, at most, before others get a turn."""
_TAG: Final = itemgetter(0)
_UNDEFINED_OBJECT: Final = "42704"


class StreamSource(EventQueue[E]):
    """Streams through the replication protocol what an output plugin sends."""

    def __init__(self, dsn: Dsn, plugin: OutputPlugin, **options: Unpack[StreamOptions]) -> None:
        settings = StreamSettings.from_options(dsn, options, type(self))
        super().__init__(boundaries=settings.boundaries, auto_ack=settings.auto_ack)
        self._settings = settings
        self._plugin = plugin
        random = settings.random or Random(secrets.randbits(64))
        self._attempts = Attempts(settings, plugin, random, self._former, self._attached)
        self._start: Place = NOWHERE
        if settings.start_at is not None:
            self._start = (settings.start_at.lsn, settings.start_at.index)

        # The connection and what lives as long as it does.
        self._connection: ReplicationConnection | None = None
        self._decoder: PayloadDecoder
        self._feedback: Feedback
        self._slot: str | None = None
        # What was read and is not decoded yet; None for what is not handed over.
        self._rest: Iterator[Event | None] = iter(())

        # What outlives connections.
        self._meter = Meter()
        self.enum_orders: dict[tuple[str, str], tuple[str, ...]] = {}
        """The labels of enum types in their declared order, by schema and name, as they were when
        the source attached last: what filters compare enums by."""
        self._filter: RowFilter | None = None
        if settings.filter is not None:
            self._filter = RowFilter(settings.filter, self.enum_orders)
        self._lag_guard: asyncio.Task[None] | None = None
        self._stream: StreamIdentity | None = None
        self._sequence = Sequence(LSN(0))
        # Streams, and timelines of this one, whose positions count no more.
        self._former_streams: set[StreamIdentity] = set()
        self._former_timelines: set[int] = set()
        self._last_idle = -math.inf
        self._skips = Skips()
        # When it was attached last, and how many changes had come then.
        self._attached_at = 0.0
        self._changes_then = 0

    # Lifetime

    async def __aenter__(self) -> Self:
        """Attach to the database; a persistent source only begins to: see :meth:`attached`.

        Raises:
            SourceError: if that fails, unless the source is persistent.
        """
        if self._closed:
            raise RuntimeError("this source was closed: make a new one")
        if self._stream is not None or self._attempts.started:
            raise RuntimeError("this source is open already")
        if self._settings.max_lag_bytes is not None:
            guard = LagGuard(self._settings, lambda: self._slot, self._start_anew)
            self._lag_guard = asyncio.create_task(guard.run())
        if self._settings.persistent:
            self._attempts.start()
            return self
        try:
            await self._attempts.wait()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def aclose(self) -> None:
        """Send the last acknowledgement, let go of the slot, close the connection."""
        self._closed = True
        self._queue.clear()
        await self._attempts.aclose(_STOP_TIMEOUT)
        if self._lag_guard is not None:
            self._lag_guard.cancel()
            await asyncio.gather(self._lag_guard, return_exceptions=True)
        connection = self._connection
        if connection is None:
            return
        connection.interrupt("the source was closed")
        # One turn of the loop for a reader to leave before we read ourselves.
        await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError, RealtimeError):
            async with asyncio.timeout(_COMMIT_TIMEOUT):
                await self._read_commit(connection)
        self._queue.clear()
        self._feedback.send()
        self._detach()
        await connection.stop(_STOP_TIMEOUT)

    async def _read_commit(self, connection: ReplicationConnection) -> None:
        """Read the end of a transaction whose last change may be acknowledged already."""
        # Not behind an error: the end would take the slot past the change at fault.
        while not self._queue and self._error is None:
            if self._has_rest:
                self._take_rest()
                await asyncio.sleep(0)
            elif self._decoder.in_transaction:
                payloads = await connection.read()
                self._rest = self._events(payloads, self._decoder, self._sequence)
                self._has_rest = True
            else:
                return

    # Reading

    @property
    def _connected(self) -> bool:
        return self._connection is not None

    async def _connect(self) -> None:
        await self._attempts.wait()

    async def _fill(self) -> None:
        if self._has_rest:
            # A transaction that was held may be of any length, and is not waited for.
            self._take_rest()
            await asyncio.sleep(0)
            return
        if self._error is not None:
            # Nothing behind it is read: that would take the slot past the change at fault.
            return
        if self._skips.passed:
            self._go_on_behind_skips()
        connection = self._connection
        if connection is None:
            await self._connect()
            return
        try:
            payloads = await connection.read()
        except SourceError as exc:
            if self._closed:
                raise StopAsyncIteration from None
            self._lose(exc)
            return
        self._feedback.heard()
        self._meter.read(payloads)
        self._rest = self._events(payloads, self._decoder, self._sequence)
        self._take_rest()

    def _put_behind(self, events: Iterator[Event]) -> None:
        """Have events handed over behind what was read."""
        self._rest = chain(self._rest, events)
        self._has_rest = True

    def _take_rest(self) -> None:
        """Queue more of what was read, for a while."""
        queue = self._queue
        until = monotonic() + _TURN
        left = max(_CHUNK - len(queue), 1)
        self._has_rest = True
        try:
            for event in self._rest:
                if event is not None:
                    queue.append(event)
                left -= 1
                if not left or monotonic() > until:
                    return
        except RealtimeError as exc:
            # What came before it is good and goes out first.
            self._error = exc
        self._has_rest = False

    def _events(
        self, payloads: list[memoryview], decoder: PayloadDecoder, sequence: Sequence
    ) -> Iterator[Event | None]:
        """Decode CopyData payloads; yield what is new and wanted, and None for all else."""
        accept = self._skips.accepting(sequence)
        # Of several keepalives the last one says all that the others do, and PostgreSQL sends
        # none behind one that wants an answer until it has it.
        last = bytes(map(_TAG, payloads)).rfind(TAG_KEEPALIVE)
        if last > 0:
            for event in decoder.decode(_messages(payloads[:last])):
                yield event if accept(event) else None
        if last >= 0:
            message = parse_copy_data(payloads[last])
            if isinstance(message, Keepalive) and sequence is self._sequence:
                yield from self._keepalive(message, decoder)
        if last + 1 < len(payloads):
            for event in decoder.decode(_messages(payloads[last + 1 :])):
                yield event if accept(event) else None

    def _keepalive(self, message: Keepalive, decoder: PayloadDecoder) -> Iterator[Idle]:
        progress = self._sequence.progress
        if not decoder.in_transaction and self._skips.keepalive(message.wal_end):
            if self._settings.own_checkpoint:
                progress.arrived(message.wal_end)
                yield from self._idle(message)
            else:
                moved_from = progress.flushed
                progress.keepalive(message.wal_end)
                if progress.flushed > moved_from:
                    self._send_soon()
        if message.reply_requested and self._connection is not None:
            self._feedback.send()

    def _idle(self, message: Keepalive) -> Iterator[Idle]:
        """Offer a position to store, when nothing else is on its way to be stored."""
        assert self._stream is not None
        progress = self._sequence.progress
        now = asyncio.get_running_loop().time()
        due = message.reply_requested or now - self._last_idle >= self._settings.status_interval
        # What ends there; the next record may be a commit.
        lsn = LSN(message.wal_end - 1)
        is_news = lsn >= progress.flushed and (lsn, 0) > self._sequence.last
        if due and is_news and progress.all_done:
            self._last_idle = now
            progress.transaction_ended((lsn, 0), message.wal_end)
            yield Idle(Position(lsn, 0, self._stream))

    def _gap(
        self,
        reason: GapReason,
        until: LSN,
        former: Sequence,
        former_stream: StreamIdentity | None,
    ) -> Iterator[Gap]:
        """Say what was lost, once all that came before it was taken."""
        after = self._position_at(former.last, former_stream)
        logger.error("changes may be lost: %s, after %s", reason.value, after)
        self._meter.gaps += 1
        yield Gap(after, Position(until, 0, self._stream), reason)

    def _position_at(self, place: Place, stream: StreamIdentity | None = None) -> Position | None:
        if place == NOWHERE:
            return None
        if place == self._start:
            start = self._settings.start_at
            # It may come from another list of publications.
            return start and attrs.evolve(start, stream=stream or self._stream)
        return Position(LSN(place[0]), place[1], stream or self._stream)

    # Acknowledging

    def ack(self, upto: Acknowledgeable) -> None:
        """Say that everything up to and including ``upto`` is done with.

        Cumulative. The slot moves to the end of the last transaction that is wholly
        acknowledged; the server hears of it within 50 ms. A Begin or a Gap acknowledges
        nothing, and neither does what was read before a gap: that slot is gone.

        Raises:
            PositionMismatchError: if ``upto`` belongs to another stream.
            ValueError: if it lies beyond what was handed over.
            TypeError: if it has no position.
        """
        if isinstance(upto, Begin | Gap):
            return
        position = self._position_of(upto)
        stream = position.stream
        if stream is not self._stream:
            if stream in self._former_streams:
                return
            if position == self._settings.start_at:
                # It may come from another list of publications; it is done with from the start.
                return
            if stream is None or stream != self._stream:
                raise PositionMismatchError(
                    f"cannot acknowledge {position}: this source streams {self._stream}"
                )
            if stream.timeline in self._former_timelines:
                return
        place = (position.lsn, position.index)
        if upto is not self._handed and place > self._handed_place():
            raise ValueError(f"cannot acknowledge {position}: it was not handed over yet")
        if self._sequence.progress.acknowledge(place):
            self._send_soon()

    def _handed_place(self) -> Place:
        """Return up to where this stream was handed over."""
        handed = self.position
        if handed is None or handed.stream != self._stream:
            return self._start
        return max(self._start, (handed.lsn, handed.index))

    def _send_soon(self) -> None:
        if self._connection is not None:
            self._feedback.send_soon()

    def stats(self) -> SourceStats:
        """Return counters and positions, as they are now."""
        return self._meter.stats(
            self._sequence,
            self._handed,
            self._filter,
            all_handed=not self._queue,
            connected=self._connected,
        )

    # Attaching

    def _former(self) -> ResumePoint | None:
        if self._stream is None:
            return None
        sequence = self._sequence
        return ResumePoint(self._stream, sequence.last, sequence.progress.flushed, self._skips)

    def _attached(self, attachment: Attachment, slot: str) -> None:
        self._begin_stream(attachment)
        connection = attachment.connection
        self._slot = slot
        self._connection = connection
        # The same dict: somebody may hold it.
        self.enum_orders.clear()
        self.enum_orders.update(attachment.enums)
        timeout = attachment.sender_timeout
        interval = self._settings.status_interval
        self._feedback = Feedback(
            connection,
            self._sequence.progress,
            interval=min(interval, timeout / 3) if timeout else interval,
            patience=2 * timeout or _SILENCE,
        )
        kind = "temporary slot" if self._settings.is_temporary else "slot"
        logger.info("streaming from database %r, %s %r", attachment.database, kind, slot)

    def _begin_stream(self, attachment: Attachment) -> None:
        former, stream = self._stream, attachment.stream
        if attachment.skips_until is not None:
            assert attachment.reason is not None
            self._skips.begin(attachment.skips_until)
            gap = self._gap(attachment.reason, attachment.skips_until, self._sequence, former)
            self._put_behind(gap)
        elif former is None or attachment.reason is not None:
            if former is not None and stream != former:
                self._former_streams.add(former)
            elif former is not None and stream.timeline != former.timeline:
                self._former_timelines.add(former.timeline)
            self._begin_sequence(attachment)
        self._stream = stream
        self._sequence.resume()
        self._decoder = self._plugin.decoder(stream)
        self._meter.attachments += 1
        self._attached_at = asyncio.get_running_loop().time()
        self._changes_then = self._sequence.changes

    def _begin_sequence(self, attachment: Attachment) -> None:
        """Begin a new sequence: the first one, or another one behind a gap."""
        former = self._sequence
        is_first = self._stream is None
        if is_first:
            former = Sequence(LSN(0), start=self._start)
        if attachment.reason is not None:
            gap = self._gap(attachment.reason, attachment.start, former, self._stream)
            self._put_behind(gap)
        self._meter.sequence_ended(former)
        self._skips = Skips()
        self._sequence = Sequence(
            attachment.start,
            # Behind a gap nothing is a repetition, wherever it stands.
            start=self._start if attachment.reason is None else NOWHERE,
            own_checkpoint=self._settings.own_checkpoint,
            passes=None if self._filter is None else self._filter.passes,
        )

    def _lose(self, exc: SourceError) -> None:
        """Give the broken connection up; the next read attaches again."""
        assert self._connection is not None
        self._connection.close()
        self._detach()
        if exc.sqlstate == _UNDEFINED_OBJECT:
            # Attaching checks that the publication is there now, and so newer than the slot.
            self._attempts.untold.suspicion = GapReason.SLOT_OLDER_THAN_PUBLICATION
        elif isinstance(exc, SlotLostError) and exc.reason is not None:
            self._attempts.untold.suspicion = exc.reason
        elif not (exc.transient or self._settings.persistent):
            raise exc
        logger.warning("stream interrupted: %s", exc)
        lasted = asyncio.get_running_loop().time() - self._attached_at
        has_changes = self._sequence.changes > self._changes_then
        self._attempts.broke_off(worked=has_changes or lasted > _STABLE)

    def _go_on_behind_skips(self) -> None:
        """Let the stream begin where the gap ends that PostgreSQL has just skipped its way to."""
        self._skips.end()
        if self._connection is not None:
            self._connection.close()
            self._detach()
            self._attempts.broke_off(worked=True)

    def _start_anew(self) -> None:
        """Let the slot be made anew, even if nobody reads."""
        if self._connection is None:
            return
        self._attempts.untold.suspicion = GapReason.LAG
        if self._connection.waiting:
            # The reader has to leave the socket before that is closed; then it attaches.
            self._connection.interrupt("its slot is made anew")
            return
        self._connection.close()
        self._detach()
        self._attempts.start()

    def _detach(self) -> None:
        """Forget the connection and what lives as long as it does."""
        self._connection = None
        self._slot = None
        self._feedback.stop()
        self._decoder.close()


def _messages(payloads: Iterable[memoryview]) -> Iterator[bytes]:
    """Yield the plugin's messages, whatever keepalives are among them."""
    for payload in payloads:
        if payload[0] == TAG_XLOG_DATA:
            # The only copy: slices of bytes are cheap to decode, of a memoryview dear.
            yield bytes(payload[XLOG_DATA_HEADER:])
        elif payload[0] != TAG_KEEPALIVE:
            # It says what is wrong with that.
            parse_copy_data(payload)
