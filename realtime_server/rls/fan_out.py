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
from ..hub import AnyDelivery, Hub
from ..metrics import Metrics
from .authorizer import RowAuthorizer
from .candidates import Candidate, Shown
from .poller import Batch, Read
from .viewers import Viewer

__all__ = ["FanOut"]

logger = logging.getLogger("realtime.rls")

_RETRY: Final = 0.5
"""Seconds until the database is asked again."""

# By viewer, who got a change at the time it was matched: subscriptions come, move and go
# meanwhile.
_Matched: TypeAlias = dict[Viewer, list[tuple[AnyDelivery, Members]]]


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
        self._filtering: dict[tuple[str, str], tuple[int, frozenset[Viewer]]] = {}

    async def publish(self, batch: Batch) -> None:
        """Hand out a batch. While the database cannot be asked, it waits."""
        if batch.gap is not None:
            self._hub.publish([batch.gap])
            return
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
        decided = zip(candidates, shown, strict=True)
        await give_way(self._hub.writing(self._messages(decided)))
        commit_time = batch.reads[0].change.transaction.commit_time
        if commit_time is not None:
            age = self._clock() - commit_time.timestamp()
            # Two machines' clocks may differ by more than it took.
            self._metrics.commit_to_socket.observe(max(age, 0.0))

    def hand_out(self, decided: Sequence[tuple[Candidate, Shown]]) -> None:
        """Write what was decided to the sockets, one write for each."""
        self._hub.write(self._messages(decided))

    def _messages(
        self, decided: Iterable[tuple[Candidate, Shown]]
    ) -> Iterator[tuple[Members, bytes]]:
        for candidate, shown in decided:
            yield from self._of_one(candidate, shown)

    def candidates(self, reads: Sequence[Read]) -> list[Candidate]:
        """Match changes with subscriptions."""
        candidates = []
        # Where nobody filters, all changes of a table go to the same.
        known: dict[tuple[str, str, type[RowChange]], tuple[_Matched, frozenset[Viewer]]] = {}
        for read in reads:
            change = read.change
            schema, table = change.relation.schema, change.relation.table
            filtering = self._who_filters(schema, table)
            found = known.get((schema, table, type(change)))
            if found is None:
                matched = _by_viewer(self._hub.deliveries(change))
                self._hub.write(self._hub.misfit_messages())
                found = matched, frozenset(matched)
                if not filtering:
                    known[schema, table, type(change)] = found
            matched, viewers = found
            candidates.append(Candidate(change, read.size, viewers, filtering - viewers, matched))
        return candidates

    def _who_filters(self, schema: str, table: str) -> frozenset[Viewer]:
        version, viewers = self._filtering.get((schema, table), (-1, frozenset()))
        if version != self._hub.version:
            found = self._hub.filtering(schema, table)
            viewers = frozenset(viewer for viewer in found if isinstance(viewer, Viewer))
            self._filtering[schema, table] = (self._hub.version, viewers)
        return viewers

    def _of_one(self, candidate: Candidate, shown: Shown) -> Iterator[tuple[Members, bytes]]:
        matched: _Matched = candidate.context
        everybody: _Matched | None = None
        for viewer, view in shown.items():
            theirs = matched.get(viewer, [])
            if view.is_for_all:
                # Their filters do not count.
                if everybody is None:
                    everybody = _by_viewer(self._hub.deliveries(candidate.change, filtered=False))
                theirs = everybody.get(viewer, [])
            for delivery, members in theirs:
                try:
                    data = view.payload(delivery.select, has_time=delivery.is_bound)
                except Exception:
                    # One change that cannot be shown must not keep back all that follow.
                    self._authorizer.counters.errors += 1
                    logger.exception("a change of %s cannot be shown", candidate.change.relation)
                    continue
                yield members, delivery.message(data)


def _by_viewer(deliveries: Iterable[AnyDelivery]) -> _Matched:
    matched: _Matched = {}
    for delivery in deliveries:
        viewer = delivery.group.viewer
        assert isinstance(viewer, Viewer)  # the registrar gave each subscription one
        matched.setdefault(viewer, []).append((delivery, delivery.group.members))
    return matched
