"""PgoutputSource: a PostgreSQL database's changes as an async iterator.

Theory of operation. Attaching checks the server, the publications and the slot by SQL,
then starts the stream on the same connection. It runs in a task of its own, so that a
consumer may cancel its read at any time. Reading is on demand: while the consumer is busy
nothing is read, TCP holds the server back, and a timer sends the status updates that keep
the connection alive. After a break PostgreSQL repeats what was not acknowledged; what was
handed over already is recognised by its position and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from random import Random
from types import TracebackType
from typing import Final, Literal, Self

import psycopg

from ..changes import Begin, Change, Commit, Event, Gap, GapReason, LogicalMessage
from ..errors import (
    ConfigError,
    PositionMismatchError,
    PublicationNotFoundError,
    RealtimeError,
    SlotLostError,
    SourceError,
    WalLevelError,
)
from ..lsn import LSN
from ..pgoutput import Assembler, Decoder
from ..positions import Position, StreamIdentity
from ..replication.commands import check_slot_name, pgoutput_options
from ..replication.progress import Place, Progress
from ..replication.protocol import Keepalive, format_status_update, parse_copy_data
from . import catalog
from ._backoff import Backoff
from ._connection import ReplicationConnection
from ._errors import translate
from ._slots import check_slot, create_slot, gap_reason

__all__ = ["PgoutputSource"]

logger = logging.getLogger("realtime.source")

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_ACK_DELAY: Final = 0.05
"""Seconds within which acknowledgements share one status update."""
_STOP_TIMEOUT: Final = 2.0
"""Seconds that closing waits for the server to let go of the slot."""
_COMMIT_TIMEOUT: Final = 0.5
"""Seconds that closing waits for the Commit of a transaction that was read to its last change."""
_STABLE: Final = 5.0
"""Seconds after which a stream that breaks off counts as one that had worked."""
_NOWHERE: Final[Place] = (0, -1)


class PgoutputSource:
    """Streams the changes of one or more publications.

    Example::

        async with PgoutputSource(dsn, publications=["shop"], slot="etl") as source:
            async for change in source:
                ...
                source.ack(change)

    Args:
        dsn: a libpq connection string or URI; what it leaves out comes from libpq's
            environment variables. The role needs REPLICATION.
        publications: names of one or more existing publications.
        slot: name of a permanent slot, made when it is missing and kept when the source
            closes. None: a temporary slot with a name of its own, gone with each
            connection, so that every reconnect is a gap.
        temporary: make the named slot a temporary one.
        on_gap: ``"raise"`` a :exc:`SlotLostError` when changes may have been lost, or
            ``"continue"`` with a :class:`Gap` in the stream.
        boundaries: also yield :class:`Begin` and :class:`Commit`.
        persistent: retry every error, the first attempt's included, each logged with its
            remedy. Otherwise the first attempt raises, and later on only what can pass by
            itself is retried.
        status_interval: seconds between status updates, at most; never more than a third of
            the server's ``wal_sender_timeout``.
        backoff: bounds in seconds of the delay between two attempts.
        random: source of jitter and of temporary slots' names.

    Raises:
        ConfigError: if the arguments cannot work.
    """

    def __init__(
        self,
        dsn: str = "",
        *,
        publications: Iterable[str],
        slot: str | None = None,
        temporary: bool = False,
        on_gap: Literal["raise", "continue"] = "raise",
        boundaries: bool = False,
        persistent: bool = False,
        status_interval: float = 10.0,
        backoff: tuple[float, float] = (0.1, 30.0),
        random: Random | None = None,
    ) -> None:
        self._publications = _checked_publications(publications)
        _check_settings(dsn, slot, on_gap, backoff, status_interval)
        self._dsn = dsn
        self._slot = slot
        self._temporary = temporary or slot is None
        self._on_gap = on_gap
        self._boundaries = boundaries
        self._persistent = persistent
        self._status_interval = status_interval
        random = random or Random(secrets.randbits(64))
        self._backoff = Backoff(*backoff, random)
        self._random = random

        # The connection and what lives as long as it does.
        self._connection: ReplicationConnection | None = None
        self._decoder = Decoder()
        self._assembler = Assembler()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_interval = status_interval
        self._ack_timer: asyncio.TimerHandle | None = None

        # What outlives connections.
        self._attaching: asyncio.Task[None] | None = None
        self._stream: StreamIdentity | None = None
        self._former_streams: set[StreamIdentity | None] = set()
        self._progress = Progress()
        self._pending: deque[Event] = deque()
        self._error: RealtimeError | None = None
        self._closed = False
        self._reading = False
        # Places of the last Begin, change and Commit taken from the stream: all that a
        # reconnect repeats is at or before them.
        self._last_begin = 0
        self._last: Place = _NOWHERE
        self._last_commit = 0
        self._resuming = False
        # The same as _last, but not forgotten at a gap: what may be acknowledged.
        self._newest: Place = _NOWHERE
        self._position: Position | None = None
        # Whether the connection has brought anything new, since when, and how long to wait
        # before the next one.
        self._productive = False
        self._attached_at = 0.0
        self._delay = 0.0

    # Lifetime

    async def __aenter__(self) -> Self:
        """Attach to the database.

        Raises:
            SourceError: if that fails, unless the source is persistent.
        """
        if self._closed:
            raise RuntimeError("this source was closed: make a new one")
        if not self._persistent:
            await self._attach()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Send the last acknowledgement, let go of the slot, close the connection."""
        self._closed = True
        self._pending.clear()
        attaching = self._attaching
        if attaching is not None:
            attaching.cancel()
            # Not its error either: whoever closes has lost interest in it.
            await asyncio.gather(attaching, return_exceptions=True)
        connection = self._connection
        if connection is not None:
            connection.interrupt()
            # One turn of the loop for a reader to leave before we read ourselves.
            await asyncio.sleep(0)
            if self._assembler.in_transaction:
                # The Commit of what was acknowledged last may be on its way.
                with contextlib.suppress(TimeoutError, SourceError):
                    async with asyncio.timeout(_COMMIT_TIMEOUT):
                        self._take(await connection.read())
                self._pending.clear()
            self._send_status()
            self._detach()
            await connection.stop(_STOP_TIMEOUT)

    # Reading

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event, waiting for it.

        Raises:
            SourceError: if the stream cannot go on.
            DecodeError: if the server sent what cannot be decoded.
            StopAsyncIteration: after :meth:`aclose`.
        """
        pending = self._pending
        while not pending:
            await self._fill()
        event = pending.popleft()
        self._hand_over(event)
        return event

    def batches(self) -> AsyncIterator[list[Event]]:
        """Iterate over what each wake-up brought, never an empty list.

        It may be left and made anew at any time; cancelling a step loses nothing.
        """
        return _Batches(self)

    async def _next_batch(self) -> list[Event]:
        while not self._pending:
            await self._fill()
        batch = list(self._pending)
        self._pending.clear()
        for event in reversed(batch):
            if not isinstance(event, (Begin, Gap)):
                self._hand_over(event)
                break
        return batch

    def _hand_over(self, event: Event) -> None:
        if not isinstance(event, (Begin, Gap)):
            self._position = event.position

    @property
    def position(self) -> Position | None:
        """The last position handed over, None before the first."""
        return self._position

    async def _fill(self) -> None:
        """Wait for what comes next and queue its events, if it has any."""
        if self._reading:
            raise RuntimeError("a source has one consumer: two tasks are reading from this one")
        if self._error is not None:
            raise self._error
        if self._closed:
            raise StopAsyncIteration
        self._reading = True
        try:
            if self._connection is None:
                await self._attach()
                return
            try:
                payloads = await self._connection.read()
            except SourceError as exc:
                if self._closed:
                    raise StopAsyncIteration from None
                self._lose(exc)
                return
            self._take(payloads)
        finally:
            self._reading = False

    def _lose(self, exc: SourceError) -> None:
        """Give the broken connection up; the next read attaches again."""
        assert self._connection is not None
        self._connection.close()
        self._detach()
        if not (exc.transient or self._persistent):
            raise exc
        logger.warning("stream interrupted: %s", exc)
        loop = asyncio.get_running_loop()
        if self._productive or loop.time() - self._attached_at > _STABLE:
            self._backoff.reset()
            self._delay = 0.0
        else:
            # An error that comes with each attempt must not become a busy loop.
            self._delay = self._backoff.next()

    def _take(self, payloads: Iterable[bytes | memoryview]) -> None:
        """Decode CopyData payloads and queue their events."""
        try:
            for payload in payloads:
                message = parse_copy_data(payload)
                if isinstance(message, Keepalive):
                    self._keepalive(message)
                    continue
                for event in self._assembler.feed(self._decoder.decode(message.payload)):
                    self._queue(event)
        except RealtimeError as exc:
            # What came before it is good and goes out first.
            self._error = exc

    def _queue(self, event: Change | Begin | Commit) -> None:
        if isinstance(event, Commit):
            self._commit(event)
            return
        if isinstance(event, Begin):
            lsn = event.transaction.commit_lsn
            if lsn > self._last_begin:
                self._last_begin = lsn
                if self._boundaries:
                    self._pending.append(event)
            return
        if event.transaction is None:
            place = (event.lsn, 0)
        else:
            place = (event.transaction.commit_lsn, event.index)
        if self._resuming:
            if place <= self._last:
                return
            self._resuming = False
        self._productive = True
        self._last = self._newest = place
        self._pending.append(event)
        if isinstance(event, LogicalMessage) and event.transaction is None:
            self._progress.transaction_ended(place, event.lsn)

    def _commit(self, event: Commit) -> None:
        lsn = event.transaction.commit_lsn
        if lsn <= self._last_commit:
            return
        self._last_commit = lsn
        place = (lsn, event.changes - 1) if event.changes else None
        self._progress.transaction_ended(place, event.end_lsn)
        if self._boundaries:
            self._pending.append(event)

    def _keepalive(self, message: Keepalive) -> None:
        if not self._assembler.in_transaction:
            moved_from = self._progress.flushed
            self._progress.keepalive(message.wal_end)
            if self._progress.flushed > moved_from:
                self._send_soon()
        if message.reply_requested:
            self._send_status()

    # Acknowledging

    def ack(self, upto: Event | Position) -> None:
        """Say that everything up to and including ``upto`` is done with.

        Cumulative. The slot moves to the end of the last transaction that is wholly
        acknowledged; the server hears of it within 50 ms. A Begin or a Gap acknowledges
        nothing, and neither does what was read before a gap: that slot is gone.

        Raises:
            PositionMismatchError: if ``upto`` belongs to another stream.
            ValueError: if it lies beyond what has arrived.
        """
        if isinstance(upto, (Begin, Gap)):
            return
        position = upto if isinstance(upto, Position) else upto.position
        if position.stream != self._stream:
            if position.stream in self._former_streams:
                return
            raise PositionMismatchError(
                f"cannot acknowledge {position}: this source streams {self._stream}"
            )
        place = (position.lsn, position.index)
        if place > max(self._newest, (self._last_commit, 0)):
            raise ValueError(f"cannot acknowledge {position}: it was not handed over yet")
        if self._progress.acknowledge(place):
            self._send_soon()

    def _send_soon(self) -> None:
        if self._ack_timer is None and self._connection is not None:
            loop = asyncio.get_running_loop()
            self._ack_timer = loop.call_later(_ACK_DELAY, self._send_status)

    def _send_status(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self._connection is None:
            return
        flushed = self._progress.flushed
        self._connection.send(
            format_status_update(
                written=max(self._progress.written, flushed),
                flushed=flushed,
                applied=flushed,
                time=int((datetime.now(UTC) - _EPOCH).total_seconds() * 1_000_000),
            )
        )

    def _tick(self) -> None:
        self._send_status()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._timer_interval, self._tick)

    # Attaching

    async def _attach(self) -> None:
        """Wait until the stream runs. Cancelling the wait leaves the attempt going."""
        if self._attaching is None:
            self._attaching = asyncio.create_task(self._attach_until_done())
        task = self._attaching
        await asyncio.wait({task})
        self._attaching = None
        if task.cancelled():
            raise StopAsyncIteration
        task.result()

    async def _attach_until_done(self) -> None:
        await asyncio.sleep(self._delay)
        while True:
            try:
                return await self._attach_once()
            except SourceError as exc:
                if not (self._persistent or (self._stream is not None and exc.transient)):
                    raise
                delay = self._backoff.next()
                logger.warning("%s; trying again in %.1f s", exc, delay)
                await asyncio.sleep(delay)

    async def _attach_once(self) -> None:
        slot = self._slot or f"realtime_{self._random.getrandbits(64):016x}"
        connection = await ReplicationConnection.connect(self._dsn, slot)
        try:
            facts = await catalog.server_facts(connection.sql)
            if facts.wal_level != "logical":
                raise WalLevelError(facts.wal_level)
            missing = await catalog.missing_publications(connection.sql, self._publications)
            if missing:
                raise PublicationNotFoundError(missing, facts.database)
            stream = StreamIdentity(*await connection.identify_system(), self._publications)
            progress, reason = await self._ensure_slot(connection, slot, facts.database, stream)
            await connection.start(progress.flushed, pgoutput_options(self._publications))
        except psycopg.Error as exc:
            connection.close()
            raise translate(exc, slot) from exc
        except BaseException:
            connection.close()
            raise
        self._begin_stream(stream, progress, reason)
        self._connection = connection
        if facts.wal_sender_timeout:
            self._timer_interval = min(self._status_interval, facts.wal_sender_timeout / 3)
        self._tick()
        kind = "temporary slot" if self._temporary else "slot"
        logger.info("streaming from database %r, %s %r", facts.database, kind, slot)

    async def _ensure_slot(
        self, connection: ReplicationConnection, name: str, database: str, stream: StreamIdentity
    ) -> tuple[Progress, GapReason | None]:
        """Check the slot or make it; return its books, and why there is a gap if there is one."""
        slot = await catalog.slot(connection.sql, name)
        if slot is not None:
            check_slot(slot, database=database, temporary=self._temporary)
        reason = None
        if self._stream is not None:
            if stream != self._stream:
                reason = GapReason.OTHER_CLUSTER
            else:
                acknowledged = self._progress.flushed
                reason = gap_reason(slot, temporary=self._temporary, acknowledged=acknowledged)
        if reason is not None and self._on_gap == "raise":
            raise SlotLostError(
                name,
                f"changes since {self._position} may be lost ({reason.value}); use a permanent "
                'slot that nobody else touches, or on_gap="continue" to go on with a Gap',
            )
        if slot is None:
            start = await create_slot(connection, name, temporary=self._temporary)
        else:
            start = slot.confirmed_flush_lsn
        same = self._stream is not None and reason is None
        return (self._progress if same else Progress(start)), reason

    def _begin_stream(
        self, stream: StreamIdentity, progress: Progress, reason: GapReason | None
    ) -> None:
        if reason is not None:
            after = None if self._last == _NOWHERE else self._position_at(self._last)
            gap = Gap(after, Position(progress.flushed, 0, stream), reason)
            logger.error("changes may be lost: %s, after %s", reason.value, after)
            self._pending.append(gap)
            # What comes from another slot is no repetition, wherever it stands.
            self._last_begin = self._last_commit = 0
            self._last = _NOWHERE
        if self._stream is not None and stream != self._stream:
            self._former_streams.add(self._stream)
            self._newest = _NOWHERE
        self._stream = stream
        self._progress = progress
        self._decoder = Decoder()
        self._assembler = Assembler(stream)
        self._resuming = True
        self._productive = False
        self._attached_at = asyncio.get_running_loop().time()

    def _position_at(self, place: Place) -> Position:
        return Position(LSN(place[0]), place[1], self._stream)

    def _detach(self) -> None:
        """Forget the connection and stop its timers."""
        self._connection = None
        for timer in (self._timer, self._ack_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._ack_timer = None


class _Batches(AsyncIterator[list[Event]]):
    """What :meth:`PgoutputSource.batches` returns.

    A class and not a generator: a cancelled step does not end it.
    """

    def __init__(self, source: PgoutputSource) -> None:
        self._source = source

    async def __anext__(self) -> list[Event]:
        return await self._source._next_batch()


def _checked_publications(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigError(f"publications is a list of names, not a string: use [{names!r}]")
    checked = tuple(dict.fromkeys(names))
    if not checked:
        raise ConfigError("publications is empty: name at least one")
    for name in checked:
        if not name or "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ConfigError(f"publications has {name!r}, which is not a name")
    return checked


def _check_settings(
    dsn: str,
    slot: str | None,
    on_gap: str,
    backoff: tuple[float, float],
    status_interval: float,
) -> None:
    problems = []
    try:
        psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.Error as exc:
        problems.append(f"dsn is not a connection string: {str(exc).strip()}")
    if slot is not None:
        try:
            check_slot_name(slot)
        except ValueError as exc:
            problems.append(f"slot {exc}")
    if on_gap not in ("raise", "continue"):
        problems.append(f"on_gap is 'raise' or 'continue', not {on_gap!r}")
    if not 0 < backoff[0] <= backoff[1]:
        problems.append(
            f"backoff is (minimum, maximum) in seconds, 0 < minimum <= maximum: {backoff}"
        )
    if status_interval <= 0:
        problems.append(f"status_interval is a number of seconds above 0, not {status_interval}")
    if problems:
        raise ConfigError(problems)
