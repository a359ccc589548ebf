"""SyncReads: takes events out of a source's queue on a thread that has no event loop.

Theory of operation. The source's ways of reading are coroutines. The consumer's thread runs them
itself, and where one waits for more events, it sends an :class:`Errand` to the source's thread, and
waits for its end. While it is under way, nothing else may look at the queue.

To wake the other thread, and to be woken by it, takes the CPU time of some ten changes. So an
errand goes on while more events have come already. And while the consumer works on many, the
source's thread does not watch the socket: whenever something came, it would be woken for nothing,
and interrupt the consumer.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Coroutine
from functools import partial
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from ..changes import Delete, Insert, Update
from ._loop_thread import Errand, LoopThread, StoppedError
from ._reads import pause
from .base import Acknowledgeable, E

if TYPE_CHECKING:
    from ._queue import EventQueue

__all__ = ["SyncReads"]

T = TypeVar("T")

_ROW_CHANGES: Final = frozenset((Insert, Update, Delete))
_ENOUGH: Final = 256
"""How many events an errand fetches at most if they have come already, and some more that come with
the last of them. With twice as many, Python looks for cycles among them three times as often."""
_MANY: Final = 64
"""With how many events the consumer is busy for so long that more may come meanwhile."""


class SyncReads(Generic[E]):
    """The part of a SyncSource that reads events, one at a time or by a way of the source's."""

    _source: EventQueue[E]
    # The thread that is reading now.
    _reader: int | None = None
    # Fetches events; None if the last read has seen it end.
    _errand: Errand | None = None

    def _running(self) -> LoopThread:
        """Return the source's thread."""
        raise NotImplementedError

    def _tell_acks(self) -> None:
        """Tell the source what was acknowledged, on its thread."""
        raise NotImplementedError

    def ack(self, upto: Acknowledgeable) -> None:
        """Acknowledge everything up to and including ``upto``."""
        raise NotImplementedError

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> E:
        """Return the next event, waiting for it.

        Raises:
            SourceError: if the stream cannot go on.
            DecodeError: if the server sent what cannot be decoded.
            StopIteration: after :meth:`close`.
        """
        source = self._source
        if self._errand is None and not source._prepares and source._classes is None:
            # The usual case, as _next_event() has it. It calls nothing: so no signal handler
            # interrupts it, and no other thread runs between looking and taking.
            queue = source._queue
            if queue:
                event: Any = queue[0]
                kind = event.__class__
                if kind in _ROW_CHANGES:
                    source._handed = event
                    del queue[0]
                    return event  # type: ignore[no-any-return]
        return self._read(source._next_event(pause))

    def next(self, timeout: float | None = None) -> E:
        """Return the next event, waiting for it no longer than that.

        Args:
            timeout: the most seconds to wait; None for no bound, 0 for what is there already.

        Raises:
            TimeoutError: if none came in that time. Nothing is lost: the next read goes on.
            SourceError: if the stream cannot go on.
            DecodeError: if the server sent what cannot be decoded.
            StopIteration: after :meth:`close`.
        """
        until = None if timeout is None else monotonic() + timeout
        return self._read(self._source._next_event(pause), until)

    def _read(self, step: Coroutine[float | None, bool | None, T], until: float | None = None) -> T:
        """Run a step of the source's; where it waits for events, have some fetched."""
        me = get_ident()
        if self._reader is not None and self._reader != me:
            step.close()
            raise RuntimeError("a source has one consumer: two threads are reading from this one")
        self._reader = me
        try:
            source = self._source
            source._check_unshared()
            if source._auto_ack and source._handed is not None:
                self.ack(source._handed)
            if self._errand is not None:
                # A read was interrupted. Nothing may look at the queue while it is filled.
                self._fetch(until)
            collect_until = step.send(None)
            while True:
                collect_until = step.send(self._fetch(until, collect_until))
        except StopIteration as done:
            # Nothing is called any more, so nothing can interrupt this.
            self._reader = None
            result: T = done.value
            return result
        except BaseException as exc:
            self._reader = None
            step.close()
            if isinstance(exc, StopAsyncIteration):
                raise StopIteration from None
            raise

    def _fetch(self, until: float | None, collect_until: float | None = None) -> bool:
        """Have events put into the queue, and wait; return whether some have come in time.

        Args:
            until: the time for TimeoutError; None for never.
            collect_until: the time when no more events are wanted; None for never.
        """
        errand = self._errand
        if errand is None:
            if self._source._closed:
                raise StopAsyncIteration
            errand = self._errand = Errand(self._running(), partial(self._more, collect_until))
        try:
            if not errand.wait(None if until is None else until - monotonic()):
                raise TimeoutError("no event has come in that time")
        except StoppedError:
            raise StopAsyncIteration from None
        error = errand.error
        if isinstance(error, CancelledError):
            # The source was closed in a hurry.
            error = StopAsyncIteration()
        self._errand = None
        if error is not None:
            raise error
        return errand.result

    async def _more(self, until: float | None) -> bool:
        self._tell_acks()
        source = self._source
        has_come = await source._more(until)
        # The events before an error are handed over first.
        while source._error is None and len(source._queue) < _ENOUGH and source._is_at_hand():
            await source._more()
        if len(source._queue) >= _MANY:
            source._look_away()
        return has_come
