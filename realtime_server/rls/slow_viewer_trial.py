"""Trial: checks viewers that may be slow with a short timeout, while the others do not wait.

All viewers on trial are checked together, whatever changes they wait for, so that a thousand of
them take no longer than they would with the others. A viewer whose policies use up the time is
slow; the viewers behind it in the same call are checked again without it. Viewers that ask for rows
of a locked table are checked again when it is not locked any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence, Set
from types import TracebackType
from typing import Final, Self

import attrs

from ..fanout.turns import Turn, in_turn
from .checker import Checker
from .lookup.locks import LockedRelation, Locks
from .lookup.shared_check import SharedCheck
from .lookup.visibility import Visibility
from .pending_changes import PendingChange, Shown, merged
from .viewers import Viewer

__all__ = ["Outcome", "Trial"]

_LIMIT: Final = 0.05
"""Seconds, beyond what the policies usually take, after which a viewer is slow."""


@attrs.frozen
class Outcome:
    """What one viewer may see of its changes, and how long its policies took."""

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
        locks: waits for tables that are locked.
        moved: called when viewers begin to wait for a locked table.
    """

    def __init__(
        self,
        checker: Checker,
        visibility: Visibility,
        locks: Locks,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._checker = checker
        self._locks = locks
        self._moved = moved
        self.locked_out: set[Viewer] = set()
        """The viewers that wait for a table that is locked."""
        self._catalog = visibility.catalog
        self._shared_check = SharedCheck(visibility, limit=_LIMIT, few=0)
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        # Each waits for some tables.
        self._waiting_for_locks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks = set(self._waiting_for_locks)
        if self._task is not None:
            tasks.add(self._task)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def check(self, viewer: Viewer, candidates: Sequence[PendingChange]) -> Outcome | None:
        """Decide what a viewer on trial may see of some changes.

        Returns:
            The result; None if the viewer's policies have taken too long.

        Raises:
            psycopg.Error: if the database cannot be queried; then nothing is decided.
        """
        outcome: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._start([_Waiting(viewer, candidates, outcome)])
        try:
            return await outcome
        finally:
            self.locked_out.discard(viewer)

    def _start(self, waiting: Sequence[_Waiting]) -> None:
        self._waiting += waiting
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

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
        turn = Turn()
        parts: dict[int, list[PendingChange]] = {}
        async for one in in_turn(waiting, turn):
            for candidate in one.candidates:
                parts.setdefault(id(candidate.change), []).append(candidate)
        places = {change: place for place, change in enumerate(parts)}
        merged_parts = [merged(part) async for part in in_turn(parts.values(), turn)]
        result = await self._checker.check(merged_parts, self._shared_check.check, self._catalog)
        left, locked_out = [], []
        async for one in in_turn(waiting, turn):
            viewer = one.viewer
            if one.outcome.done():
                continue
            if viewer not in result.timeouts:
                shown: list[Shown] = []
                for candidate in one.candidates:
                    views = result.shown[places[id(candidate.change)]]
                    shown.append({viewer: views[viewer]} if viewer in views else {})
                one.outcome.set_result(Outcome(shown, result.seconds.get(viewer, 0.0)))
            elif result.timeouts[viewer]:
                one.outcome.set_result(None)
            elif viewer in result.locked_out:
                locked_out.append(one)
            else:
                left.append(one)
        if locked_out:
            self._wait_for_locks(locked_out, result.locked)
        return left

    def _wait_for_locks(self, locked_out: Sequence[_Waiting], locked: Set[LockedRelation]) -> None:
        """Check viewers again when nothing is locked any more that their check needs."""

        async def wait() -> None:
            await self._locks.released(locked)
            self.locked_out.difference_update(one.viewer for one in locked_out)
            self._start(locked_out)

        self.locked_out.update(one.viewer for one in locked_out)
        task = asyncio.create_task(wait())
        self._waiting_for_locks.add(task)
        task.add_done_callback(self._waiting_for_locks.discard)
        self._moved()
