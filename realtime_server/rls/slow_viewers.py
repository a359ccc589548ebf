"""SlowViewers: those whose policies have run too long, and who are asked for apart since.

The others never wait for them again. What they may see is delivered when that is known, in
order. Those who were not asked for any more because of them are asked for apart, too, until
everything that waited for them is handed out.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self

from realtime_core import Gap

from ..config.database.tables import LiveColumn, Table
from ..fanout.turns import Steps
from .channel_gaps import ChannelGap, ChannelGapReason
from .checker import Checker, Verdict
from .counters import Counters
from .delivery import Delivery
from .lookup.former import Condition
from .lookup.visibility import Answer, Question, Row, Visibility
from .pending_changes import Decided, PendingChange
from .slow_viewer_queue import SlowViewerQueue, Word
from .viewers import Viewer
from .waiting import Waiting

__all__ = ["SlowViewers"]

logger = logging.getLogger("realtime.rls")

_DEAR: Final = 0.1
"""Part of the timeout that a viewer may take of each batch, as long as that is usual."""
_UNUSUAL: Final = 10
"""Times what most viewers of the batch take, which is not."""
_MOST_DEAR: Final = 3
"""Batches in a row, until a viewer who takes more of each is slow, too."""


class SlowViewers:
    """Has a lane for each of them. Use it as a context manager, so that nobody is asked any more
    at the end.

    Args:
        checker: decides what they are shown.
        apart: asks the database for them, on connections of their own.
        on_trial: asks it for those who may be fast, on others.
        delivery: hands out what they are shown, and tells what they do not get.
        counters: of what went wrong.
        max_bytes: that may wait for all of them together.
    """

    def __init__(
        self,
        checker: Checker,
        apart: Visibility,
        on_trial: Visibility,
        delivery: Delivery,
        counters: Counters,
        *,
        max_bytes: int,
    ) -> None:
        self._checker = checker
        self._apart = apart
        self._trial = on_trial
        self._delivery = delivery
        self._counters = counters
        self._waiting = Waiting(max_bytes, counters)
        # How many channels each viewer has, slow or not.
        self._channels: Counter[Viewer] = Counter()
        self._lanes: dict[Viewer, SlowViewerQueue] = {}
        # Those among them that have taken no time yet.
        self._on_trial: set[Viewer] = set()
        # How many batches in a row those have taken much of who are not slow yet.
        self._dear: Counter[Viewer] = Counter()
        self._ending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for lane in self._lanes.values():
            self._ending.add(lane.cancel())
        self._lanes.clear()
        if self._ending:
            await asyncio.wait(self._ending)

    def add_channel(self, viewer: Viewer) -> None:
        """Note that a channel looks at rows as this viewer."""
        self._channels[viewer] += 1

    def remove_channel(self, viewer: Viewer) -> None:
        """Note that it does no more. For a viewer that nobody is any more nothing is asked."""
        self._channels[viewer] -= 1
        if self._channels[viewer]:
            return
        del self._channels[viewer]
        self._on_trial.discard(viewer)
        self._dear.pop(viewer, None)
        lane = self._lanes.pop(viewer, None)
        if lane is not None:
            self._await(lane.abandon())

    def _await(self, ending: asyncio.Task[None]) -> None:
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _acquit(self) -> None:
        """Ask for those with the others again who were apart because of others alone."""
        for viewer in [one for one in self._on_trial if self._lanes[one].is_idle]:
            self._on_trial.discard(viewer)
            self._await(self._lanes.pop(viewer).cancel())

    def _put_apart(self, viewer: Viewer, *, is_slow: bool) -> None:
        if is_slow:
            self._warn(viewer)
        else:
            self._on_trial.add(viewer)
        work = partial(self._work, viewer)
        self._lanes[viewer] = SlowViewerQueue(work, self._delivery.tell, viewer, self._waiting)

    def _warn(self, viewer: Viewer) -> None:
        logger.warning(
            "row level security takes too long for a viewer: its changes are checked apart, "
            "and may come later than others'"
        )
        logger.debug("the role is %s", viewer.role)

    async def check(self, candidates: Sequence[PendingChange]) -> Decided:
        """Return what is shown of each candidate to those who are not slow.

        Raises:
            psycopg.Error: if the database cannot be asked; nothing is decided.
        """
        self._acquit()
        apart = frozenset(self._lanes)
        on_time = candidates
        if apart:
            on_time = [one.without(apart) for one in candidates]
        verdict = await self._checker.check(on_time)
        for viewer in verdict.timeouts:
            for one in verdict.shown:
                one.pop(viewer, None)
            # The last channel may have left meanwhile.
            if viewer in self._channels:
                self._put_apart(viewer, is_slow=verdict.timeouts[viewer] > 0)
        for viewer in apart | verdict.timeouts.keys():
            theirs = [
                one.only_for(viewer)
                for one in candidates
                if viewer in one.viewers or viewer in one.others
            ]
            if not theirs:
                continue
            if viewer in self._lanes:
                self._lanes[viewer].put(theirs)
            else:
                self._delivery.tell(ChannelGap.of(viewer, ChannelGapReason.TOKEN_REPLACED, theirs))
        if self._waiting.is_too_much:
            self._relieve()
        self._note_dear(verdict.seconds)
        return list(zip(candidates, verdict.shown, strict=True))

    def _note_dear(self, seconds: Mapping[Viewer, float]) -> None:
        """Ask for those apart from the next batch on who hold the others up with each.

        Their policies run into no timeout, but everybody waits for them each time.
        """
        allowed = _DEAR * self._apart.timeout
        if not self._dear and max(seconds.values(), default=0.0) <= allowed:
            return
        # With one alone it is a matter of the other tables, and of what follows.
        usual = statistics.median_low(seconds.values()) if len(seconds) > 1 else 0.0
        allowed = max(allowed, _UNUSUAL * usual)
        for viewer, taken in seconds.items():
            if taken <= allowed:
                self._dear.pop(viewer, None)
                continue
            if viewer in self._channels and viewer not in self._lanes:
                self._dear[viewer] += 1
                if self._dear[viewer] >= _MOST_DEAR:
                    del self._dear[viewer]
                    self._put_apart(viewer, is_slow=True)

    def telling(self, gap: Gap) -> Steps:
        """Tell everybody of a gap, as :meth:`Delivery.telling` does.

        Those for whom something waits that came before it are told behind that.
        """
        busy = frozenset(viewer for viewer, lane in self._lanes.items() if not lane.is_idle)
        for viewer, channels in self._delivery.channels_of(busy).items():
            word = Word(partial(self._delivery.tell_late, gap, channels))
            self._lanes[viewer].tell_behind(word)
        yield from self._delivery.telling(gap, later_for=busy)

    def _relieve(self) -> None:
        """Give up what waits for those for whom most does, until it is not too much."""
        for lane in sorted(self._lanes.values(), key=lambda one: one.size, reverse=True):
            if not self._waiting.is_more_than_enough:
                break
            lane.give_up()

    async def _work(self, viewer: Viewer, candidates: Sequence[PendingChange]) -> None:
        verdict: Verdict | None = None
        if viewer in self._on_trial:
            verdict = await self._checker.check(candidates, self._trial.check)
            if verdict.timeouts:
                verdict = None
                self._on_trial.discard(viewer)
                self._warn(viewer)
        if verdict is None:
            verdict = await self._checker.check(candidates, self._look_up)
        self._counters.timeouts += verdict.timeouts.total()
        self._delivery.hand_out_late(viewer, list(zip(candidates, verdict.shown, strict=True)))

    async def _look_up(
        self,
        table: Table,
        rows: Sequence[Row],
        questions: Sequence[Question],
        *,
        compared: Sequence[LiveColumn] = (),
        condition: Condition | None = None,
        hurried: bool = False,
    ) -> list[Answer]:
        check = self._apart.check_apart
        return [
            await check(table, rows, each, compared=compared, condition=condition)
            for each in questions
        ]
