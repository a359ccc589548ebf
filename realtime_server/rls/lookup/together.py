"""Together: many viewers asked for at once, and waited for no longer than that should take.

Theory of operation. Everybody waits for what is asked together, so it has a limit: a base, and
some times what this table's policies have taken lately. Who takes what is left of it has timed out,
and is to be asked for apart; those behind get a second chance, and then are, too.

Nobody knows what the policies of a viewer take who is new to a table, and whoever has others wait
on purpose would come with another token each time. So a few who are new are not asked for here at
all at first. Many, as after a restart, are asked for at the same time as the others, with a limit
of their own: one by one they would wait too long themselves.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from typing import Final
from weakref import WeakSet

import attrs

from ...config.database.tables import LiveColumn, Table
from ..viewers import Viewer
from .former import Condition
from .questions import Answer, Failure, Question, Row
from .visibility import Visibility

__all__ = ["FEW", "Together"]

FEW: Final = 8
"""Viewers who are new at the same time. To ask for one apart takes about 3 ms."""
_LIMIT: Final = 0.02
"""Seconds that viewers may take who are not new, beyond what they usually take."""
_LIMIT_OF_NEW: Final = 0.01
"""The same for many who are new, of whom nothing is known."""
_TIMES: Final = 4
"""What they usually take that they may."""
_AROUND: Final = 25
"""Lookups that a viewer takes as long as, without its rows: 0.1 ms."""
_PLANNING: Final = 275
"""The same where its plans are made anew."""
_FIRST_RATE: Final = 10e-6
"""Seconds of a lookup before anything is known of a table's policies."""
_LARGEST_RATE: Final = 100e-6
"""Of policies that take more, all do not have more time."""
_SHARE: Final = 0.2
"""Of the last call's rate in the usual one."""


@attrs.define
class _Known:
    """What is known of a table's policies."""

    viewers: WeakSet[Viewer] = attrs.field(factory=WeakSet)
    """Those who are not new."""
    rate: float = _FIRST_RATE
    """Seconds that a lookup usually takes."""

    def expected(self, questions: Sequence[Question], around: int) -> float:
        """Return how many seconds questions should take."""
        lookups = len(questions) * around + sum(len(one.places) for one in questions)
        return self.rate * lookups

    def learn(self, questions: Sequence[Question], answers: Sequence[Answer], around: int) -> None:
        rates = [
            answer.seconds / (around + len(question.places))
            for question, answer in zip(questions, answers, strict=True)
            if not answer.failed
        ]
        if rates:
            rate = min(statistics.median_low(rates), _LARGEST_RATE)
            self.rate += _SHARE * (rate - self.rate)


class Together:
    """Asks for them.

    Args:
        visibility: asks the database.
        limit: seconds that others wait, beyond what the policies usually take.
        few: so many viewers who are new to a table are not asked for at first; 0: all are.
    """

    def __init__(self, visibility: Visibility, *, limit: float = _LIMIT, few: int = FEW) -> None:
        self._visibility = visibility
        self._limit = limit
        self._few = few
        # By table. There are as many as there are tables with policies.
        self._known: dict[int, _Known] = {}

    async def check(
        self,
        table: Table,
        rows: Sequence[Row],
        questions: Sequence[Question],
        *,
        compared: Sequence[LiveColumn] = (),
        condition: Condition | None = None,
        hurried: bool = False,
    ) -> list[Answer]:
        """Answer each question, in order, as :meth:`Visibility.check` does.

        Args:
            table: with a primary key.
            rows: of the table.
            questions: a viewer's each.
            compared: the columns that a row's ``values`` may have.
            condition: what must be true of rows that are there no more.
            hurried: others have taken too long already; nobody gets a second chance.

        Raises:
            psycopg.OperationalError: if the connection is lost; then nothing is answered.
        """
        known = self._known.setdefault(table.oid, _Known())
        asking = _Asking(self._visibility, known, table, rows, compared, condition)
        new = [one for one in questions if one.viewer not in known.viewers]
        known.viewers.update(one.viewer for one in new)
        if not new or not self._few:
            return await asking.ask(questions, self._limit, may_be_asked_again=not hurried)
        viewers = {one.viewer for one in new}
        others = [one for one in questions if one.viewer not in viewers]
        found: dict[Viewer, Answer] = {}

        async def ask(
            theirs: Sequence[Question], limit: float, *, may_be_asked_again: bool
        ) -> None:
            answers = await asking.ask(theirs, limit, may_be_asked_again=may_be_asked_again)
            found.update((one.viewer, each) for one, each in zip(theirs, answers, strict=True))

        try:
            async with asyncio.TaskGroup() as group:
                if others:
                    group.create_task(ask(others, self._limit, may_be_asked_again=not hurried))
                if len(new) > self._few:
                    group.create_task(ask(new, _LIMIT_OF_NEW, may_be_asked_again=False))
        except ExceptionGroup as exc:
            raise exc.exceptions[0] from None
        return [
            found.get(one.viewer) or Answer(failed=dict.fromkeys(one.places, Failure.UNASKED))
            for one in questions
        ]


@attrs.frozen
class _Asking:
    """What one call of check asks about."""

    visibility: Visibility
    known: _Known
    table: Table
    rows: Sequence[Row]
    compared: Sequence[LiveColumn]
    condition: Condition | None

    async def ask(
        self, questions: Sequence[Question], base: float, *, may_be_asked_again: bool
    ) -> list[Answer]:
        """Ask, for as long as it should take and a bit.

        Args:
            questions: a viewer's each.
            base: seconds beyond what it should take.
            may_be_asked_again: those who were not asked for because of another.
        """
        around = _PLANNING if self.table.functions.immutable else _AROUND
        limit = base + _TIMES * self.known.expected(questions, around)
        answers = await self._ask(questions, limit)
        self.known.learn(questions, answers, around)
        left = [place for place, one in enumerate(answers) if one.failed and not one.is_whole]
        # Where nobody was asked for at all the table is locked.
        if may_be_asked_again and left and len(left) < len(questions):
            again = await self._ask([questions[place] for place in left], limit)
            for place, answer in zip(left, again, strict=True):
                answer.seconds += answers[place].seconds
                answers[place] = answer
        return answers

    async def _ask(self, questions: Sequence[Question], limit: float) -> list[Answer]:
        return await self.visibility.check(
            self.table,
            self.rows,
            questions,
            compared=self.compared,
            condition=self.condition,
            limit=min(limit, self.visibility.timeout),
        )
