"""SecondSlotPast: what clients of former processes have missed, in the second slot."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Final

from realtime_core import LSN, Event, LogicalMessage
from realtime_core.errors import DecodeError, SlotLostError, SourceError

from .past import Telling
from .places import Place
from .second_slot import SecondSlot
from .second_slot_reader import SecondSlotSource, read_second_slot

__all__ = ["SecondSlotPast"]

logger = logging.getLogger("realtime.replay")

_SNAPSHOTS_APART: Final = 4
"""The slot is moved when there is so many times as much new WAL as the snapshots of all processes
take."""


class SecondSlotPast:
    """Reads the second slot once, and looks after it.

    Args:
        second_slot: keeps the second slot.
        open_source: returns a new source on the second slot, with all messages that are not
            transactional, and the boundaries of transactions; it never acknowledges anything.
        keeps: whether this process looks after the second slot; otherwise another one does that
            shares it.
        passed: for a process that shares the slots: returns an LSN before which it has handed out
            everything that committed. The second slot may begin behind the last change.
    """

    read_older = None

    def __init__(
        self,
        second_slot: SecondSlot,
        open_source: Callable[[], SecondSlotSource],
        *,
        keeps: bool = True,
        passed: Callable[[], LSN] | None = None,
    ) -> None:
        self.floor: Place | None = None
        self._second_slot = second_slot
        self._open_source = open_source
        self._keeps = keeps
        self._passed = passed
        # Where the second slot began when it was looked at last, if another process keeps it.
        self._seen_begin = LSN(0)

    @property
    def wal_bytes(self) -> int:
        return self._second_slot.wal_bytes

    @property
    def lost(self) -> int:
        return self._second_slot.lost

    async def read(
        self,
        begin: Place,
        read_message: Callable[[LogicalMessage], Awaitable[None]],
        needed: Callable[[], Place | None],
    ) -> AsyncGenerator[Sequence[Event], None]:
        if await self._second_slot.find() is None:
            return
        slot_begins: LSN | None = None

        async def look() -> None:
            # While this waited for the slot, the process that used it may have moved it.
            nonlocal slot_begins
            slot = await self._second_slot.find()
            slot_begins = None if slot is None else slot.confirmed_flush_lsn

        older = read_second_slot(
            self._open_source,
            begin,
            read_message,
            slot=self._second_slot.name,
            on_open=look,
            is_shared=self._passed is not None,
        )
        try:
            async with contextlib.aclosing(older) as batches:
                async for events in batches:
                    yield events
        except (SlotLostError, DecodeError) as exc:
            await self._second_slot.give_up(str(exc))
            return
        if slot_begins is not None:
            self.floor = (min(slot_begins, LSN(begin[0])), -1)

    async def keep(self, telling: Telling) -> None:
        if not self._keeps:
            await self._follow_slot(telling)
            return
        await self._second_slot.keep(
            telling.needed,
            telling.tell_all,
            # All processes write a snapshot when they move their slots.
            least_step=_SNAPSHOTS_APART * telling.snapshot_bytes,
        )

    def ended(self, slots: Collection[bytes]) -> Collection[bytes]:
        # Whoever gets the slot of another process says so.
        return ()

    async def _follow_slot(self, telling: Telling) -> None:
        """Tell of all channels again if the process that keeps the second slot has moved it."""
        assert self._passed is not None
        try:
            slot = await self._second_slot.find()
        except SourceError as exc:
            logger.debug("slot %r cannot be looked after: %s", self._second_slot.name, exc)
            return
        if slot is None or slot.confirmed_flush_lsn == self._seen_begin:
            return
        if await telling.tell_all(self._passed()):
            self._seen_begin = slot.confirmed_flush_lsn
