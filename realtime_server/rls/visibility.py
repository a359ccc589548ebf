"""Visibility: which rows a viewer may see, asked of PostgreSQL itself.

Theory of operation. The rows of a batch are looked up by their primary keys, for each viewer
in a statement of its own: two viewers in one would share what a policy computes once a
statement, and one would be shown the other's rows. For each table the session has a
temporary function that goes through the viewers: it takes on role and claims, runs one
static query, whose plan is kept, and catches what a policy raises. Each viewer's part is rolled
back: a policy may keep something for its transaction, as who asks. So a viewer costs no round
trip, and an error costs nobody else anything.

A policy that runs too long is ended by the session's ``statement_timeout``. The function
catches that too, and returns at once, since the timeout is disarmed then: the viewer whose
query took the time has timed out; those behind it have not been looked at, and are asked for
again. So the others lose one timeout.

The function runs as its caller (a SECURITY DEFINER one cannot change the role), with the
search path that the database has for everybody: names in it are qualified, and policies find
what their authors meant.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

import attrs
import psycopg
from psycopg import AsyncConnection, sql

from .connections import Connections, Dsn
from .tables import KeyColumn, LiveColumn, Table
from .viewers import Viewer

__all__ = ["Answer", "Failure", "Question", "Row", "Visibility"]

logger = logging.getLogger("realtime.rls")


class Failure(enum.Enum):
    """Why it is not known whether a viewer may see a row."""

    ERROR = "error"
    """A policy raised an error."""
    TIMEOUT = "timeout"
    """A policy ran too long."""


@attrs.frozen
class Row:
    """A row to look for."""

    key: tuple[str, ...]
    """The primary key's values as text."""
    values: str = "{}"
    """A JSON object: texts that columns must still have, by name."""


@attrs.frozen
class Question:
    """Which of these rows may the viewer see?"""

    viewer: Viewer
    places: tuple[int, ...]
    """In the list of rows."""


@attrs.define
class Answer:
    """Which rows a viewer may see, and of which that is not known, by their places."""

    visible: set[int] = attrs.field(factory=set)
    failed: dict[int, Failure] = attrs.field(factory=dict)


_MOST_LOOKUPS: Final = 20_000
"""Rows times viewers of one call. It is to end well before the timeout: 4 µs for each."""
_LOCK_PATIENCE: Final = 60.0
"""Seconds for which a table may be locked until its rows are given up."""
_LOCK_PAUSE: Final = 0.05
_CULPRIT: Final = 0.5
"""Part of the timeout that a query must have taken by itself to be what took too long."""
_MOST_TIMEOUTS: Final = 10
"""For one viewer and batch, until it is given up which row it is that takes the time."""

# What stops a call early: the viewer and those behind it have no answer yet.
_LATER: Final = "later"
_LOCKED: Final = "locked"
_TIMEOUT: Final = "timeout"

_FUNCTION: Final = """
CREATE FUNCTION pg_temp.{name}(
    {parameters}, compared_ jsonb[], roles_json_ json, claims_json_ json, wanted_json_ json
)
RETURNS TABLE (viewer_ integer, visible_ integer[], problem_ text, detail_ text)
LANGUAGE plpgsql
-- At the end, however it comes, the role is the session's own.
SET role = 'none'
AS ${name}$
DECLARE
    {declarations}
    roles_ text[] := ARRAY(SELECT pg_catalog.json_array_elements_text(roles_json_));
    claims_ text[] := ARRAY(SELECT pg_catalog.json_array_elements_text(claims_json_));
    wanted_ text[] := ARRAY(SELECT pg_catalog.json_array_elements_text(wanted_json_));
    mine_ integer[];
    started_ timestamptz;
BEGIN
    FOR place_ IN 1 .. pg_catalog.cardinality(roles_) LOOP
        viewer_ := place_;
        mine_ := wanted_[place_]::integer[];
        started_ := pg_catalog.clock_timestamp();
        visible_ := NULL;
        BEGIN
            PERFORM
                pg_catalog.set_config('role', roles_[place_], true),
                pg_catalog.set_config('request.jwt.claims', claims_[place_], true);
            {look_up}
            -- What a policy has set for the transaction is not there for the next viewer.
            RAISE SQLSTATE 'RTEND';
        EXCEPTION
            WHEN query_canceled THEN
                visible_ := NULL;
                problem_ := CASE
                    WHEN pg_catalog.clock_timestamp() - started_ < {culprit} THEN 'later'
                    ELSE 'timeout'
                END;
                RETURN NEXT;
                RETURN;
            WHEN lock_not_available THEN
                visible_ := NULL;
                problem_ := SQLSTATE;
                detail_ := SQLERRM;
                IF EXISTS (
                    SELECT FROM pg_catalog.pg_locks l
                    WHERE l.relation = {oid} AND l.mode = 'AccessExclusiveLock'
                ) THEN
                    problem_ := 'locked';
                    RETURN NEXT;
                    RETURN;
                END IF;
            WHEN OTHERS OR assert_failure THEN
                -- Ours at the end, unless there is no answer yet.
                problem_ := CASE WHEN visible_ IS NULL THEN SQLSTATE END;
                detail_ := CASE WHEN visible_ IS NULL THEN SQLERRM END;
        END;
        RETURN NEXT;
    END LOOP;
END
${name}$
"""

_BY_ROW: Final = """
            visible_ := ARRAY(
                SELECT k.place
                FROM ROWS FROM ({keys}, pg_catalog.unnest(compared_))
                    WITH ORDINALITY AS k ({aliases}, compared, place)
                JOIN ONLY {table} t ON {equal}
                WHERE (mine_ IS NULL OR k.place OPERATOR(pg_catalog.=) ANY (mine_)) {unchanged}
            );
"""

# One descent of the index for many keys, which takes half the time. Rows that are not asked for
# must not be looked at, so their keys are picked before.
_BY_KEY: Final = """
            picked_ := CASE WHEN mine_ IS NULL THEN typed_0_
                ELSE ARRAY(SELECT typed_0_[m] FROM pg_catalog.unnest(mine_) m) END;
            visible_ := ARRAY(
                SELECT CASE WHEN mine_ IS NULL THEN k.place ELSE mine_[k.place] END
                FROM (
                    SELECT t.{name} AS key FROM ONLY {table} t WHERE t.{name} {equals} ANY (picked_)
                ) v
                JOIN pg_catalog.unnest(picked_) WITH ORDINALITY AS k (key, place)
                    ON k.key {equals} v.key
            );
"""

# As text, under this session's settings: not every type has an equality, and where it has
# one, 1.0 = 1.00.
_UNCHANGED: Final = """
    AND (
        NOT pg_catalog.jsonb_exists(k.compared, {label})
        OR (
            (t.{name} IS NULL) OPERATOR(pg_catalog.=)
                (pg_catalog.jsonb_extract_path_text(k.compared, {label}) IS NULL)
            AND pg_catalog.concat(t.{name}) OPERATOR(pg_catalog.=) pg_catalog.concat(
                pg_catalog.jsonb_extract_path_text(k.compared, {label})::{type}
            )
        )
    )
"""


class Visibility:
    """Asks PostgreSQL, on connections of its own.

    Args:
        dsn: of the database, as the server's role.
        timeout: seconds that a viewer's query may take.
        size: how many connections there may be.
    """

    def __init__(self, dsn: Dsn, *, timeout: float, name: str = "rls", size: int = 4) -> None:
        self._timeout = timeout
        milliseconds = max(1, round(timeout * 1000))
        self.connections = Connections(
            dsn,
            name=name,
            size=size,
            # One plan for any number of rows, without the just-in-time compiler, which
            # estimates of arrays would call in vain.
            settings="SET jit = off; SET plan_cache_mode = force_generic_plan;"
            f"SET statement_timeout = {milliseconds};"
            f"SET lock_timeout = {max(1, milliseconds // 2)}",
        )
        """For what else is asked of the database."""
        # The functions that each connection has.
        self._functions: WeakKeyDictionary[AsyncConnection[Any], set[str]] = WeakKeyDictionary()

    async def __aenter__(self) -> Self:
        await self.connections.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.connections.__aexit__(exc_type, exc, traceback)

    async def check(
        self,
        table: Table,
        rows: Sequence[Row],
        questions: Sequence[Question],
        *,
        compared: Sequence[LiveColumn] = (),
    ) -> list[Answer]:
        """Answer each question, in order.

        Args:
            table: with a primary key.
            rows: of the table.
            questions: a viewer's each.
            compared: the columns that a row's ``values`` may have; the viewers' roles may
                SELECT them.

        Raises:
            psycopg.OperationalError: if the connection is lost; then nothing is answered.
        """
        answers = [Answer() for _ in questions]
        asked = [
            self._ask(_Inquiry(table, rows, compared, questions, answers), chunk)
            for chunk in _chunks(questions)
        ]
        if len(asked) == 1:
            await asked[0]
        else:
            try:
                async with asyncio.TaskGroup() as group:
                    for one in asked:
                        group.create_task(one)
            except ExceptionGroup as exc:
                raise exc.exceptions[0] from None
        return answers

    async def check_apart(
        self,
        table: Table,
        rows: Sequence[Row],
        question: Question,
        *,
        compared: Sequence[LiveColumn] = (),
    ) -> Answer:
        """Answer a question that has run into the timeout: find the rows that take the time."""
        answer = Answer()
        halves = [question.places]
        timeouts = 0
        while halves:
            places = halves.pop()
            part = Question(question.viewer, places)
            [found] = await self.check(table, rows, [part], compared=compared)
            slow = tuple(p for p, why in found.failed.items() if why is Failure.TIMEOUT)
            answer.visible |= found.visible
            answer.failed |= found.failed
            if len(slow) > 1:
                timeouts += 1
                if timeouts < _MOST_TIMEOUTS:
                    half = len(slow) // 2
                    halves += [slow[half:], slow[:half]]
                    for place in slow:
                        del answer.failed[place]
        return answer

    async def _ask(self, inquiry: _Inquiry, todo: list[tuple[int, tuple[int, ...]]]) -> None:
        """Answer questions: pairs of a question's place and the rows that are left of it."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _LOCK_PATIENCE
        while todo:
            rows = await self._call(inquiry, todo)
            again: list[tuple[int, tuple[int, ...]]] = []
            for index, visible, problem, detail in rows:
                place, places = todo[index - 1]
                if visible is not None:
                    inquiry.answers[place].visible.update(one - 1 for one in visible)
                elif problem == _LATER and index > 1:
                    again.append(todo[index - 1])
                elif problem == _LOCKED and loop.time() < give_up:
                    again.append(todo[index - 1])
                    logger.warning(
                        "table %s is locked; its changes wait until it is not", inquiry.table.name
                    )
                    await asyncio.sleep(_LOCK_PAUSE)
                elif problem in (_LATER, _TIMEOUT):
                    inquiry.note(place, places, Failure.TIMEOUT)
                elif len(places) > 1:
                    # Which of the rows is it? Each by itself, and the others are answered.
                    again += [(place, (one,)) for one in places]
                else:
                    inquiry.note(place, places, Failure.ERROR, f"{problem}: {detail}")
            todo = again + todo[len(rows) :]

    async def _call(
        self, inquiry: _Inquiry, todo: Sequence[tuple[int, tuple[int, ...]]]
    ) -> list[tuple[int, list[int] | None, str | None, str | None]]:
        rows, table = inquiry.rows, inquiry.table
        name, definition = _function(
            table.oid,
            table.schema,
            table.name,
            table.key,
            tuple(inquiry.compared),
            self._timeout * _CULPRIT,
        )
        every = tuple(range(len(rows)))
        viewers = [inquiry.questions[place].viewer for place, _ in todo]
        # As JSON: an array of a thousand claims, with all its quotes, takes psycopg 10 ms.
        parameters = [
            *([row.key[place] for row in rows] for place in range(len(table.key))),
            [row.values for row in rows],
            json.dumps([viewer.role for viewer in viewers]),
            json.dumps([viewer.claims for viewer in viewers]),
            json.dumps(
                [
                    None if places == every else f"{{{','.join(str(one + 1) for one in places)}}}"
                    for _, places in todo
                ]
            ),
        ]
        slots = ", ".join(["%s::text[]"] * len(table.key))
        call = f"SELECT * FROM pg_temp.{name}({slots}, %s::jsonb[], %s::json, %s::json, %s::json)"
        async with self.connections.one() as connection:
            made = self._functions.setdefault(connection, set())
            if name not in made:
                await connection.execute(definition.encode())
                made.add(name)
            pid = connection.info.backend_pid
            try:
                # A policy that catches the cancellation would run for ever.
                async with asyncio.timeout(self._timeout * 2 + 1):
                    cursor = await connection.execute(call, parameters)
                    return await cursor.fetchall()
            except TimeoutError:
                await connection.close()
            except psycopg.OperationalError:
                if connection.closed:
                    raise
                return [(1, None, _TIMEOUT, None)]
            except psycopg.Error as exc:
                # Not of a policy, which the function catches, but of the call itself: a key
                # that is none any more.
                detail = exc.diag.message_primary
                return [
                    (index + 1, None, exc.sqlstate or "?", detail) for index in range(len(todo))
                ]
        async with self.connections.one() as connection:
            await connection.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [pid])
        return [(1, None, _TIMEOUT, None)]


@attrs.frozen
class _Inquiry:
    """What one call of check is about."""

    table: Table
    rows: Sequence[Row]
    compared: Sequence[LiveColumn]
    questions: Sequence[Question]
    answers: Sequence[Answer]

    def note(self, place: int, places: tuple[int, ...], failure: Failure, detail: str = "") -> None:
        self.answers[place].failed.update(dict.fromkeys(places, failure))
        logger.warning(
            "row level security of %s.%s failed for role %s (%s%s)",
            self.table.schema,
            self.table.name,
            self.questions[place].viewer.role,
            failure.value,
            f" {detail}" if detail else "",
        )


@lru_cache(maxsize=256)
def _function(
    oid: int,
    schema: str,
    name: str,
    key: tuple[KeyColumn, ...],
    compared: tuple[LiveColumn, ...],
    culprit: float,
) -> tuple[str, str]:
    """Return name and definition of the function for a table."""
    fields = {
        "parameters": ", ".join(f"key_{n}_ text[]" for n, _ in enumerate(key)),
        "declarations": " ".join(
            f"typed_{n}_ {column.type_sql}[] := key_{n}_::{column.type_sql}[];"
            for n, column in enumerate(key)
        )
        + f" picked_ {key[0].type_sql}[];",
        "look_up": _look_up(f"{_quoted(schema)}.{_quoted(name)}", key, compared),
        "culprit": f"interval '{culprit} seconds'",
        "oid": str(oid),
    }
    # It ends the quoted body, too, so that no name in there can.
    unique = f"realtime_{hashlib.sha256(repr(fields).encode()).hexdigest()[:16]}"
    return unique, _FUNCTION.format(name=unique, **fields)


def _look_up(table: str, key: tuple[KeyColumn, ...], compared: tuple[LiveColumn, ...]) -> str:
    if len(key) == 1 and not compared:
        [column] = key
        return _BY_KEY.format(name=_quoted(column.name), table=table, equals=column.equals)
    return _BY_ROW.format(
        keys=", ".join(f"pg_catalog.unnest(typed_{n}_)" for n, _ in enumerate(key)),
        aliases=", ".join(f"key_{n}" for n, _ in enumerate(key)),
        table=table,
        equal=" AND ".join(
            f"t.{_quoted(column.name)} {column.equals} k.key_{n}" for n, column in enumerate(key)
        ),
        unchanged="".join(
            _UNCHANGED.format(
                name=_quoted(column.name),
                label=sql.Literal(column.name).as_string(None),
                type=column.type_sql,
            )
            for column in compared
        ),
    )


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def _chunks(questions: Sequence[Question]) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
    chunk: list[tuple[int, tuple[int, ...]]] = []
    size = 0
    for place, question in enumerate(questions):
        chunk.append((place, question.places))
        size += len(question.places)
        if size >= _MOST_LOOKUPS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
