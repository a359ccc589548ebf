"""Consumer: one of several readers of a source, with its own queue and acknowledgements."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import attrs

from ..changes import Begin, Commit, Gap
from ..errors import ConsumerDroppedError
from ..positions import Position
from ..snapshot import BackfillStep, Snapshot, SnapshotBegin, SnapshotComplete
from ._argument_errors import position_of
from ._batches import PLACELESS
from ._queue import EventQueue
from .base import Acknowledgeable, E, SourceStats

if TYPE_CHECKING:
    from .fan_out import FanOut

__all__ = ["Consumer", "ConsumerStats"]

logger = logging.getLogger("realtime.source")

Key: TypeAlias = tuple[int, int, int]
"""Orders places across streams: the stream's number, LSN, index."""
NOTHING: Final[Key] = (0, 0, 0)
"""The key before all others: streams are numbered from 1."""
_PLACELESS: Final = PLACELESS | {Begin}


@attrs.frozen(kw_only=True)
class ConsumerStats(SourceStats):
    """The source's statistics, and how far a consumer is behind."""

    waiting_events: int = 0
    """How many events of the source wait for the consumer."""
    waiting_bytes: int = 0
    """How many bytes they have, counted as for :meth:`ChangeSource.transactions`."""
    acknowledged: Position | None = None
    """The position up to which the consumer has acknowledged; None before the first time."""


class Consumer(EventQueue[E]):
    """A consumer of a :class:`FanOut`, which is read as a source is.

    All of :class:`ChangeSource` holds for it: ``async for``, :meth:`batches` and
    :meth:`transactions`, cancelled reads, and :meth:`ack`. The slot moves to what all consumers
    have acknowledged.

    A consumer counts until :meth:`aclose`, whether its task runs or not. Of an ``async with`` block
    that ends without an exception, it closes. With one, it stops to read, and the slot stays where
    it has acknowledged, so that the next process gets the rest again.
    """

    def __init__(
        self,
        fan_out: FanOut[E],
        name: str,
        on_full: Literal["wait", "drop"],
        start: Key,
        former: Any,
        *,
        begins_inside: bool,
        auto_ack: bool,
    ) -> None:
        super().__init__(boundaries=fan_out._source._boundaries, auto_ack=auto_ack)
        self._classes = fan_out._source._classes
        self.name: Final = name
        """The consumer's name."""
        self.waiting_events = 0
        """How many events wait for it, besides those that it has begun to read."""
        self.waiting_bytes = 0
        """How many bytes these have."""
        self._fan_out = fan_out
        self._on_full: Final = on_full
        # What was given and is not in the queue yet: events, and their bytes.
        self._waiting: deque[tuple[list[Any], int]] = deque()
        # Up to where it has acknowledged, and what it has named then.
        self._acknowledged = start
        self._acknowledged_event: Any = former
        # The last place that it was given.
        self._given = start
        # Whether the next event belongs to what had begun before it came.
        self._skips = begins_inside
        # Whether a snapshot was given, in which there are no positions.
        self._had_snapshot = False
        # Whether it was logged that it is behind.
        self._is_behind = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            await super().__aexit__(exc_type, exc, traceback)
        elif not self._closed:
            behind = self._acknowledged_position or "the place where it began"
            if issubclass(exc_type, Exception):
                logger.error(
                    "consumer %r ended by %s: the slot keeps what it has not acknowledged, "
                    "behind %s",
                    self.name,
                    exc_type.__name__,
                    behind,
                )
            else:
                # A program is stopped so.
                logger.info(
                    "consumer %r was cancelled: the slot keeps what it has not acknowledged, "
                    "behind %s",
                    self.name,
                    behind,
                )
            self._stop(failed=True)

    async def aclose(self) -> None:
        """Stop reading; the slot no longer waits for what this consumer has not acknowledged."""
        if not self._closed:
            self._stop(failed=False)

    def _stop(self, *, failed: bool) -> None:
        self._closed = True
        self._queue.clear()
        self._discard()
        self._fan_out._leave(self, failed=failed)

    def _discard(self) -> None:
        self._waiting.clear()
        self._has_rest = False
        self.waiting_events = self.waiting_bytes = 0

    # Reading

    @property
    def _connected(self) -> bool:
        return self._fan_out._source._connected

    async def _connect(self) -> None:
        await self._fan_out._source.attached()

    async def _fill(self) -> None:
        if not self._waiting:
            await self._fan_out._change()
            return
        events, size = self._waiting.popleft()
        self.waiting_events -= len(events)
        self.waiting_bytes -= size
        self._has_rest = bool(self._waiting)
        self._queue.extend(events)
        if not self._waiting and self._is_behind:
            self._is_behind = False
            logger.info("consumer %r has caught up", self.name)
        # Others may wait for it to take some.
        self._fan_out._wake()

    # What the fan-out does with it

    def _give(self, events: list[Any], size: int) -> None:
        if self._skips:
            events = self._behind_begun(events)
        if not events:
            return
        self._waiting.append((events, size))
        self._has_rest = True
        self.waiting_events += len(events)
        self.waiting_bytes += size
        placeless = _PLACELESS if self._boundaries else _PLACELESS | {Commit}
        for event in reversed(events):
            kind = type(event)
            if kind is SnapshotBegin:
                self._had_snapshot = True
            elif kind not in placeless:
                self._given = self._fan_out._key(event.position) or self._given
                break

    def _behind_begun(self, events: list[Any]) -> list[Any]:
        """Return what is behind the transaction or snapshot in which the consumer came."""
        for number, event in enumerate(events):
            if isinstance(event, Begin | SnapshotBegin | Gap):
                self._skips = False
                return events[number:]
            if isinstance(event, Commit | SnapshotComplete):
                self._skips = False
                return events[number + 1 :]
        return []

    def _drop(self) -> None:
        waiting = self.name, self.waiting_events, self.waiting_bytes
        logger.error("consumer %r was dropped: %d events of %d bytes waited for it", *waiting)
        self._error = ConsumerDroppedError(*waiting)
        self._discard()

    def _tell_behind(self) -> None:
        if not self._is_behind:
            self._is_behind = True
            logger.warning(
                "consumer %r is behind: %d events of %d bytes wait for it, and nothing is read for "
                "the others until it takes some",
                self.name,
                self.waiting_events,
                self.waiting_bytes,
            )

    # Acknowledging

    @property
    def _is_done(self) -> bool:
        """Whether it has acknowledged all that it was given."""
        return self._acknowledged >= self._given

    def ack(self, upto: Acknowledgeable) -> None:
        """Acknowledge everything up to and including ``upto``, for this consumer.

        The source is acknowledged what all consumers have acknowledged.

        Raises:
            PositionMismatchError: if ``upto`` belongs to another stream.
            ValueError: if it lies behind the last event that was handed over.
            TypeError: if it has no position.
        """
        if isinstance(upto, Begin | Gap | Snapshot | SnapshotBegin | BackfillStep):
            return
        fan_out = self._fan_out
        position = position_of(upto)
        key = fan_out._key(position)
        if key is None:
            # The source knows what a position of a stream means of which nothing has come.
            fan_out._source.ack(upto)
            return
        if upto is not self._handed and not self._may_acknowledge(key):
            raise ValueError(f"cannot acknowledge {position}: it was not handed over yet")
        if key > self._acknowledged:
            self._acknowledged = key
            self._acknowledged_event = upto
            fan_out._advance()

    def _may_acknowledge(self, key: Key) -> bool:
        if self._handed is None:
            return self._had_snapshot
        handed = self._fan_out._key(self._handed.position)
        return handed is not None and key <= handed

    @property
    def _acknowledged_position(self) -> Position | None:
        event = self._acknowledged_event
        return None if event is None else position_of(event)

    def stats(self) -> SourceStats:
        """Return the source's counters and positions, and how far this consumer is behind."""
        stats: Sequence[Any] = attrs.astuple(self._fan_out._source.stats(), recurse=False)
        names = [field.name for field in attrs.fields(SourceStats)]
        return ConsumerStats(
            **dict(zip(names, stats, strict=True)),
            waiting_events=self.waiting_events,
            waiting_bytes=self.waiting_bytes,
            acknowledged=self._acknowledged_position,
        )
