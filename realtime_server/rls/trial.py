"""Trial: checks viewers that may be slow separately from the others, with a shortened timeout.

All viewers on trial are checked together, whatever changes they wait for, so that a thousand of
them take no longer than they would with the others. A viewer whose policies use up the time is
slow; the viewers behind it in the same call are checked again without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import attrs

from .checker import Checker
from .lookup.together import Together
from .lookup.visibility import Visibility
from .pending_changes import PendingChange, Shown, merged
from .viewers import Viewer

__all__ = ["Outcome", "Trial"]

_LIMIT: Final = 0.05
"""Seconds, beyond what the policies usually take, after which a viewer is slow."""


@attrs.frozen
class Outcome:
    """The result of a viewer's check."""

    shown: list[Shown]
    """The viewer's view of each of its changes, in order; other viewers are not in it."""
    seconds: float
    """Seconds that the viewer's policies took beyond the usual time."""


@attrs.define(eq=False)
class _Waiting:
    """A viewer whose changes wait to be checked."""

    viewer: Viewer
    candidates: Sequence[PendingChange]
    outcome: asyncio.Future[Outcome | None]


class Trial:
    """Checks viewers on trial. Use it as a context manager, so that no check runs at the end.

    Args:
        checker: decides what the viewers are shown.
        visibility: looks rows up in the database, on connections of its own.
    """

    def __init__(self, checker: Checker, visibility: Visibility) -> None:
        self._checker = checker
        self._catalog = visibility.catalog
        self._together = Together(visibility, limit=_LIMIT, few=0)
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def check(self, viewer: Viewer, candidates: Sequence[PendingChange]) -> Outcome | None:
        """Decide what a viewer is shown of some changes.

        Returns:
            The result; None if the viewer's policies have taken too long.

        Raises:
            psycopg.Error: if the database cannot be queried; then nothing is decided.
        """
        outcome: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(viewer, candidates, outcome))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await outcome

    async def _run(self) -> None:
        """Check the viewers that wait until none does."""
        while True:
            # The viewers that have left meanwhile are not checked.
            waiting = [one for one in self._waiting if not one.outcome.done()]
            self._waiting = []
            if not waiting:
                return
            try:
                left = await self._ask(waiting)
            except asyncio.CancelledError:
                raise
            except Exception as exc:
                for one in waiting:
                    if not one.outcome.done():
                        one.outcome.set_exception(exc)
            else:
                # They have waited longer than the viewers that have come since.
                self._waiting[:0] = left

    async def _ask(self, waiting: Sequence[_Waiting]) -> list[_Waiting]:
        """Check viewers together; return those that were not checked because of others."""
        parts: dict[int, list[PendingChange]] = {}
        for one in waiting:
            for candidate in one.candidates:
                parts.setdefault(id(candidate.change), []).append(candidate)
        places = {change: place for place, change in enumerate(parts)}
        verdict = await self._checker.check(
            list(map(merged, parts.values())), self._together.check, self._catalog
        )
        left = []
        # If no viewer was found to be slow, and none was checked, the table is locked.
        is_blocked = len(verdict.timeouts) == len(waiting) and not verdict.timeouts.total()
        for one in waiting:
            viewer = one.viewer
            if one.outcome.done():
                continue
            if viewer not in verdict.timeouts:
                shown: list[Shown] = []
                for candidate in one.candidates:
                    views = verdict.shown[places[id(candidate.change)]]
                    shown.append({viewer: views[viewer]} if viewer in views else {})
                one.outcome.set_result(Outcome(shown, verdict.seconds.get(viewer, 0.0)))
            elif verdict.timeouts[viewer] or is_blocked:
                one.outcome.set_result(None)
            else:
                left.append(one)
        return left
