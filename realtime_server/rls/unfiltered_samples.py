"""UnfilteredSamples: rows that are looked up for a viewer whatever its filters say.

Usually a row is looked up for the viewers whose filters it passes. If a policy fails then, an error
would reveal that the row passes, though the viewer may not see the row: a client that sends many
filters would find out the row's values. So a viewer all of whose channels have filters gets an
error only for rows that were looked up independently of its filters. These samples are the first
change of a table, one change every ten seconds, and, once a sample has failed, every change until a
sample succeeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

import attrs

from realtime_core import Delete, RowChange

from .pending_changes import PendingChange
from .viewers import Viewer

__all__ = ["Sampled", "UnfilteredSamples"]

_INTERVAL: Final = 10.0
"""Seconds from one sample to the next. Samples for a thousand viewers take some milliseconds."""

Sampled: TypeAlias = Mapping[int, frozenset[Viewer]]
"""The viewers for which a row is looked up whatever their filters, by the candidate's place."""

_Kind: TypeAlias = tuple[str, str, type[RowChange]]
"""A change's schema, table and class."""


@attrs.define
class _SampleState:
    """The state of the samples for one kind of changes."""

    due: WeakKeyDictionary[Viewer, float] = attrs.field(factory=WeakKeyDictionary)
    """The time of each viewer's next sample."""
    failing: WeakSet[Viewer] = attrs.field(factory=WeakSet)
    """The viewers whose last sample failed."""
    quiet: frozenset[Viewer] | None = None
    """A set of viewers none of which is due before ``quiet_until``."""
    quiet_until: float = 0.0
    """The time until which no viewer of ``quiet`` is due."""

    def due_among(self, audience: frozenset[Viewer], now: float) -> frozenset[Viewer]:
        if audience is self.quiet and now < self.quiet_until:
            return frozenset()
        due = frozenset(viewer for viewer in audience if self.due.get(viewer, 0.0) <= now)
        if not due:
            self.quiet = audience
            self.quiet_until = min(self.due[viewer] for viewer in audience)
        return due


class UnfilteredSamples:
    """Chooses the rows that are looked up for viewers whatever their filters say.

    Args:
        clock: returns seconds of a clock that only goes forward.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[_Kind, _SampleState] = {}

    def pick(self, candidates: Sequence[PendingChange], places: Sequence[int]) -> Sampled:
        """Choose the samples among the changes of one table."""
        now = self._clock()
        picked: dict[int, frozenset[Viewer]] = {}
        # By kind, the last audience, and the viewers that have a sample in this batch already.
        begun: dict[_Kind, tuple[frozenset[Viewer], frozenset[Viewer]]] = {}
        for place in places:
            change, audience = candidates[place].change, candidates[place].filtering
            if not audience or isinstance(change, Delete):
                continue
            kind = _kind(change)
            known = self._kinds.setdefault(kind, _SampleState())
            last, done = begun.get(kind, (None, frozenset()))
            chosen: frozenset[Viewer] = frozenset()
            if audience is not last:
                chosen = known.due_among(audience, now) - done
                begun[kind] = audience, done | chosen
            if known.failing:
                chosen |= audience.intersection(known.failing)
            if chosen:
                picked[place] = chosen
        return picked

    def note(
        self,
        candidates: Sequence[PendingChange],
        sampled: Sampled,
        failed: Mapping[int, set[Viewer]],
        unasked: Set[Viewer] = frozenset(),
    ) -> None:
        """Note which of the chosen rows' policies failed.

        Args:
            candidates: the candidates that :meth:`pick` was given.
            sampled: the samples that it returned.
            failed: by place, the viewers whose policies failed.
            unasked: the viewers that were not checked, and so have had no sample.
        """
        due = self._clock() + _INTERVAL
        looked_at: dict[_Kind, set[Viewer]] = {}
        failing: dict[_Kind, set[Viewer]] = {}
        for place, viewers in sampled.items():
            kind = _kind(candidates[place].change)
            viewers -= unasked
            failing.setdefault(kind, set()).update(viewers & failed.get(place, set()))
            looked_at.setdefault(kind, set()).update(viewers)
        for kind, those in looked_at.items():
            known = self._kinds[kind]
            for viewer in those:
                known.due[viewer] = due
            known.failing -= those
            known.failing |= failing[kind]


def _kind(change: RowChange) -> _Kind:
    return change.relation.schema, change.relation.table, type(change)
