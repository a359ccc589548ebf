"""GuardedReplay: keeps a failure inside replay from ending the stream or a channel.

An exception inside replay is a bug. It must end neither the stream nor a channel: the stream goes
on, channels that replay was at work for go live without what they missed, and clients that are away
are told of the gap ``replay_lost`` when they come back. From then on replay begins anew. The first
exception is logged with its traceback; all are counted, also those that rounds, liveness
checks and decisions handle themselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Final

import attrs

from realtime_core import Event

from ..auth.authorizer import ConnectRequest
from ..fanout.groups import Subscription
from ..fanout.hub import Hub
from ..logs import LineLimit
from ..phoenix.actions import Departure
from .channel_starts import OnStart
from .notices import Start
from .places import place_of
from .proofs import Proofs
from .replay import Replay
from .standing import Standing
from .stats import ReplayStats
from .visit import Visit, VisitedOutbox

__all__ = ["GuardedReplay"]

logger = logging.getLogger("realtime.replay")

_RETRY: Final = 1.0
"""Seconds after which a task of replay that failed is begun anew."""


class GuardedReplay:
    """Calls replay; if that fails, logs the error, and lets changes go on without replay.

    Args:
        replay: brings channels back to where they were.
        hub: the live one.
    """

    def __init__(self, replay: Replay, hub: Hub) -> None:
        self._replay = replay
        self._hub = hub
        self._failures = 0
        self._lines = LineLimit()
        # The batch that is being published, and whether replay has failed with it, so that it
        # begins anew behind it.
        self._batch: Sequence[Event] = ()
        self._is_broken = False
        # Channels that were not told yet where they begin.
        self._untold: dict[Subscription, OnStart] = {}

    @property
    def proofs(self) -> Proofs:
        """Numbers the writes to clients, and knows which of them have arrived."""
        return self._replay.proofs

    def stats(self) -> ReplayStats:
        """Return the counts, as they are now."""
        stats = self._replay.stats()
        return attrs.evolve(stats, failures=stats.failures + self._failures)

    # What the broadcaster calls

    def before(self, batch: Sequence[Event]) -> None:
        """Prepare for a batch that is about to be published to the live hub."""
        self._batch = batch
        self._replay.note_gaps(batch)
        if self._is_broken:
            return
        try:
            self._replay.before(batch)
        except Exception:
            self._is_broken = True
            self._note_failure()

    def after(self) -> None:
        """Note that a batch is in every outbox."""
        if not self._is_broken:
            try:
                self._replay.after()
            except Exception:
                self._is_broken = True
                self._note_failure()
        if self._is_broken:
            self._begin_anew()
        self._batch = ()

    # What the server calls

    async def run(self) -> None:
        """Run the tasks of replay; never return."""
        try:
            async with asyncio.TaskGroup() as running:
                running.create_task(self._keep_running(self._replay.catch_up.run, self._give_up))
                for work in self._replay.tasks():
                    running.create_task(self._keep_running(work))
        finally:
            self._replay.close_liveness_checks()

    async def aclose(self) -> None:
        """Write into the journal where all clients are, when all connections have ended."""
        try:
            await self._replay.aclose()
        except Exception:
            self._note_failure()

    # What connections call

    def visit(
        self,
        request: ConnectRequest,
        address: str,
        outbox: VisitedOutbox,
        last_ref: Callable[[], int],
    ) -> Visit | None:
        """Begin to track what a connection's client receives: see :meth:`.Replay.visit`.

        Returns:
            The connection as replay knows it; None if replay failed, and does not track it.
        """
        try:
            return self._replay.visit(request, address, outbox, last_ref)
        except Exception:
            self._note_failure()
            return None

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
        """Decide where a channel starts whose join was just answered: see :meth:`.Replay.enter`.

        If replay fails, the channel goes live at once, and gets nothing of what its client missed.
        """

        def tell(start: Start) -> None:
            if self._untold.pop(subscription, None) is not None:
                on_start(start)

        self._untold[subscription] = on_start
        if not self._is_broken:
            try:
                self._replay.enter(
                    visit, subscription, ref=ref, came=came, claims=claims, on_start=tell
                )
            except Exception:
                self._note_failure()
            else:
                return
        self._go_live(visit, subscription)

    def leave(self, visit: Visit, subscription: Subscription, how: Departure) -> None:
        """End a channel, see :meth:`.ChannelEnds.leave`."""
        self._untold.pop(subscription, None)
        standing = visit.standings.get(subscription)
        try:
            self._replay.channel_ends.leave(visit, subscription, how)
        except Exception:
            self._note_failure()
            self._abandon(visit, subscription, standing, how)
            self._hub.unsubscribe(subscription)

    def forget_parked(self, visit: Visit, topic: str) -> None:
        """Forget a topic's former channel: its client has joined the topic without bindings."""
        try:
            self._replay.channel_ends.forget_parked(visit, topic)
        except Exception:
            self._note_failure()

    def renew(
        self, visit: Visit, subscription: Subscription, viewer: Hashable, claims: Mapping[str, Any]
    ) -> None:
        """Note that a channel's client has sent a new token: see :meth:`.Replay.renew`."""
        try:
            self._replay.renew(visit, subscription, viewer, claims)
        except Exception:
            self._note_failure()
            # Whatever was missed, nothing more may come for the former token.
            self._go_live(visit, subscription, viewer)

    def close(self, visit: Visit, how: Departure) -> None:
        """Stop tracking a connection that has ended, and all of whose channels have."""
        try:
            self._replay.close(visit, how)
        except Exception:
            self._note_failure()

    # Failures

    def _note_failure(self) -> None:
        """Count the exception that is being handled, and log it, if none was logged just now."""
        self._failures += 1
        others = self._lines.take()
        if others is not None:
            logger.exception(
                "replay failed, and %d times more since the last such line; changes go on, and "
                "clients that missed any are told of a gap (a bug in realtime_server: please "
                "report it)",
                others,
            )

    def _begin_anew(self) -> None:
        """Let everybody go live who is being brought up to now, and keep nothing of before."""
        places = (place_of(event) for event in reversed(self._batch))
        end = next((place for place in places if place is not None), None)
        try:
            self._replay.begin_anew_behind(self._replay.log.end if end is None else end)
        except Exception:
            # The next batch is the next try.
            self._is_broken = True
            self._note_failure()
        else:
            self._is_broken = False

    def _give_up(self) -> None:
        """Begin anew, as soon as no batch is being published."""
        if self._replay.catch_up.is_handed_out:
            self._begin_anew()
        else:
            self._is_broken = True

    async def _keep_running(
        self, work: Callable[[], Awaitable[None]], on_failure: Callable[[], None] | None = None
    ) -> None:
        while True:
            try:
                await work()
                return
            except Exception:
                self._note_failure()
                if on_failure is not None:
                    on_failure()
            await asyncio.sleep(_RETRY)

    def _go_live(
        self, visit: Visit, subscription: Subscription, viewer: Hashable | None = None
    ) -> None:
        """Let a channel go live now, without replay, perhaps as another viewer."""
        self._abandon(visit, subscription, visit.standings.get(subscription), Departure.LEFT)
        self._hub.unsubscribe(subscription)
        if viewer is not None:
            subscription.viewer = viewer
        self._hub.subscribe(subscription)
        on_start = self._untold.pop(subscription, None)
        if on_start is not None:
            on_start(Start(resumed=False, position=None))

    def _abandon(
        self, visit: Visit, subscription: Subscription, standing: Standing | None, how: Departure
    ) -> None:
        """Do nothing more for a channel."""
        visit.standings.pop(subscription, None)
        try:
            self._replay.channel_ends.abandon(subscription, standing, how)
        except Exception:
            self._note_failure()
