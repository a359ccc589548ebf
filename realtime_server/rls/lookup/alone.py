"""Alone: checks viewers one after the other, each with the whole timeout."""

from __future__ import annotations

from collections.abc import Sequence

from ...config.database.tables import LiveColumn, Table
from .former import Condition
from .questions import LookupRow, Question, VisibilityAnswer
from .visibility import Visibility

__all__ = ["Alone"]


class Alone:
    """Looks rows up for one viewer after the other, as
    :class:`~realtime_server.rls.lookup.together.Together` does for many at once.

    Args:
        visibility: looks rows up in the database.
    """

    def __init__(self, visibility: Visibility) -> None:
        self._visibility = visibility

    async def check(
        self,
        table: Table,
        rows: Sequence[LookupRow],
        questions: Sequence[Question],
        *,
        compared: Sequence[LiveColumn] = (),
        condition: Condition | None = None,
        may_retry: bool = True,
    ) -> list[VisibilityAnswer]:
        """Answer each question, in order, as :meth:`Visibility.check` does."""
        check = self._visibility.check_by_halves
        return [
            await check(table, rows, each, compared=compared, condition=condition)
            for each in questions
        ]
