"""PatientReader: reads the log from its end on, however long NATS is away.

The slot has what is committed meanwhile, and whoever leads then appends it. So a server may let its
clients join as soon as the end of the log was found once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from .envelope import Envelope, VersionError
from .errors import LogError
from .log_reader import LogReader, Read
from .stats import LogStats

__all__ = ["PatientReader"]

logger = logging.getLogger("realtime.cluster")

_PAUSES: Final = (0.1, 1.0)
"""The least and the most seconds until the log is tried again."""

_T = TypeVar("_T")


class PatientReader:
    """Tries again whatever fails because of NATS or of a newer server, and says so once.

    Args:
        reader: reads the log.
        clock: seconds, which only grow.
    """

    def __init__(self, reader: LogReader, clock: Callable[[], float]) -> None:
        self._reader = reader
        self._clock = clock
        # When an envelope was read last.
        self._read_at: float | None = None

    @property
    def sequence(self) -> int:
        """The sequence of the last envelope that was returned, or of the one that this begins
        behind."""
        return self._reader.sequence

    @property
    def created(self) -> str | None:
        """When the stream was made that was read from last; None before it was found."""
        return self._reader.created

    @property
    def newer(self) -> VersionError | None:
        """Why the end of the log cannot be read, if a newer server has written it."""
        return self._reader.newer

    async def begin(self) -> Envelope | None:
        """Return the last envelope of the log, which the next ones follow; None if it has none."""
        return await self._try(self._reader.begin)

    async def next(self) -> list[Read]:
        """Return the next envelopes, at least one. A cancelled call loses nothing."""
        found = await self._try(self._reader.next)
        self._read_at = self._clock()
        return found

    async def aclose(self) -> None:
        """Close the connection."""
        await self._reader.aclose()

    def stats(self) -> LogStats:
        """Return what is counted, as far as it is known here."""
        reader, read_at = self._reader, self._read_at
        return LogStats(
            resyncs=reader.resyncs,
            lag_messages=reader.pending,
            tail_age=0.0 if read_at is None else self._clock() - read_at,
        )

    async def _try(self, step: Callable[[], Awaitable[_T]]) -> _T:
        pause, most = _PAUSES
        is_told = False
        while True:
            try:
                result = await step()
            except (LogError, VersionError) as exc:
                if not is_told:
                    logger.warning("the log is not being read: %s", exc)
                    is_told = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, most)
            else:
                if is_told:
                    logger.info("reading the log again")
                return result
