"""Replay: puts the parts of replay together for connections, the broadcaster and the server.

A connection is a :class:`~realtime_server.replay.visit.Visit`. When a channel is joined,
:meth:`Replay.enter` has it decided where the channel begins: where a former one ended, in a round
that brings it up to now, or in the live hub. When a channel ends, :class:`.ChannelEnds` decides
what it leaves behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from realtime_core import Event, SourceStats

from ..auth.authorizer import ConnectRequest
from ..config import ServerConfig
from ..fanout.groups import Subscription
from ..fanout.hub import Hub
from ..fanout.turns import Turn
from ..phoenix.actions import Departure
from .change_log import ChangeLog
from .channel_ends import ChannelEnds
from .channel_starts import ChannelStarts, OnStart
from .continuity import Continuity
from .continuity_setup import make_continuity
from .identity import Identifier
from .lost_reasons import LostReason
from .membership import FIRST_REF, Membership
from .memberships import Memberships
from .needs import Needs
from .notices import Notices
from .parking import Parking
from .past import Shared
from .places import Place
from .proofs import Proofs
from .publishing import Publish
from .queue_places import QueuePlaces
from .standing import Standing
from .standings import Standings
from .stats import ReplayStats
from .viewer_changes import ViewerChanges
from .visit import Visit, VisitedOutbox

__all__ = ["Replay"]


class Replay:
    """Sends clients that come back the changes that they missed.

    Args:
        hub: the live hub.
        new_hub: makes a hub like that, for a round, whose writes :attr:`proofs` numbers, too.
        publish: publishes events to the hub of a round.
        proofs: numbers the writes of all hubs.
        identifier: makes the keys of channels.
        window: seconds for which a client may be away.
        max_bytes: bytes that changes may take in memory, about.
        most_away: channels whose clients may be away.
        clock: seconds of any clock that only goes forward.
    """

    def __init__(
        self,
        hub: Hub,
        new_hub: Callable[[], Hub],
        *,
        publish: Publish,
        proofs: Proofs,
        identifier: Identifier,
        window: float,
        max_bytes: int,
        most_away: int,
        clock: Callable[[], float],
    ) -> None:
        self._hub = hub
        self.proofs = proofs
        """Numbers the writes, and knows which of them clients have received."""
        self._identifier = identifier
        self.log = ChangeLog(max_bytes=max_bytes, window=window, clock=clock)
        """The changes that clients may have missed."""
        self.queues = QueuePlaces(lambda: proofs.ordinal)
        """The places of viewers whose changes wait for slow policies."""
        self._standings = Standings(self, clock)
        self.memberships = Memberships(
            self._standings.place,
            window=window,
            most_away=most_away,
            clock=clock,
            written_to=lambda member: self.channel_ends.written_to(member),
            why_lost=self._standings.why_lost,
        )
        """The open channels, and the absences."""
        self._notices = Notices()
        self._channel_starts = ChannelStarts(
            hub,
            new_hub,
            publish=publish,
            log=self.log,
            standings=self._standings,
            memberships=self.memberships,
            notices=self._notices,
        )
        self.catch_up = self._channel_starts.catch_up
        """Bring channels up to now."""
        self.held = self._channel_starts.held
        """Channels that wait for what other servers have written of them."""
        self._parking = Parking(clock)
        self.channel_ends = ChannelEnds(
            hub, self, self._channel_starts, self.memberships, self._standings, self._parking, clock
        )
        """Lets channels end."""
        self.needs = Needs(
            proofs,
            self.queues,
            self._standings,
            self._parking,
            self.memberships.absences,
            self.catch_up,
            window=window,
        )
        """Knows which changes clients may still need."""
        self._viewer_changes = ViewerChanges(
            self,
            log=self.log,
            queues=self.queues,
            channel_starts=self._channel_starts,
            standings=self._standings,
        )
        self.continuity: Continuity | None = None
        """Lets clients come back after a restart; None if they cannot."""

    def stats(self) -> ReplayStats:
        """Return the counts, as they are now."""
        rounds = self.catch_up.stats()
        durable = None if self.continuity is None else self.continuity.durable
        return ReplayStats(
            away=len(self.memberships.absences),
            resumed=self._channel_starts.resumed,
            fresh=self._channel_starts.fresh,
            gaps=self._channel_starts.gaps,
            failures=self._channel_starts.failures,
            changes=rounds.changes,
            duplicates_possible=rounds.duplicates_possible,
            rounds=rounds.running,
            waiting=rounds.waiting,
            log_bytes=self.log.bytes,
            log_seconds=self.log.seconds,
            proofs=self.proofs.count,
            shared_sessions=self._channel_starts.shared_sessions,
            wal_bytes=0 if durable is None else durable.past.wal_bytes,
            slots_lost=0 if durable is None else durable.past.lost,
            journal_bytes=0 if durable is None else durable.journal_bytes,
            journal_refused=0
            if durable is None
            else durable.journal.refused + durable.journal.unknown,
        )

    # What standings ask

    @property
    def handed(self) -> Place:
        """The place up to which the live hub has sent all changes."""
        return self.catch_up.handed

    def handed_to(self, viewer: Hashable) -> Place:
        """Return the place up to which everything has been handed to a viewer's channels."""
        return self.queues.place_at(viewer, self.proofs.ordinal, self.handed)

    def place_at(self, ordinal: int, viewer: Hashable) -> Place:
        """Return the place up to which everything for a viewer is in the writes up to an
        ordinal."""
        return self.queues.place_at(viewer, ordinal, self.proofs.place_at(ordinal))

    def continue_with(
        self,
        config: ServerConfig,
        *,
        secret: bytes,
        attached: Callable[[], Awaitable[None]],
        stats: Callable[[], SourceStats],
        share: Shared | None = None,
    ) -> None:
        """Let clients come back after a restart, and to other servers; before the server starts.

        Args:
            config: of the server, with a journal.
            secret: the key of the journal's records.
            attached: waits until the stream runs.
            stats: returns the stream's counts and positions.
            share: what makes the server one of several that have one slot.
        """
        self.continuity = make_continuity(
            config,
            secret=secret,
            attached=attached,
            stats=stats,
            live=self,
            standings=self._standings,
            memberships=self.memberships,
            channel_starts=self._channel_starts,
            log=self.log,
            clock=self.proofs.clock,
            share=share,
        )
        self.needs.journal = self.continuity.durable.journal

    # What the broadcaster calls

    def note_gaps(self, batch: Sequence[Event]) -> None:
        """Count the gaps of a batch that is about to be published, also after a failure."""
        if self.continuity is not None:
            self.continuity.note_gaps(batch)

    def before(self, batch: Sequence[Event]) -> None:
        """Prepare for a batch that is about to be published to the live hub."""
        if self.continuity is not None:
            self.continuity.before(batch)
        self.catch_up.before(batch)
        self._notices.read(batch)

    def after(self) -> None:
        """Note that a batch is in every outbox."""
        self.catch_up.after()
        if self.continuity is not None:
            self.continuity.after()
        if self.log.epoch != self._channel_starts.epoch:
            self._begin_anew()
        self.proofs.note(self.catch_up.handed)

    def tasks(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """Yield what has to run all the time, beside :meth:`.CatchUp.run`; none of it returns."""
        yield self._tick_for_ever
        if self.continuity is not None:
            yield partial(self.continuity.run, self.needs)

    def close_liveness_checks(self) -> None:
        """Decide on no more channels, since the server stops."""
        self._channel_starts.close()

    def begin_anew_behind(self, place: Place) -> None:
        """Give up everything that clients have missed, after a failure.

        Channels that are being brought up to now are told of a gap, and go live.

        Args:
            place: up to where everything has been handed out.
        """
        self.log.begin_anew_behind(place)
        self.catch_up.begin_anew()
        self._begin_anew()
        if self.continuity is not None:
            self.continuity.begin_anew()

    async def aclose(self) -> None:
        """Write into the journal where all clients are, when all connections have ended."""
        if self.continuity is not None:
            await self.continuity.durable.aclose()

    # What connections call

    def visit(
        self,
        request: ConnectRequest,
        address: str,
        outbox: VisitedOutbox,
        last_ref: Callable[[], int],
    ) -> Visit:
        """Begin to track what a connection's client is proven to have received.

        Args:
            request: the connection's handshake.
            address: the client's address; empty if it is not known.
            outbox: the connection's outbox.
            last_ref: returns the highest ref that the client has sent.
        """
        assert outbox.proof is not None
        visit = Visit(self._identifier.visitor(request, address), outbox.proof, last_ref)
        self.needs.visits[visit] = None
        return visit

    def enter(
        self,
        visit: Visit,
        subscription: Subscription,
        *,
        ref: int | None,
        came: float,
        claims: Mapping[str, Any],
        on_start: OnStart,
    ) -> None:
        """Decide where a channel starts whose join was just answered, and begin it there.

        Args:
            visit: the channel's connection.
            subscription: the channel.
            ref: the ref of the join; None if it is no number.
            came: when the join came at the earliest, in seconds of the proofs' clock.
            claims: the claims of the channel's token.
            on_start: called once, now or within a second or so, before anything is sent.
        """
        visit.is_new = visit.is_new or ref == FIRST_REF
        parked = self._parking.take(visit, subscription.topic.name)
        key = visit.visitor.key(claims, subscription.topic.name, subscription.bindings)
        if parked is not None and parked.member.key != key:
            self.channel_ends.forget(parked)
            parked = None
        if key is None or (parked is None and self.memberships.is_crowded(key)):
            self._channel_starts.begin_unknown(subscription, on_start)
            return
        member = Membership(key, ref, visit)
        reply = visit.proof.count_write()
        standing = Standing(subscription, member, visit.proof, self.handed, reply, came)
        if parked is not None:
            self.channel_ends.forget(parked)
            if not parked.member.is_chosen:
                standing.go_on(parked.began)
        self._standings.add(standing)
        visit.standings[subscription] = standing
        self.memberships.enter(member)
        if parked is not None and parked.member.is_chosen:
            self._channel_starts.succeed(standing, parked, on_start)
        else:
            self._channel_starts.begin(standing, on_start)

    def renew(
        self, visit: Visit, subscription: Subscription, viewer: Hashable, claims: Mapping[str, Any]
    ) -> None:
        """Give a channel the viewer and claims of a new token.

        Args:
            visit: the channel's connection.
            subscription: the channel.
            viewer: the viewer for which rows are checked from now on.
            claims: the claims of the token.
        """
        standing = visit.standings.get(subscription)
        if standing is not None and standing.since is not None:
            self._viewer_changes.prepare(standing, viewer)
        if not self.catch_up.move(subscription, viewer):
            if subscription.is_open:
                self._hub.move(subscription, viewer)
            else:
                # It is not decided yet where the channel begins.
                subscription.viewer = viewer
        if standing is None:
            return
        key = visit.visitor.key(claims, subscription.topic.name, subscription.bindings)
        if key is None:
            if not standing.member.is_chosen:
                self._channel_starts.begin_without_key(standing)
            self.channel_ends.forget(standing)
            del visit.standings[subscription]
        elif not standing.member.is_chosen or key != standing.member.key:
            self.memberships.change_key(standing.member, key)

    def close(self, visit: Visit, how: Departure) -> None:
        """Stop tracking a connection that has ended, and all of whose channels have."""
        self.channel_ends.close(visit, how)
        del self.needs.visits[visit]

    # Time

    async def _tick_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        next_trim = loop.time()
        while True:
            await asyncio.sleep(self.proofs.tick_interval)
            self.proofs.tick()
            if loop.time() >= next_trim:
                next_trim = loop.time() + self.proofs.interval
                await self.tidy()

    async def tidy(self) -> None:
        """Delete absences that are too old, and changes that no client needs."""
        turn = Turn()
        for _ in self.memberships.absences.tidying():
            await turn.give_way()
        self.channel_ends.expire()
        self.queues.tidy()
        for _ in self.needs.looking():
            await turn.give_way()
        now, highest = self.proofs.clock(), self.needs.highest_proven
        for _ in self._standings.settling(now, highest=highest):
            await turn.give_way()
        self._notices.log_gaps()
        if self.continuity is not None:
            self.continuity.durable.journal.low(self.needs.lasting_here())
            if not self.continuity.is_restored:
                return
        if self.log.epoch == self._channel_starts.epoch:
            self.log.trim(self.needs.lowest())

    def _begin_anew(self) -> None:
        """Go on in another stream, with whose places the former ones cannot be compared."""
        self._channel_starts.epoch = self.log.epoch
        self.proofs.begin_anew(self.log.floor)
        self.queues.begin_anew(self.log.floor, self._notices.stream)
        self.memberships.absences.lose_all(LostReason.LOST)
        self._standings.begin_anew()
        if self.continuity is not None:
            self.continuity.durable.begin_anew()
        self.needs.begin_anew(self.log.floor)
