"""StreamSource: the common part of all sources that stream from a replication slot.

Theory of operation. :class:`~realtime_core.sources._attempts.Attempts` attaches: it checks the
server, what the output plugin needs, and the slot by SQL, starts the stream on the same
connection, and tries again after errors. A :class:`~realtime_core.sources._live_stream.LiveStream`
is read when the consumer asks for events: while it is busy nothing is read, TCP holds the server
back, and a timer sends the status updates that keep the connection alive. After the connection
broke, PostgreSQL repeats what was not acknowledged. The
:class:`~realtime_core.sources._history.StreamHistory` recognises events that were handed over
already, and they are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from random import Random
from time import monotonic
from typing import Final, Self, Unpack

from ..changes import Begin, Event, Gap, GapReason, RawRows
from ..errors import (
    RealtimeError,
    SlotLostError,
    SourceError,
)
from ..snapshot import BackfillStep, Snapshot, SnapshotBegin
from ._argument_errors import position_of
from ._attach import AttachedStream, SnapshotNeeded
from ._attempts import Attempts
from ._filtering import RowFilter
from ._heartbeat import Heartbeat
from ._history import StreamHistory
from ._hook_calls import HookCalls
from ._lag import LagGuard
from ._live_stream import LiveStream
from ._meter import Meter
from ._plugin import PluginFacts
from ._queue import EventQueue
from ._snapshot_phase import SnapshotPhase
from .base import Acknowledgeable, E, SourceStats
from .stream_options import Dsn, StreamOptions, StreamSettings

__all__ = ["StreamSource"]

logger = logging.getLogger("realtime.source")

_STOP_TIMEOUT: Final = 2.0
"""How many seconds closing waits until the server has released the slot."""
_COMMIT_TIMEOUT: Final = 0.5
"""How many seconds closing waits for the Commit of a transaction whose last change was read."""
_CHUNK: Final = 256
"""The most events that are decoded ahead: a held transaction is decoded as it is read."""
_FEW: Final = 16
"""How many of them are decoded without a look at the clock."""
_TURN: Final = 0.002
"""The most seconds that decoding takes before other tasks run."""
_UNDEFINED_OBJECT: Final = "42704"
"""SQLSTATE for a publication that did not exist when a change was written."""


class StreamSource(EventQueue[E]):
    """Yields the changes that an output plugin sends through the replication protocol.

    Args:
        dsn: the connection string, or a function that returns it.
        plugin: the output plugin.
        options: see :class:`StreamOptions`.
    """

    def __init__(self, dsn: Dsn, plugin: PluginFacts, **options: Unpack[StreamOptions]) -> None:
        settings = StreamSettings.from_options(dsn, options, type(self))
        super().__init__(boundaries=settings.boundaries, auto_ack=settings.auto_ack)
        self._settings = settings
        self._plugin = plugin
        random = settings.random or Random(secrets.randbits(64))
        self.enum_orders: dict[tuple[str, str], tuple[str, ...]] = {}
        """The labels of enum types in their declared order, by schema and name, as they were when
        the source attached last. Filters compare enums by them."""
        # Decides which row changes are handed over; None if all are.
        self._filter: RowFilter | None = None
        if settings.filter is not None:
            self._filter = RowFilter(settings.filter, self.enum_orders)
        # Counts for stats().
        self._meter = Meter()
        # What was taken from the slot so far, across connections.
        self._history = StreamHistory(
            settings.known_start,
            own_checkpoint=settings.own_checkpoint,
            passes=None if self._filter is None else self._filter.passes,
            meter=self._meter,
        )
        # Attaches, in a task of its own.
        self._attempts = Attempts(
            settings, plugin, random, self._history.resume_point, self._attached
        )
        # Hands over a snapshot before it attaches; None if the source never does.
        self._snapshots: SnapshotPhase | None = None
        if settings.snapshot != "never":
            self._snapshots = SnapshotPhase(
                settings, plugin, self._attempts, random, self._filter, self._learn_enums
            )
        self._random = random
        # Checks how much WAL the slot retains; None without max_lag_bytes.
        self._lag_guard: LagGuard | None = None
        # Writes messages while no changes come; None without heartbeat_interval.
        self._heartbeat: Heartbeat | None = None
        # Calls the program's hooks; None if it has none.
        self._hooks = None if settings.hooks is None else HookCalls(settings.hooks)
        # The stream; None while there is no connection.
        self._live: LiveStream | None = None
        # Decodes what was read, as it is iterated over. An event that is not handed over comes as
        # None.
        self._rest: Iterator[Event | SnapshotBegin | RawRows | None] = iter(())

    # Lifetime

    async def __aenter__(self) -> Self:
        """Attach to the database. A persistent source only begins to attach: see :meth:`attached`.

        Raises:
            SourceError: if that fails, unless the source is persistent.
        """
        if self._closed:
            raise RuntimeError("this source was closed: make a new one")
        if self._history.stream is not None or self._attempts.started:
            raise RuntimeError("this source is open already")
        if self._settings.max_lag_bytes is not None:
            self._lag_guard = LagGuard(self._settings, self._current_slot, self._recreate_slot)
            self._lag_guard.start()
        if self._settings.heartbeat_interval is not None:
            self._heartbeat = Heartbeat(
                self._settings, self._current_slot, lambda: self.stats().transactions
            )
            self._heartbeat.start()
        if self._hooks is not None:
            self._hooks.start(self._settings.lag_interval, self.stats)
        if self._settings.persistent:
            self._attempts.start()
            return self
        try:
            await self._connect()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def aclose(self) -> None:
        """Send the last acknowledgement, release the slot and close the connection."""
        self._closed = True
        self._queue.clear()
        try:
            if self._snapshots is not None:
                await self._snapshots.settle(_STOP_TIMEOUT)
                await self._snapshots.aclose()
            await self._attempts.aclose(_STOP_TIMEOUT)
            if self._hooks is not None:
                await self._hooks.aclose()
            if self._heartbeat is not None:
                await self._heartbeat.aclose()
            if self._lag_guard is not None:
                await self._lag_guard.aclose()
            if self._live is not None:
                await self._stop(self._live)
        finally:
            # Where this was cancelled, nothing may go on to hold the slot.
            if self._live is not None:
                self._live.close()
                self._live = None

    async def _stop(self, live: LiveStream) -> None:
        live.connection.interrupt("the source was closed")
        # A task that was reading gets one iteration of the event loop to leave, since the rest of
        # the transaction is read here.
        await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError, RealtimeError):
            async with asyncio.timeout(_COMMIT_TIMEOUT):
                await self._read_commit(live)
        self._queue.clear()
        self._live = None
        await live.stop(_STOP_TIMEOUT)

    async def _read_commit(self, live: LiveStream) -> None:
        """Read the Commit of a transaction whose last change may be acknowledged already.

        Without its Commit the slot cannot move, and the next process would get it again.
        """
        # After an error this must not read on, because a Commit would move the slot past the
        # change that has caused the error.
        while not self._queue and self._error is None:
            if self._has_rest:
                self._take_rest()
                await asyncio.sleep(0)
            elif live.in_transaction:
                self._rest = live.take(await live.connection.read())
                self._has_rest = True
            else:
                return

    # Reading

    @property
    def _connected(self) -> bool:
        return self._live is not None or (self._snapshots is not None and self._snapshots.taken)

    async def _connect(self) -> None:
        snapshots = self._snapshots
        if snapshots is None or not snapshots.active:
            try:
                await self._attempts.wait()
                return
            except SnapshotNeeded as needed:
                assert snapshots is not None
                told = snapshots.need(needed, amid_transaction=self._history.sequence.is_open)
                if told is not None:
                    self._put_behind(iter([told]))
                    return
        await snapshots.take()

    async def _fill(self) -> None:
        if self._has_rest:
            # The rest of a held transaction may be of any length, and is there already.
            self._take_rest()
            await asyncio.sleep(0)
            return
        if self._error is not None:
            # Nothing more is read, because a Commit would move the slot past the change that has
            # caused the error.
            return
        if self._history.skips.passed:
            self._go_on_behind_skips()
        live = self._live
        if live is None:
            if self._snapshots is not None and self._snapshots.active:
                await self._snapshots.fill(self._queue)
            else:
                await self._connect()
            return
        try:
            payloads = await live.connection.read()
        except SourceError as exc:
            if self._closed:
                raise StopAsyncIteration from None
            self._lose(live, exc)
            return
        self._meter.read(payloads)
        self._rest = live.take(payloads)
        if self._hooks is not None:
            self._rest = self._hooks.watching(self._rest)
        self._take_rest()

    def _is_at_hand(self) -> bool:
        if self._has_rest or self._live is None or self._history.skips.passed:
            return self._has_rest
        return self._live.connection.glance()

    def _look_away(self) -> None:
        if self._live is not None and not self._live.connection.waiting:
            self._live.connection.unwatch()

    def _put_behind(self, events: Iterator[Event | SnapshotBegin]) -> None:
        """Have events handed over behind those that were read already."""
        if self._hooks is not None:
            events = self._hooks.watching(events)
        self._rest = chain(self._rest, events)
        self._has_rest = True

    def _take_rest(self) -> None:
        """Decode more of what was read into the queue, until it is time for other tasks."""
        queue, rest = self._queue, self._rest
        until = monotonic() + _TURN
        # More than that are in it only if the consumer collects them.
        left = _CHUNK - len(queue) if len(queue) < _CHUNK else _CHUNK
        self._has_rest = True
        try:
            # A few at a time, by functions in C: a loop here takes as long as handing over.
            for event in rest:
                if event is not None:
                    queue.append(event)
                queue.extend(filter(None, islice(rest, _FEW - 1)))
                left -= _FEW
                if left <= 0 or monotonic() > until:
                    return
        except RealtimeError as exc:
            # The events before the error are handed over first.
            self._error = exc
        self._has_rest = False

    # Acknowledging

    def ack(self, upto: Acknowledgeable) -> None:
        """Acknowledge everything up to and including ``upto``.

        The slot moves to the end of the last transaction that is wholly acknowledged; the server
        is told within 50 ms. A Begin or a Gap acknowledges nothing, and neither do a SnapshotBegin,
        a row of a snapshot, and an event from before a gap, because its slot is gone.

        Raises:
            PositionMismatchError: if ``upto`` belongs to another stream.
            ValueError: if it lies behind the last event that was handed over.
            TypeError: if it has no position.
        """
        if isinstance(upto, Begin | Gap | Snapshot | SnapshotBegin | BackfillStep):
            return
        if self._snapshots is not None and self._snapshots.active:
            # The changes before it will not come again.
            self._snapshots.acknowledge(upto)
            return
        position = position_of(upto)
        place = self._history.place_of(position)
        if place is None:
            return
        if upto is not self._handed and place > self._history.handed_over(self.position):
            raise ValueError(f"cannot acknowledge {position}: it was not handed over yet")
        if self._history.sequence.progress.acknowledge(place) and self._live is not None:
            self._live.acknowledge_soon()

    def stats(self) -> SourceStats:
        """Return the counters and positions of this moment."""
        return self._meter.stats(
            self._history.sequence,
            self._handed,
            self._filter,
            all_handed=not self._queue,
            connected=self._live is not None,
            stream=self._history.stream,
        )

    # Attaching

    def _attached(self, attachment: AttachedStream, slot: str) -> None:
        gap = self._history.attached(attachment)
        if gap is not None:
            self._put_behind(gap)
        self._meter.attachments += 1
        self._meter.has_created |= attachment.has_created
        self._learn_enums(attachment.enums)
        decoder = self._plugin.decoder(attachment.stream)
        self._live = LiveStream(attachment, slot, decoder, self._history, self._settings)
        kind = "temporary slot" if self._settings.is_temporary else "slot"
        if self._snapshots is not None:
            self._snapshots.attached(self._queue)
        logger.info("streaming from database %r, %s %r", attachment.database, kind, slot)
        if self._hooks is not None:
            self._hooks.call("attached", attachment.stream, attachment.database, slot)

    def _learn_enums(self, enums: Mapping[tuple[str, str], tuple[str, ...]]) -> None:
        # The dict stays the same object, because the filter and the application may hold it.
        self.enum_orders.clear()
        self.enum_orders.update(enums)

    def _current_slot(self) -> str | None:
        return None if self._live is None else self._live.slot

    def _lose(self, live: LiveStream, exc: SourceError) -> None:
        """Close a broken connection; the next read attaches again."""
        self._close(live)
        if self._hooks is not None:
            self._hooks.call("lost", exc)
        if exc.sqlstate == _UNDEFINED_OBJECT:
            # Attaching checks that the publication exists. If it does by then, it is newer than
            # the slot.
            self._attempts.unreported.suspicion = GapReason.SLOT_OLDER_THAN_PUBLICATION
        elif isinstance(exc, SlotLostError) and exc.reason is not None:
            self._attempts.unreported.suspicion = exc.reason
        elif not (exc.transient or self._settings.persistent):
            raise exc
        logger.warning("stream interrupted: %s", exc)
        self._attempts.broke_off(worked=live.has_worked)

    def _go_on_behind_skips(self) -> None:
        """Start the stream again at the end of a gap, which PostgreSQL has just come to."""
        self._history.skips.end()
        if self._live is not None:
            self._close(self._live)
            self._attempts.broke_off(worked=True)

    def _recreate_slot(self) -> None:
        """Have the slot recreated, even if no task is reading."""
        live = self._live
        if live is None:
            return
        self._attempts.unreported.suspicion = GapReason.LAG
        if live.connection.waiting:
            # The reading task has to stop waiting for the socket before that is closed. It then
            # attaches again.
            live.connection.interrupt("its slot is recreated")
            return
        self._close(live)
        self._attempts.start()

    def _close(self, live: LiveStream) -> None:
        """Close the connection of a stream, which is then no longer the current one."""
        self._live = None
        live.close()
