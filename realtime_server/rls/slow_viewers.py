"""SlowViewers: checks the viewers whose policies take too long separately from the others.

The other viewers do not wait for them. A slow viewer's changes are delivered, in order, when their
check is done. Two more kinds of viewers are checked separately until everything that waits for them
is sent: viewers that are new to a table, and viewers whose check was canceled because of another
viewer's, or because a table was locked.

Theory of operation. Each viewer that is checked separately has a queue. At first the viewer is on
trial: all viewers on trial are checked together, with a shortened timeout. A viewer that takes
longer is slow. It is then checked by itself, with the whole timeout. A viewer that is no longer
slow is on trial again.

What is done for each of thousands of viewers gives way to other tasks in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Hashable, Sequence, Set
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self

from realtime_core import Gap

from ..fanout.groups import Subscription
from ..fanout.turns import Steps, Turn, in_turn
from ..logs import LineLimit
from ..replay.queue_places import QueuePlaces
from .channel_gaps import ChannelGap, ChannelGapReason
from .checker import Checker
from .costly_viewers import CostlyViewers, is_costly
from .counters import Counters
from .delivery import Delivery
from .lookup.locks import Locks
from .lookup.visibility import Visibility
from .pending_changes import Decided, PendingChange, Shown, listening_to
from .slow_viewer_checks import PROBATION, SlowViewer, SlowViewerChecks
from .slow_viewer_memory import SlowViewerMemory
from .slow_viewer_queue import QueuedNotice, SlowViewerQueue
from .slow_viewer_trial import Trial
from .viewers import Viewer

__all__ = ["SlowViewers"]

logger = logging.getLogger("realtime.rls")


class SlowViewers:
    """The slow viewers, each with a queue of its changes.

    Use it as a context manager, so that no check runs any more at the end.

    Args:
        checker: decides what the viewers are shown.
        apart: looks rows up for slow viewers, on connections of its own.
        on_trial: looks rows up for viewers on trial, on other connections.
        delivery: sends the changes, and gaps in place of changes that were given up.
        counters: counts failures and timeouts.
        max_bytes: bytes that the changes in all queues together may take.
        places: told of what waits in the queues; None if nobody needs to know.
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
        places: QueuePlaces | None = None,
    ) -> None:
        self._checker = checker
        # How long the policies should take for changes that are checked together.
        self._enough = apart.timeout / 2
        # Set whenever a queue may have become shorter, or a viewer has changed its kind.
        self._moved = asyncio.Event()
        self._locks = Locks(apart.catalog)
        self._checks = SlowViewerChecks(checker, apart, self._locks, counters)
        self._trial = Trial(checker, on_trial, self._locks, self._moved.set)
        self._delivery = delivery
        self._waiting = SlowViewerMemory(max_bytes, counters)
        self._places = places
        if places is not None:
            places.let_go = self._let_go
        # How many channels each viewer has, slow or not.
        self._channels: Counter[Viewer] = Counter()
        self._queues: dict[Viewer, SlowViewerQueue] = {}
        # The viewers with a queue that are slow; the others are on trial.
        self._slow: dict[Viewer, SlowViewer] = {}
        # The times until which viewers that have delayed the others stay on trial.
        self._probation_ends: dict[Viewer, float] = {}
        self._costly = CostlyViewers()
        self._slow_lines = LineLimit()
        self._retry_lines = LineLimit()
        self._ending: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._locks)
        await self._stack.enter_async_context(self._trial)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for queue in self._queues.values():
            self._ending.add(queue.cancel())
        self._queues.clear()
        if self._ending:
            await asyncio.wait(self._ending)
        await self._stack.aclose()

    @property
    def slow(self) -> Set[Viewer]:
        """The viewers that are slow."""
        return self._slow.keys()

    @property
    def busy_on_trial(self) -> frozenset[Viewer]:
        """The viewers on trial some of whose changes wait or are being checked."""
        return frozenset(
            viewer
            for viewer, queue in self._queues.items()
            if viewer not in self._slow and not queue.is_idle
        )

    def add_channel(self, viewer: Viewer) -> None:
        """Note that a channel has joined as this viewer."""
        self._channels[viewer] += 1
        self._moved.set()

    def remove_channel(self, viewer: Viewer) -> None:
        """Note that a channel of this viewer has ended. A viewer without channels is not
        checked."""
        self._channels[viewer] -= 1
        if self._channels[viewer]:
            return
        del self._channels[viewer]
        if self._places is not None:
            self._places.forget(viewer)
        self._moved.set()
        self._costly.forget(viewer)
        queue = self._queues.pop(viewer, None)
        if queue is not None:
            self._forget(viewer)
            self._await(queue.abandon())

    def _forget(self, viewer: Viewer) -> None:
        self._slow.pop(viewer, None)
        self._probation_ends.pop(viewer, None)

    def _await(self, ending: asyncio.Task[None]) -> None:
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _return_to_others(self) -> None:
        """Check viewers with the others again if they are not slow and their queues are empty."""
        now = asyncio.get_running_loop().time()
        for viewer, queue in list(self._queues.items()):
            if viewer in self._slow or not queue.is_idle:
                continue
            if self._probation_ends.get(viewer, now) <= now:
                self._forget(viewer)
                self._await(self._queues.pop(viewer).cancel())

    def _check_separately(self, viewer: Viewer) -> None:
        work = partial(self._work, viewer)
        self._queues[viewer] = SlowViewerQueue(
            work,
            self._delivery.tell,
            viewer,
            self._waiting,
            self._enough,
            self._retry_lines,
            partial(self._note_moved, viewer),
        )

    def _note_moved(self, viewer: Viewer) -> None:
        self._moved.set()
        self._note_place(viewer)

    def _note_place(self, viewer: Viewer) -> None:
        """Note what waits for a viewer."""
        if self._places is not None and viewer in self._queues:
            self._places.note(viewer, self._queues[viewer].first)

    def _note_slow(self, viewer: Viewer) -> SlowViewer:
        others = self._slow_lines.take()
        if others is not None:
            logger.warning(
                "row level security takes too long for a viewer, and for %d more since the last "
                "such line: their changes are checked separately, and may come later than others'",
                others,
            )
        logger.debug("the role is %s", viewer.role)
        slow = self._slow[viewer] = SlowViewer(asyncio.get_running_loop().time() + PROBATION)
        self._moved.set()
        return slow

    async def check(self, candidates: Sequence[PendingChange]) -> Decided:
        """Check changes for all viewers except those whose policies are slow.

        The changes for slow viewers are queued, and checked separately later.

        Args:
            candidates: the changes, in order, each with the viewers that it may be sent to.

        Returns:
            The changes in order, each with what every viewer that was checked may see of it.

        Raises:
            psycopg.Error: if the database cannot be queried; then nothing is decided.
        """
        if self._queues:
            await self._wait_for_trials()
            await self._wait_for_room()
        apart = frozenset(self._queues)
        turn = Turn()
        on_time = candidates
        if apart:
            on_time = [one.without(apart) async for one in in_turn(candidates, turn)]
        result = await self._checker.check(on_time)
        async for viewer, timeouts in in_turn(result.timeouts.items(), turn):
            for views in result.shown:
                views.pop(viewer, None)
            # The viewer's last channel may have left meanwhile.
            if viewer in self._channels:
                self._check_separately(viewer)
                if timeouts:
                    now = asyncio.get_running_loop().time()
                    self._probation_ends[viewer] = now + PROBATION
        async for viewer in in_turn(apart | result.timeouts.keys(), turn):
            theirs = [
                one.only_for(viewer)
                for one in candidates
                if viewer in one.viewers or viewer in one.others
            ]
            if not theirs:
                continue
            if viewer in self._queues:
                self._put(viewer, theirs)
                if self._waiting.is_exceeded:
                    self._give_up_most()
            else:
                self._delivery.tell(ChannelGap.of(viewer, ChannelGapReason.TOKEN_REPLACED, theirs))
        # The checks of these viewers end in time, but all viewers wait for them with each batch.
        for viewer in self._costly.note(result.seconds):
            if viewer in self._channels and viewer not in self._queues:
                self._check_separately(viewer)
                self._note_slow(viewer).is_answered = True
        return list(zip(candidates, result.shown, strict=True))

    def _put(self, viewer: Viewer, theirs: Sequence[PendingChange]) -> None:
        """Let changes of a batch wait for a viewer."""
        queue = self._queues[viewer]
        queue.put(theirs)
        self._note_place(viewer)
        all_channels = listening_to(theirs, viewer)
        if not all(one.is_current for channels in all_channels for one in channels.values()):
            # Channels got another viewer after the match. They are told at once: later on, their
            # clients may have proven what came behind this batch.
            queue.note_told(self._delivery.tell_moved(viewer, theirs))

    def _let_go(self, viewer: Hashable, channel: Subscription) -> bool:
        """Return whether a channel that is about to get another viewer misses what waits."""
        assert isinstance(viewer, Viewer)
        return viewer in self._queues and self._queues[viewer].let_go(channel)

    async def _wait_for_trials(self) -> None:
        """Wait for viewers on trial whose queues are long.

        Each of their checks is short, or ends the trial. Without the wait such a viewer would not
        be checked with the others again while many changes come, and would lose changes in the end.
        Viewers that wait for a locked table are not waited for.
        """
        behind = [viewer for viewer, queue in self._queues.items() if queue.is_far_behind]
        while any(
            viewer in self._queues
            and viewer not in self._slow
            and viewer not in self._trial.locked_out
            and not self._queues[viewer].is_idle
            for viewer in behind
        ):
            self._moved.clear()
            await self._moved.wait()

    async def _wait_for_room(self) -> None:
        """Wait while queues are long, each of them or all together, if all viewers have one: then
        no viewer is delayed.

        Viewers whose checks never end in time do not count: their queues might never be shorter.
        """
        while True:
            self._return_to_others()
            if len(self._queues) < len(self._channels):
                return
            queues = [
                queue
                for viewer, queue in self._queues.items()
                if viewer not in self._slow or self._slow[viewer].is_answered
            ]
            if self._waiting.has_room:
                is_any_full = any(not queue.has_room for queue in queues)
            else:
                is_any_full = any(not queue.is_idle for queue in queues)
            if not is_any_full:
                return
            self._moved.clear()
            await self._moved.wait()

    def telling(self, gap: Gap) -> Steps:
        """Tell all channels of a gap, as :meth:`Delivery.telling` does.

        Viewers for which earlier changes wait get the gap after these changes.
        """
        busy = frozenset(viewer for viewer, queue in self._queues.items() if not queue.is_idle)
        for viewer, channels in self._delivery.channels_of(busy).items():
            notice = QueuedNotice(partial(self._delivery.tell_late, gap, channels))
            self._queues[viewer].put_notice(notice)
        yield from self._delivery.telling(gap, later_for=busy)

    async def drain(self, within: float) -> None:
        """Send the waiting changes, and gaps in place of the rest, before the server closes its
        channels.

        Only viewers that are on trial, or whose last check ended in time, are waited for: the
        others' queues might never be empty. No changes may come any more.

        Args:
            within: seconds until the rest is given up.
        """
        try:
            async with asyncio.timeout(within):
                while any(
                    not queue.is_idle
                    and (viewer not in self._slow or self._slow[viewer].is_answered)
                    for viewer, queue in self._queues.items()
                ):
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            pass
        for queue in self._queues.values():
            self._await(queue.abandon(ChannelGapReason.STOPPED))
        self._queues.clear()
        self._slow.clear()
        self._probation_ends.clear()

    def _give_up_most(self) -> None:
        """Give up the changes in the longest queues until the rest takes few enough bytes."""
        for queue in sorted(self._queues.values(), key=lambda one: one.size, reverse=True):
            if not self._waiting.is_above_target:
                break
            queue.give_up()

    async def _work(self, viewer: Viewer, candidates: Sequence[PendingChange]) -> float:
        """Check some changes and send them; return the seconds that the viewer's policies took."""
        slow = self._slow.get(viewer)
        if slow is None:
            outcome = await self._trial.check(viewer, candidates)
            if outcome is not None:
                if is_costly(outcome.seconds):
                    self._note_slow(viewer).is_answered = True
                return self._hand_out(viewer, candidates, outcome.shown, outcome.seconds)
            slow = self._note_slow(viewer)
        result = await self._checks.check(slow, candidates)
        seconds = result.seconds.get(viewer, 0.0)
        now = asyncio.get_running_loop().time()
        slow.note(seconds, now, is_answered=not result.timeouts)
        if slow.may_be_on_trial(now) and not self._queues[viewer].is_far_behind:
            del self._slow[viewer]
        return self._hand_out(viewer, candidates, result.shown, seconds)

    def _hand_out(
        self,
        viewer: Viewer,
        candidates: Sequence[PendingChange],
        shown: Sequence[Shown],
        seconds: float,
    ) -> float:
        queue = self._queues.get(viewer)
        self._delivery.hand_out_late(
            viewer,
            list(zip(candidates, shown, strict=True)),
            told=frozenset() if queue is None else queue.told,
        )
        return seconds
