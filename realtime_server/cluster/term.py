"""Term: one time in which a server leads, from having the slot to losing it, or the log.

Changes are read and packed while an envelope is on its way, so what comes meanwhile goes into the
next one, up to its limit. The slot may move only to what the log has had for some time: NATS
answers before what it has is on a disk, and a power cut may take the last seconds of it. Then the
slot has them still, and whoever leads goes on behind what the log has.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, Protocol

import attrs

from realtime_core import Gap, GapReason, Position, RawEvent, SourceStats

from .envelope import Envelope, Place
from .errors import FencedError, LogError, MissingError
from .log import LogState
from .nodes import Nodes
from .packer import Packed, Packer
from .stats import LeaderStats

__all__ = ["AppendLog", "RawSource", "Term", "first_to_end"]

logger = logging.getLogger("realtime.cluster")

_QUEUE_BYTES: Final = 4 * 1024 * 1024
"""How many bytes may wait to be appended before nothing more is read."""
_LOOK: Final = 1.0
"""Seconds between two looks at what may be acknowledged, and at servers that are behind."""


class AppendLog(Protocol):
    """What is needed here of a :class:`~.log.Log`."""

    def append(self, data: bytes, behind: int) -> Coroutine[Any, Any, int]: ...

    async def envelope_at(self, sequence: int) -> Envelope: ...

    async def state(self) -> LogState: ...


class RawSource(Protocol):
    """What is needed here of a RawPgoutputSource."""

    def batches(self) -> AsyncIterator[list[RawEvent]]: ...

    def ack(self, upto: Position) -> None: ...


@attrs.frozen
class _Appended:
    """What may be acknowledged when the log has had it for long enough."""

    due: float
    sequence: int
    place: Place
    upto: Position


class Term:
    """Passes on what a source yields to the log.

    Args:
        source: holds the slot.
        log: the log.
        packer: goes on where the log ends.
        sequence: of the log's last message.
        nodes: the servers that read the log.
        stats: counts.
        ack_delay: seconds for which the slot keeps what the log has taken.
        repeat: seconds after which the last place is appended once more while there are no
            changes, so that the log has something that says how far it goes.
        clock: seconds, which only grow.
    """

    def __init__(
        self,
        source: RawSource,
        log: AppendLog,
        packer: Packer,
        sequence: int,
        *,
        nodes: Nodes,
        stats: LeaderStats,
        ack_delay: float,
        repeat: float,
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._log = log
        self._packer = packer
        self._sequence = sequence
        self._nodes = nodes
        self._stats = stats
        self._ack_delay = ack_delay
        self._repeat = repeat
        self._clock = clock
        # What is to be appended, and its bytes.
        self._queue: deque[Packed] = deque()
        self._queued = 0
        # What is on its way to the log, and since when.
        self._under_way: tuple[Packed, float, asyncio.Task[int]] | None = None
        # What was appended and not acknowledged to the slot.
        self._unacknowledged: deque[_Appended] = deque()
        # Set when there may be something to append, and when there may be room again.
        self._something = asyncio.Event()
        self._room = asyncio.Event()

    def lag(self, source: SourceStats) -> int:
        """Return how many bytes of WAL are not in the log, of what the database has written.

        The slot is further behind, as it keeps for a while what the log has.

        Args:
            source: what the source counts.
        """
        wal_end = source.confirmed_lsn + source.lag_bytes
        has_all = not self._queue and not self._packer.size and self._under_way is None
        come = max(source.received_lsn, self._packer.last[1]) if has_all else self._packer.last[1]
        return max(wal_end - come, 0)

    def put(self, envelopes: list[Packed]) -> None:
        """Have envelopes appended behind those that are waiting."""
        self._queue += envelopes
        self._queued += sum(len(packed.data) for packed in envelopes)
        self._something.set()

    async def run(self) -> None:
        """Pass on changes until the source ends.

        Raises:
            FencedError: if another server has appended.
            LogError: if the log does not answer, or has lost what it had.
            RealtimeError: if the source cannot go on.
        """
        try:
            await first_to_end(self._read(), self._append_for_ever(), self._look_for_ever())
        finally:
            if self._under_way is not None:
                _, _, answer = self._under_way
                answer.cancel()
                await asyncio.gather(answer, return_exceptions=True)

    async def _read(self) -> None:
        feed = self._packer.feed
        async for batch in self._source.batches():
            self._packer.version = self._nodes.version(self._clock())
            for event in batch:
                if isinstance(event, Gap) and event.reason is GapReason.SLOT_MOVED:
                    # Whoever has moved it did so because the log had the changes. Whether it has
                    # them still is seen at its end, where the next term begins.
                    raise FencedError("another server has moved the slot")
                envelopes = feed(event)
                if envelopes:
                    self.put(envelopes)
            self._append_next()
            self._something.set()
            while self._queued > _QUEUE_BYTES:
                self._room.clear()
                await self._room.wait()
            await self._hold_back()

    async def _hold_back(self) -> None:
        """Wait while a server is too far behind."""
        node = self._nodes.holding_back(self._clock())
        if node is None:
            return
        logger.warning("reading no more changes, since the server %s is behind in the log", node)
        # If the log has let go of parts of a change, the server has to pass over the rest of them.
        # It says that it has done so when it comes to something whole, of which there is no more.
        self.put([*self._packer.flush(), self._packer.repeat()])
        began = now = self._clock()
        while node is not None:
            await asyncio.sleep(_LOOK / 10)
            self._stats.held_back_seconds += self._clock() - now
            now = self._clock()
            node = self._nodes.holding_back(now)
        logger.info("reading changes again after %.1f s", now - began)

    async def _append_for_ever(self) -> None:
        # The first one has only the sequence to keep it from going behind another one than it was
        # made for, if the log has lost its end since that was looked at. So it goes at once.
        last = self._clock() - self._repeat
        while True:
            self._append_next()
            if self._under_way is not None:
                await self._appended(*self._under_way)
                last = self._clock()
                continue
            self._something.clear()
            try:
                async with asyncio.timeout(max(last + self._repeat - self._clock(), 0)):
                    await self._something.wait()
            except TimeoutError:
                self.put([self._packer.repeat()])

    def _append_next(self) -> None:
        """Send the next envelope to the log, unless one is under way, or there is none."""
        if self._under_way is not None:
            return
        if not self._queue:
            self.put(self._packer.flush())
        if self._queue:
            packed = self._queue.popleft()
            self._queued -= len(packed.data)
            if self._queued <= _QUEUE_BYTES:
                self._room.set()
            answer = asyncio.ensure_future(self._log.append(packed.data, self._sequence))
            self._under_way = packed, self._clock(), answer

    async def _appended(self, packed: Packed, began: float, answer: asyncio.Task[int]) -> None:
        """Wait until the log has an envelope."""
        stats = self._stats
        try:
            self._sequence = await answer
        except FencedError:
            stats.fenced += 1
            raise
        self._under_way = None
        now = self._clock()
        stats.appends += 1
        stats.append_seconds += now - began
        self._nodes.appended(self._sequence, len(packed.data))
        if packed.upto is not None:
            self._unacknowledged.append(
                _Appended(now + self._ack_delay, self._sequence, packed.last, packed.upto)
            )

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            await self.acknowledge()

    async def acknowledge(self) -> None:
        """Acknowledge to the slot what the log has had for long enough, and still has.

        Raises:
            LogError: if the log has lost it, or does not say.
        """
        now, waiting = self._clock(), self._unacknowledged
        newest: _Appended | None = None
        while waiting and waiting[0].due <= now:
            newest = waiting.popleft()
        if newest is None:
            return
        try:
            has_it = (await self._log.envelope_at(newest.sequence)).last == newest.place
        except MissingError:
            state = await self._log.state()
            # Otherwise it has only been there for as long as the log keeps anything.
            has_it = newest.sequence < state.first and newest.sequence <= state.last
        if not has_it:
            raise LogError(
                f"the log has lost message {newest.sequence}, which it had taken: what the slot "
                "still has is appended anew"
            )
        self._source.ack(newest.upto)


async def first_to_end(*coroutines: Coroutine[Any, Any, Any]) -> None:
    """Run coroutines beside each other until one ends, and end the others.

    Raises:
        Exception: what the one has raised.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
