"""Durable: keeps a journal, and what clients may need, so that they can come back after a restart.

The journal (:mod:`.journal`), which is in the WAL among the changes, says which clients need them.
A process that begins reads both from the past (:mod:`.past`), up to the place at which the stream
begins. From there on the stream brings the changes, and the records that all processes write into
the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from typing import Final

from realtime_core import LSN, Event, LogicalMessage, StreamIdentity
from realtime_core.errors import RealtimeError, SourceError

from ..fanout.turns import Turn
from .journal import Journal, OtherChannel
from .journal_reader import JournalReader
from .journal_writer import JournalWriter, Reached
from .past import Past, Telling
from .places import Place
from .wal_messages import WalMessages

__all__ = ["Durable"]

logger = logging.getLogger("realtime.replay")

_PAUSE: Final = 1.0
"""Seconds from one attempt to ask for the end of the WAL to the next."""
_INTERVAL: Final = 30.0
"""The most seconds from one look at what is kept to the next."""


class Durable:
    """The journal of one server process, and the past that it begins with.

    Args:
        journal: the journal of this process. What is noted there is written soon.
        messages: writes the journal's records.
        past: keeps the changes and the journal's records.
        window: seconds for which a client may be away.
        stream: returns the stream that places belong to; None while that is not known. A record is
            written only where that stream comes from.
        reconnects: returns how often the stream was started again after its connection had broken.
        before_write: notes what has changed before a record is made, and yields now and then.
        on_expired: called with other processes' channels whose clients were away for too long.
        passed: for a process that shares its slot: returns an LSN before which it has handed out
            everything that committed. The past may begin behind the last change.
    """

    def __init__(
        self,
        journal: Journal,
        messages: WalMessages,
        past: Past,
        *,
        window: float,
        stream: Callable[[], StreamIdentity | None],
        reconnects: Callable[[], int],
        before_write: Callable[[], Iterator[None]] = lambda: iter(()),
        on_expired: Callable[[Sequence[OtherChannel]], None] = lambda members: None,
        passed: Callable[[], LSN] | None = None,
    ) -> None:
        self.journal = journal
        """The journal of this process."""
        self._messages = messages
        self._writer = JournalWriter(
            journal,
            messages,
            stream=stream,
            reconnects=reconnects,
            before_write=before_write,
            passed=passed,
        )
        self.past = past
        """Keeps the changes and the journal's records."""
        self._window = window
        self._on_expired = on_expired
        self._reader = JournalReader(journal)
        self.caught_up = self._reader.caught_up
        """Set when everything was read that was written before this process has got its slot."""
        self.restored_from: Place | None = None
        """The place behind which everything was read from the past; None if nothing was, or not
        all."""
        self.on_read: Callable[[], None] = lambda: None
        """Called when more of the journal was read."""
        self._reader.on_read = lambda: self.on_read()
        # Set when everything was read that is older than the main stream.
        self._is_restored = asyncio.Event()
        journal.on_boot = self._boot_seen

    @property
    def journal_bytes(self) -> int:
        """Bytes of the records that were written."""
        return self._messages.bytes

    @property
    def heard(self) -> int:
        """The number of the last record of this process that was read."""
        return self.journal.heard

    @property
    def has_company(self) -> bool:
        """Whether other processes write into the journal."""
        return len(set(self.journal.writers)) > 1

    def mark(self) -> int:
        """Have a record written soon; return its number. What is in the journal by now was read
        when it was."""
        self._writer.mark()
        return self.journal.number + 1

    # While the server runs

    async def run(self, reached: Reached) -> None:
        """Write the journal and look after what is kept until this is cancelled.

        Args:
            reached: knows the places of the clients.
        """

        async with asyncio.TaskGroup() as group:
            group.create_task(self._reader.run())
            group.create_task(self._writer.run(reached))
            group.create_task(self._keep(reached.first_needed_lsn))

    def read(self, message: LogicalMessage) -> None:
        """Queue a message of the main stream for the journal."""
        self._writer.come(message.lsn)
        self._reader.take(message)

    def tell_and_ask(self) -> None:
        """Have all processes tell everything again, as records may be lost."""
        self._writer.tell_and_ask()

    def published(self) -> None:
        """Note that everything has been handed out that came before, or with, the messages."""
        self._writer.published()

    def _boot_seen(self, is_same_slot: bool) -> None:
        # What was written before this process began needs no answer.
        if self.caught_up.is_set():
            self._writer.answer_boot(is_same_slot=is_same_slot)

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
        """Read the changes that clients of former processes may have missed from the past.

        What fails is logged, and then there is less, or nothing.

        Args:
            begin: the place behind which the main stream has everything.

        Yields:
            Batches of events up to ``begin``.
        """
        try:
            if not await self._writer.write_boot():
                # Without a beginning nobody can tell the end of what was written before.
                self.caught_up.set()
                return
            older = self.past.read(begin, self._reader.read_older, self.journal.lowest)
            async with contextlib.aclosing(older) as batches:
                async for events in batches:
                    yield events
            self.restored_from = self.past.floor
        except RealtimeError as exc:
            logger.error("what clients have missed cannot be read: %s", exc)
        finally:
            self._is_restored.set()
            self._reader.begin()
            self._writer.begin()

    # A process ends, or the stream becomes another one

    async def end_slots(self, slots: Collection[bytes]) -> None:
        """Note that the processes have ended that have had some slots, which nobody gets any more.

        What fails is logged. Then these processes count as ended when they have been silent for a
        day.

        Args:
            slots: the slots, as records name them.
        """
        await self._writer.write_boots(slots)

    async def aclose(self) -> None:
        """Write a last record, wait until it is on the disk, and close the connection.

        A database that does not answer is given up after two seconds. To end the statement that
        runs there may take ten seconds more.
        """
        await self._writer.aclose()

    def begin_anew(self) -> None:
        """Forget the places of the former stream, which cannot be compared with those of this
        one."""
        self.journal.begin_anew()
        self._writer.begin_anew()

    # What is kept

    async def _keep(self, needed: Callable[[], LSN | None]) -> None:
        """Look after what is kept and the channels of other processes; never return."""
        # What is there must not go before it was read.
        await self._is_restored.wait()
        journal = self.journal
        while True:
            turn = Turn()
            for _ in journal.tidying():
                await turn.give_way()
            while (expired := journal.expire(self._window)) is not None:
                self._on_expired(expired)
                await asyncio.sleep(0)
            if ended := self.past.ended(journal.slots):
                await self._writer.write_boots(ended)
            await self.past.keep(
                Telling(
                    needed,
                    self._tell_all,
                    journal.has_channels,
                    self._writer.snapshot_bytes * len(journal.writers),
                )
            )
            await asyncio.sleep(min(self._window / 10, _INTERVAL))

    async def _tell_all(self, passed: LSN) -> bool:
        """Write all that is known into the WAL before some of what is kept goes."""
        # What others have written may be gone afterwards, and has to be in what is written now.
        await self._reader.idle()
        return await self._writer.write(passed=passed, flush=True)
