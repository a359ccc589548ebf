"""FanOut: batches of changes to the hub's subscriptions, as far as each may see them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias, cast

import psycopg

from realtime_core import RowChange

from ..dispatch import Members, give_way
from ..hub import AnyDelivery, Hub
from ..metrics import Metrics
from .authorizer import Candidate, RowAuthorizer, Shown
from .poller import Batch
from .viewers import Viewer

__all__ = ["FanOut"]

logger = logging.getLogger("realtime.rls")

_RETRY = 0.5
"""Seconds until the database is asked again."""

# Who got a change, at the time it was matched: subscriptions come, move and go meanwhile.
_Matched: TypeAlias = list[tuple[AnyDelivery, Members]]


class FanOut:
    """Matches changes with subscriptions, has them authorized, and hands them out.

    Args:
        hub: who listens.
        metrics: of the server.
        clock: seconds since 1970.
    """

    def __init__(self, hub: Hub, metrics: Metrics, *, clock: Callable[[], float] = time.time):
        self._hub = hub
        self._metrics = metrics
        self._clock = clock
        self._filtering: dict[tuple[str, str], tuple[int, frozenset[Viewer]]] = {}

    async def publish(self, batch: Batch, authorizer: RowAuthorizer) -> None:
        """Hand out a batch. While the database cannot be asked, it waits."""
        if batch.gap is not None:
            self._hub.publish([batch.gap])
            return
        candidates = [self._candidate(read.change, read.size) for read in batch.reads]
        while True:
            try:
                shown = await authorizer.decide(candidates)
                break
            except psycopg.OperationalError as exc:
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

    def _candidate(self, change: RowChange, size: int) -> Candidate:
        matched: _Matched = [
            (delivery, delivery.group.members) for delivery in self._hub.deliveries(change)
        ]
        self._hub.write(self._hub.misfit_messages())
        viewers = frozenset(
            viewer for delivery, _ in matched if isinstance(viewer := delivery.group.viewer, Viewer)
        )
        others = self._who_filters(change.relation.schema, change.relation.table) - viewers
        return Candidate(change, size, viewers, others, matched)

    def _who_filters(self, schema: str, table: str) -> frozenset[Viewer]:
        version, viewers = self._filtering.get((schema, table), (-1, frozenset()))
        if version != self._hub.version:
            found = self._hub.filtering(schema, table)
            viewers = frozenset(viewer for viewer in found if isinstance(viewer, Viewer))
            self._filtering[schema, table] = (self._hub.version, viewers)
        return viewers

    def _of_one(self, candidate: Candidate, shown: Shown) -> Iterator[tuple[Members, bytes]]:
        if not shown:
            return
        matched: _Matched = candidate.context
        if any(view.is_for_all for view in shown.values()):
            # Their filters do not count; they may have come since the change was matched.
            matched = [
                (delivery, delivery.group.members)
                for delivery in self._hub.deliveries(candidate.change, filtered=False)
                if _is_for_all(shown, delivery)
            ] + [(one, those) for one, those in matched if not _is_for_all(shown, one)]
        for delivery, members in matched:
            view = shown.get(cast(Viewer, delivery.group.viewer))
            if view is None:
                continue
            data = view.payload(delivery.select, has_time=delivery.is_bound)
            yield members, delivery.message(data)


def _is_for_all(shown: Shown, delivery: AnyDelivery) -> bool:
    view = shown.get(cast(Viewer, delivery.group.viewer))
    return view is not None and view.is_for_all
