"""RowAuthorizer: what each viewer is shown of a batch of changes.

A batch is decided as a whole: its tables are looked up once, and each viewer is asked for
once a table, whatever the number of changes and subscriptions. A viewer whose policies have
run too long is asked for apart from then on: the others never wait for it again, and what it
may see is delivered when that is known, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeAlias

import attrs

from ..catalog.tables import LiveColumn, Table, TableName, read_tables
from .candidates import Candidate, Shown
from .casts import Casts
from .counters import Counters
from .lanes import Lane, Lost
from .losses import Loss, LossReason
from .pages import Check, Page
from .viewers import Viewer
from .visibility import Answer, Question, Row, Visibility

__all__ = ["Late", "RowAuthorizer"]

logger = logging.getLogger("realtime.rls")

Late: TypeAlias = Callable[[Viewer, Sequence[tuple[Candidate, Shown]]], None]
"""Hands out what a viewer is shown of some changes."""


class RowAuthorizer:
    """Decides. Use it as a context manager, so that nobody is asked any more at the end.

    Args:
        visibility: asks the database.
        apart: asks it in the names of those that take too long, on other connections.
        publications: whose column lists apply.
        late: takes what a viewer who is asked for apart gets, in order.
        lost: is told what such a viewer does not get, in its place among that.
        is_there: whether anybody is that viewer.
        max_record_bytes: of a change's text, beyond which only short values are shown.
        strict: show only rows that still are as the change says.
    """

    def __init__(
        self,
        visibility: Visibility,
        apart: Visibility,
        *,
        publications: Collection[str],
        late: Late,
        lost: Lost,
        is_there: Callable[[Viewer], bool],
        max_record_bytes: int,
        strict: bool = False,
    ) -> None:
        self._visibility = visibility
        self._apart = apart
        self._casts = Casts(visibility.connections, visibility.timeout)
        self._publications = publications
        self._late = late
        self._lost = lost
        self._is_there = is_there
        self._max_record_bytes = max_record_bytes
        self._strict = strict
        self._lanes: dict[Viewer, Lane] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self.counters = Counters()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for lane in self._lanes.values():
            self._ending.add(lane.cancel())
        self._lanes.clear()
        if self._ending:
            await asyncio.wait(self._ending)

    async def decide(self, candidates: Sequence[Candidate]) -> list[Shown]:
        """Return what is shown of each candidate.

        Raises:
            psycopg.Error: if the database cannot be asked; nothing is decided.
        """
        apart = frozenset(self._lanes)
        if apart:
            on_time = [
                attrs.evolve(one, viewers=one.viewers - apart, others=one.others - apart)
                for one in candidates
            ]
        else:
            on_time = list(candidates)
        shown, timeouts = await self._decide(on_time, self._visibility.check)
        for viewer in timeouts:
            for one in shown:
                one.pop(viewer, None)
            # The last channel may have left meanwhile.
            if self._is_there(viewer):
                logger.warning(
                    "row level security takes too long for role %s: its changes are checked apart, "
                    "and may come later than others'",
                    viewer.role,
                )
                self._lanes[viewer] = Lane(partial(self._work_apart, viewer), self._lost, viewer)
        for viewer in apart | timeouts.keys():
            theirs = [
                one.only_for(viewer)
                for one in candidates
                if viewer in one.viewers or viewer in one.others
            ]
            if not theirs:
                continue
            if viewer in self._lanes:
                self._lanes[viewer].put(theirs)
            else:
                self._lost(Loss.of(viewer, LossReason.TOKEN_REPLACED, theirs))
        return shown

    def forget(self, viewer: Viewer) -> None:
        """Ask no more for a viewer that nobody is any more."""
        lane = self._lanes.pop(viewer, None)
        if lane is not None:
            task = lane.abandon()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _work_apart(self, viewer: Viewer, candidates: Sequence[Candidate]) -> None:
        shown, timeouts = await self._decide(candidates, self._check_apart)
        self.counters.timeouts += timeouts.total()
        self._late(viewer, list(zip(candidates, shown, strict=True)))

    async def _check_apart(
        self,
        table: Table,
        rows: Sequence[Row],
        questions: Sequence[Question],
        *,
        compared: Sequence[LiveColumn] = (),
    ) -> list[Answer]:
        check = self._apart.check_apart
        return [await check(table, rows, each, compared=compared) for each in questions]

    async def _decide(
        self, candidates: Sequence[Candidate], check: Check
    ) -> tuple[list[Shown], Counter[Viewer]]:
        """Return what is shown, and how many checks of each viewer have taken too long."""
        shown: list[Shown] = [{} for _ in candidates]
        by_table: dict[TableName, list[int]] = {}
        for place, candidate in enumerate(candidates):
            if candidate.viewers or candidate.others:
                relation = candidate.change.relation
                by_table.setdefault((relation.schema, relation.table), []).append(place)
        if not by_table:
            return shown, Counter()
        audiences = {one for each in candidates for one in (each.viewers, each.others)}
        roles = {viewer.role for audience in audiences for viewer in audience}
        async with self._visibility.connections.one() as connection:
            tables = await read_tables(connection, by_table, roles, self._publications)
        timeouts: Counter[Viewer] = Counter()
        pages = []
        for name, table in tables.items():
            # One that is published no more is nobody's to see.
            if table.published is not None:
                page = Page(table, candidates, by_table[name], self._strict)
                await page.ask(check, self.counters)
                timeouts += page.timeouts
                pages.append(page)
        answers = await self._casts.json_of(
            {one for page in pages for one in page.unknown_values()}
        )
        for page in pages:
            page.show(shown, answers, self._max_record_bytes)
        return shown, timeouts
