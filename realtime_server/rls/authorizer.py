"""RowAuthorizer: what each viewer is shown of a batch of changes.

A batch is decided as a whole: its tables are looked up once, and each viewer is asked for
once a table, whatever the number of changes and subscriptions. A viewer whose policies have
run too long is asked for apart from then on: the others never wait for it again, and what it
may see is delivered when that is known, in order.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeAlias

import attrs
import psycopg

from realtime_core import UNCHANGED, Delete, Insert, RowChange, Update

from .counters import Counters
from .payloads import Answers, ErrorView, View, unknown_values
from .tables import LiveColumn, Table, TableName, read_tables
from .viewers import Viewer
from .visibility import Answer, Failure, Question, Row, Visibility

__all__ = ["Candidate", "Late", "RowAuthorizer", "Shown"]

logger = logging.getLogger("realtime.rls")

Shown: TypeAlias = dict[Viewer, View | ErrorView]
"""What each viewer sees of a change; who is not there sees nothing."""

NO_PRIMARY_KEY: Final = "Error 400: Bad Request, no primary key"
UNAUTHORIZED: Final = "Error 401: Unauthorized"
_FAILURES: Final = {
    Failure.ERROR: "Error 500: Internal Server Error, row level security raised an error",
    Failure.TIMEOUT: "Error 500: Internal Server Error, row level security took too long",
}

_MOST_WAITING: Final = 10_000
"""Changes that may wait for a viewer who is asked for apart; beyond, they are given up."""
_RETRY_APART: Final = 1.0
"""Seconds until a viewer is asked for again whose connection was lost."""


@attrs.frozen(eq=False)
class Candidate:
    """A change, and those who get it if they may see it."""

    change: RowChange
    size: int
    """Of its text, in bytes."""
    viewers: frozenset[Viewer]
    others: frozenset[Viewer] = frozenset()
    """Those who listen to the table, too, but whose filters it does not pass."""
    context: Any = None
    """Whatever the caller wants to find again."""


Late: TypeAlias = Callable[[Sequence[tuple[Candidate, Shown]]], None]


class Check(Protocol):
    """How :class:`Visibility` is asked."""

    async def __call__(
        self,
        table: Table,
        rows: Sequence[Row],
        questions: Sequence[Question],
        *,
        compared: Sequence[LiveColumn] = (),
    ) -> list[Answer]: ...


class RowAuthorizer:
    """Decides. Use it as a context manager, so that nobody is asked any more at the end.

    Args:
        visibility: asks the database.
        apart: asks it in the names of those that take too long, on other connections.
        publication: whose column lists apply.
        late: takes what a viewer who is asked for apart gets, in order.
        max_record_bytes: of a change's text, beyond which only short values are shown.
        strict: show only rows that still are as the change says.
    """

    def __init__(
        self,
        visibility: Visibility,
        apart: Visibility,
        *,
        publication: str,
        late: Late,
        max_record_bytes: int,
        strict: bool = False,
    ) -> None:
        self._visibility = visibility
        self._apart = apart
        self._publication = publication
        self._late = late
        self._max_record_bytes = max_record_bytes
        self._strict = strict
        self._lanes: dict[Viewer, _Lane] = {}
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
        for viewer in list(self._lanes):
            self.forget(viewer)
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
            logger.warning(
                "row level security takes too long for role %s: its changes are checked apart, "
                "and may come later than others'",
                viewer.role,
            )
            self._lanes[viewer] = _Lane(self._work_apart, viewer)
            for one in shown:
                one.pop(viewer, None)
        for viewer in self._lanes.keys() & (apart | timeouts.keys()):
            theirs = [
                attrs.evolve(
                    one,
                    viewers=one.viewers & {viewer},
                    others=one.others & {viewer},
                )
                for one in candidates
                if viewer in one.viewers or viewer in one.others
            ]
            if theirs and not self._lanes[viewer].put(theirs):
                self.counters.timeouts += len(theirs)
                logger.error(
                    "%d changes for role %s are given up: its row level security takes too long",
                    len(theirs),
                    viewer.role,
                )
        return shown

    def forget(self, viewer: Viewer) -> None:
        """Ask no more for a viewer that nobody is any more."""
        lane = self._lanes.pop(viewer, None)
        if lane is not None:
            task = lane.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _work_apart(self, candidates: Sequence[Candidate]) -> None:
        shown, timeouts = await self._decide(candidates, self._check_apart)
        self.counters.timeouts += timeouts.total()
        self._late(list(zip(candidates, shown, strict=True)))

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
            tables = await read_tables(connection, by_table, roles, self._publication)
        timeouts: Counter[Viewer] = Counter()
        pages = []
        for name, table in tables.items():
            # One that is published no more is nobody's to see.
            if table.published is not None:
                page = _Page(table, candidates, by_table[name], self._strict)
                await page.ask(check, self.counters)
                timeouts += page.timeouts
                pages.append(page)
        answers = await self._json_of({one for page in pages for one in page.unknown_values()})
        for page in pages:
            page.show(shown, answers, self._max_record_bytes)
        return shown, timeouts

    async def _json_of(self, values: set[tuple[int, str]]) -> Answers:
        """Ask the database for the JSON of values that only it can render."""
        if not values:
            return {}
        asked = sorted(values)
        query = """
            SELECT realtime.cast(v.text, v.type::pg_catalog.regtype)::text
            FROM ROWS FROM (pg_catalog.unnest(%s::oid[]), pg_catalog.unnest(%s::text[]))
                WITH ORDINALITY AS v (type, text, place)
            ORDER BY v.place
        """
        try:
            async with self._visibility.connections.one() as connection:
                cursor = await connection.execute(
                    query, [[oid for oid, _ in asked], [text for _, text in asked]]
                )
                rows = await cursor.fetchall()
        except psycopg.OperationalError:
            raise
        except psycopg.Error as exc:
            # A type that is gone, or has changed: the values are shown as text.
            logger.warning("values cannot be shown as JSON: %s", exc.diag.message_primary)
            return {}
        return dict(zip(asked, (row[0] for row in rows), strict=True))


class _Sheet:
    """Rows of a table to be looked up, all in the same columns."""

    def __init__(self) -> None:
        self.rows: dict[Row, int] = {}
        """Each with its place."""
        self.candidates: list[list[int]] = []
        """Of each row, those that are about it."""
        # By the list of viewers: most rows have the same ones, who are many.
        self._audiences: dict[int, tuple[Sequence[Viewer], dict[int, None]]] = {}

    def add(self, row: Row, candidate: int, viewers: Sequence[Viewer]) -> None:
        place = self.rows.setdefault(row, len(self.candidates))
        if place == len(self.candidates):
            self.candidates.append([])
        self.candidates[place].append(candidate)
        self._audiences.setdefault(id(viewers), (viewers, {}))[1][place] = None

    def questions(self) -> list[Question]:
        """Return who is to be asked for, and which rows."""
        wanted: dict[Viewer, tuple[int, ...]] = {}
        for viewers, rows in self._audiences.values():
            places = tuple(rows)
            for viewer in viewers:
                former = wanted.setdefault(viewer, places)
                if former is not places:
                    wanted[viewer] = tuple(dict.fromkeys(former + places))
        return [Question(viewer, places) for viewer, places in wanted.items()]


class _Page:
    """A table's part of a batch."""

    def __init__(
        self, table: Table, candidates: Sequence[Candidate], places: Sequence[int], strict: bool
    ) -> None:
        self._table = table
        self._candidates = candidates
        self._sheets: dict[tuple[LiveColumn, ...], _Sheet] = {}
        self._columns: dict[str, tuple[LiveColumn, ...]] = {}
        # By candidate and columns: who sees them. By candidate: who is told of which error.
        self._shown: dict[tuple[int, tuple[LiveColumn, ...]], list[Viewer]] = {}
        self._errors: list[tuple[int, str, bool, Sequence[Viewer]]] = []
        self.timeouts: Counter[Viewer] = Counter()
        by_role: dict[frozenset[Viewer], dict[str, list[Viewer]]] = {}
        for place in places:
            candidate = candidates[place]
            # Most changes of a table have the same viewers.
            for audience in (candidate.viewers, candidate.others):
                if audience not in by_role:
                    by_role[audience] = _by_role(audience)
            for role, theirs in by_role[candidate.viewers].items():
                self._sort(place, role, theirs, strict)
            for role, theirs in by_role[candidate.others].items():
                if (error := self._error_for_all(candidate.change, role)) is not None:
                    self._errors.append((place, error, True, theirs))

    def _error_for_all(self, change: RowChange, role: str) -> str | None:
        """Return why a role cannot be shown a change of the table, whatever is in it."""
        if isinstance(change, Delete) or not self._columns_of(role):
            return None
        if not self._table.key:
            return NO_PRIMARY_KEY
        allowed = self._table.selectable[role]
        return None if allowed.issuperset(self._table.key_names) else UNAUTHORIZED

    def _columns_of(self, role: str) -> tuple[LiveColumn, ...]:
        columns = self._columns.get(role)
        if columns is None:
            columns = self._columns[role] = self._table.visible(role)
        return columns

    def _sort(self, place: int, role: str, viewers: list[Viewer], strict: bool) -> None:
        table, change = self._table, self._candidates[place].change
        columns = self._columns_of(role)
        if not columns:
            # Who may read nothing of a table is not told of it, as with a topic of all tables.
            return
        error = self._error_for_all(change, role)
        if error is not None:
            self._errors.append((place, error, True, viewers))
        elif isinstance(change, Delete) or not table.has_rls:
            self._shown.setdefault((place, columns), []).extend(viewers)
        elif (row := _row(change, table, columns if strict else ())) is not None:
            sheet = self._sheets.setdefault(columns if strict else (), _Sheet())
            sheet.add(row, place, viewers)

    async def ask(self, check: Check, counters: Counters) -> None:
        """Have the rows looked up."""
        for compared, sheet in self._sheets.items():
            questions = sheet.questions()
            answers = await check(self._table, list(sheet.rows), questions, compared=compared)
            for question, answer in zip(questions, answers, strict=True):
                counters.checks += len(question.places)
                self._take(sheet, question.viewer, answer, counters)

    def _take(self, sheet: _Sheet, viewer: Viewer, answer: Answer, counters: Counters) -> None:
        columns = self._columns[viewer.role]
        for row in answer.visible:
            for place in sheet.candidates[row]:
                if viewer in self._candidates[place].viewers:
                    self._shown.setdefault((place, columns), []).append(viewer)
        for row, failure in answer.failed.items():
            if failure is Failure.TIMEOUT:
                self.timeouts[viewer] += 1
            else:
                counters.errors += 1
            for place in sheet.candidates[row]:
                if viewer in self._candidates[place].viewers:
                    self._errors.append((place, _FAILURES[failure], False, (viewer,)))

    def unknown_values(self) -> Iterator[tuple[int, str]]:
        if not self._table.types:
            return
        for place, columns in self._shown:
            yield from unknown_values(self._candidates[place].change, self._table, columns)

    def show(self, shown: list[Shown], answers: Answers, max_record_bytes: int) -> None:
        for (place, columns), viewers in self._shown.items():
            candidate = self._candidates[place]
            seen = View(
                candidate.change,
                self._table,
                columns,
                answers,
                is_too_large=candidate.size > max_record_bytes,
            )
            shown[place].update(dict.fromkeys(viewers, seen))
        for place, error, is_for_all, those in self._errors:
            change = self._candidates[place].change
            told = ErrorView(change, self._table, error, is_for_all=is_for_all)
            shown[place].update(dict.fromkeys(those, told))


def _by_role(viewers: Iterable[Viewer]) -> dict[str, list[Viewer]]:
    found: dict[str, list[Viewer]] = {}
    for viewer in viewers:
        found.setdefault(viewer.role, []).append(viewer)
    return found


def _row(change: Insert | Update, table: Table, compared: Sequence[LiveColumn]) -> Row | None:
    """Return what to look up; None if the change does not have the key that the table has now."""
    record = change.record
    key = []
    for name in table.key_names:
        place = record.shape.index.get(name)
        field = None if place is None else record.fields[place]
        if not isinstance(field, str):
            return None
        key.append(field)
    if not compared:
        return Row(tuple(key))
    names = {column.name for column in compared}
    values = {
        name: field
        for name, field in zip(record.shape.names, record.fields, strict=True)
        if name in names and field is not UNCHANGED
    }
    return Row(tuple(key), json.dumps(values))


class _Lane:
    """What waits for a viewer who is asked for apart, and the task that works it off.

    It holds so much; what comes beyond is given up by whoever brings it.
    """

    def __init__(
        self, work: Callable[[Sequence[Candidate]], Awaitable[None]], viewer: Viewer
    ) -> None:
        self._work = work
        self._viewer = viewer
        self._waiting: deque[Sequence[Candidate]] = deque()
        self._size = 0
        self._woken = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def put(self, candidates: Sequence[Candidate]) -> bool:
        """Take a part of a batch; False if too much waits already."""
        if self._size and self._size + len(candidates) > _MOST_WAITING:
            return False
        self._waiting.append(candidates)
        self._size += len(candidates)
        self._woken.set()
        return True

    def cancel(self) -> asyncio.Task[None]:
        """End; return the task that does."""
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            while self._waiting:
                try:
                    await self._work(self._waiting[0])
                except psycopg.Error as exc:
                    logger.warning(
                        "role %s is asked for apart again: %s",
                        self._viewer.role,
                        " ".join(str(exc).split()),
                    )
                    await asyncio.sleep(_RETRY_APART)
                else:
                    self._size -= len(self._waiting.popleft())
            self._woken.clear()
