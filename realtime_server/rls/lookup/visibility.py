"""Visibility: which rows a viewer may see, asked of PostgreSQL itself.

Theory of operation. The rows of a batch are looked up by their primary keys, for each viewer
in a statement of its own: two viewers in one would share what a policy computes once a
statement, and one would be shown the other's rows. For each table the session has a
temporary function that goes through the viewers: it takes on role and claims, runs one
static query, whose plan is kept, and catches what a policy raises. Each viewer's part is rolled
back: a policy may keep something for its transaction, as who asks. So a viewer costs no round
trip, and an error costs nobody else anything. Where a policy reaches functions that are declared
IMMUTABLE, each viewer has a plan of its own: see
:mod:`realtime_server.config.database.policy_functions`.

A policy that runs too long is ended by the session's ``statement_timeout``. The function
catches that too, and returns at once, since the timeout is disarmed then: the viewer whose
query took the time has timed out; those behind it have not been looked at, and are asked for
again in a hurry: in a part of the timeout for all of them, and who has no answer then is not
asked any more. So the others lose little more than one timeout, also if the policy is slow for all.

The function runs as its caller (a SECURITY DEFINER one cannot change the role), with the
search path that the database has for everybody: names in it are qualified, and policies find
what their authors meant.
"""

from __future__ import annotations

import asyncio
import enum
import json
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeAlias
from weakref import WeakKeyDictionary

import attrs
import psycopg
from psycopg import AsyncConnection

from ...config.database.connections import OWN_PATH, Connections, Dsn
from ...config.database.tables import LiveColumn, Table
from ..viewers import Viewer
from .former import Condition
from .functions import LATER, LOCKED, TIMEOUT, former_function, function, rows_of, type_of

__all__ = ["Answer", "Failure", "Question", "Row", "Visibility"]

logger = logging.getLogger("realtime.rls")


class Failure(enum.Enum):
    """Why it is not known whether a viewer may see a row."""

    ERROR = "error"
    """A policy raised an error."""
    TIMEOUT = "timeout"
    """A policy ran too long."""
    UNASKED = "unasked"
    """Those before have taken so long that nobody was asked."""


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
    seconds: float = attrs.field(default=0.0, eq=False)
    """That it took, unless it took too long."""


_Found: TypeAlias = tuple[int, list[int] | None, str | None, str | None, float | None]
"""Of a viewer: its number, the rows that it may see or what was wrong, and how long it took."""


_MOST_LOOKUPS: Final = 20_000
"""Rows times viewers of one call. It is to end well before the timeout: 4 µs for each."""
_PLANNING: Final = 250
"""Lookups in whose time a viewer's plans are made anew: 1 ms."""
_LOCK_PATIENCE: Final = 60.0
"""Seconds for which a table may be locked until its rows are given up."""
_LOCK_PAUSE: Final = 0.05
_SILENCE: Final = 10.0
"""Seconds for which the same problem is not logged again: a policy may fail for each row."""
_HURRY: Final = 4
"""Part of the timeout that the rest of a batch has, together, once a viewer has taken too long: its
policy may do so for all of them, and everybody waits."""
_LEAST_HURRY: Final = 0.05
"""Seconds of it, at least."""
_MOST_TIMEOUTS: Final = 10
"""For one viewer and batch, until it is given up which row it is that takes the time."""


class Visibility:
    """Asks PostgreSQL, on connections of its own.

    Args:
        dsn: of the database, as the server's role.
        timeout: seconds that a viewer's query may take.
        size: how many connections there may be.
        waits_for_locks: whether rows of a table that is locked are asked for until it is not; else
            the viewers are not asked for.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        timeout: float,
        name: str = "rls",
        size: int = 4,
        waits_for_locks: bool = True,
    ) -> None:
        self.timeout: Final = timeout
        self._waits_for_locks = waits_for_locks
        self._hurry = min(timeout, max(timeout / _HURRY, _LEAST_HURRY))
        milliseconds = _milliseconds(timeout)
        self.connections = Connections(
            dsn,
            name=name,
            size=size,
            prepares=False,
            # One plan for any number of rows, without the just-in-time compiler, which
            # estimates of arrays would call in vain.
            settings="SET jit = off; SET plan_cache_mode = force_generic_plan;"
            f"SET statement_timeout = {milliseconds};"
            f"SET lock_timeout = {max(1, milliseconds // 2)}",
        )
        """For what else runs a user's code, as a type's checks. That may run ``DEALLOCATE ALL``,
        which no rollback undoes, so nothing on these is prepared."""
        self.catalog = Connections(
            dsn,
            name=f"{name} tables",
            size=2,
            # To plan what looks at tables takes longer than to run it.
            settings="SET jit = off; SET plan_cache_mode = force_generic_plan;"
            f"SET statement_timeout = {milliseconds}; {OWN_PATH}",
        )
        """For what runs no code but PostgreSQL's own."""
        # By table, role and problem: until when it is not logged again.
        self._said: dict[tuple[int, str, str], float] = {}
        # The functions that each connection has.
        self._functions: WeakKeyDictionary[AsyncConnection[Any], set[str]] = WeakKeyDictionary()

    async def __aenter__(self) -> Self:
        await self.connections.__aenter__()
        await self.catalog.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.catalog.__aexit__(exc_type, exc, traceback)
        await self.connections.__aexit__(exc_type, exc, traceback)

    async def renew(self) -> None:
        """Have new connections from now on: the database has moved to another server."""
        await self.connections.renew()
        await self.catalog.renew()

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
        """Answer each question, in order.

        Args:
            table: with a primary key.
            rows: of the table.
            questions: a viewer's each.
            compared: the columns that a row's ``values`` may have; the viewers' roles may
                SELECT them.
            condition: the rows are there no more: the only value of a key is the row's text, and
                this is what must be true of it.
            hurried: others have taken too long already: who is not answered soon is not asked.

        Raises:
            psycopg.OperationalError: if the connection is lost; then nothing is answered.
        """
        answers = [Answer() for _ in questions]
        inquiry = _Inquiry(table, rows, compared, condition, questions, answers, self._said)
        least = _PLANNING if table.functions.immutable else 1
        asked = [self._ask(inquiry, chunk, hurried) for chunk in _chunks(questions, least)]
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
        condition: Condition | None = None,
    ) -> Answer:
        """Answer a question that has run into the timeout: find the rows that take the time."""
        answer = Answer()
        halves = [question.places]
        timeouts = 0
        while halves:
            places = halves.pop()
            part = Question(question.viewer, places)
            [found] = await self.check(table, rows, [part], compared=compared, condition=condition)
            slow = tuple(p for p, why in found.failed.items() if why is Failure.TIMEOUT)
            unasked = tuple(p for p, why in found.failed.items() if why is Failure.UNASKED)
            answer.visible |= found.visible
            answer.failed |= found.failed
            answer.failed |= dict.fromkeys(unasked, Failure.TIMEOUT)
            again = [unasked] if unasked else []
            if len(slow) > 1:
                half = len(slow) // 2
                again += [slow[half:], slow[:half]]
            if again:
                timeouts += 1
                if timeouts < _MOST_TIMEOUTS:
                    halves += again
                    for places in again:
                        for place in places:
                            del answer.failed[place]
        return answer

    async def _ask(
        self,
        inquiry: _Inquiry,
        todo: list[tuple[int, tuple[int, ...]]],
        hurried: bool,
        losses: int = 0,
    ) -> None:
        """Answer questions: pairs of a question's place and the rows that are left of it.

        A policy may end the session, and would each time: whose it is, is found out by halves.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _LOCK_PATIENCE
        while todo:
            was_hurried = hurried
            try:
                rows = await self._call(inquiry, todo, self._hurry if hurried else None)
            except _LostError:
                losses += 1
                if losses == 1:
                    # PostgreSQL may have been restarted; then there is no connection yet.
                    continue
                if len(todo) > 1:
                    half = len(todo) // 2
                    for part in (todo[:half], todo[half:]):
                        await self._ask(inquiry, part, hurried, losses=1)
                    return
                [(place, places)] = todo
                inquiry.note(place, places, Failure.ERROR, "it ends the session")
                return
            again: list[tuple[int, tuple[int, ...]]] = []
            for index, visible, problem, detail, seconds in rows:
                place, places = todo[index - 1]
                inquiry.answers[place].seconds += seconds or 0.0
                if visible is not None:
                    inquiry.answers[place].visible.update(one - 1 for one in visible)
                elif (problem == LOCKED and not self._waits_for_locks) or (
                    problem in (LATER, TIMEOUT) and was_hurried
                ):
                    # None of these has had the time that it may take, or could be asked for.
                    for left, its in (*again, *todo[index - 1 :]):
                        unasked = dict.fromkeys(its, Failure.UNASKED)
                        inquiry.answers[left].failed.update(unasked)
                    return
                elif problem == LATER and index > 1:
                    again.append(todo[index - 1])
                elif problem == LOCKED and loop.time() < give_up:
                    again.append(todo[index - 1])
                    logger.warning(
                        "table %s is locked; its changes wait until it is not", inquiry.table.name
                    )
                    await asyncio.sleep(_LOCK_PAUSE)
                elif problem in (LATER, TIMEOUT):
                    hurried = True
                    inquiry.note(place, places, Failure.TIMEOUT)
                elif len(places) > 1:
                    # Which of the rows is it? Each by itself, and the others are answered.
                    again += [(place, (one,)) for one in places]
                else:
                    inquiry.note(place, places, Failure.ERROR, problem, detail)
            todo = again + todo[len(rows) :]

    async def _call(
        self, inquiry: _Inquiry, todo: Sequence[tuple[int, tuple[int, ...]]], limit: float | None
    ) -> list[_Found]:
        rows, table = inquiry.rows, inquiry.table
        name, definition = inquiry.function(self.timeout)
        width = len(rows[0].key)
        every = tuple(range(len(rows)))
        viewers = [inquiry.questions[place].viewer for place, _ in todo]
        # As JSON: an array of a thousand claims, with all its quotes, takes psycopg 10 ms.
        parameters = [
            *(_array(row.key[place] for row in rows) for place in range(width)),
            [row.values for row in rows] if inquiry.compared else None,
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
                *(f"%s::{one}[]" for one in inquiry.key_types),
                "%s::pg_catalog.jsonb[]",
                *["%s::pg_catalog.json"] * 3,
            ]
        )
        call = f"SELECT * FROM pg_temp.{name}({slots})"
        async with self.connections.one() as connection:
            made = self._functions.setdefault(connection, set())
            if name not in made:
                try:
                    # Functions in policies may have plans from when they called others.
                    await connection.execute(f"DISCARD PLANS; {definition}".encode())
                except psycopg.Error as exc:
                    if connection.closed:
                        raise _LostError from exc
                    if not isinstance(exc, psycopg.ProgrammingError):
                        raise
                    if not await _may_define(connection):
                        raise
                    # It names the key's types, which may be gone, or not the server's to use.
                    logger.warning(
                        "row level security of %s.%s cannot be asked for (%s); the server's role "
                        "needs USAGE on the schemas of its primary key's types",
                        table.schema,
                        table.name,
                        exc.diag.message_primary,
                    )
                    return _none(todo, exc)
                made.add(name)
            pid = connection.info.backend_pid
            try:
                # A policy that catches the cancellation would run for ever.
                async with (
                    asyncio.timeout((limit or self.timeout) * 2 + 1),
                    self._limited(connection, limit),
                ):
                    cursor = await connection.execute(call, parameters)
                    return await cursor.fetchall()
            except TimeoutError:
                await connection.close()
            except psycopg.Error as exc:
                if connection.closed:
                    raise _LostError from exc
                if isinstance(exc, psycopg.OperationalError):
                    return [(1, None, TIMEOUT, None, None)]
                # Not of a policy, which the function catches, but of the call itself: a key
                # that is none any more.
                return _none(todo, exc)
        await self.connections.terminate(pid)
        return [(1, None, TIMEOUT, None, None)]

    @asynccontextmanager
    async def _limited(
        self, connection: AsyncConnection[Any], limit: float | None
    ) -> AsyncIterator[None]:
        """Let statements take only so many seconds; None: what they always may."""
        if limit is None:
            yield
            return
        await connection.execute(f"SET statement_timeout = {_milliseconds(limit)}".encode())
        try:
            yield
        finally:
            if not connection.closed:
                usual = _milliseconds(self.timeout)
                await connection.execute(f"SET statement_timeout = {usual}".encode())


class _LostError(Exception):
    """The connection was lost while policies were asked."""


@attrs.frozen
class _Inquiry:
    """What one call of check is about."""

    table: Table
    rows: Sequence[Row]
    compared: Sequence[LiveColumn]
    condition: Condition | None
    questions: Sequence[Question]
    answers: Sequence[Answer]
    said: dict[tuple[int, str, str], float]

    @property
    def key_types(self) -> list[str]:
        """As SQL writes them."""
        if self.condition is not None:
            return ["pg_catalog.text"]
        return [type_of(column) for column in self.table.key]

    def function(self, timeout: float) -> tuple[str, str]:
        """Return name and definition of what answers it."""
        table, condition, called = self.table, self.condition, self.table.functions
        if condition is None:
            compared = tuple((column.name, table.compared_as(column)) for column in self.compared)
            return function(table.oid, rows_of(table), table.key, compared, called, timeout)
        assert condition.text is not None
        return former_function(
            table.oid,
            table.schema,
            table.name,
            condition.text,
            condition.search_path,
            called,
            timeout,
        )

    def note(
        self,
        place: int,
        places: tuple[int, ...],
        failure: Failure,
        sqlstate: str | None = None,
        message: str | None = None,
    ) -> None:
        self.answers[place].failed.update(dict.fromkeys(places, failure))
        role = self.questions[place].viewer.role
        what = failure.value if sqlstate is None else f"{failure.value} {sqlstate}"
        now = asyncio.get_running_loop().time()
        key = (self.table.oid, role, what)
        # Once, and not for each viewer and row.
        if self.said.get(key, now) <= now:
            for old in [one for one, until in self.said.items() if until <= now]:
                del self.said[old]
            self.said[key] = now + _SILENCE
            logger.warning(
                "row level security of %s.%s failed for a role (%s)",
                self.table.schema,
                self.table.name,
                what,
            )
            logger.debug("the role is %s", role)
        if message is not None:
            # It may quote what is in the row.
            logger.debug("the error was: %s", message)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


async def _may_define(connection: AsyncConnection[Any]) -> bool:
    """Say whether the server's role may define any function at all."""
    cursor = await connection.execute(
        "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')"
    )
    [[may]] = await cursor.fetchall()
    return bool(may)


def _none(todo: Sequence[tuple[int, tuple[int, ...]]], exc: psycopg.Error) -> list[_Found]:
    """Return that no question can be answered."""
    problem, detail = exc.sqlstate or "?", exc.diag.message_primary
    return [(index + 1, None, problem, detail, None) for index in range(len(todo))]


def _array(texts: Iterable[str]) -> str:
    """Return PostgreSQL's text of an array: psycopg would look at each element by itself."""
    return '{"' + '","'.join(map(_escaped, texts)) + '"}'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _chunks(
    questions: Sequence[Question], least: int
) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
    """Yield what is asked in one call; a question counts as so many lookups at least."""
    chunk: list[tuple[int, tuple[int, ...]]] = []
    size = 0
    for place, question in enumerate(questions):
        chunk.append((place, question.places))
        size += max(least, len(question.places))
        if size >= _MOST_LOOKUPS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
