"""JournalWriter: writes this process's journal into the WAL, one record after the other.

Theory of operation. What changes within a tenth of a second is one record. A *snapshot* is a record
that says everything again. It is written if part of a record may be missing, if another process
that has begun asks for it, and before the second slot is moved, as what was written earlier may be
gone afterwards. Snapshots of many channels are large, and the WAL that they add makes the next ones
due, so they are written at a bounded rate.

A record has places of the stream. So it is written only into the WAL that the stream comes from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Final, Protocol

from realtime_core import LSN, StreamIdentity
from realtime_core.errors import SourceError

from ..fanout.turns import Turn
from .journal import Journal
from .places import Place
from .wal_messages import WalMessages

__all__ = ["JournalWriter", "Reached"]

logger = logging.getLogger("realtime.replay")

_TOGETHER: Final = 0.1
"""Seconds from one record to the next, at least: entries wait for each other."""
_PAUSE: Final = 1.0
"""Seconds from one attempt to write a record to the next."""
_LONGEST: Final = 60.0
"""Seconds that a record may take to be written."""
_SNAPSHOT_RATE: Final = 2_000_000
"""Bytes of WAL a second that snapshots take at most, without those that are written before the slot
is moved."""
_SIGN_OF_LIFE: Final = 3600.0
"""The most seconds without a record. Other processes take a process that has written nothing for a
day to have ended."""
_STOPPING: Final = 2.0
"""Seconds that the last record may take to be written; psycopg may take ten seconds more to cancel
a statement."""
_PATIENCE: Final = 10.0
"""Seconds for which the first record is tried to be written, and for which the journal's connection
may lead elsewhere than the stream."""


class Reached(Protocol):
    """Knows up to where the clients have received the stream."""

    @property
    def handed(self) -> Place:
        """The place up to which the live hub has sent all changes."""
        ...

    def lasting_here(self) -> Place:
        """Return the lowest place up to which a live channel of this process has everything,
        however its connection ends, or as was proven some seconds ago."""
        ...

    def first_needed_lsn(self) -> LSN | None:
        """Return the LSN of the first change that a client of any process may need; None if no
        client needs a change that was handed out."""
        ...


class _NotYetError(SourceError):
    """The stream and the journal come together soon, most likely."""


class JournalWriter:
    """Writes what is noted in the journal of one server process.

    Args:
        journal: the journal of this process.
        messages: writes the records into the WAL.
        stream: returns the stream that places belong to; None while that is not known.
        reconnects: returns how often the stream was started again after its connection had broken.
        before_write: notes what has changed before a record is made, and yields now and then.
        passed: for a process that shares its slot: returns an LSN before which it has handed out
            everything that committed. The past may begin behind the last change.
    """

    def __init__(
        self,
        journal: Journal,
        messages: WalMessages,
        *,
        stream: Callable[[], StreamIdentity | None],
        reconnects: Callable[[], int],
        before_write: Callable[[], Iterator[None]] = lambda: iter(()),
        passed: Callable[[], LSN] | None = None,
    ) -> None:
        self._journal = journal
        self._messages = messages
        self._stream = stream
        self._reconnects = reconnects
        # How many reconnects there had been when it was last looked at what they may have lost.
        self._reconnected = 0
        self._before_write = before_write
        self._passed = passed
        self._reached: Reached | None = None
        # Set when everything was read that is older than the main stream.
        self._is_restored = asyncio.Event()
        # One record at a time: its parts must not be between those of another.
        self._writing = asyncio.Lock()
        # The record that :meth:`run` has begun last; it ends by itself, or with :meth:`aclose`.
        self._record: asyncio.Task[bool] | None = None
        # Whether records were written that may not be on the disk yet.
        self._is_under_way = False
        # The reason why the last record could not be written.
        self._said = ""
        # Whether the next record has to be a snapshot, as part of one is missing; whether another
        # process waits for a snapshot; and whether the next record has to say that this process has
        # got its slot.
        self._snapshot_due = False
        self._is_asked = False
        self._boot_due = True
        # Whether somebody waits until the next record is read.
        self._mark_due = False
        # Behind which message of the stream everything is published, which message has come, and
        # which one had when another process last began.
        self._published = self._come = self._asked_behind = LSN(0)
        # The time until which the next snapshot has to wait.
        self._next_snapshot = 0.0
        self.snapshot_bytes = 0
        """Bytes of the last snapshot."""
        # When the last record was written, by the event loop's clock.
        self._written_at = 0.0
        self._has_said_full = False
        # The time since which the journal's connection leads elsewhere than the stream; None if it
        # does not.
        self._elsewhere_since: float | None = None

    # What happens in the stream

    def come(self, lsn: LSN) -> None:
        """Note the LSN of a message that has come through the main stream."""
        self._come = max(self._come, lsn)

    def published(self) -> None:
        """Note that everything has been handed out that came before, or with, the messages."""
        self._published = self._come

    def answer_boot(self, *, is_same_slot: bool) -> None:
        """Write a snapshot soon, for another process that has begun.

        Args:
            is_same_slot: whether that process has got this one's slot. Since the stream comes here,
                it has lost the slot again.
        """
        self._is_asked = True
        self._asked_behind = self._come
        self._boot_due = self._boot_due or is_same_slot

    def tell_and_ask(self) -> None:
        """Write soon what a process does that begins: it tells all it knows, and so do others."""
        self._boot_due = True

    def mark(self) -> None:
        """Write a record soon, as somebody waits until it is read."""
        self._mark_due = True

    def begin_anew(self) -> None:
        """Forget the places of the former stream, which cannot be compared with those of this
        one."""
        self._published = self._come = self._asked_behind = LSN(0)
        self._boot_due = True

    # When a record is written

    async def write_boot(self) -> bool:
        """Write that this process has got its slot; return whether that was possible within ten
        seconds."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while not await self.write(boot=True, flush=True):
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(_PAUSE)
        return True

    async def write_boots(self, slots: Collection[bytes]) -> None:
        """Write that some slots have new processes, as far as any process has had them; what fails
        is logged.

        Args:
            slots: the slots, as records name them.
        """
        records = list(self._journal.boots_for(slots))
        async with self._writing:
            try:
                async with asyncio.timeout(_LONGEST):
                    await self._messages.connected()
                    await self._check_origin()
                    await self._messages.write(records)
            except TimeoutError:
                self._say(f"the database takes longer than {_LONGEST:.0f} s")
            except SourceError as exc:
                self._say(str(exc))

    def begin(self) -> None:
        """Allow further records to be written, as everything older was read."""
        self._is_restored.set()

    async def run(self, reached: Reached) -> None:
        """Write a record whenever one is due; never return.

        Args:
            reached: knows the places of the clients.
        """
        self._reached = reached
        await self._is_restored.wait()
        while True:
            await asyncio.sleep(_TOGETHER)
            await self._note_changes()
            if self._is_due():
                # A server that stops does not cancel it: that would cost the connection, which the
                # last record needs, and a busy database takes seconds to open another.
                self._record = asyncio.create_task(self.write())
                if not await asyncio.shield(self._record):
                    await asyncio.sleep(_PAUSE)

    async def aclose(self) -> None:
        """Write a last record, wait until it is on the disk, and close the connection.

        A database that does not answer is given up after two seconds. To end the statement that
        runs there may take ten seconds more.
        """
        await self._note_changes()
        if self._journal.is_due or self._is_under_way:
            try:
                async with asyncio.timeout(_STOPPING):
                    await self.write(flush=True)
            except TimeoutError:
                logger.warning(
                    "the last record of the journal of replay was not written within %.0f s, so "
                    "clients may get again what they have got in the last seconds",
                    _STOPPING,
                )
        if self._record is not None:
            self._record.cancel()
            await asyncio.gather(self._record, return_exceptions=True)
        await self._messages.aclose()

    async def _note_changes(self) -> None:
        turn = Turn()
        for _ in self._before_write():
            await turn.give_way()

    def _is_due(self) -> bool:
        """Return whether a record has to be written, and may be."""
        if (reconnects := self._reconnects()) != self._reconnected:
            self._reconnected = reconnects
            # If PostgreSQL has crashed, it has lost what was not on its disk: a record, perhaps,
            # that has not come through the stream.
            self._snapshot_due = self._snapshot_due or not self._journal.is_heard
        now = asyncio.get_running_loop().time()
        may_tell_all = now >= self._next_snapshot
        # Only who is told of behind where the other process begins can go on there.
        may_answer = may_tell_all and self._published >= self._asked_behind
        if self._is_asked and may_answer:
            self._is_asked, self._snapshot_due = False, True
        if self._snapshot_due or self._boot_due or self._journal.needs_snapshot:
            return may_tell_all
        is_silent = now - self._written_at > _SIGN_OF_LIFE
        return self._journal.is_due or self._mark_due or is_silent

    # How it is written

    async def write(
        self, *, boot: bool = False, passed: LSN | None = None, flush: bool = False
    ) -> bool:
        """Write a record; return whether that was possible.

        Args:
            boot: whether this process has just got its slot.
            passed: an LSN before which everything that committed was handed out; None unless the
                record is to be a snapshot. A client that has everything that was handed out when
                the record is made has everything up to this LSN, although the last change may be
                far behind.
            flush: whether to wait until the record is on the disk.
        """
        async with self._writing:
            boot, self._boot_due = boot or self._boot_due, False
            snapshot, self._snapshot_due = passed is not None or self._snapshot_due, False
            self._is_under_way = True
            is_whole = all_of_it = False
            before = self._messages.bytes
            try:
                async with asyncio.timeout(_LONGEST):
                    await self._messages.connected()
                    await self._check_origin()
                    await self._note_changes()
                    # From here on the task does not give way until the record is made, since the
                    # clients go on. Little has changed in the meantime.
                    for _ in self._before_write():
                        pass
                    self._note_places(passed, is_snapshot=snapshot)
                    all_of_it = boot or snapshot or self._journal.needs_snapshot
                    flush, self._mark_due = flush or self._mark_due, False
                    parts = self._journal.write(boot=boot, snapshot=snapshot)
                    await self._messages.write(parts, flush=flush)
                is_whole = True
            except TimeoutError:
                self._say(f"the database takes longer than {_LONGEST:.0f} s")
                return False
            except _NotYetError as exc:
                logger.debug("the journal of replay waits: %s", exc)
                return False
            except SourceError as exc:
                self._say(str(exc))
                return False
            finally:
                if not is_whole:
                    # Part of the record may be missing.
                    self._snapshot_due = True
                    self._boot_due = self._boot_due or boot
                self._pace(self._messages.bytes - before, is_whole and all_of_it)
            self._said = ""
            if self._journal.is_full and not self._has_said_full:
                self._has_said_full = True
                logger.warning(
                    "the journal of replay is full (REPLAY_WAL_MB says how many channels it may "
                    "have), so clients of further channels may begin anew after a restart"
                )
            self._written_at = asyncio.get_running_loop().time()
            self._is_under_way = not flush
            return True

    def _note_places(self, passed: LSN | None, *, is_snapshot: bool) -> None:
        """Note in the journal up to where the clients here have everything."""
        reached = self._reached
        if reached is None:
            return
        if passed is not None:
            self._journal.low(reached.lasting_here())
            self._journal.lift(reached.handed, (passed, -1))
        elif not self._is_restored.is_set():
            return
        elif self._passed is not None:
            # Who is told of here needs nothing from before.
            self._journal.lift(reached.handed, (self._passed(), -1))
        elif is_snapshot:
            # There may have been no changes for long, and the slot of a process that has just begun
            # begins behind the last one.
            self._journal.lift(reached.handed, (self._published, -1))

    async def _check_origin(self) -> None:
        """Prevent that places of the stream are written into the WAL of another cluster.

        Raises:
            SourceError: if the connection is to another cluster or timeline than the stream's, as
                it may be for a while when a standby is promoted.
        """
        stream, origin = self._stream(), self._messages.origin
        if stream is not None and origin == (stream.system_identifier, stream.timeline):
            self._elsewhere_since = None
            return
        # The next connection may lead to the same cluster.
        await self._messages.aclose()
        now = asyncio.get_running_loop().time()
        self._elsewhere_since = since = self._elsewhere_since or now
        if now - since < _PATIENCE:
            raise _NotYetError("the changes do not come from the same cluster and timeline yet")
        raise SourceError("it leads to another cluster or timeline than the changes come from")

    def _pace(self, size: int, is_snapshot: bool) -> None:
        """Bound the WAL that snapshots add, since new WAL makes the next one due."""
        until = asyncio.get_running_loop().time() + size / _SNAPSHOT_RATE
        self._next_snapshot = max(self._next_snapshot, until)
        if is_snapshot:
            self.snapshot_bytes = size

    def _say(self, why: str) -> None:
        """Log why a record could not be written, unless it was the reason last time."""
        if why != self._said:
            self._said = why
            logger.warning(
                "the journal of replay cannot be written, so clients may be told of a gap after a "
                "restart: %s",
                why,
            )
