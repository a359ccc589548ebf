"""SlowViewers: those whose policies take too long, and who are asked for apart.

The others do not wait for them. What they may see is delivered when that is known, in order. So are
those asked for who are new, or were not asked for any more because of others, until everything that
waits for them is handed out.

Theory of operation. Each viewer that is asked for apart has a queue. At first it is on trial: all
of these are asked for at once, for a short time. Who takes longer is slow, and is asked for by
itself, with the whole timeout. A slow viewer that has never been answered, or has run into the
timeout, has its turn behind all others like it, on one connection, so that those with an answer
do not wait for those who never have one. Who is not slow any more is on trial again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence, Set
from functools import partial
from types import TracebackType
from typing import Final, Self

import attrs

from realtime_core import Gap

from ..config.database.tables import LiveColumn, Table
from ..fanout.turns import Steps
from .channel_gaps import ChannelGap, ChannelGapReason
from .checker import Checker
from .counters import Counters
from .dear_viewers import CHEAP, DearViewers, is_dear
from .delivery import Delivery
from .lookup.former import Condition
from .lookup.questions import Answer, Question, Row
from .lookup.visibility import Visibility
from .pending_changes import Decided, PendingChange, Shown
from .slow_viewer_queue import SlowViewerQueue, Word
from .trial import Trial
from .viewers import Viewer
from .waiting import Waiting

__all__ = ["SlowViewers"]

logger = logging.getLogger("realtime.rls")

_PROBATION: Final = 10.0
"""Seconds for which a viewer is asked for apart at least who has held the others up, or is slow."""
_CHEAP_IN_A_ROW: Final = 3
"""Checks that take next to no time, until a viewer is slow no more."""
_AT_ONCE: Final = 2
"""Slow viewers that are asked for at once."""


@attrs.define
class _Slow:
    """A slow viewer."""

    until: float
    """When it may be on trial again, as the event loop's clock has it."""
    is_answered: bool = False
    """Whether the last check ended in time."""
    cheap: int = 0
    """How many in a row have taken next to no time."""


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
        self._trial = Trial(checker, on_trial)
        self._delivery = delivery
        self._counters = counters
        self._waiting = Waiting(max_bytes, counters)
        # How many channels each viewer has, slow or not.
        self._channels: Counter[Viewer] = Counter()
        self._lanes: dict[Viewer, SlowViewerQueue] = {}
        # Those among them who are slow; the others are on trial.
        self._slow: dict[Viewer, _Slow] = {}
        # Until when those are on trial who have held the others up.
        self._on_probation: dict[Viewer, float] = {}
        self._dear = DearViewers()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._turns_of_unanswered = asyncio.Semaphore(_AT_ONCE - 1)
        # Set whenever something may have made room.
        self._moved = asyncio.Event()
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
        await self._trial.__aexit__(exc_type, exc, traceback)

    @property
    def slow(self) -> Set[Viewer]:
        """Those who are slow."""
        return self._slow.keys()

    @property
    def busy_on_trial(self) -> frozenset[Viewer]:
        """Those who are not known to be slow, and for whom something waits or is looked at."""
        return frozenset(
            viewer
            for viewer, lane in self._lanes.items()
            if viewer not in self._slow and not lane.is_idle
        )

    def add_channel(self, viewer: Viewer) -> None:
        """Note that a channel looks at rows as this viewer."""
        self._channels[viewer] += 1
        self._moved.set()

    def remove_channel(self, viewer: Viewer) -> None:
        """Note that it does no more. For a viewer that nobody is any more nothing is asked."""
        self._channels[viewer] -= 1
        if self._channels[viewer]:
            return
        del self._channels[viewer]
        self._moved.set()
        self._dear.forget(viewer)
        lane = self._lanes.pop(viewer, None)
        if lane is not None:
            self._forget(viewer)
            self._await(lane.abandon())

    def _forget(self, viewer: Viewer) -> None:
        self._slow.pop(viewer, None)
        self._on_probation.pop(viewer, None)

    def _await(self, ending: asyncio.Task[None]) -> None:
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _acquit(self) -> None:
        """Ask for those with the others again who are not slow, and for whom nothing waits."""
        now = asyncio.get_running_loop().time()
        for viewer, lane in list(self._lanes.items()):
            if viewer in self._slow or not lane.is_idle:
                continue
            if self._on_probation.get(viewer, now) <= now:
                self._forget(viewer)
                self._await(self._lanes.pop(viewer).cancel())

    def _put_apart(self, viewer: Viewer) -> None:
        work = partial(self._work, viewer)
        self._lanes[viewer] = SlowViewerQueue(
            work,
            self._delivery.tell,
            viewer,
            self._waiting,
            self._apart.timeout / 2,
            self._moved.set,
        )

    def _note_slow(self, viewer: Viewer) -> _Slow:
        logger.warning(
            "row level security takes too long for a viewer: its changes are checked apart, "
            "and may come later than others'"
        )
        logger.debug("the role is %s", viewer.role)
        slow = self._slow[viewer] = _Slow(asyncio.get_running_loop().time() + _PROBATION)
        self._moved.set()
        return slow

    async def check(self, candidates: Sequence[PendingChange]) -> Decided:
        """Return what is shown of each candidate to those who are not slow.

        Raises:
            psycopg.Error: if the database cannot be asked; nothing is decided.
        """
        if self._lanes:
            await self._wait_for_trials()
            await self._wait_for_room()
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
                self._put_apart(viewer)
                if verdict.timeouts[viewer]:
                    now = asyncio.get_running_loop().time()
                    self._on_probation[viewer] = now + _PROBATION
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
        # These are answered in time, but everybody waits for them each time.
        for viewer in self._dear.note(verdict.seconds):
            if viewer in self._channels and viewer not in self._lanes:
                self._put_apart(viewer)
                self._note_slow(viewer).is_answered = True
        return list(zip(candidates, verdict.shown, strict=True))

    async def _wait_for_trials(self) -> None:
        """Wait for those on trial who are far behind: each round of theirs is short, or ends it.

        They would not be with the others again as long as much comes, and lose it in the end.
        """
        behind = [
            viewer
            for viewer, lane in self._lanes.items()
            if viewer not in self._slow and lane.is_far_behind
        ]
        while any(
            viewer not in self._slow and viewer in self._lanes and not self._lanes[viewer].is_idle
            for viewer in behind
        ):
            self._moved.clear()
            await self._moved.wait()

    async def _wait_for_room(self) -> None:
        """Wait while much waits for slow viewers, if everybody is slow: then nobody is held up.

        Those count alone who are answered in time: others might never have room.
        """
        while len(self._slow) == len(self._channels) > 0:
            full = [
                self._lanes[viewer]
                for viewer, slow in self._slow.items()
                if slow.is_answered and not self._lanes[viewer].has_room
            ]
            if not full:
                return
            self._moved.clear()
            await self._moved.wait()

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

    async def _work(self, viewer: Viewer, candidates: Sequence[PendingChange]) -> float:
        """Have some changes decided and hand them out; return the seconds that policies took."""
        slow = self._slow.get(viewer)
        if slow is None:
            outcome = await self._trial.check(viewer, candidates)
            if outcome is not None:
                if is_dear(outcome.seconds):
                    self._note_slow(viewer).is_answered = True
                return self._hand_out(viewer, candidates, outcome.shown, outcome.seconds)
            slow = self._note_slow(viewer)
        async with self._turn(slow):
            verdict = await self._checker.check(candidates, self._look_up, self._apart.catalog)
        self._counters.timeouts += verdict.timeouts.total()
        seconds = verdict.seconds.get(viewer, 0.0)
        self._judge(viewer, slow, seconds, is_answered=not verdict.timeouts)
        return self._hand_out(viewer, candidates, verdict.shown, seconds)

    @contextlib.asynccontextmanager
    async def _turn(self, slow: _Slow) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if not slow.is_answered:
                await stack.enter_async_context(self._turns_of_unanswered)
            await stack.enter_async_context(self._turns)
            yield

    def _judge(self, viewer: Viewer, slow: _Slow, seconds: float, *, is_answered: bool) -> None:
        """Take note of how a slow viewer's check went, after which it may be slow no more."""
        now = asyncio.get_running_loop().time()
        slow.is_answered = is_answered
        slow.cheap = slow.cheap + 1 if is_answered and seconds <= CHEAP else 0
        if is_dear(seconds):
            slow.until = now + _PROBATION
        elif (
            slow.cheap >= _CHEAP_IN_A_ROW
            and slow.until <= now
            and not self._lanes[viewer].is_far_behind
        ):
            del self._slow[viewer]

    def _hand_out(
        self,
        viewer: Viewer,
        candidates: Sequence[PendingChange],
        shown: Sequence[Shown],
        seconds: float,
    ) -> float:
        self._delivery.hand_out_late(viewer, list(zip(candidates, shown, strict=True)))
        return seconds

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
