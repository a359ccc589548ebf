"""Log: the write-ahead log of a MemoryDatabase, and its replication slots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import attrs

from ...changes import Begin, Change, Commit, GapReason
from ...errors import RealtimeError
from ...lsn import LSN

__all__ = ["LogEntry", "Log", "LogWaiters", "Slot"]

Stream: TypeAlias = tuple[Change | Begin | Commit, ...]

_START = 0x1000000


@attrs.frozen
class LogEntry:
    """An entry of the log: a transaction, a message, or WAL that is not published."""

    lsn: LSN
    """LSN of the commit record, or of the message."""
    end: LSN
    """LSN of the end of the entry."""
    events: Stream
    """The events that sources get; empty for WAL that is not published."""
    size: int
    """How many bytes a source receives for it."""


@attrs.define
class Slot:
    """A replication slot."""

    confirmed: LSN
    """The LSN up to which its consumer has acknowledged."""
    temporary: bool
    """Whether it is dropped with its connection."""
    lost: GapReason | None = None
    """Why it cannot be streamed from any more; None if it can."""
    close: Callable[[RealtimeError], None] | None = None
    """Breaks the connection of the source that uses the slot; None if no source does."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the slot inside of the ``with`` block.

        Raises:
            RealtimeError: behind the block, if the connection has broken in it.
        """
        broken: list[RealtimeError] = []
        self.close = broken.append
        try:
            yield
        finally:
            self.close = None
        if broken:
            raise broken[0]


class Log:
    """The entries of the log, in order."""

    def __init__(self) -> None:
        self.end = LSN(_START)
        """LSN of the end of the log."""
        self.entries: list[LogEntry] = []
        """Everything that was written."""
        self.ended = False
        """Whether sources end when they have read everything."""
        self.wakes = 0
        """How often something has happened."""
        self._waiting: set[Callable[[], None]] = set()

    def reserve(self, size: int) -> LSN:
        """Add a record of so many bytes; return its LSN."""
        lsn = self.end
        self.end = LSN(lsn + size)
        return lsn

    def append(self, lsn: LSN, events: Stream, size: int) -> None:
        """Add an entry, and wake all sources that wait for one."""
        self.entries.append(LogEntry(lsn, self.end, events, size))
        self.wake()

    def since(self, confirmed: LSN) -> Iterator[tuple[int, LogEntry]]:
        """Yield the entries that a slot with this confirmed position sends, with their numbers."""
        for number, entry in enumerate(self.entries):
            if entry.lsn >= confirmed:
                yield number, entry

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when something has happened."""
        self._waiting.add(wake)

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        """Do not call ``wake`` any more."""
        self._waiting.discard(wake)

    def wake(self) -> None:
        """Wake all sources that wait for something to happen."""
        self.wakes += 1
        for wake in tuple(self._waiting):
            wake()


class LogWaiters:
    """The tasks of one source that wait until something happens to the log, or to the source.

    The log may be written by another thread than that of the source.

    Args:
        log: the log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._futures: set[asyncio.Future[None]] = set()

    async def wait(self, wakes: int) -> None:
        """Wait until the log changes, or :meth:`wake` is called.

        Args:
            wakes: the log's number of wakes when it was looked at.
        """
        future = asyncio.get_running_loop().create_future()
        self._futures.add(future)
        self._log.subscribe(self.wake)
        try:
            if self._log.wakes == wakes:
                await future
        finally:
            self._futures.discard(future)
            if not self._futures:
                self._log.unsubscribe(self.wake)

    def wake(self) -> None:
        """Wake the tasks that wait."""
        for future in tuple(self._futures):
            loop = future.get_loop()
            if loop is _running_loop():
                _finish(future)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_finish, future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
