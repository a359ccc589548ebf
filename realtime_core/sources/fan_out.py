"""FanOut: several consumers of one source, each with its own pace and its own acknowledgements.

Theory of operation. When a consumer has nothing left to read, a task reads the source once and
gives what has come to every consumer: the events are shared, and each consumer has a queue of its
own for them. A :class:`Consumer` is a source to its reader, so it is read in all the ways in which
sources are. What all consumers have acknowledged is acknowledged to the source. A consumer that has
acknowledged all that it was given holds nothing back.

Places are compared by keys, which begin with the number of the stream. After a failover, or at
another cluster, LSNs may be lower than before.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Final, Generic, Literal, TypeAlias

from ..changes import Begin, Commit, Gap
from ..errors import ConfigError
from ..positions import Position, StreamIdentity
from ..snapshot import SnapshotBegin, SnapshotComplete
from ._batches import PLACELESS, last_placed
from ._queue import EventQueue
from ._sizes import size_of
from .base import E
from .consumer import NOTHING, Consumer, Key

__all__ = ["FanOut"]

_MANY: Final = 64
"""How many events are given at once although more were read."""
_BEGINS: Final = frozenset((Begin, SnapshotBegin))
_ENDS: Final = frozenset((Commit, SnapshotComplete, Gap))

_Identity: TypeAlias = tuple[int, int, tuple[str, ...]] | None


class FanOut(Generic[E]):
    """Gives the events of one source to several consumers; ``source.fan_out()`` makes it.

    Example::

        async with PgoutputSource(dsn, publications=["shop"], slot="shop") as source:
            fan_out = source.fan_out()
            search, mail = fan_out.consumer("search"), fan_out.consumer("mail")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(index(search))
                tasks.create_task(send(mail))

    The source is read when a consumer wants more, and by nothing else: its own ways of reading
    raise RuntimeError. It has one fan-out, and its option ``auto_ack`` is that of each consumer. An
    error of the source ends the fan-out: each consumer raises it behind what it was given before.

    Args:
        source: the source.
        max_events: how many events may wait for a consumer. What one read of the source brings
            may exceed it.
        max_bytes: how many bytes they may have, counted as for :meth:`ChangeSource.transactions`.

    Raises:
        ConfigError: if a bound is not above 0.
    """

    def __init__(self, source: EventQueue[E], *, max_events: int, max_bytes: int) -> None:
        problems = [
            f"{name} is a number above 0, not {value}"
            for name, value in (("max_events", max_events), ("max_bytes", max_bytes))
            if not 0 < value < math.inf
        ]
        if problems:
            raise ConfigError(problems)
        self._source = source
        self._max_events = max_events
        self._max_bytes = max_bytes
        # The source's own must not acknowledge what consumers have not.
        self._auto_ack, source._auto_ack = source._auto_ack, False
        # They would get what it reads itself, too, or it what is theirs.
        source._prepares = True
        # The consumers that get what comes.
        self._consumers: list[Consumer[E]] = []
        # Those that left by an exception: the slot stays where they have acknowledged.
        self._failed: list[Consumer[E]] = []
        # Reads the source; None while nobody wants more.
        self._task: asyncio.Task[None] | None = None
        # The consumers' reads that wait for something to change.
        self._waits: set[asyncio.Future[None]] = set()
        # What ends the fan-out; StopAsyncIteration where the source was closed.
        self._end: Exception | None = None
        # Whether what was given last is within a transaction or a snapshot.
        self._inside = False
        # The stream of the latest events: the object, what it says, and the number of it.
        self._stream: StreamIdentity | None = None
        self._numbers: dict[_Identity, int] = {}
        self._latest: _Identity = None
        # What was acknowledged to the source last.
        self._acknowledged: Any = None

    def consumer(self, name: str, *, on_full: Literal["wait", "drop"] = "wait") -> Consumer[E]:
        """Add a consumer, which gets the events that are read from now on.

        The first consumers get all if they are added before one of them reads. One that is added
        within a transaction or a snapshot begins behind it.

        Args:
            name: the consumer's name, for log lines and errors.
            on_full: what to do when ``max_events`` or ``max_bytes`` wait for the consumer:
                ``"wait"`` reads no more for any consumer until it has taken some; ``"drop"`` goes
                on without it once more has come, and it raises :exc:`ConsumerDroppedError`.

        Raises:
            ConfigError: if ``on_full`` is neither.
        """
        if on_full not in ("wait", "drop"):
            raise ConfigError(f"on_full is 'wait' or 'drop', not {on_full!r}")
        # It holds nothing back of what was given before it came.
        former = self._source._handed
        start = NOTHING if former is None else self._key(former.position) or NOTHING
        consumer = Consumer(
            self, name, on_full, start, former, begins_inside=self._inside, auto_ack=self._auto_ack
        )
        # What the source was told of rows holds for its consumers, until they are told otherwise.
        consumer._classes = self._source._classes
        self._consumers.append(consumer)
        return consumer

    @property
    def consumers(self) -> Sequence[Consumer[E]]:
        """The consumers that get what comes."""
        return tuple(self._consumers)

    # Reading, for consumers

    async def _change(self) -> None:
        """Wait until the state of the fan-out has changed; have the source read if it may be."""
        if self._end is not None:
            raise self._end
        if self._task is None and not self._has_to_wait():
            self._task = asyncio.create_task(self._read())
        future = asyncio.get_running_loop().create_future()
        self._waits.add(future)
        try:
            await future
        finally:
            self._waits.discard(future)

    def _has_to_wait(self) -> bool:
        """Tell whether a consumer has to take some events first; log which one."""
        found = False
        for consumer in self._consumers:
            if consumer._on_full == "wait" and self._is_full(consumer):
                consumer._tell_behind()
                found = True
        return found

    def _is_full(self, consumer: Consumer[E]) -> bool:
        return (
            consumer.waiting_events >= self._max_events or consumer.waiting_bytes >= self._max_bytes
        )

    def _wake(self) -> None:
        for future in self._waits:
            if not future.done():
                future.set_result(None)

    async def _read(self) -> None:
        """Read the source once, and give to each consumer what has come."""
        source = self._source
        try:
            while not source._queue or (source._has_rest and len(source._queue) < _MANY):
                await source._more()
        except Exception as exc:
            self._end = exc
        except asyncio.CancelledError:
            self._end = StopAsyncIteration()
            raise
        finally:
            if source._queue and not source._closed:
                self._give()
            self._task = None
            self._wake()

    def _give(self) -> None:
        source = self._source
        events = list(source._queue)
        source._queue.clear()
        source._handed = last_placed(events, source._handed)
        size = self._look(events)
        for consumer in list(self._consumers):
            if consumer._on_full == "drop" and self._is_full(consumer):
                self._consumers.remove(consumer)
                consumer._drop()
                self._advance()
            else:
                consumer._give(events, size)

    def _look(self, events: list[Any]) -> int:
        """Note the streams of events, and where they end; return how many bytes they have."""
        size = 0
        former = None
        for event in events:
            size += size_of(event)
            kind = type(event)
            if kind in _BEGINS:
                self._inside = True
            elif kind in _ENDS:
                self._inside = False
            transaction = getattr(event, "transaction", None)
            if transaction is None:
                if kind not in PLACELESS:
                    self._note(event.position.stream)
            elif transaction is not former:
                former = transaction
                self._note(transaction.stream)
        return size

    def _note(self, stream: StreamIdentity | None) -> None:
        if stream is not self._stream or not self._numbers:
            identity = _identity(stream)
            self._stream = stream
            if identity != self._latest or not self._numbers:
                # A stream that comes again gets another number.
                self._numbers[identity] = max(self._numbers.values(), default=0) + 1
            self._latest = identity

    # Acknowledging, for consumers

    def _key(self, position: Position) -> Key | None:
        """Return a key that orders places; None if nothing came of the position's stream."""
        number = self._numbers.get(_identity(position.stream))
        return None if number is None else (number, position.lsn, position.index)

    def _advance(self) -> None:
        """Acknowledge to the source what all consumers have acknowledged."""
        if not self._consumers:
            return
        holding = [consumer for consumer in self._consumers if not consumer._is_done]
        slowest = min(
            (*holding, *self._failed), key=lambda consumer: consumer._acknowledged, default=None
        )
        upto = self._source._handed if slowest is None else slowest._acknowledged_event
        if upto is not None and upto is not self._acknowledged:
            self._acknowledged = upto
            self._source.ack(upto)

    def _leave(self, consumer: Consumer[E], *, failed: bool) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)
            if failed:
                self._failed.append(consumer)
            self._advance()
        self._wake()


def _identity(stream: StreamIdentity | None) -> _Identity:
    if stream is None:
        return None
    return stream.system_identifier, stream.timeline, stream.publications
