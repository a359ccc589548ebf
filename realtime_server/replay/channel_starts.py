"""ChannelStarts: where a joined channel begins in the stream, and what its client is told of it.

A channel goes on where a former one of its client ended, in a round that brings it up to now, or it
begins in the live hub. Which of the two it is may take a second to find out, because a former
connection may look as if it were still open.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from ..fanout.groups import Subscription
from ..fanout.hub import Hub
from .catch_up import CatchUp
from .change_log import ChangeLog
from .held_channels import HeldChannels
from .liveness_checks import LivenessChecks
from .lost_reasons import LostReason
from .membership import Choice, Membership
from .memberships import MOST_REPEATS, Memberships
from .notices import Notices, Start
from .places import Place
from .publishing import Publish
from .standing import Standing
from .standings import Standings
from .visit import Visit

__all__ = ["ChannelStarts", "OnStart"]

logger = logging.getLogger("realtime.replay")

_ALWAYS_A_GAP: Final = (LostReason.UNPROVEN, LostReason.LOST)

OnStart = Callable[[Start], None]
"""Called once, now or within a second or so, before anything is sent to a channel."""


class ChannelStarts:
    """Decides where each joined channel begins, and begins it there.

    Args:
        hub: the live one.
        new_hub: makes a hub like that, for a round.
        publish: publishes events to the hub of a round.
        log: the changes that clients may have missed.
        standings: where channels stand.
        memberships: whose channels are here, and whose away.
        notices: what channels are told.
    """

    def __init__(
        self,
        hub: Hub,
        new_hub: Callable[[], Hub],
        *,
        publish: Publish,
        log: ChangeLog,
        standings: Standings,
        memberships: Memberships,
        notices: Notices,
    ) -> None:
        self._hub = hub
        self._log = log
        self._standings = standings
        self._memberships = memberships
        self._notices = notices
        self.catch_up = CatchUp(
            log,
            hub,
            new_hub,
            publish=publish,
            on_live=self._on_live,
            on_floor=self._on_floor,
            on_slow=self._on_slow,
            on_lost=self._on_lost,
        )
        """Bring channels up to now."""
        self.catch_up.on_written = standings.note_written
        self._liveness_checks = LivenessChecks(
            memberships.others, _charge, self._ask, self._decide, on_failure=self._fail
        )
        memberships.shared_sessions.on_first = self._on_shared
        memberships.on_lacking = self._on_lacking
        # The callbacks of channels of which it is not decided yet where they begin.
        self._starting: dict[Membership, OnStart] = {}
        # The membership that is being entered right now, and has not waited.
        self._joining: Membership | None = None
        self.held = HeldChannels(self._liveness_checks.add, self._may_be_elsewhere)
        """The channels that wait until the journal says where their clients have been."""
        self.epoch = log.epoch
        """The epoch of the log to whose stream places belong."""
        self.resumed = 0
        """Channels that went on where a former one had ended."""
        self.fresh = 0
        """Channels that began anew."""
        self.failed = 0
        """Channels that began anew because it could not be decided where they go on."""
        self.shared_sessions = 0
        """Sessions that several clients have."""
        self.gaps: Counter[str] = Counter()
        """Channels that were told of a gap, by reason."""

    def close(self) -> None:
        """Start no more channels, since the server stops."""
        self._liveness_checks.close()

    @property
    def failures(self) -> int:
        """How often a round, a liveness check or a decision has failed because of a bug."""
        return self.failed + self.catch_up.failures + self._liveness_checks.failures

    def cancel(self, member: Membership) -> None:
        """Do not start a channel any more, because it has ended."""
        self.held.discard(member)
        self._liveness_checks.remove(member)
        self._starting.pop(member, None)

    def begin_unknown(self, subscription: Subscription, on_start: OnStart) -> None:
        """Start a channel in the live hub, because nothing tells whose it is."""
        self.fresh += 1
        on_start(self._notices.start(self.catch_up.handed, resumed=False))
        self._hub.subscribe(subscription)

    def begin_without_key(self, standing: Standing) -> None:
        """Start a waiting channel in the live hub, because its new token does not tell whose it
        is."""
        # It cannot go on from what a former process has left, so it begins now.
        is_early = self.held.is_early(standing.member)
        place = self.catch_up.handed if is_early else standing.began
        on_start = self._starting[standing.member]
        self.cancel(standing.member)
        self.fresh += 1
        on_start(self._notices.start(place, resumed=False))
        self.catch_up.add(standing.subscription, place)

    def begin(self, standing: Standing, on_start: OnStart) -> None:
        """Find out where a channel begins, and begin it there as soon as that is known.

        Args:
            standing: the channel's place, so far as it is known.
            on_start: called once, before anything is sent to the channel.
        """
        self._starting[standing.member] = on_start
        visit = standing.member.client
        assert isinstance(visit, Visit)
        if not self.held.take(standing, is_new=visit.is_new):
            # A channel of a connection that has left it before may have waited since then.
            self._joining = standing.member if standing.began == self.catch_up.handed else None
            self._liveness_checks.add(standing.member)
            self._joining = None

    def _may_be_elsewhere(self, member: Membership) -> bool:
        """Return whether a channel's client may have been at another process."""
        return member.key.is_exact or bool(self._memberships.absences.elsewhere(member.key))

    def succeed(self, standing: Standing, parked: Standing, on_start: OnStart) -> None:
        """Begin a channel where another channel of the same connection ended.

        Args:
            standing: the place of the channel that begins.
            parked: the place of the channel that ended, because its client joined again.
            on_start: called before anything is sent to the channel.
        """
        member = standing.member
        member.is_chosen = True
        member.is_anew = parked.member.is_anew
        if parked.began == parked.first:
            member.repeats, member.has_missed = parked.member.repeats, parked.member.has_missed
        place = standing.succeed(parked)
        self._standings.note(member)
        self.resumed += 1
        on_start(self._notices.start(place, resumed=not member.is_anew))
        self.catch_up.add(standing.subscription, place, written=parked.written)

    def _ask(self, member: Membership, answer: Callable[[bool], None]) -> None:
        """Ask whether a membership's client is still there."""
        visit = member.client
        assert isinstance(visit, Visit)

        def on_answer(is_there: bool) -> None:
            if is_there:
                self._memberships.shared_sessions.find(member.key)
            answer(is_there)

        visit.proof.ask(on_answer)

    def _on_shared(self) -> None:
        self.shared_sessions += 1
        logger.warning(
            "several clients have the same session, so each may get what another has missed; give "
            "each client object another one, as by crypto.randomUUID()"
        )

    def _decide(self, member: Membership, silent: Collection[Membership]) -> None:
        standing = self._standings.of_member(member)
        if standing is None or member not in self._starting:
            return
        has_waited = member is not self._joining
        choice = self._memberships.choose(member, silent)
        if choice.place is None:
            self._standings.note(member)
            self.fresh += 1
            self._tell_start(member, standing.began, resumed=False)
            # In the midst of a batch the live hub has handed out a part of it already, which one
            # that has waited has to get, too.
            if standing.began == (self._log.end if has_waited else self.catch_up.handed):
                self._hub.subscribe(standing.subscription)
                self._on_live(standing.subscription)
            else:
                self.catch_up.add(standing.subscription, standing.began)
            return
        # Whoever left while this one waited may have got changes that came after this one's join.
        after = min(choice.place, standing.began)
        place, why = self._where(standing, choice, after)
        standing.go_on(after)
        self._standings.note(member)
        if why is None:
            self.resumed += 1
        self._tell_start(member, place, resumed=why is None and not member.is_anew)
        if why is not None:
            standing.lost = why if why in _ALWAYS_A_GAP else None
            self._tell_gap(standing.subscription, after, place, why)
        self.catch_up.add(standing.subscription, place, written=choice.written)

    def _tell_start(self, member: Membership, place: Place, *, resumed: bool) -> None:
        self._starting.pop(member)(self._notices.start(place, resumed=resumed))

    def _fail(self, member: Membership) -> None:
        """Let a channel begin anew that could not be decided on; an exception is being handled."""
        self.failed += 1
        if self.failed == 1:
            logger.exception(
                "it cannot be decided where a channel goes on, so it begins anew, as will others "
                "(a bug in realtime_server: please report it)"
            )
        standing = self._standings.of_member(member)
        if standing is None:
            return
        member.is_chosen = True
        subscription = standing.subscription
        if member in self._starting:
            self.fresh += 1
            self._tell_start(member, standing.began, resumed=False)
        elif not (subscription.is_open or self.catch_up.place_of(subscription) is not None):
            # It was told where it goes on, and does not.
            began = standing.began
            standing.go_on(max(began, self.catch_up.handed))
            standing.lost = LostReason.LOST
            self._tell_gap(subscription, began, standing.began, LostReason.LOST)
        else:
            return
        self._standings.note(member)
        self.catch_up.add(subscription, standing.began)

    def _where(
        self, standing: Standing, choice: Choice, place: Place
    ) -> tuple[Place, LostReason | None]:
        """Return the place from which on a channel gets changes, and why it misses some."""
        lost = choice.lost
        if self._log.epoch != self.epoch:
            lost = LostReason.LOST
        has_missed = place < self.catch_up.handed
        standing.member.repeats = choice.repeats
        standing.member.has_missed = has_missed
        if lost is LostReason.LOST or (lost is LostReason.UNPROVEN and has_missed):
            return standing.began, lost
        if has_missed and choice.repeats >= MOST_REPEATS:
            return standing.began, LostReason.LIMIT
        if place < (floor := self.catch_up.older.floor):
            return floor, lost or LostReason.LIMIT
        return place, None

    def _on_live(self, subscription: Subscription) -> None:
        standing = self._standings.of_subscription(subscription)
        if standing is not None:
            standing.go_live()

    def _on_floor(self, subscription: Subscription, place: Place, floor: Place) -> None:
        is_other = self._log.epoch != self.epoch
        why = LostReason.LOST if is_other else LostReason.LIMIT
        self._tell_gap(subscription, place, floor, why)

    def _on_slow(self, subscription: Subscription, place: Place, until: Place) -> None:
        self._tell_gap(subscription, place, until, LostReason.RLS_TOO_SLOW)

    def tell_replaced(self, subscription: Subscription, after: Place, until: Place) -> None:
        """Tell a channel with a new token of the changes that it misses, since they waited to be
        checked for its former viewer."""
        self._tell_gap(subscription, after, until, LostReason.TOKEN_REPLACED)

    def _on_lacking(self, member: Membership, place: Place) -> None:
        """Tell a channel that it most likely misses what came before it began."""
        standing = self._standings.of_member(member)
        if standing is not None and place < standing.first:
            self._standings.lose(standing)
            self._tell_gap(standing.subscription, place, standing.first, LostReason.LOST)

    def _on_lost(self, subscription: Subscription, place: Place, until: Place) -> None:
        self._tell_gap(subscription, place, until, LostReason.LOST)

    def _tell_gap(
        self, subscription: Subscription, after: Place, until: Place, why: LostReason
    ) -> None:
        """Tell a channel that it misses the changes between two places."""
        self.gaps[why.value] += 1
        self._notices.tell_gap(subscription, after, until, why)
        standing = self._standings.of_subscription(subscription)
        if standing is not None:
            # Until the message has arrived, its client does not know.
            standing.proof.count_write()
            standing.note(until)


def _charge(member: Membership, asked: int) -> None:
    visit = member.client
    assert isinstance(visit, Visit)
    visit.charge(asked)
