"""Durable: keeps a second slot and a journal, so that clients can come back after a restart.

The second slot (:mod:`.second_slot`) keeps changes in the WAL. The journal (:mod:`.journal`), which
is in the WAL, too, says which clients need them. A process that begins reads both from the second
slot, once, up to the LSN at which the main stream begins (:mod:`.window`). From there on the main
stream brings the changes, and the records that all processes write into the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Final, Protocol

from realtime_core import LSN, Event, LogicalMessage, StreamIdentity
from realtime_core.errors import DecodeError, SlotLostError, SourceError

from ..fanout.turns import Turn
from .journal import Journal, OtherChannel
from .journal_reader import JournalReader
from .places import Place
from .second_slot import SecondSlot
from .wal_messages import WalMessages
from .window import WindowSource, read_window

__all__ = ["Durable", "Reached"]

logger = logging.getLogger("realtime.replay")

_TOGETHER: Final = 0.1
"""Seconds from one record to the next, at least: entries wait for each other."""
_PAUSE: Final = 1.0
"""Seconds from one attempt to write a record to the next."""
_INTERVAL: Final = 30.0
"""The most seconds from one look at the second slot to the next."""
_LONGEST: Final = 60.0
"""Seconds that a record may take to be written."""
_SNAPSHOT_RATE: Final = 2_000_000
"""Bytes of WAL a second that snapshots take at most, without those that are written before the slot
is moved."""
_SNAPSHOTS_APART: Final = 4
"""The slot is moved when there is so many times as much new WAL as the snapshots of all processes
take."""
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


class Durable:
    """The journal and the second slot of one server process.

    Args:
        journal: the journal of this process. What is noted there is written soon.
        messages: writes the journal's records.
        second_slot: keeps the second slot.
        open_window: returns a new source on the second slot, with all messages that are not
            transactional, and the boundaries of transactions; it never acknowledges anything.
        window: seconds for which a client may be away.
        stream: returns the stream that places belong to; None while that is not known. A record is
            written only where that stream comes from.
        reconnects: returns how often the stream was started again after its connection had broken.
        before_write: notes what has changed before a record is made, and yields now and then.
        on_expired: called with other processes' channels whose clients were away for too long.
        keeps: whether this process looks after the second slot; otherwise another one does that
            shares it.
        passed: for a process that shares the slots: returns an LSN before which it has handed out
            everything that committed. The second slot may begin behind the last change.
    """

    def __init__(
        self,
        journal: Journal,
        messages: WalMessages,
        second_slot: SecondSlot,
        open_window: Callable[[], WindowSource],
        *,
        window: float,
        stream: Callable[[], StreamIdentity | None],
        reconnects: Callable[[], int],
        before_write: Callable[[], Iterator[None]] = lambda: iter(()),
        on_expired: Callable[[Sequence[OtherChannel]], None] = lambda members: None,
        keeps: bool = True,
        passed: Callable[[], LSN] | None = None,
    ) -> None:
        self.journal = journal
        """The journal of this process."""
        self._messages = messages
        self.second_slot = second_slot
        """The second slot."""
        self._open_window = open_window
        self._window_seconds = window
        self._stream = stream
        self._reconnects = reconnects
        # How many reconnects there had been when it was last looked at what they may have lost.
        self._reconnected = 0
        self._before_write = before_write
        self._on_expired = on_expired
        self._keeps = keeps
        self._passed = passed
        self._reached: Reached | None = None
        # Where the second slot began when it was looked at last, if another process keeps it.
        self._seen_begin = LSN(0)
        self._reader = JournalReader(journal)
        self.caught_up = self._reader.caught_up
        """Set when everything was read that was written before this process has got its slot."""
        self.window_begin: LSN | None = None
        """The LSN from which on everything was read from the second slot; None if nothing was, or
        not all."""
        # Whether everything was read that is older than the main stream.
        self._is_restored = False
        # One record at a time: its parts must not be between those of another.
        self._writing = asyncio.Lock()
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
        # Behind which message of the stream everything is published, which message has come, and
        # which one had when another process last began.
        self._published = self._come = self._asked_behind = LSN(0)
        # The time until which the next snapshot has to wait.
        self._next_snapshot = 0.0
        # When the last record was written, by the event loop's clock.
        self._written_at = 0.0
        self._has_said_full = False
        # The time since which the journal's connection leads elsewhere than the stream; None if it
        # does not.
        self._elsewhere_since: float | None = None
        journal.on_boot = self._boot_seen

    @property
    def journal_bytes(self) -> int:
        """Bytes of the records that were written."""
        return self._messages.bytes

    # While the server runs

    async def run(self, reached: Reached) -> None:
        """Write the journal and move the second slot until this is cancelled.

        Args:
            reached: knows the places of the clients.
        """

        async def before_move(passed: LSN) -> bool:
            # What others have written may be gone afterwards, and has to be in what is written now.
            await self._reader.idle()
            return await self._write(passed=passed, reached=reached, flush=True)

        self._reached = reached
        self.second_slot.before_move = before_move
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reader.run())
            group.create_task(self._write_for_ever())
            group.create_task(self._keep_for_ever(reached.first_needed_lsn))

    def read(self, message: LogicalMessage) -> None:
        """Queue a message of the main stream for the journal."""
        self._come = max(self._come, message.lsn)
        self._reader.take(message)

    def published(self) -> None:
        """Note that everything has been handed out that came before, or with, the messages."""
        self._published = self._come

    def _boot_seen(self, is_same_slot: bool) -> None:
        # What was written before this process began needs no answer.
        if self.caught_up.is_set():
            self._is_asked = True
            self._asked_behind = self._come
            # The other one has lost the slot, since the stream comes here.
            self._boot_due = self._boot_due or is_same_slot

    # A process begins

    async def wal_end(self) -> LSN:
        """Return the LSN at which the WAL ends now, as soon as the database can be asked."""
        while True:
            try:
                return await self._messages.wal_end()
            except SourceError as exc:
                logger.debug("the end of the WAL is not known yet: %s", exc)
            await asyncio.sleep(_PAUSE)

    async def restore(self, begin: Place) -> AsyncGenerator[Sequence[Event], None]:
        """Read the changes that clients of former processes may have missed from the second slot.

        What fails is logged, and then there is less, or nothing.

        Args:
            begin: the place behind which the main stream has everything.

        Yields:
            Batches of events up to ``begin``.
        """
        try:
            if not await self._write_boot():
                # Without a beginning nobody can tell the end of what was written before.
                self.caught_up.set()
            elif await self.second_slot.find() is not None:
                slot_begins: LSN | None = None

                async def look() -> None:
                    # While this waited for the slot, the process that used it may have moved it.
                    nonlocal slot_begins
                    slot = await self.second_slot.find()
                    slot_begins = None if slot is None else slot.confirmed_flush_lsn

                window = read_window(
                    self._open_window,
                    begin,
                    self._reader.read_older,
                    slot=self.second_slot.name,
                    on_open=look,
                    is_shared=self._passed is not None,
                )
                async with contextlib.aclosing(window) as batches:
                    async for events in batches:
                        yield events
                if slot_begins is not None:
                    self.window_begin = min(slot_begins, LSN(begin[0]))
        except (SlotLostError, DecodeError) as exc:
            await self.second_slot.give_up(str(exc))
        except SourceError as exc:
            logger.error("what clients have missed cannot be read: %s", exc)
        finally:
            self._is_restored = True
            self._reader.begin()

    async def _write_boot(self) -> bool:
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while not await self._write(boot=True, flush=True):
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(_PAUSE)
        return True

    # Writing

    async def aclose(self) -> None:
        """Write a last record, wait until it is on the disk, and close the connection.

        A database that does not answer is given up after two seconds. To end the statement that
        runs there may take ten seconds more.
        """
        await self._note_changes()
        if self.journal.is_due or self._is_under_way:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOPPING):
                    await self._write(flush=True)
        await self._messages.aclose()

    async def _write_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_TOGETHER)
            if not self._is_restored:
                continue
            await self._note_changes()
            if self._is_due() and not await self._write():
                await asyncio.sleep(_PAUSE)

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
            self._snapshot_due = self._snapshot_due or not self.journal.is_heard
        now = asyncio.get_running_loop().time()
        may_tell_all = now >= self._next_snapshot
        # Only who is told of behind where the other process begins can go on there.
        may_answer = may_tell_all and self._published >= self._asked_behind
        if self._is_asked and may_answer:
            self._is_asked, self._snapshot_due = False, True
        if self._snapshot_due or self._boot_due or self.journal.needs_snapshot:
            return may_tell_all
        return self.journal.is_due or now - self._written_at > _SIGN_OF_LIFE

    async def _write(
        self,
        *,
        boot: bool = False,
        passed: LSN | None = None,
        reached: Reached | None = None,
        flush: bool = False,
    ) -> bool:
        """Write a record; return whether that was possible.

        Args:
            boot: whether this process has just got its slot.
            passed: an LSN before which everything that committed was handed out; None unless the
                record is to be a snapshot. A client that has everything that was handed out when
                the record is made has everything up to this LSN, although the last change may be
                far behind.
            reached: knows the places of the clients; given together with ``passed``.
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
                    if passed is not None and reached is not None:
                        self.journal.low(reached.lasting_here())
                        self.journal.lift(reached.handed, (passed, -1))
                    elif self._passed and self._reached and self._is_restored:
                        # Who is told of here needs nothing from before.
                        self.journal.lift(self._reached.handed, (self._passed(), -1))
                    elif self._reached and self._is_restored and snapshot:
                        # There may have been no changes for long, and the slot of a process that
                        # has just begun begins behind the last one.
                        self.journal.lift(self._reached.handed, (self._published, -1))
                    all_of_it = boot or snapshot or self.journal.needs_snapshot
                    parts = self.journal.write(boot=boot, snapshot=snapshot)
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
            if self.journal.is_full and not self._has_said_full:
                self._has_said_full = True
                logger.warning(
                    "the journal of replay is full (REPLAY_WAL_MB says how many channels it may "
                    "have), so clients of further channels may begin anew after a restart"
                )
            self._written_at = asyncio.get_running_loop().time()
            self._is_under_way = not flush
            return True

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

    def begin_anew(self) -> None:
        """Forget the places of the former stream, which cannot be compared with those of this
        one."""
        self.journal.begin_anew()
        self._published = self._come = self._asked_behind = LSN(0)
        self._boot_due = True

    def _pace(self, size: int, is_snapshot: bool) -> None:
        """Bound the WAL that snapshots add, since new WAL makes the next one due."""
        until = asyncio.get_running_loop().time() + size / _SNAPSHOT_RATE
        self._next_snapshot = max(self._next_snapshot, until)
        if is_snapshot:
            # All processes write one when they move their slots.
            self.second_slot.least_step = _SNAPSHOTS_APART * size * self.journal.processes

    def _say(self, why: str) -> None:
        if why != self._said:
            self._said = why
            logger.warning(
                "the journal of replay cannot be written, so clients may be told of a gap after a "
                "restart: %s",
                why,
            )

    async def _follow_slot(self) -> None:
        """Tell of all channels again if the process that keeps the second slot has moved it."""
        assert self._passed is not None
        try:
            slot = await self.second_slot.find()
        except SourceError as exc:
            logger.debug("slot %r cannot be looked after: %s", self.second_slot.name, exc)
            return
        if slot is not None and slot.confirmed_flush_lsn != self._seen_begin:
            passed = self._passed()
            if await self._write(passed=passed, reached=self._reached):
                self._seen_begin = slot.confirmed_flush_lsn

    async def _keep_for_ever(self, needed: Callable[[], LSN | None]) -> None:
        while True:
            if not self._is_restored:
                # The slot must not be moved before it was read.
                await asyncio.sleep(_TOGETHER)
                continue
            turn = Turn()
            for _ in self.journal.tidying():
                await turn.give_way()
            while (expired := self.journal.expire(self._window_seconds)) is not None:
                self._on_expired(expired)
                await asyncio.sleep(0)
            if self._keeps:
                await self.second_slot.keep(needed)
            else:
                await self._follow_slot()
            await asyncio.sleep(min(self._window_seconds / 10, _INTERVAL))
