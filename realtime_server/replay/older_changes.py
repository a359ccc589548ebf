"""OlderChanges: what the log in memory has given up, for rounds that need it.

Where several servers share a log, that has the changes for longer than a server's memory. A round
below the memory's floor reads them there, beside everything else, until it has come to what is in
memory. It has one piece at a time, and asks for the next one when that is published.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Sequence
from typing import Final, Protocol

import attrs

from realtime_core import Event
from realtime_core.errors import RealtimeError

from .catch_up_round import CatchUpRound
from .change_log import ChangeLog
from .places import BEFORE, Place

__all__ = ["LostError", "OlderChanges", "ReadOlder"]

logger = logging.getLogger("realtime.replay")

_MOST_BYTES: Final = 1 << 40
"""A piece is bounded where it comes from."""


class LostError(RealtimeError):
    """Changes behind a place are not there any more.

    Attributes:
        until: the place behind which they are.
    """

    def __init__(self, until: Place) -> None:
        self.until = until
        super().__init__(f"the changes up to {until} are not there any more")


class ReadOlder(Protocol):
    """Reads changes that are not in memory."""

    def __call__(self, after: Place) -> AsyncGenerator[Sequence[Event], None]:
        """Yield the changes behind a place, in batches, for as long as they are asked for.

        Raises:
            LostError: if some are not there any more.
            RealtimeError: if they cannot be read.
        """
        ...


@attrs.define
class _Reader:
    """What one round reads."""

    batches: AsyncGenerator[Sequence[Event], None]
    piece: ChangeLog


class OlderChanges:
    """Changes below the memory's floor.

    Args:
        log: the changes in memory.
    """

    def __init__(self, log: ChangeLog) -> None:
        self.read_older: ReadOlder | None = None
        """Reads changes that are not in memory; None: nobody has them."""
        self._log = log
        # Places of another epoch say nothing where the older changes are.
        self._epoch = log.epoch
        # The place up to which nothing is to be had, as far as is known.
        self._lost: Place = BEFORE
        self._readers: dict[CatchUpRound, _Reader] = {}

    @property
    def is_readable(self) -> bool:
        """Whether changes can be read that are not in memory."""
        return self.read_older is not None and self._log.epoch == self._epoch

    @property
    def floor(self) -> Place:
        """The place behind which changes are there, in memory or not, as far as is known."""
        floor = self._log.floor
        return min(floor, self._lost) if self.is_readable else floor

    def lose(self, until: Place) -> None:
        """Note that what is behind lower places is not there any more."""
        self._lost = max(self._lost, until)

    async def fetch(self, one: CatchUpRound) -> bool:
        """Have a piece ready behind a round's place, which is below the memory's floor; return
        whether it is: otherwise look again at the floor and the round's members."""
        assert self.read_older is not None
        reader = self._readers.get(one)
        if reader is None:
            piece = ChangeLog(max_bytes=_MOST_BYTES, window=math.inf, clock=lambda: 0.0)
            piece.begin_anew_behind(one.place)
            reader = self._readers[one] = _Reader(self.read_older(one.place), piece)
        piece = reader.piece
        piece.trim(one.place)
        try:
            while piece.end <= one.place:
                piece.append(await anext(reader.batches))
        except LostError as exc:
            self.lose(exc.until)
        except (RealtimeError, StopAsyncIteration) as exc:
            logger.warning("what clients have missed cannot be read: %s", exc)
            self.lose(self._log.floor)
        else:
            return one.epoch == self._log.epoch
        await self.close(one)
        return False

    def read(
        self, one: CatchUpRound, most: int, until: Place | None, *, most_bytes: int
    ) -> tuple[list[Event], Place]:
        """Return the next changes of the piece, as :meth:`ChangeLog.read` does.

        The piece may end behind what the live hub has got: with messages, or with other changes.
        """
        end = self._log.end
        until = end if until is None else min(until, end)
        return self._readers[one].piece.read(one.place, most, until, most_bytes=most_bytes)

    async def close(self, one: CatchUpRound) -> None:
        """Read nothing more for a round."""
        reader = self._readers.pop(one, None)
        if reader is not None:
            await reader.batches.aclose()
