"""Rounds: bring channels that came back up to now, through hubs that run behind the live one.

Theory of operation. A round takes the channels that came back within some milliseconds. It has a
hub of its own, which is made like the live one, and publishes to it what the log has, from the
lowest of their places on. Each channel enters the hub when the round has reached its place. So a
change is matched and rendered once for all of them, by the code that does it for live changes.

The switch to the live hub is made between two batches of the stream, for channels whose round has
reached the end of the log, and without giving way. The broadcaster calls :meth:`Rounds.before`
before it publishes a batch, which appends the batch to the log, and :meth:`Rounds.after` when the
batch is with every outbox. In between nobody is switched: a round that reaches the end of the log
then has published this very batch to its channels. So each channel is in the live hub for whole
batches only, and has got every earlier one before: nothing is left out, sent twice or overtaken.

When thousands come back at once, each of them has made its handshake at another time. So the next
round waits until so many have gathered that rounds take a small part of the time.

A client whose outbox is behind leaves its round and comes back in another one when the outbox has
drained. So replay cuts no client off as too slow, and no client waits for the slowest. Nor does one
wait for another whose changes take long to check: that one has a round of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final, TypeAlias

import attrs

from realtime_core import Event

from ..fanout.groups import Subscription
from ..fanout.hub import Hub
from ..fanout.turns import Turn, run_steps
from .log import ChangeLog
from .places import Place
from .round import Member, Round

__all__ = [
    "CannotPublishError",
    "Publish",
    "Published",
    "Rounds",
    "RoundsStats",
    "one_at_a_time",
]

logger = logging.getLogger("realtime.replay")

_GATHERING: Final = 0.02
"""Seconds for which a round waits for others that come back, and after which outboxes that are
behind are looked at again."""
_MOST: Final = 4
"""Rounds that run at a time. Those who come back meanwhile wait, and share the next one."""
_MOST_ALONE: Final = 2
"""Rounds of one viewer alone that run besides."""
_REST: Final = 8
"""How many times as long as a round has taken it is until the next one begins, from beginning to
beginning, if clients keep coming back: each round matches and renders the changes anew."""
_MOST_REST: Final = 0.25
"""Seconds after which the next one begins, however long a round takes."""
_AT_ONCE: Final = 1000
"""Channels that are looked at without giving way, at most."""
_PROMOTING: Final = 0.001
"""Seconds for which a round's channels are let go live before a batch, and behind it. Those for
whom there is no time get the batch from their round."""
_MOST_MEMBERS: Final = 5000
"""Channels that are brought up to now together. The others wait for the next round."""
_STEP: Final = 500
"""Changes that a round publishes at once, at most."""


@attrs.frozen
class Published:
    """For which viewers it takes too long to publish to them."""

    slow: Collection[Hashable] = ()
    """Their channels are not brought up any further, are told of a gap, and go live."""
    apart: Collection[Hashable] = ()
    """Nothing of it was published to them. They have rounds of their own from then on."""
    costly: Collection[Hashable] = ()
    """All of it was published to them. They have rounds of their own from then on."""


Publish: TypeAlias = Callable[[Hub, list[Event]], Awaitable[Published]]
"""Publishes events to a hub of a round, and returns when they are with every outbox. It raises
:exc:`CannotPublishError`, if nobody can get them."""


class CannotPublishError(Exception):
    """Changes cannot be published to a round; its channels are told of a gap, and go live."""


@attrs.frozen
class RoundsStats:
    """The counts of all rounds."""

    running: int = 0
    """Rounds that run now."""
    waiting: int = 0
    """Channels that are being brought up to now."""
    started: int = 0
    """Rounds that were started."""
    changes: int = 0
    """Changes that rounds published, each counted once for each of the round's channels."""


class Rounds:
    """Brings channels that came back up to now.

    Args:
        log: has what they missed.
        hub: the live one, to which they go then.
        new_hub: makes a hub like that.
        publish: publishes events to a round's hub.
        on_live: called when a channel is in the live hub: it has everything up to ``log.end``. It
            may be called within :meth:`add`.
        on_floor: called when the log no longer has what is behind a channel's place: with the
            channel, that place, and the place from which it goes on. It tells the channel of the
            gap.
        on_slow: called likewise when it took too long to publish a change to a channel.
        on_lost: called likewise when a change could not be published, or the round failed.
    """

    def __init__(
        self,
        log: ChangeLog,
        hub: Hub,
        new_hub: Callable[[], Hub],
        *,
        publish: Publish,
        on_live: Callable[[Subscription], None],
        on_floor: Callable[[Subscription, Place, Place], None],
        on_slow: Callable[[Subscription, Place, Place], None] | None = None,
        on_lost: Callable[[Subscription, Place, Place], None] | None = None,
    ) -> None:
        self._log = log
        self._hub = hub
        self._new_hub = new_hub
        self._publish = publish
        self._on_live = on_live
        self._on_floor = on_floor
        self._on_slow = on_slow or on_floor
        self._on_lost = on_lost or on_floor
        # All channels that are being brought up to now.
        self._members: dict[Subscription, Member] = {}
        # Those of them that wait for a round, those that wait for one of their viewer alone, and
        # those whose outboxes have to drain before.
        self._waiting: dict[Member, None] = {}
        self._alone: dict[Member, None] = {}
        self._behind: dict[Member, None] = {}
        # Those that are not brought up any further, and go live between two batches, each with what
        # tells it of the gap.
        self._given_up: dict[Member, Callable[[Subscription, Place, Place], None]] = {}
        self._rounds: dict[Round, None] = {}
        # When the next round may begin.
        self._next_at = 0.0
        # Set while anybody waits.
        self._wanted = asyncio.Event()
        # Set unless a batch of the stream is being published, and what had been handed out before.
        self._is_handed_out = asyncio.Event()
        self._is_handed_out.set()
        self._handed: Place = log.end
        self._started = 0
        self._changes = 0

    @property
    def handed(self) -> Place:
        """The place up to which the live hub has handed out everything."""
        return self._log.end if self._is_handed_out.is_set() else self._handed

    @property
    def is_handed_out(self) -> bool:
        """Whether no batch of the stream is being published."""
        return self._is_handed_out.is_set()

    @property
    def needed(self) -> Place | None:
        """The lowest place from which anybody has still to be brought up to now; None: nobody."""
        log = self._log
        waiting = chain(
            self._waiting, self._alone, self._behind, *(one.entering for one in self._rounds)
        )
        places = chain(
            (member.place for member in waiting if member.epoch == log.epoch),
            (one.place for one in self._rounds if one.members and one.epoch == log.epoch),
        )
        return min(places, default=None)

    def stats(self) -> RoundsStats:
        """Return the counts, as they are now."""
        return RoundsStats(len(self._rounds), len(self._members), self._started, self._changes)

    # What the facade calls

    def add(self, subscription: Subscription, place: Place) -> None:
        """Bring a channel up to now, and let it go live then.

        Args:
            subscription: of the channel, in no hub.
            place: up to where it has everything, of the log's present epoch.
        """
        member = Member(subscription, min(place, self._log.end), self._log.epoch)
        if member.place == self._log.end and self._is_handed_out.is_set():
            self._go_live(member)
            return
        self._members[subscription] = member
        self._queue(member)

    def remove(self, subscription: Subscription) -> None:
        """Let a channel go, which has left. One that is not there is ignored."""
        member = self._members.pop(subscription, None)
        if member is None:
            return
        if member.round is not None:
            member.round.remove(member)
        self._waiting.pop(member, None)
        self._alone.pop(member, None)
        self._behind.pop(member, None)
        self._given_up.pop(member, None)

    def move(self, subscription: Subscription, viewer: Hashable) -> bool:
        """Give a channel another viewer; return whether it is being brought up to now."""
        member = self._members.get(subscription)
        if member is None:
            return False
        if member.round is not None and member.has_entered:
            member.round.hub.move(subscription, viewer)
        else:
            subscription.viewer = viewer
        return True

    def place_of(self, subscription: Subscription) -> Place | None:
        """Return up to where a channel was written everything; None if it is not there.

        It is never too high. What was written of the step that is being published does not count.
        """
        member = self._members.get(subscription)
        if member is None:
            return None
        return member.round.place if member.round and member.has_entered else member.place

    async def run(self) -> None:
        """Start rounds for those who wait; never return."""
        async with asyncio.TaskGroup() as running:
            while True:
                await self._wanted.wait()
                await asyncio.sleep(_GATHERING)
                self._queue_those_who_have_read()
                await self._let_all_go()
                is_time = asyncio.get_running_loop().time() >= self._next_at
                alone = sum(one.is_alone for one in self._rounds)
                if is_time and self._waiting and len(self._rounds) - alone < _MOST:
                    await self._begin_round(running, list(islice(self._waiting, _MOST_MEMBERS)))
                if self._alone and alone < _MOST_ALONE:
                    viewer = next(iter(self._alone)).subscription.viewer
                    theirs = [one for one in self._alone if one.subscription.viewer == viewer]
                    await self._begin_round(running, theirs[:_MOST_MEMBERS], is_alone=True)
                if not (self._waiting or self._alone or self._behind or self._given_up):
                    self._wanted.clear()

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
        """Go on after a batch, which is with every outbox now."""
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
        for waiting in (self._members, self._waiting, self._alone, self._behind, self._given_up):
            waiting.clear()
        for member in members:
            self._on_floor(member.subscription, member.place, self._log.floor)
            self._go_live(member)

    # Rounds

    def _queue(self, member: Member) -> None:
        """Let a member join a round that has not passed its place, or wait for the next one."""
        fits = [one for one in self._rounds if self._may_join(one, member)]
        if member.is_alone:
            self._alone[member] = None
            self._wanted.set()
        elif fits:
            max(fits, key=lambda one: one.publishing_to).add(member)
        else:
            self._waiting[member] = None
            self._wanted.set()

    def _queue_those_who_have_read(self) -> None:
        for member in list(self._behind):
            if not member.subscription.outbox.is_behind:
                del self._behind[member]
                self._queue(member)

    async def _begin_round(
        self, running: asyncio.TaskGroup, members: Sequence[Member], *, is_alone: bool = False
    ) -> None:
        """Begin a round of some who wait, all of the same viewer or not."""
        members = await self._lift_all(members)
        if members:
            one = Round(self._new_hub(), members, self._log.epoch, is_alone=is_alone)
            for member in members:
                self._waiting.pop(member, None)
                self._alone.pop(member, None)
            self._rounds[one] = None
            self._started += 1
            running.create_task(self._bring_up(one))

    async def _lift_all(self, members: Sequence[Member]) -> list[Member]:
        """Tell those who wait of a gap whose place the log does not have any more; return those who
        still wait then."""
        turn = Turn()
        while True:
            waiting = [one for one in members if one in self._waiting or one in self._alone]
            epoch, floor = self._log.epoch, self._log.floor
            lost = [one for one in waiting if one.epoch != epoch or one.place < floor]
            if not lost:
                return waiting
            for member in lost:
                if member in self._waiting or member in self._alone:
                    self._lift(member, epoch, floor)
                    await turn.give_way()

    def _may_join(self, one: Round, member: Member) -> bool:
        is_comparable = one.epoch == member.epoch == self._log.epoch
        is_open = is_comparable and not one.is_alone and 0 < len(one) < _MOST_MEMBERS
        return is_open and one.publishing_to <= member.place

    async def _bring_up(self, one: Round) -> None:
        loop = asyncio.get_running_loop()
        began, channels, changes = loop.time(), len(one), 0
        self._next_at = began + _MOST_REST
        try:
            while len(one):
                changes += await self._step(one)
                await asyncio.sleep(0)
        except CannotPublishError as exc:
            logger.warning("%d channels that came back miss changes: %s", len(one), exc)
            self._give_up(one, [*one.members.values(), *one.entering], self._on_lost)
        except Exception:
            logger.exception("a round failed (a bug in realtime_server: please report it)")
            self._give_up(one, [*one.members.values(), *one.entering], self._on_lost)
        finally:
            del self._rounds[one]
        took = loop.time() - began
        self._next_at = min(self._next_at, began + _REST * took)
        logger.debug(
            "a round for %d channels is over: %d changes in %.3f s",
            channels,
            changes,
            took,
        )

    async def _step(self, one: Round) -> int:
        """Publish some changes to a round's hub, or let its members go live; return how many."""
        await self._enter(one)
        if not len(one):
            return 0
        until = one.entering[-1].place if one.entering else None
        events, place = self._log.read(one.place, _STEP, until, most_bytes=one.step_bytes())
        one.publishing_to = place
        if events:
            published = await self._publish(one.hub, events)
            self._set_apart(one, published.apart)
            self._changes += len(events) * len(one.members)
            self._give_up(one, _of_viewers(one, published.slow), self._on_slow)
        one.place = place
        if events:
            self._set_apart(one, published.costly)
        self._leave_behind(one)
        if not events and until is None:
            await self._is_handed_out.wait()
            self._promote(one)
        return len(events)

    async def _enter(self, one: Round) -> None:
        """Let those enter the round's hub whose place the round has reached, above the floor."""
        turn = Turn()
        while True:
            if one.epoch != self._log.epoch or one.place < self._log.floor:
                await self._pass_floor(one, turn)
            elif not one.enter():
                return
            await turn.give_way()

    async def _pass_floor(self, one: Round, turn: Turn) -> None:
        """Tell those of a gap whose place the log does not have any more; they go on behind it."""
        epoch, floor = self._log.epoch, self._log.floor
        for member in list(one.members.values()):
            if member.round is one:
                self._on_floor(member.subscription, one.place, floor)
                await turn.give_way()
        # Those with the highest places come first, so that they stay in order all the time.
        for member in list(one.entering):
            if member.round is one and (member.epoch != epoch or member.place < floor):
                self._lift(member, epoch, floor)
                await turn.give_way()
        one.place = one.publishing_to = floor
        one.epoch = epoch

    def _lift(self, member: Member, epoch: int, floor: Place) -> None:
        """Tell a member that is in no hub of the gap up to the floor."""
        self._on_floor(member.subscription, member.place, floor)
        member.place, member.epoch = floor, epoch

    def _set_apart(self, one: Round, viewers: Collection[Hashable]) -> None:
        """Let those go whose viewers take long, until there is a round for each viewer alone."""
        for member in _of_viewers(one, viewers):
            one.remove(member)
            member.is_alone = True
            self._queue(member)

    def _leave_behind(self, one: Round) -> None:
        """Let those go whose outboxes are behind, until these have drained."""
        for member in _behind(one):
            one.remove(member)
            self._behind[member] = None
            self._wanted.set()

    def _promote_all(self) -> None:
        for one in list(self._rounds):
            self._promote(one)

    def _promote(self, one: Round) -> None:
        """Let members go live that have everything, as many as there is time for."""
        is_at_end = one.epoch == self._log.epoch and one.place == self._log.end
        if not is_at_end or not self._is_handed_out.is_set():
            return
        clock = asyncio.get_running_loop().time
        until = clock() + _PROMOTING
        for member in list(islice(one.members.values(), _AT_ONCE)):
            one.remove(member)
            self._go_live(member)
            if clock() >= until:
                break

    def _give_up(
        self,
        one: Round,
        members: Iterable[Member],
        tell: Callable[[Subscription, Place, Place], None],
    ) -> None:
        """Let members go live without what they missed, as soon as no batch is being published."""
        for member in members:
            one.remove(member)
            self._given_up[member] = tell
        if self._is_handed_out.is_set():
            self._let_go()

    async def _let_all_go(self) -> None:
        while self._given_up and self._is_handed_out.is_set():
            self._let_go()
            await asyncio.sleep(0)

    def _let_go(self) -> None:
        """Let those go live that are not brought up any further, as many as there is time for."""
        clock = asyncio.get_running_loop().time
        until = clock() + _PROMOTING
        for member, tell in list(islice(self._given_up.items(), _AT_ONCE)):
            del self._given_up[member]
            tell(member.subscription, member.place, self._log.end)
            self._go_live(member)
            if clock() >= until:
                break
        if self._given_up:
            self._wanted.set()

    def _go_live(self, member: Member) -> None:
        self._members.pop(member.subscription, None)
        self._hub.subscribe(member.subscription)
        self._on_live(member.subscription)


_TO_ALL: Final = Published()


def _of_viewers(one: Round, viewers: Collection[Hashable]) -> list[Member]:
    if not viewers:
        return []
    return [member for member in one.members.values() if member.subscription.viewer in viewers]


def _behind(one: Round) -> Iterator[Member]:
    members = list(one.members.values())
    return (member for member in members if member.subscription.outbox.is_behind)


def one_at_a_time() -> Publish:
    """Return what publishes to rounds' hubs in STREAM mode: for one round at a time.

    Each dispatch has a slice of time, after which the live one has its turn: with one slice for
    each round it would wait for four of them.
    """
    lock = asyncio.Lock()

    async def publish(hub: Hub, events: list[Event]) -> Published:
        async with lock:
            await run_steps(hub.publishing(events))
        return _TO_ALL

    return publish
