"""SlowViewerChecks: checks slow viewers, each by itself and with the whole timeout.

Slow viewers whose last check timed out, or that have had none yet, share one connection, so that
slow viewers whose checks succeed do not wait for those whose checks never do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

import attrs

from .checker import Checker, CheckResult
from .costly_viewers import NEGLIGIBLE, is_costly
from .counters import Counters
from .lookup.locks import Locks
from .lookup.visibility import Visibility
from .pending_changes import PendingChange

__all__ = ["PROBATION", "SlowViewer", "SlowViewerChecks"]

PROBATION: Final = 10.0
"""Seconds for which a viewer that is slow, or has delayed the others, is checked separately at
least."""
_NEGLIGIBLE_IN_A_ROW: Final = 3
"""How many checks in a row must take next to no time until a viewer is no longer slow."""
_AT_ONCE: Final = 2
"""How many slow viewers are checked at the same time."""


@attrs.define
class SlowViewer:
    """How the checks of one slow viewer went lately."""

    until: float
    """The time from which the viewer may be on trial again, by the event loop's clock."""
    is_answered: bool = False
    """Whether the viewer's last check ended in time."""
    negligible: int = 0
    """How many of the last checks in a row have taken next to no time."""

    def note(self, seconds: float, now: float, *, is_answered: bool) -> None:
        """Note how a check went.

        Args:
            seconds: how long the viewer's policies took.
            now: the time by the event loop's clock.
            is_answered: whether the check ended in time.
        """
        self.is_answered = is_answered
        self.negligible = self.negligible + 1 if is_answered and seconds <= NEGLIGIBLE else 0
        if is_costly(seconds):
            self.until = now + PROBATION

    def may_be_on_trial(self, now: float) -> bool:
        """Return whether the viewer may be checked with a short timeout again."""
        return self.negligible >= _NEGLIGIBLE_IN_A_ROW and self.until <= now


class SlowViewerChecks:
    """Checks slow viewers.

    Args:
        checker: decides what the viewers are shown.
        visibility: looks rows up, on connections of its own.
        locks: waits for tables that are locked.
        counters: counts the timeouts.
    """

    def __init__(
        self, checker: Checker, visibility: Visibility, locks: Locks, counters: Counters
    ) -> None:
        self._checker = checker
        self._check_alone = visibility.check_alone
        self._catalog = visibility.catalog
        self._locks = locks
        self._counters = counters
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._turns_of_unanswered = asyncio.Semaphore(_AT_ONCE - 1)

    async def check(self, slow: SlowViewer, candidates: Sequence[PendingChange]) -> CheckResult:
        """Decide what one slow viewer may see of some changes.

        While a table that this needs is locked, wait for it, and check again.

        Raises:
            psycopg.Error: if the database cannot be queried; then nothing is decided.
        """
        while True:
            async with self._turn(slow):
                result = await self._checker.check(candidates, self._check_alone, self._catalog)
            if not result.locked:
                self._counters.timeouts += result.timeouts.total()
                return result
            await self._locks.released(result.locked)

    @contextlib.asynccontextmanager
    async def _turn(self, slow: SlowViewer) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if not slow.is_answered:
                await stack.enter_async_context(self._turns_of_unanswered)
            await stack.enter_async_context(self._turns)
            yield
