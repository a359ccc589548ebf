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
import secrets
from collections.abc import Iterator
from itertools import chain
from random import Random
from time import monotonic
from typing import Final, Self, Unpack

from ..changes import Begin, Event, Gap, GapReason
from ..errors import (
    RealtimeError,
    SlotLostError,
    SourceError,
)
from ._attach import Attachment, OutputPlugin
from ._attempts import Attempts
from ._filtering import RowFilter
from ._history import StreamHistory
from ._lag import LagGuard
from ._live_stream import LiveStream
from ._meter import Meter
from ._queue import EventQueue
from .base import Acknowledgeable, E, SourceStats
from .options import Dsn, StreamOptions, StreamSettings

__all__ = ["StreamSource"]

logger = logging.getLogger("realtime.source")

_STOP_TIMEOUT: Final = 2.0
"""Seconds that closing waits for the server to let go of the slot."""
_COMMIT_TIMEOUT: Final = 0.5
"""Seconds that closing waits for the Commit of a transaction that was read to its last change."""
_CHUNK: Final = 256
"""Events that are decoded ahead, at most: a transaction that was held comes lazily."""
_TURN: Final = 0.002
"""Seconds for which they are decoded, at most, before others get a turn."""
_UNDEFINED_OBJECT: Final = "42704"


class StreamSource(EventQueue[E]):
    """Streams through the replication protocol what an output plugin sends."""

    def __init__(self, dsn: Dsn, plugin: OutputPlugin, **options: Unpack[StreamOptions]) -> None:
        settings = StreamSettings.from_options(dsn, options, type(self))
        super().__init__(boundaries=settings.boundaries, auto_ack=settings.auto_ack)
        self._settings = settings
        self._plugin = plugin
        random = settings.random or Random(secrets.randbits(64))
        self.enum_orders: dict[tuple[str, str], tuple[str, ...]] = {}
        """The labels of enum types in their declared order, by schema and name, as they were when
        the source attached last: what filters compare enums by."""
        self._filter: RowFilter | None = None
        if settings.filter is not None:
            self._filter = RowFilter(settings.filter, self.enum_orders)
        self._meter = Meter()
        self._history = StreamHistory(
            settings.start_at,
            own_checkpoint=settings.own_checkpoint,
            passes=None if self._filter is None else self._filter.passes,
            meter=self._meter,
        )
        self._attempts = Attempts(
            settings, plugin, random, self._history.resume_point, self._attached
        )
        self._lag_guard: asyncio.Task[None] | None = None
        # The stream while there is a connection.
        self._live: LiveStream | None = None
        # What was read and is not decoded yet; None for what is not handed over.
        self._rest: Iterator[Event | None] = iter(())

    # Lifetime

    async def __aenter__(self) -> Self:
        """Attach to the database; a persistent source only begins to: see :meth:`attached`.

        Raises:
            SourceError: if that fails, unless the source is persistent.
        """
        if self._closed:
            raise RuntimeError("this source was closed: make a new one")
        if self._history.stream is not None or self._attempts.started:
            raise RuntimeError("this source is open already")
        if self._settings.max_lag_bytes is not None:
            guard = LagGuard(self._settings, self._current_slot, self._start_anew)
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
        live = self._live
        if live is None:
            return
        live.connection.interrupt("the source was closed")
        # One turn of the loop for a reader to leave before we read ourselves.
        await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError, RealtimeError):
            async with asyncio.timeout(_COMMIT_TIMEOUT):
                await self._read_commit(live)
        self._queue.clear()
        self._live = None
        await live.stop(_STOP_TIMEOUT)

    async def _read_commit(self, live: LiveStream) -> None:
        """Read the end of a transaction whose last change may be acknowledged already."""
        # Not behind an error: the end would take the slot past the change at fault.
        while not self._queue and self._error is None:
            if self._has_rest:
                self._take_rest()
                await asyncio.sleep(0)
            elif live.in_transaction:
                self._rest = live.events(await live.read())
                self._has_rest = True
            else:
                return

    # Reading

    @property
    def _connected(self) -> bool:
        return self._live is not None

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
        if self._history.skips.passed:
            self._go_on_behind_skips()
        live = self._live
        if live is None:
            await self._connect()
            return
        try:
            payloads = await live.read()
        except SourceError as exc:
            if self._closed:
                raise StopAsyncIteration from None
            self._lose(live, exc)
            return
        self._meter.read(payloads)
        self._rest = live.events(payloads)
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
        place = self._history.place_of(position)
        if place is None:
            return
        if upto is not self._handed and place > self._history.handed_over(self.position):
            raise ValueError(f"cannot acknowledge {position}: it was not handed over yet")
        if self._history.sequence.progress.acknowledge(place) and self._live is not None:
            self._live.acknowledge_soon()

    def stats(self) -> SourceStats:
        """Return counters and positions, as they are now."""
        return self._meter.stats(
            self._history.sequence,
            self._handed,
            self._filter,
            all_handed=not self._queue,
            connected=self._connected,
        )

    # Attaching

    def _attached(self, attachment: Attachment, slot: str) -> None:
        gap = self._history.attached(attachment)
        if gap is not None:
            self._put_behind(gap)
        self._meter.attachments += 1
        # The same dict: somebody may hold it.
        self.enum_orders.clear()
        self.enum_orders.update(attachment.enums)
        decoder = self._plugin.decoder(attachment.stream)
        self._live = LiveStream(attachment, slot, decoder, self._history, self._settings)
        kind = "temporary slot" if self._settings.is_temporary else "slot"
        logger.info("streaming from database %r, %s %r", attachment.database, kind, slot)

    def _current_slot(self) -> str | None:
        return None if self._live is None else self._live.slot

    def _lose(self, live: LiveStream, exc: SourceError) -> None:
        """Give a broken connection up; the next read attaches again."""
        self._close(live)
        if exc.sqlstate == _UNDEFINED_OBJECT:
            # Attaching checks that the publication is there now, and so newer than the slot.
            self._attempts.untold.suspicion = GapReason.SLOT_OLDER_THAN_PUBLICATION
        elif isinstance(exc, SlotLostError) and exc.reason is not None:
            self._attempts.untold.suspicion = exc.reason
        elif not (exc.transient or self._settings.persistent):
            raise exc
        logger.warning("stream interrupted: %s", exc)
        self._attempts.broke_off(worked=live.has_worked)

    def _go_on_behind_skips(self) -> None:
        """Let the stream begin where the gap ends that PostgreSQL has just skipped its way to."""
        self._history.skips.end()
        if self._live is not None:
            self._close(self._live)
            self._attempts.broke_off(worked=True)

    def _start_anew(self) -> None:
        """Let the slot be made anew, even if nobody reads."""
        live = self._live
        if live is None:
            return
        self._attempts.untold.suspicion = GapReason.LAG
        if live.connection.waiting:
            # The reader has to leave the socket before that is closed; then it attaches.
            live.connection.interrupt("its slot is made anew")
            return
        self._close(live)
        self._attempts.start()

    def _close(self, live: LiveStream) -> None:
        """Close the connection, and forget it."""
        self._live = None
        live.close()
