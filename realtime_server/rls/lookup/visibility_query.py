"""VisibilityQuery: asks PostgreSQL which rows of a table viewers may see, and notes the answers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import attrs
import psycopg

from .locks import LockedRelation
from .questions import Failure, Question, RowsToCheck, VisibilityAnswer
from .visibility_sql import deleted_rows_function, function, rows_of, type_of

__all__ = ["Found", "VisibilityQuery", "Said", "Todo", "none_found"]

logger = logging.getLogger("realtime.rls")

Todo: TypeAlias = Sequence[tuple[int, tuple[int, ...]]]
"""The questions that are left: pairs of a question's place and the places of its rows."""
Found: TypeAlias = tuple[
    int, list[int] | None, str | None, str | None, float | None, list[int] | None
]
"""A viewer's answer: its number from 1; the rows that it may see, or None with the SQLSTATE and the
message of the error; the seconds that it took; and, where the error is that it took too long, the
OIDs of the relations of the database that are locked."""

Said: TypeAlias = dict[tuple[int, str, str], float]
"""The time until which a problem is not logged again, by table, role and problem."""

_SILENCE: Final = 10.0
"""Seconds for which the same problem is not logged again: a policy may fail for each row."""


@attrs.frozen
class VisibilityQuery:
    """Makes the SQL that asks PostgreSQL which viewers may see some rows of a table, and keeps the
    answers."""

    rows: RowsToCheck
    questions: Sequence[Question]
    answers: Sequence[VisibilityAnswer]
    said: Said

    @property
    def _key_types(self) -> list[str]:
        """The types of the primary key's columns, as SQL writes them."""
        if self.rows.condition is not None:
            return ["pg_catalog.text"]
        return [type_of(column) for column in self.rows.table.key]

    def function(self) -> tuple[str, str]:
        """Return the name and the definition of the function that answers the questions."""
        table, condition = self.rows.table, self.rows.condition
        called = table.functions
        if condition is None:
            compared = tuple(
                (column.name, table.compared_as(column)) for column in self.rows.compared
            )
            return function(table.oid, rows_of(table), table.key, compared, called)
        assert condition.text is not None
        return deleted_rows_function(
            table.oid, table.schema, table.name, condition.text, condition.search_path, called
        )

    def call(self, name: str, todo: Todo) -> tuple[str, list[Any]]:
        """Return the statement that calls the function, and its parameters."""
        rows = self.rows.rows
        every = tuple(range(len(rows)))
        viewers = [self.questions[place].viewer for place, _ in todo]
        # As JSON: an array of a thousand claims, with all its quotes, takes psycopg 10 ms.
        parameters = [
            *(_array(row.key[place] for row in rows) for place in range(len(rows[0].key))),
            [row.values for row in rows] if self.rows.compared else None,
            json.dumps([viewer.role for viewer in viewers]),
            json.dumps([viewer.claims for viewer in viewers]),
            json.dumps(
                [
                    None if places == every else f"{{{','.join(str(one + 1) for one in places)}}}"
                    for _, places in todo
                ]
            ),
        ]
        slots = ", ".join(
            [
                *(f"%s::{one}[]" for one in self._key_types),
                "%s::pg_catalog.jsonb[]",
                *["%s::pg_catalog.json"] * 3,
            ]
        )
        return f"SELECT * FROM pg_temp.{name}({slots})", parameters

    def leave_out(self, todo: Todo, locked: frozenset[LockedRelation] = frozenset()) -> None:
        """Note that some questions stay unanswered.

        Args:
            todo: the questions.
            locked: what is locked, if that is why.
        """
        why = Failure.LOCKED if locked else Failure.UNASKED
        for place, places in todo:
            answer = self.answers[place]
            answer.failed.update(dict.fromkeys(places, why))
            answer.locked |= locked

    def note(
        self,
        place: int,
        places: tuple[int, ...],
        failure: Failure,
        sqlstate: str | None = None,
        message: str | None = None,
    ) -> None:
        """Note, and log, that a viewer's policies failed for some rows."""
        self.answers[place].failed.update(dict.fromkeys(places, failure))
        role = self.questions[place].viewer.role
        what = failure.value if sqlstate is None else f"{failure.value} {sqlstate}"
        now = asyncio.get_running_loop().time()
        table = self.rows.table
        key = (table.oid, role, what)
        # Once, and not for each viewer and row.
        if self.said.get(key, now) <= now:
            for old in [one for one, until in self.said.items() if until <= now]:
                del self.said[old]
            self.said[key] = now + _SILENCE
            logger.warning(
                "row level security of %s.%s failed for a role (%s)",
                table.schema,
                table.name,
                what,
            )
            logger.debug("the role is %s", role)
        if message is not None:
            # It may quote what is in the row.
            logger.debug("the error was: %s", message)


def none_found(todo: Todo, exc: psycopg.Error) -> list[Found]:
    """Return that no question can be answered."""
    problem, detail = exc.sqlstate or "?", exc.diag.message_primary
    return [(index + 1, None, problem, detail, None, None) for index in range(len(todo))]


def _array(texts: Iterable[str]) -> str:
    """Return PostgreSQL's text of an array: psycopg would look at each element by itself."""
    return '{"' + '","'.join(map(_escaped, texts)) + '"}'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
