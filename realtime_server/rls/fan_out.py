"""FanOut: batches of changes to the hub's subscriptions, as far as each may see them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import psycopg

from realtime_core import RowChange

from ..dispatch import Members, give_way
from ..groups import AnyDelivery, BoundDelivery, Listening, Subscription
from ..hub import Hub
from ..metrics import Metrics
from .authorizer import RowAuthorizer
from .candidates import Candidate, Matched, Shown
from .losses import Loss, LossReason
from .payloads import ErrorView, View
from .reader import Batch, Read
from .viewers import Viewer

__all__ = ["FanOut"]

logger = logging.getLogger("realtime.rls")

_RETRY: Final = 0.5
"""Seconds until the database is asked again."""
_Kind: TypeAlias = tuple[str, str, type[RowChange]]
"""A change's schema, table and class."""
_CAUSES: Final = {
    LossReason.TOO_SLOW: "too many waited for its row level security; make its policies faster",
    LossReason.TOKEN_REPLACED: "their token was replaced while they waited for its row level "
    "security; if that happens often, make its policies faster",
    LossReason.FAILED: "they cannot be looked at",
}


class FanOut:
    """Matches changes with subscriptions, has them authorized, and hands them out.

    Args:
        hub: who listens.
        authorizer: decides who is shown what.
        metrics: of the server.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        hub: Hub,
        authorizer: RowAuthorizer,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._hub = hub
        self._authorizer = authorizer
        self._metrics = metrics
        self._clock = clock

    async def publish(self, batch: Batch) -> None:
        """Hand out a batch. While the database cannot be asked, it waits."""
        if batch.gap is not None:
            self._hub.publish([batch.gap])
            return
        for relation in dict.fromkeys(read.change.relation for read in batch.reads):
            await give_way(self._hub.typing(relation))
        candidates = self.candidates(batch.reads)
        while True:
            try:
                shown = await self._authorizer.decide(candidates)
                break
            except psycopg.Error as exc:
                logger.warning(
                    "changes wait until row level security can be asked for: %s",
                    " ".join(str(exc).split()),
                )
                await asyncio.sleep(_RETRY)
        decided = list(zip(candidates, shown, strict=True))
        await give_way(self._hub.writing(self._messages(decided)))
        self._tell_moved(decided)
        commit_time = batch.reads[0].change.transaction.commit_time
        if commit_time is not None:
            age = self._clock() - commit_time.timestamp()
            # Two machines' clocks may differ by more than it took.
            self._metrics.commit_to_socket.observe(max(age, 0.0))

    def _tell_moved(self, decided: Sequence[tuple[Candidate, Shown]]) -> None:
        """Tell channels of a gap that became another's before they got what was decided."""
        moved: dict[Viewer, list[Candidate]] = {}
        for candidate, shown in decided:
            for viewer, view in shown.items():
                channels = candidate.listening.get(viewer, {})
                if all(members.is_current for members in channels.values()):
                    continue
                if view.is_for_all or any(
                    _permitted(delivery, members, candidate.change, view)
                    for delivery, members in candidate.matched.get(viewer, ())
                ):
                    moved.setdefault(viewer, []).append(candidate)
        for viewer, theirs in moved.items():
            self.tell(Loss.of(viewer, LossReason.TOKEN_REPLACED, theirs, is_of_moved=True))

    def hand_out(self, viewer: Viewer, decided: Sequence[tuple[Candidate, Shown]]) -> None:
        """Write what was decided late to the viewer's sockets, one write for each.

        Channels that have become another's meanwhile are told of a gap instead.
        """
        self._hub.write(self._messages(decided))
        # Whatever was answered: of what took too long, nothing is known.
        theirs = [candidate for candidate, _ in decided]
        self.tell(Loss.of(viewer, LossReason.TOKEN_REPLACED, theirs, is_of_moved=True))

    def tell(self, loss: Loss) -> None:
        """Tell channels of what they do not get, as of a gap."""
        if not loss.channels:
            return
        self._authorizer.counters.given_up += loss.count
        logger.warning(
            "%d changes for role %s are given up, and its channels are told of a gap: %s",
            loss.count,
            loss.viewer.role,
            _CAUSES[loss.reason],
        )
        self._hub.write(
            (members, group.gap_message(loss)) for group, members in loss.channels.items()
        )

    def _messages(
        self, decided: Iterable[tuple[Candidate, Shown]]
    ) -> Iterator[tuple[Members, bytes]]:
        for candidate, shown in decided:
            yield from self._of_one(candidate, shown)

    def candidates(self, reads: Sequence[Read]) -> list[Candidate]:
        """Match changes with subscriptions."""
        candidates = []
        listeners: dict[_Kind, tuple[Listening, frozenset[Viewer]]] = {}
        # Where nobody filters, all changes of a table go to the same.
        known: dict[_Kind, tuple[Matched, frozenset[Viewer], frozenset[Viewer]]] = {}
        for read in reads:
            change = read.change
            schema, table = change.relation.schema, change.relation.table
            kind = (schema, table, type(change))
            if kind not in listeners:
                listening = self._hub.listening(change)
                everybody = frozenset(one for one in listening if isinstance(one, Viewer))
                listeners[kind] = listening, everybody
            listening, everybody = listeners[kind]
            found = known.get(kind)
            if found is None:
                matched = _by_viewer(self._hub.deliveries(change))
                self._hub.write(self._hub.misfit_messages())
                viewers = frozenset(matched)
                found = matched, viewers, everybody - viewers
                if not self._hub.has_filters(schema, table):
                    known[kind] = found
            matched, viewers, others = found
            candidates.append(Candidate(change, read.size, viewers, others, matched, listening))
        return candidates

    def _of_one(self, candidate: Candidate, shown: Shown) -> Iterator[tuple[Members, bytes]]:
        matched = candidate.matched
        everybody: Matched | None = None
        for viewer, view in shown.items():
            theirs = matched.get(viewer, [])
            if view.is_for_all:
                # Their filters do not count.
                if everybody is None:
                    everybody = _by_viewer(self._hub.deliveries(candidate.change, filtered=False))
                theirs = everybody.get(viewer, [])
            for matching, members in theirs:
                delivery = matching
                if not view.is_for_all:
                    permitted = _permitted(matching, members, candidate.change, view)
                    if permitted is None:
                        continue
                    delivery = permitted
                try:
                    data = view.payload(delivery.select, has_time=delivery.is_bound)
                except Exception:
                    # One change that cannot be shown must not keep back all that follow.
                    self._authorizer.counters.errors += 1
                    logger.exception("a change of %s cannot be shown", candidate.change.relation)
                    continue
                yield members, delivery.message(data)


def _by_viewer(deliveries: Iterable[AnyDelivery]) -> Matched:
    matched: Matched = {}
    for delivery in deliveries:
        viewer = delivery.group.viewer
        assert isinstance(viewer, Viewer)  # the registrar gave each subscription one
        matched.setdefault(viewer, []).append((delivery, delivery.group.members))
    return matched


def _permitted(
    delivery: AnyDelivery, members: Members, change: RowChange, view: View | ErrorView
) -> AnyDelivery | None:
    """Return the delivery without filters on columns that may not be looked at any more."""
    member = next(iter(members.values()), None)
    if member is None:
        return None
    # They have the same topic and bindings.
    assert isinstance(member, Subscription)
    if isinstance(delivery, BoundDelivery):
        refused = {
            binding.id
            for binding in member.bindings or ()
            if binding.filter is not None and not view.lets_filter_by(binding.columns)
        }
        if not refused:
            return delivery
        ids = [one for one in delivery.ids if one not in refused]
        return delivery._replace(ids=ids) if ids else None
    topic = member.topic
    if view.lets_filter_by(topic.columns):
        return delivery
    # It may mean several tables.
    table = (change.relation.schema, change.relation.table)
    filters = [item.filter for item in topic.filters if (item.schema, item.table) == table]
    is_permitted = all(view.lets_filter_by(each.columns) for each in filters)
    return delivery if is_permitted else None
