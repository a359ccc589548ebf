"""TableCheck: one table's part of a batch: the rows to look up, and what each viewer is sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from realtime_core import UNCHANGED, Delete, Insert, Relation, RowChange, Update

from ..config.database.tables import LiveColumn, Table
from .counters import Counters
from .lookup.deleted_rows import Condition, is_known, text_of
from .lookup.locks import LockedRelation
from .lookup.questions import Failure, LookupRow, Question, RowsToCheck, VisibilityAnswer
from .payloads import Answers, ErrorView, View, unknown_values
from .pending_changes import PendingChange, Shown
from .unfiltered_samples import Sampled
from .viewers import Viewer

__all__ = ["Lookup", "TableCheck"]

_USUAL: Final = 50e-6
"""Seconds that a policy may take for each further row, so that many rows make no viewer slow."""
_NO_PRIMARY_KEY: Final = "Error 400: Bad Request, no primary key"
_UNAUTHORIZED: Final = "Error 401: Unauthorized"
_FAILURES: Final = {
    Failure.ERROR: "Error 500: Internal Server Error, row level security raised an error",
    Failure.TIMEOUT: "Error 500: Internal Server Error, row level security took too long",
}


class Lookup(Protocol):
    """Asks PostgreSQL which rows viewers may see.

    :meth:`~.lookup.shared_check.SharedCheck.check` is such a function.
    """

    async def __call__(
        self, rows: RowsToCheck, questions: Sequence[Question], *, may_retry: bool = True
    ) -> list[VisibilityAnswer]: ...


class _RowSet:
    """Rows of a table to be looked up, all in the same columns."""

    def __init__(self) -> None:
        self.rows: dict[LookupRow, int] = {}
        """The rows, each with its place in ``candidates``."""
        self.candidates: list[list[int]] = []
        """The places in the batch of the changes that are about a row, by the row's place."""
        # By the identity of a list of viewers, since most rows share one long list.
        self._audiences: dict[int, tuple[Sequence[Viewer], dict[int, None]]] = {}

    def add(self, row: LookupRow, candidate: int, viewers: Sequence[Viewer]) -> None:
        place = self.rows.setdefault(row, len(self.candidates))
        if place == len(self.candidates):
            self.candidates.append([])
        self.candidates[place].append(candidate)
        self._audiences.setdefault(id(viewers), (viewers, {}))[1][place] = None

    def questions(self) -> list[Question]:
        """Return, for each viewer, the rows that PostgreSQL is asked whether the viewer may see."""
        wanted: dict[Viewer, tuple[int, ...]] = {}
        for viewers, rows in self._audiences.values():
            places = tuple(rows)
            for viewer in viewers:
                former = wanted.setdefault(viewer, places)
                if former is not places:
                    wanted[viewer] = tuple(dict.fromkeys(former + places))
        return [Question(viewer, places) for viewer, places in wanted.items()]


class TableCheck:
    """Checks the changes of one table in a batch: which viewers may see which parts of them.

    Args:
        table: the table's present state.
        relation: the table as the stream describes it.
        candidates: all changes of the batch.
        places: the places in ``candidates`` of the changes of this table.
        strict: show only rows that still have the values that the change has.
        sampled: by place, further viewers for which the row is looked up whatever their filters.
        conditions: by role, the condition under which it could see a deleted row all of whose
            values are known; None: deleted rows are not checked, and all viewers get their key.
    """

    def __init__(
        self,
        table: Table,
        relation: Relation,
        candidates: Sequence[PendingChange],
        places: Sequence[int],
        strict: bool,
        sampled: Sampled,
        conditions: Mapping[str, Condition] | None = None,
    ) -> None:
        self._table = table
        self._sampled = sampled
        self._conditions = conditions
        self._published = (
            relation.shape.index.keys() if table.published is None else table.published
        )
        # Where rows are looked up, the key has to be published.
        self._has_key = bool(table.key) and (
            not table.has_rls or self._published >= set(table.key_names)
        )
        self._candidates = candidates
        self._sheets: dict[tuple[tuple[LiveColumn, ...], Condition | None], _RowSet] = {}
        self._columns: dict[str, tuple[LiveColumn, ...]] = {}
        self._errors_for_all: dict[str, str | None] = {}
        # The viewers that are shown a candidate, by its place and the columns that they may see.
        # Errors, each with a candidate's place and the viewers of one role that get it.
        self._shown: dict[tuple[int, tuple[LiveColumn, ...]], list[Viewer]] = {}
        self._errors: list[tuple[int, str, Sequence[Viewer]]] = []
        self.timeouts: Counter[Viewer] = Counter()
        self.locked_out: set[Viewer] = set()
        """The viewers that were not checked for all rows because a table is locked."""
        self.locked: set[LockedRelation] = set()
        """The tables that were locked, and other relations."""
        self.seconds: dict[Viewer, float] = {}
        """Seconds that a viewer's policies took beyond the usual time for as many rows, by
        viewer."""
        self.failed: dict[int, set[Viewer]] = {}
        """The viewers whose policies failed, by the candidate's place."""
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
                    self._errors.append((place, error, theirs))
            for role, theirs in _by_role(
                sampled.get(place, frozenset()) - candidate.viewers
            ).items():
                if self._columns_of(role) and self._error_for_all(candidate.change, role) is None:
                    self._look_up(place, role, theirs, strict)

    def _error_for_all(self, change: RowChange, role: str) -> str | None:
        """Return why a role gets an error for each change of the table; None if it does not."""
        if isinstance(change, Delete):
            return None
        if role not in self._errors_for_all:
            self._errors_for_all[role] = self._error_for_rows(role)
        return self._errors_for_all[role]

    def _error_for_rows(self, role: str) -> str | None:
        if not self._columns_of(role):
            return None
        if not self._has_key:
            return _NO_PRIMARY_KEY
        allowed = self._table.selectable[role]
        return None if allowed.issuperset(self._table.key_names) else _UNAUTHORIZED

    def _columns_of(self, role: str) -> tuple[LiveColumn, ...]:
        columns = self._columns.get(role)
        if columns is None:
            allowed = self._table.selectable.get(role, frozenset()) & self._published
            columns = tuple(one for one in self._table.columns if one.name in allowed)
            self._columns[role] = columns
        return columns

    def _sort(self, place: int, role: str, viewers: list[Viewer], strict: bool) -> None:
        table, change = self._table, self._candidates[place].change
        columns = self._columns_of(role)
        if not columns:
            # A viewer that may read no column of the table gets nothing, for example if its topic
            # is all tables.
            return
        error = self._error_for_all(change, role)
        if error is not None:
            self._errors.append((place, error, viewers))
        elif self._is_asked_as_it_was(place):
            self._ask_as_it_was(place, role, viewers)
        elif isinstance(change, Delete) or not table.has_rls:
            self._shown.setdefault((place, columns), []).extend(viewers)
        elif table.is_at_odds:
            if role in table.bypassing:
                self._shown.setdefault((place, columns), []).extend(viewers)
        else:
            self._look_up(place, role, viewers, strict)

    def _look_up(self, place: int, role: str, viewers: list[Viewer], strict: bool) -> None:
        change = self._candidates[place].change
        assert not isinstance(change, Delete)
        compared = self._columns_of(role) if strict else ()
        row = _row(change, self._table, compared)
        if row is not None:
            self._sheets.setdefault((compared, None), _RowSet()).add(row, place, viewers)

    def _is_asked_as_it_was(self, place: int) -> bool:
        """Return whether a change is a DELETE whose whole former row only those viewers get who
        could see that row: RLS_DELETE=policy."""
        change, table = self._candidates[place].change, self._table
        return (
            self._conditions is not None
            and isinstance(change, Delete)
            and table.has_rls
            and is_known(change, table)
        )

    def _ask_as_it_was(self, place: int, role: str, viewers: list[Viewer]) -> None:
        table, change = self._table, self._candidates[place].change
        assert self._conditions is not None
        assert isinstance(change, Delete)
        condition = self._conditions.get(role)
        if table.is_at_odds and role not in table.bypassing:
            return
        if condition is None:
            return
        if condition.text is None:
            self._shown.setdefault((place, self._columns_of(role)), []).extend(viewers)
            return
        row = LookupRow((text_of(change, table),))
        self._sheets.setdefault(((), condition), _RowSet()).add(row, place, viewers)

    async def ask(
        self,
        look_up: Lookup,
        counters: Counters,
        apart: Collection[Viewer] = (),
        *,
        may_retry: bool | None = None,
    ) -> None:
        """Look up which viewers may see the rows.

        Args:
            look_up: looks rows up in the database.
            counters: counts the checks, and those that failed.
            apart: the viewers that are left out here, since they are checked separately because
                of another table.
            may_retry: whether viewers get a second attempt; None: unless ``apart`` has any.
        """
        for (compared, condition), sheet in self._sheets.items():
            questions = [one for one in sheet.questions() if one.viewer not in apart]
            answers = await look_up(
                RowsToCheck(self._table, list(sheet.rows), compared, condition),
                questions,
                may_retry=not apart if may_retry is None else may_retry,
            )
            for question, answer in zip(questions, answers, strict=True):
                failures = list(answer.failed.values())
                unasked = sum(map(failures.count, (Failure.UNASKED, Failure.LOCKED)))
                counters.checks += len(question.places) - unasked
                self._take(sheet, question, answer, counters)

    def _take(
        self, sheet: _RowSet, question: Question, answer: VisibilityAnswer, counters: Counters
    ) -> None:
        viewer = question.viewer
        columns = self._columns[viewer.role]
        self.locked |= answer.locked
        beyond = max(answer.seconds - _USUAL * (len(question.places) - 1), 0.0)
        self.seconds[viewer] = self.seconds.get(viewer, 0.0) + beyond
        for row in answer.visible:
            for place in sheet.candidates[row]:
                if viewer in self._candidates[place].viewers:
                    self._shown.setdefault((place, columns), []).append(viewer)
        for row, failure in answer.failed.items():
            if failure is Failure.UNASKED or failure is Failure.LOCKED:
                self.timeouts[viewer] += 0
                if failure is Failure.LOCKED:
                    self.locked_out.add(viewer)
                continue
            if failure is Failure.TIMEOUT:
                self.timeouts[viewer] += 1
            else:
                counters.errors += 1
            for place in sheet.candidates[row]:
                self.failed.setdefault(place, set()).add(viewer)
                if self._may_get_error(place, viewer):
                    self._errors.append((place, _FAILURES[failure], (viewer,)))

    def _may_get_error(self, place: int, viewer: Viewer) -> bool:
        """Return whether a viewer may get an error: its filters must not decide whether it does."""
        candidate = self._candidates[place]
        if isinstance(candidate.change, Delete):
            # A viewer gets nothing unless it could certainly see the row.
            return False
        if viewer in candidate.filtering:
            return viewer in self._sampled.get(place, ())
        return viewer in candidate.viewers or viewer in candidate.others

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
                hides_old=self._table.has_rls and not self._is_asked_as_it_was(place),
                size=candidate.size,
                max_bytes=max_record_bytes,
            )
            shown[place].update(dict.fromkeys(viewers, seen))
        for place, error, those in self._errors:
            told = ErrorView(self._candidates[place].change, self._table, error)
            shown[place].update(dict.fromkeys(those, told))


def _by_role(viewers: Iterable[Viewer]) -> dict[str, list[Viewer]]:
    found: dict[str, list[Viewer]] = {}
    for viewer in viewers:
        found.setdefault(viewer.role, []).append(viewer)
    return found


def _row(change: Insert | Update, table: Table, compared: Sequence[LiveColumn]) -> LookupRow | None:
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
        return LookupRow(tuple(key))
    names = {column.name for column in compared}
    values = {
        name: field
        for name, field in zip(record.shape.names, record.fields, strict=True)
        if name in names and field is not UNCHANGED
    }
    return LookupRow(tuple(key), json.dumps(values))
