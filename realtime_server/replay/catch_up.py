"""CatchUp: lets channels that came back catch up, through hubs that run behind the live one.

Theory of operation. A round takes the channels that came back within some milliseconds. The round
has a hub of its own, which is made like the live one, and publishes the log's changes to it, from
the channels' lowest place on. Each channel enters the hub when the round has reached its place. So
a change is matched and rendered once for all of them, by the code that does it for live changes.

The switch to the live hub is made between two batches of the stream, for channels whose round has
reached the end of the log, and without giving way. The broadcaster calls :meth:`CatchUp.before`
before it publishes a batch, which appends the batch to the log, and :meth:`CatchUp.after` when the
batch is with every outbox. In between nobody is switched: a round that reaches the end of the log
then has published this very batch to its channels. So each channel is in the live hub for whole
batches only, and has got every earlier one before: nothing is left out, sent twice or overtaken.

A channel whose outbox is behind leaves its round and comes back in another one when the outbox has
drained. So replay cuts no client off as too slow, and no client waits for the slowest one. A viewer
whose changes take long to check has a round of its own, so that the others do not wait for it. A
viewer whose changes cannot be checked now waits outside of all rounds, for as long as the log has
what it missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import Final

from realtime_core import Event, Gap

from ..fanout.groups import Subscription
from ..fanout.hub import Hub
from ..fanout.turns import Turn
from ..logs import LineLimit
from .catch_up_pace import CatchUpPace
from .catch_up_queue import CatchUpQueue
from .catch_up_round import MOST_MEMBERS, CatchUpRound, CatchUpStats, RoundMember
from .change_log import ChangeLog
from .going_live import GoingLive, TellGap
from .log_floor import LogFloor
from .older_changes import OlderChanges
from .places import Place
from .publishing import CannotPublishError, Publish, Published

__all__ = ["CatchUp"]

logger = logging.getLogger("realtime.replay")

_GATHERING: Final = 0.02
"""Seconds for which a round waits for others that come back, and after which outboxes that are
behind are looked at again."""
_MOST: Final = 4
"""Rounds that run at a time. Channels that come back meanwhile wait, and share the next one."""
_MOST_ALONE: Final = 2
"""Rounds of one viewer alone that run besides."""
_STEP: Final = 500
"""Changes that a round publishes at once, at most."""


class CatchUp:
    """Lets channels that came back catch up.

    Args:
        log: the changes that channels may have missed.
        hub: the live hub, to which the channels go in the end.
        new_hub: makes a hub like that.
        publish: publishes events to a round's hub.
        on_live: called when a channel is in the live hub, perhaps within :meth:`add`.
        on_floor: tells a channel of the changes that the log does not have any more.
        on_slow: tells a channel of changes that took too long to publish.
        on_lost: tells a channel of changes that could not be published.
    """

    def __init__(
        self,
        log: ChangeLog,
        hub: Hub,
        new_hub: Callable[[], Hub],
        *,
        publish: Publish,
        on_live: Callable[[Subscription], None],
        on_floor: TellGap,
        on_slow: TellGap,
        on_lost: TellGap,
    ) -> None:
        self._log = log
        self._new_hub = new_hub
        self._publish = publish
        self._on_floor = on_floor
        self.older = OlderChanges(log)
        """What the log has given up, as far as it can be read again."""
        self._floor = LogFloor(log, self.older, on_floor)
        self._on_slow = on_slow
        self._on_lost = on_lost
        # All channels that are being brought up to now.
        self._members: dict[Subscription, RoundMember] = {}
        self._queue = CatchUpQueue()
        self._going_live = GoingLive(hub, self._members, on_live)
        self._rounds: dict[CatchUpRound, None] = {}
        self._pace = CatchUpPace()
        # Set unless a batch is being published, and the place that was handed out before it.
        self._is_handed_out = asyncio.Event()
        self._is_handed_out.set()
        self._handed: Place = log.end
        self.failures = 0
        """Rounds that have failed, because of a bug."""
        self._failure_lines = LineLimit()
        self.on_add: Callable[[Place], None] = lambda place: None
        """Called with the place of each channel that is added."""
        self.on_written: Callable[[Subscription, Place], None] = lambda subscription, place: None
        """Called when everything up to a place was just written to a channel of a round."""
        self._changes = self._duplicates_possible = 0

    @property
    def handed(self) -> Place:
        """The place up to which the live hub has sent all changes."""
        return self._log.end if self._is_handed_out.is_set() else self._handed

    @property
    def is_handed_out(self) -> bool:
        """Whether no batch of the stream is being published."""
        return self._is_handed_out.is_set()

    def places(self) -> Iterator[Place]:
        """Yield the places of the channels that are being brought up to now. Others may run in
        between: the places only go up, and :attr:`on_add` tells of channels that are added."""
        for member in list(self._members.values()):
            one = member.round if member.has_entered else None
            epoch, place = (member.epoch, member.place) if one is None else (one.epoch, one.place)
            # What it missed of another stream is lost, so that it will go on from the floor.
            yield place if epoch == self._log.epoch else self._log.floor

    def stats(self) -> CatchUpStats:
        """Return the counts, as they are now."""
        return CatchUpStats(
            len(self._rounds),
            len(self._members),
            self._changes,
            self._duplicates_possible,
        )

    # What the facade calls

    def add(
        self, subscription: Subscription, place: Place, *, written: Place | None = None
    ) -> None:
        """Let a channel catch up, and then go live.

        Args:
            subscription: the channel, which is in no hub.
            place: the place up to which the channel has everything, of the log's present epoch.
            written: the place up to which everything was written to the channel from whose place it
                goes on; None: it is not known.
        """
        member = RoundMember(
            subscription, min(place, self._log.end), self._log.epoch, written=written
        )
        if member.place == self._log.end and self._is_handed_out.is_set():
            self._going_live.go_live(subscription)
            return
        self._members[subscription] = member
        self.on_add(member.place)
        self._join_or_wait(member)

    def remove(self, subscription: Subscription) -> None:
        """Remove a channel that has left, if it is catching up."""
        member = self._members.pop(subscription, None)
        if member is None:
            return
        if member.round is not None:
            member.round.remove(member)
        self._queue.discard(member)
        self._going_live.discard(member)

    def move(self, subscription: Subscription, viewer: Hashable) -> bool:
        """Give a channel another viewer if it is catching up; return whether it is."""
        member = self._members.get(subscription)
        if member is None:
            return False
        if member.round is not None and member.has_entered:
            member.round.move(member, viewer)
        else:
            subscription.viewer = viewer
        return True

    def place_of(self, subscription: Subscription) -> Place | None:
        """Return the place up to which everything was written to a channel; None if it is not being
        brought up to now. The step that is being published does not count."""
        member = self._members.get(subscription)
        if member is None:
            return None
        return member.round.place if member.round and member.has_entered else member.place

    async def run(self) -> None:
        """Start rounds for channels that wait; never return."""
        async with asyncio.TaskGroup() as running:
            while True:
                await self._queue.has_come.wait()
                await asyncio.sleep(_GATHERING)
                for member in self._queue.take_drained():
                    self._join_or_wait(member)
                self._look_at_held()
                await self._let_all_go()
                is_time = self._pace.is_time(asyncio.get_running_loop().time())
                alone = sum(one.is_alone for one in self._rounds)
                if is_time and len(self._rounds) - alone < _MOST:
                    await self._begin_round(running, self._queue.first(MOST_MEMBERS))
                if alone < _MOST_ALONE:
                    theirs = self._queue.first_alone(MOST_MEMBERS)
                    await self._begin_round(running, theirs, is_alone=True)
                if not (self._queue or self._going_live):
                    self._queue.has_come.clear()

    # What the broadcaster calls

    def before(self, batch: Sequence[Event]) -> None:
        """Prepare for a batch that is about to be published to the live hub."""
        self._promote_all()
        epoch, self._handed = self._log.epoch, self._log.end
        self._log.append(batch)
        if self._log.epoch != epoch:
            self._handed = self._log.floor
        self._is_handed_out.clear()

    def after(self) -> None:
        """Note that a batch is in every outbox."""
        self._is_handed_out.set()
        self._let_go()
        self._promote_all()

    def begin_anew(self) -> None:
        """Let all channels go live without what they missed, after a failure; no batch is being
        published."""
        self._is_handed_out.set()
        members = list(self._members.values())
        for one in self._rounds:
            one.clear()
        for waiting in (self._members, self._queue, self._going_live):
            waiting.clear()
        for member in members:
            self._on_floor(member.subscription, member.place, self._log.floor)
            self._going_live.go_live(member.subscription)

    # Rounds

    def _join_or_wait(self, member: RoundMember) -> None:
        """Let a member join a round that has not passed its place, or wait for the next one."""
        fits = [one for one in self._rounds if one.may_take(member, self._log.epoch)]
        if fits and not member.is_alone:
            max(fits, key=lambda one: one.publishing_to).add(member)
        else:
            self._queue.put(member)

    def _look_at_held(self) -> None:
        """Let members go on that could not be published to, unless what they missed is gone."""
        for member in self._queue.take_held(self._floor.is_above):
            if self._floor.is_above(member):
                self._going_live.give_up(member, self._on_floor)
            else:
                self._join_or_wait(member)

    async def _begin_round(
        self, running: asyncio.TaskGroup, members: Sequence[RoundMember], *, is_alone: bool = False
    ) -> None:
        """Begin a round of channels that wait, if there are any."""
        members = await self._floor.lift_all(members, self._queue)
        if members:
            one = CatchUpRound(self._new_hub(), members, self._log.epoch, is_alone=is_alone)
            for member in members:
                self._queue.discard(member)
            self._rounds[one] = None
            running.create_task(self._bring_up(one))

    async def _bring_up(self, one: CatchUpRound) -> None:
        loop = asyncio.get_running_loop()
        began, channels, changes = loop.time(), len(one), 0
        self._pace.begin(one, began)
        try:
            while len(one):
                changes += await self._step(one)
                await asyncio.sleep(0)
        except CannotPublishError as exc:
            logger.warning("%d channels that came back miss changes: %s", len(one), exc)
            self._give_up(one, [*one.members.values(), *one.entering], self._on_lost)
        except Exception:
            self.failures += 1
            if self._failure_lines.take() is not None:
                logger.exception("a round failed (a bug in realtime_server: please report it)")
            self._give_up(one, [*one.members.values(), *one.entering], self._on_lost)
        finally:
            del self._rounds[one]
            await self.older.close(one)
        took = loop.time() - began
        self._pace.end(one, began, took)
        logger.debug(
            "a round for %d channels is over: %d changes in %.3f s", channels, changes, took
        )

    async def _step(self, one: CatchUpRound) -> int:
        """Publish some changes to a round's hub, or let its members go live; return how many."""
        await self._enter(one)
        if not len(one):
            return 0
        is_older = one.place < self._log.floor
        if not is_older:
            await self.older.close(one)
            if one.place < self._log.floor:
                # Memory has given up what comes next meanwhile.
                return 0
        elif not await self.older.fetch(one):
            return 0
        # Others may have joined meanwhile.
        until = one.entering[-1].place if one.entering else None
        if is_older:
            events, place = self.older.read(one, _STEP, until, most_bytes=one.step_bytes())
        else:
            events, place = self._log.read(one.place, _STEP, until, most_bytes=one.step_bytes())
        one.publishing_to = place
        if events:
            published = await self._publish_step(one, events)
            self._set_apart(one, published.apart)
            self._changes += len(events) * len(one.members)
            self._duplicates_possible += one.written_before(events)
            self._give_up(one, one.of_viewers(published.slow), self._on_slow)
            self._give_up(one, one.of_viewers(published.refused), self._on_lost)
            for member in one.of_viewers(published.held):
                one.remove(member)
                self._queue.put_held(member, published.may_go_on)
        one.place = place
        if events:
            for subscription in one.members:
                self.on_written(subscription, place)
            self._set_apart(one, published.costly)
            if published.is_last:
                raise asyncio.CancelledError
        # Their outboxes have to drain first.
        for member in one.behind():
            one.remove(member)
            self._queue.put_behind(member)
        if not events and until is None:
            await self._is_handed_out.wait()
            self._promote(one)
        return len(events)

    async def _publish_step(self, one: CatchUpRound, events: list[Event]) -> Published:
        """Publish changes to the members that have the same viewers all the time."""
        # A gap is told whoever the viewer is.
        one.is_publishing = type(events[0]) is not Gap
        try:
            return await self._publish(one.hub, events, is_alone=one.is_alone)
        finally:
            one.is_publishing = False
            for member in one.moved():
                one.remove(member)
                self._join_or_wait(member)

    async def _enter(self, one: CatchUpRound) -> None:
        """Let members enter the round's hub when the round has reached their places; the round is
        not below the log's floor then."""
        turn = Turn()
        while True:
            if self._floor.is_above_round(one):
                await self._floor.lift_round(one, turn)
            elif not one.enter():
                return
            await turn.give_way()

    def _set_apart(self, one: CatchUpRound, viewers: Collection[Hashable]) -> None:
        """Let members of slow viewers wait for a round of their viewer alone."""
        for member in one.of_viewers(viewers):
            one.remove(member)
            member.is_alone = True
            self._join_or_wait(member)

    def _promote_all(self) -> None:
        for one in list(self._rounds):
            self._promote(one)

    def _promote(self, one: CatchUpRound) -> None:
        """Let members go live that have everything, as many as there is time for."""
        is_at_end = one.epoch == self._log.epoch and one.place == self._log.end
        if not is_at_end or not self._is_handed_out.is_set():
            return
        self._going_live.promote(one)

    def _give_up(self, one: CatchUpRound, members: Iterable[RoundMember], tell: TellGap) -> None:
        """Let members go live without what they missed, as soon as no batch is being published."""
        for member in members:
            one.remove(member)
            self._going_live.give_up(member, tell)
        if self._is_handed_out.is_set():
            self._let_go()

    async def _let_all_go(self) -> None:
        while self._going_live and self._is_handed_out.is_set():
            self._let_go()
            await asyncio.sleep(0)

    def _let_go(self) -> None:
        self._going_live.let_go(self._log.end)
        if self._going_live:
            self._queue.has_come.set()
