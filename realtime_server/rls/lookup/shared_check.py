"""SharedCheck: checks many viewers in one call, with a shortened timeout.

Theory of operation. All viewers wait for such a call, so its time is limited: a base, and a
multiple of what this table's policies have taken lately. The viewer that uses up the time has timed
out, and is checked separately from then on. The viewers behind it get a second attempt; if that
fails, they are checked separately, too.

How long the policies of a viewer that is new to a table take is not known, and a client that wants
to delay others would come with another token each time. So if only a few viewers are new, they are
not checked here at first, but separately. If many are new, for example after a restart, they are
checked at the same time as the others, with a limit of their own: one by one they would wait too
long themselves.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from typing import Final
from weakref import WeakSet

import attrs

from ..viewers import Viewer
from .questions import Failure, Question, RowsToCheck, VisibilityAnswer
from .visibility import Visibility

__all__ = ["FEW", "SharedCheck"]

FEW: Final = 8
"""Up to how many viewers that are new at the same time are checked separately, which takes about 3
ms each."""
_LIMIT: Final = 0.02
"""Seconds that the viewers that are not new may take beyond the expected time."""
_LIMIT_OF_NEW: Final = 0.01
"""Seconds that many new viewers may take beyond the expected time."""
_TIMES: Final = 4
"""How many times the expected time the viewers may take, besides the base."""
_AROUND: Final = 25
"""What a viewer costs besides its rows, as the number of lookups that take as long: 0.1 ms."""
_PLANNING: Final = 275
"""The same where the viewer's plans are made anew."""
_FIRST_RATE: Final = 10e-6
"""Seconds that a lookup is expected to take before a table's policies were ever run."""
_LARGEST_RATE: Final = 100e-6
"""Seconds of a lookup at most: viewers get no more time for slower policies."""
_SHARE: Final = 0.2
"""The last call's share in the usual seconds of a lookup."""


@attrs.define
class _PolicyTimes:
    """How long a table's policies take, and the viewers that they were run for."""

    viewers: WeakSet[Viewer] = attrs.field(factory=WeakSet)
    """The viewers that are not new."""
    rate: float = _FIRST_RATE
    """Seconds that a lookup usually takes."""

    def expected(self, questions: Sequence[Question], around: int) -> float:
        """Return how many seconds questions should take."""
        lookups = len(questions) * around + sum(len(one.places) for one in questions)
        return self.rate * lookups

    def learn(
        self, questions: Sequence[Question], answers: Sequence[VisibilityAnswer], around: int
    ) -> None:
        rates = [
            answer.seconds / (around + len(question.places))
            for question, answer in zip(questions, answers, strict=True)
            if not answer.failed
        ]
        if rates:
            rate = min(statistics.median_low(rates), _LARGEST_RATE)
            self.rate += _SHARE * (rate - self.rate)


class SharedCheck:
    """Checks many viewers in one call.

    Args:
        visibility: looks rows up in the database.
        limit: seconds that a call may take beyond the expected time.
        few: up to how many viewers that are new to a table are left out; 0: none is.
    """

    def __init__(self, visibility: Visibility, *, limit: float = _LIMIT, few: int = FEW) -> None:
        self._visibility = visibility
        self._limit = limit
        self._few = few
        # By table. There are as many as there are tables with policies.
        self._known: dict[int, _PolicyTimes] = {}

    async def check(
        self, rows: RowsToCheck, questions: Sequence[Question], *, may_retry: bool = True
    ) -> list[VisibilityAnswer]:
        """Answer each question, in order, as :meth:`Visibility.check` does.

        Args:
            rows: the rows that the questions are about.
            questions: one for each viewer.
            may_retry: whether viewers that were not reached get a second attempt; False where
                other checks of the batch have timed out already.

        Raises:
            psycopg.OperationalError: if the connection is lost; then nothing is answered.
        """
        known = self._known.setdefault(rows.table.oid, _PolicyTimes())
        asking = _Asking(self._visibility, known, rows)
        new = [one for one in questions if one.viewer not in known.viewers]
        known.viewers.update(one.viewer for one in new)
        if not new or not self._few:
            return await asking.ask(questions, self._limit, may_retry=may_retry)
        viewers = {one.viewer for one in new}
        others = [one for one in questions if one.viewer not in viewers]
        found: dict[Viewer, VisibilityAnswer] = {}

        async def ask(theirs: Sequence[Question], limit: float, *, may_retry: bool) -> None:
            answers = await asking.ask(theirs, limit, may_retry=may_retry)
            found.update((one.viewer, each) for one, each in zip(theirs, answers, strict=True))

        try:
            async with asyncio.TaskGroup() as group:
                if others:
                    group.create_task(ask(others, self._limit, may_retry=may_retry))
                if len(new) > self._few:
                    group.create_task(ask(new, _LIMIT_OF_NEW, may_retry=False))
        except ExceptionGroup as exc:
            raise exc.exceptions[0] from None
        return [
            found.get(one.viewer)
            or VisibilityAnswer(failed=dict.fromkeys(one.places, Failure.UNASKED))
            for one in questions
        ]


@attrs.frozen
class _Asking:
    """The rows and the table that one call of check asks about."""

    visibility: Visibility
    known: _PolicyTimes
    rows: RowsToCheck

    async def ask(
        self, questions: Sequence[Question], base: float, *, may_retry: bool
    ) -> list[VisibilityAnswer]:
        """Answer questions in little more than the expected time.

        Args:
            questions: one for each viewer.
            base: seconds that it may take beyond the expected time.
            may_retry: whether questions that were not reached get a second attempt.
        """
        around = _PLANNING if self.rows.table.functions.immutable else _AROUND
        limit = base + _TIMES * self.known.expected(questions, around)
        answers = await self._ask(questions, limit)
        self.known.learn(questions, answers, around)
        left = [place for place, one in enumerate(answers) if one.was_left_out]
        if may_retry and left and len(left) < len(questions):
            again = await self._ask([questions[place] for place in left], limit)
            for place, answer in zip(left, again, strict=True):
                answer.seconds += answers[place].seconds
                answers[place] = answer
        return answers

    async def _ask(self, questions: Sequence[Question], limit: float) -> list[VisibilityAnswer]:
        return await self.visibility.check(
            self.rows, questions, limit=min(limit, self.visibility.timeout)
        )
