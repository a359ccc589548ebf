"""Continuity: lets clients come back to a server that has been started since, or to another one.

This connects what outlives a process (:mod:`.durable`) with what a process knows. When the stream
begins, joins are answered, but it is not decided where the channels begin until the journal was
read, which says what clients of former processes have. The changes that these have missed come from
the past (:mod:`.past`), and are put into the log before the changes of the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Final

from realtime_core import LSN, Event, Gap, Idle, LogicalMessage, SourceStats
from realtime_core.errors import RealtimeError

from ..fanout.wanted_tables import WantedTables
from .change_log import ChangeLog
from .channel_starts import ChannelStarts
from .durable import Durable
from .journal_writer import Reached
from .places import Place, place_of
from .stream_origin import StreamOrigin
from .unread_tables import UnreadTables

__all__ = ["Continuity"]

logger = logging.getLogger("realtime.replay")

_WAL_END: Final = 10.0
"""Seconds that the database may take, once the stream runs, to say where its WAL ends. Without an
answer, clients that begin anew get everything that was committed since the stream began."""
_CATCH_UP: Final = 60.0
"""Seconds that the journal may take to come through the stream, which may be far behind."""


class Continuity:
    """Lets clients come back here from other server processes, and from here to others.

    It restores from the past and the journal what clients of other processes have missed, and has
    the journal written for the clients of this one.

    Args:
        durable: the past and the journal.
        channel_starts: begins channels.
        log: the changes that clients may have missed.
        new_log: makes a log like that.
        attached: waits until the stream runs.
        stats: returns the stream's counts and positions.
        origin: knows where places come from.
        begin: returns the place behind which the stream has everything, once the stream runs; None:
            what is acknowledged says it, before anything was read.
        left_out: the slots, as records name them, of processes that there may have been before, and
            that are not started any more.
    """

    def __init__(
        self,
        durable: Durable,
        channel_starts: ChannelStarts,
        log: ChangeLog,
        new_log: Callable[[], ChangeLog],
        *,
        attached: Callable[[], Awaitable[None]],
        stats: Callable[[], SourceStats],
        origin: StreamOrigin,
        begin: Callable[[], Place] | None = None,
        left_out: Collection[bytes] = (),
    ) -> None:
        self.durable = durable
        """The past and the journal."""
        self._channel_starts = channel_starts
        self._log = log
        self._new_log = new_log
        self._attached = attached
        self._origin = origin
        self._left_out = left_out
        self._where = begin or (lambda: (stats().confirmed_lsn, -1))
        # The place behind which the stream has everything; None before the stream runs.
        self._start: Place | None = None
        # The LSN at which the WAL ended then; None before that is known. And the LSN up to which
        # everything has come, and whether all that was committed before the end is published.
        self._end: LSN | None = None
        self._come = 0
        self._has_passed_end = asyncio.Event()
        self.is_restored = False
        """Whether everything was read that the past has of the changes that were missed."""
        # Which rows are passed over; None: none.
        self._unread: UnreadTables | None = None
        channel_starts.held.marks = durable
        channel_starts.held.hold()
        durable.on_read = channel_starts.held.look

    def passing_over(self, wanted: WantedTables) -> Callable[[str, str], bool]:
        """Return what says of a table, by schema and name, whether its rows have to be read.

        Call this only where the past can be read again at any time.

        Args:
            wanted: the tables of which clients of this server have asked for rows.
        """
        self._unread = UnreadTables(wanted, self._log, self._channel_starts.catch_up.older)
        return self._unread.wants

    def note_gaps(self, batch: Sequence[Event]) -> None:
        """Count a batch's gaps before the batch is published.

        Call this even if something else of replay fails: the journal is not written until all gaps
        of the stream were counted.
        """
        self._origin.before(batch)

    def before(self, batch: Sequence[Event]) -> None:
        """Read the journal's messages of a batch, before the batch is published."""
        # Nothing is acknowledged yet, if this is the first batch.
        self._note_start()
        self._note_empty(batch)
        for event in batch:
            if type(event) is LogicalMessage:
                self.durable.read(event)
            elif type(event) is Gap:
                # The stream may come from another cluster now, and may have lost records.
                self._note_stream()
                self.durable.tell_and_ask()
        if not self._has_passed_end.is_set():
            places = (place_of(event) for event in reversed(batch))
            last = next((place for place in places if place is not None), None)
            self._come = self._come if last is None else last[0]

    def after(self) -> None:
        """Note that a batch was published to all clients."""
        self._origin.after()
        self.durable.published()
        self._look_for_end()

    def begin_anew(self) -> None:
        """Note, after a failure, that everything of the stream so far was published."""
        self._note_stream()
        self._origin.after()

    async def run(self, reached: Reached) -> None:
        """Read what former processes have written, then write for later ones; never return.

        Args:
            reached: knows the places of the clients.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._begin())
            group.create_task(self._begin_new())
            group.create_task(self.durable.run(reached))
            group.create_task(self._channel_starts.held.run())

    def _note_start(self) -> None:
        if self._start is None:
            self._start = self._where()
            self._log.begin_behind(self._start)
            self._note_stream()

    def _note_empty(self, batch: Sequence[Event]) -> None:
        """Tell the journal that nothing is between what was handed out and a batch.

        The slots may go on to there, and a channel that has begun before may not be told yet.
        """
        if self._unread is not None and self._unread.take_passed():
            # The changes that are not in the batch are there for channels of other processes.
            return
        first = next(iter(batch), None)
        if type(first) is Idle or (type(first) is LogicalMessage and first.transaction is None):
            # A transaction may commit at the end of a message.
            lsn = first.lsn if type(first) is LogicalMessage else first.position.lsn
            self.durable.journal.lift(self._log.end, (lsn, -1))

    def _note_stream(self) -> None:
        self.durable.journal.of_stream(self._origin.digest())

    async def _begin(self) -> None:
        # This comes before anything is read: a client that joins from now on must get what is
        # committed from now on.
        asked = asyncio.ensure_future(self.durable.wal_end())
        try:
            try:
                await self._attached()
            except (RealtimeError, RuntimeError):
                # The server ends, or is told by the stream.
                return
            self._note_start()
            assert self._start is not None
            end = LSN(self._start[0])
            async with _patience(_WAL_END, "the database does not say where its WAL ends"):
                end = await asked
        finally:
            asked.cancel()
        self._end = end
        self._look_for_end()
        await self._restore(self._start)
        async with _patience(_CATCH_UP, "the journal of replay does not come through the stream"):
            await self.durable.caught_up.wait()
        if self._left_out:
            await self.durable.end_slots(self._left_out)
        await self._channel_starts.held.release(max((end, -1), self._log.floor))
        if self._unread is not None:
            self._unread.begin()

    def _look_for_end(self) -> None:
        if self._end is not None and self._come >= self._end:
            self._has_passed_end.set()

    async def _begin_new(self) -> None:
        """Let clients begin that are new, although it is not known yet what others have missed."""
        await self._has_passed_end.wait()
        assert self._end is not None
        assert self._start is not None
        # The slot may have been made after the end of the WAL was asked for.
        await self._channel_starts.held.release_new(max((self._end, -1), self._start))

    async def _restore(self, start: Place) -> None:
        """Put the changes of the past into the log, before those of the stream."""
        older = self._new_log()
        async with contextlib.aclosing(self.durable.restore(start)) as batches:
            async for events in batches:
                older.append(events)
                await asyncio.sleep(0)
        begin = self.durable.restored_from
        self._log.put_before(older, start if begin is None else begin)
        if begin is not None and begin > (self.durable.journal.lowest() or begin):
            # It began behind what somebody needs, so that is not there.
            self._channel_starts.catch_up.older.lose(begin)
        self.is_restored = True


@contextlib.asynccontextmanager
async def _patience(seconds: float, what: str) -> AsyncIterator[None]:
    """Do without what does not come within some seconds, and say so."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        logger.warning(
            "%s (for %.0f s), so clients that were here before may begin anew", what, seconds
        )
