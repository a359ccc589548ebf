"""SlowViewerQueue: the changes, in order, that wait to be checked for one slow viewer."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from functools import partial
from itertools import chain
from typing import Final, TypeAlias

import attrs
import psycopg

from realtime_core import Position

from ..config.database.connections import brief
from ..fanout.dispatch import Subscriber
from ..fanout.groups import Subscription
from ..logs import LineLimit
from .channel_gaps import ChannelGap, ChannelGapReason
from .pending_changes import PendingChange, listening_to
from .slow_viewer_memory import AROUND, SlowViewerMemory
from .viewers import Viewer

__all__ = ["SlowViewerQueue", "TellGap", "QueuedNotice"]

logger = logging.getLogger("realtime.rls")

_MOST_WAITING: Final = 10_000
"""Changes that may wait behind those that are being checked. If there are more, all that wait are
given up."""
_MOST_BYTES: Final = 64 * 1024 * 1024
"""Bytes that the values of the waiting changes may have as text. Beyond it, too, all are given
up."""
_MOST_AT_ONCE: Final = 1000
"""How many changes that came one by one are checked together at most."""
_FAR_BEHIND: Final = 1000
"""Number of waiting changes from which on a viewer is far behind."""
_RETRY: Final = 1.0
"""Seconds until a check is tried again that failed because the database could not be queried."""

TellGap: TypeAlias = Callable[[ChannelGap], None]
"""Sends the viewer's channels a gap."""


@attrs.frozen
class QueuedNotice:
    """A message that is sent after the changes before it in the queue."""

    send: Callable[[], None]


class SlowViewerQueue:
    """Checks and sends the changes of one slow viewer, in order.

    Args:
        work: checks some changes and sends them; returns the seconds that the viewer's policies
            took.
        lost: called with the gap for changes that were given up, in the order of the changes.
        viewer: the viewer that the changes are checked for.
        held: counts the changes that wait in all queues.
        enough: seconds that the policies should take for the changes that are checked together. If
            they take longer, half as many changes are checked next; if they take less than half of
            it, twice as many.
        lines: limits the lines of all queues that the database could not be queried.
        moved: called whenever the queue has become shorter.
    """

    def __init__(
        self,
        work: Callable[[Sequence[PendingChange]], Awaitable[float]],
        lost: TellGap,
        viewer: Viewer,
        held: SlowViewerMemory,
        enough: float,
        lines: LineLimit,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._work = work
        self._lost = lost
        self._viewer = viewer
        self._held = held
        self._enough = enough
        self._lines = lines
        self._moved = moved
        # In the order of the changes: the last that was sent, those that are being checked, those
        # that were given up, those that wait.
        self._handed: Position | None = None
        self._current: Sequence[PendingChange] = ()
        self._loss: ChannelGap | None = None
        self._waiting: deque[Sequence[PendingChange] | QueuedNotice] = deque()
        self._count = 0
        self._bytes = 0
        self._at_once = 1
        # Channels that were told of what they miss here when they got another viewer.
        self._told: set[Subscriber] = set()
        self._woken = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def is_idle(self) -> bool:
        """Whether every change in the queue was sent, or given up and its gap sent."""
        return not (self._waiting or self._current) and self._loss is None

    @property
    def first(self) -> Position | None:
        """The position of the first change that was neither sent nor replaced by a gap; None if
        there is none."""
        if self._current:
            return self._current[0].change.position
        if self._loss is not None:
            return self._loss.first
        for part in self._waiting:
            if not isinstance(part, QueuedNotice):
                return part[0].change.position
        return None

    @property
    def size(self) -> int:
        """Bytes that would be freed if the waiting changes were given up."""
        return self._bytes + self._count * AROUND

    @property
    def has_room(self) -> bool:
        """Whether fewer changes and bytes wait than half of what may."""
        return self._count < _MOST_WAITING // 2 and self._bytes < _MOST_BYTES // 2

    @property
    def is_far_behind(self) -> bool:
        """Whether so many changes wait that a new one is not checked soon."""
        return self._count > _FAR_BEHIND

    def put(self, candidates: Sequence[PendingChange]) -> None:
        """Append changes of one batch, at least one.

        When too many changes wait, all of them are given up. The channels get one gap in their
        place, and then the changes that are happening now.
        """
        self._waiting.append(candidates)
        if self._told:
            # Who is back with this viewer was told of nothing yet that comes from here on.
            for channels in listening_to(candidates, self._viewer):
                for members in channels.values():
                    self._told.difference_update(members.values())
        self._held.take(candidates)
        self._count += len(candidates)
        self._bytes += _bytes_of(candidates)
        is_too_much = self._count > _MOST_WAITING or self._bytes > _MOST_BYTES
        if is_too_much and self._count > len(candidates):
            self.give_up()
        self._woken.set()

    def put_notice(self, notice: QueuedNotice) -> None:
        """Append a message that is sent once all changes before it were sent or given up."""
        self._waiting.append(notice)
        self._woken.set()

    def give_up(self) -> None:
        """Give up the waiting changes, except for those that are being checked."""
        self._waiting += self._lose_what_waits(ChannelGapReason.TOO_SLOW)
        self._woken.set()

    @property
    def told(self) -> Set[Subscriber]:
        """The channels that were told of what they miss here when they got another viewer."""
        return self._told

    def note_told(self, channels: Iterable[Subscriber]) -> None:
        """Note channels that have another viewer now, and were told that they miss changes here."""
        self._told.update(channels)

    def let_go(self, channel: Subscription) -> bool:
        """Note that a channel gets another viewer, and is told of what it misses here.

        Returns:
            Whether it misses anything.
        """
        waiting = (one for one in self._waiting if not isinstance(one, QueuedNotice))
        misses = any(
            members.get(channel.outbox) is channel
            for channels in listening_to(chain(self._current, *waiting), self._viewer)
            for members in channels.values()
        )
        if misses:
            self._told.add(channel)
        would_be_told = self._loss is not None and self._loss.remove(channel)
        return misses or would_be_told

    def cancel(self) -> asyncio.Task[None]:
        """Stop checking; return the task, which ends soon."""
        self._task.cancel()
        return self._task

    def abandon(
        self, reason: ChannelGapReason = ChannelGapReason.TOKEN_REPLACED
    ) -> asyncio.Task[None]:
        """Stop checking, and tell the channels of a gap in place of what waits.

        Args:
            reason: why it is given up. Usually no channel has this viewer any more.
        """
        notices = self._lose_what_waits(reason)
        if self._current:
            self._give_up(self._current, reason, are_earlier=True)
            self._held.give_back(self._current)
            self._current = ()
        self._tell()
        for notice in notices:
            self._send(notice)
        return self.cancel()

    def _lose_what_waits(self, reason: ChannelGapReason) -> list[QueuedNotice]:
        """Give up all changes that wait; return the messages between and behind them."""
        parts = [part for part in self._waiting if not isinstance(part, QueuedNotice)]
        notices = [part for part in self._waiting if isinstance(part, QueuedNotice)]
        self._waiting.clear()
        self._count = self._bytes = 0
        if parts:
            candidates = list(chain(*parts))
            self._give_up(candidates, reason)
            self._held.give_back(candidates)
        return notices

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            self._tell()
            while self._waiting:
                part = self._waiting.popleft()
                if isinstance(part, QueuedNotice):
                    self._send(part)
                    continue
                part = self._current = [*part, *self._following(len(part))]
                self._count -= len(part)
                self._bytes -= _bytes_of(part)
                await self._work_off(part)
                self._held.give_back(part)
                self._current = ()
                self._tell()
                self._moved()
            self._told.clear()
            # A gap or a message may have been all that there was.
            self._moved()

    def _following(self, count: int) -> list[PendingChange]:
        """Remove and return the changes that are checked together with the next ones.

        A policy's cost for each statement then arises once for all of them, so a viewer that was
        slow for a while catches up.
        """
        found: list[PendingChange] = []
        while self._waiting:
            part = self._waiting[0]
            if isinstance(part, QueuedNotice) or count + len(part) > self._at_once:
                break
            count += len(part)
            found += part
            self._waiting.popleft()
        return found

    async def _work_off(self, candidates: Sequence[PendingChange]) -> None:
        while True:
            try:
                seconds = await self._work(candidates)
            except psycopg.Error as exc:
                if self._lines.take() is not None:
                    logger.warning("a slow viewer's changes are checked again: %s", brief(exc))
                logger.debug("the role is %s", self._viewer.role)
                await asyncio.sleep(_RETRY)
            except Exception:
                # These changes would fail again, and must not hold up all that follow. From here
                # on one change that fails should not cost many others.
                self._at_once = 1
                logger.exception(
                    "changes for a role cannot be checked "
                    "(a bug in realtime_server: please report it)"
                )
                logger.debug("the role is %s", self._viewer.role)
                later, self._loss = self._loss, None
                self._give_up(candidates, ChannelGapReason.FAILED)
                self._tell()
                self._loss = later
                return
            else:
                self._handed = candidates[-1].change.position
                if seconds > self._enough:
                    self._at_once = max(min(self._at_once, len(candidates)) // 2, 1)
                elif seconds < self._enough / 2 and len(candidates) * 2 > self._at_once:
                    self._at_once = min(self._at_once * 2, _MOST_AT_ONCE)
                return

    def _give_up(
        self,
        candidates: Sequence[PendingChange],
        reason: ChannelGapReason,
        *,
        are_earlier: bool = False,
    ) -> None:
        if self._loss is None:
            self._loss = ChannelGap.of(self._viewer, reason, candidates, told=self._told)
        else:
            self._loss.add(candidates, are_earlier=are_earlier)

    def _tell(self) -> None:
        loss, self._loss = self._loss, None
        if loss is not None:
            loss.after = self._handed
            self._send(QueuedNotice(partial(self._lost, loss)))

    def _send(self, notice: QueuedNotice) -> None:
        try:
            notice.send()
        except Exception:
            # The changes behind it must still be sent.
            logger.exception(
                "a gap for a role cannot be sent (a bug in realtime_server: please report it)"
            )
            logger.debug("the role is %s", self._viewer.role)


def _bytes_of(candidates: Sequence[PendingChange]) -> int:
    return sum(one.size for one in candidates)
