"""Visibility: asks PostgreSQL itself which rows a viewer may see.

Theory of operation. The rows of a batch are looked up by their primary keys, for each viewer
in a statement of its own: two viewers in one statement would share what a policy computes once
for each statement, and one would be shown the other's rows. For each table the session has a
temporary function that goes through the viewers. For each viewer the function takes on the role
and the claims, runs one static query, whose plan is kept, and catches what a policy raises. Each
viewer's part is rolled back: a policy may keep something for its transaction, such as the viewer's
name. So a viewer costs no round trip, and an error affects no other viewer. Where a policy reaches
functions that are declared IMMUTABLE, each viewer has a plan of its own: see
:mod:`realtime_server.config.database.policy_functions`.

A policy that runs too long is ended by the session's ``statement_timeout``, or by a request to
cancel the call where there is less time. The function catches the cancellation too, and returns at
once: the viewer whose query took the time has timed out, and the viewers behind it have not been
looked at.

The function runs as its caller (a SECURITY DEFINER one cannot change the role), with the
search path that the database has for everybody: names in it are qualified, and policies find
what their authors meant.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection

from ...config.database.connections import OWN_PATH, Connections, Dsn
from .locks import LockedRelation, locks_in_the_way
from .questions import Failure, Question, RowsToCheck, VisibilityAnswer
from .running_call import RunningCall
from .visibility_query import Found, Said, Todo, VisibilityQuery, none_found
from .visibility_sql import CANCELED

__all__ = ["Visibility"]

logger = logging.getLogger("realtime.rls")


_MOST_LOOKUPS: Final = 20_000
"""Rows times viewers of one call at most, so that it ends well before the timeout: 4 µs for
each."""
_PLANNING: Final = 250
"""Lookups in whose time a viewer's plans are made anew: 1 ms."""
_CULPRIT: Final = 0.5
"""Part of the time of a call that a query must have taken by itself to be what took too long."""
_COLD: Final = 0.05
"""Seconds more for a session that has not been asked about the table yet, and plans and reads what
others have in their caches."""
_GRACE: Final = 0.1
"""Seconds after twice the time of a call until its session is ended: its policy catches the
cancellation."""
_MOST_TIMEOUTS: Final = 10
"""Timeouts for one viewer and batch, after which the search for the slow row is given up."""


class Visibility:
    """Asks PostgreSQL which rows viewers may see, on connections of its own.

    Args:
        dsn: where to connect, with the server's role.
        timeout: seconds that a viewer's query may take.
        size: how many connections there may be.
        said: the problems that were logged lately, shared with other instances; None: not shared.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        timeout: float,
        name: str = "rls",
        size: int = 4,
        said: Said | None = None,
    ) -> None:
        self.timeout: Final = timeout
        milliseconds = max(1, round(timeout * 1000))
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
        """Connections for queries that run a user's code, such as policies and types' checks. Such
        code may run ``DEALLOCATE ALL``, which no rollback undoes, so nothing is prepared here."""
        self.catalog = Connections(
            dsn,
            name=f"{name} tables",
            size=2,
            # To plan what looks at tables takes longer than to run it.
            settings="SET jit = off; SET plan_cache_mode = force_generic_plan;"
            f"SET statement_timeout = {milliseconds}; {OWN_PATH}",
        )
        """Connections for queries that run no code but PostgreSQL's own."""
        self._said: Said = {} if said is None else said
        # The temporary functions that each connection has.
        self._functions: WeakKeyDictionary[AsyncConnection[Any], set[str]] = WeakKeyDictionary()
        self._terminating: set[asyncio.Task[None]] = set()

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
        if self._terminating:
            await asyncio.wait(self._terminating)
        await self.catalog.__aexit__(exc_type, exc, traceback)
        await self.connections.__aexit__(exc_type, exc, traceback)

    async def renew(self) -> None:
        """Open new connections from now on, because the database has moved to another server."""
        await self.connections.renew()
        await self.catalog.renew()

    async def check(
        self,
        rows: RowsToCheck,
        questions: Sequence[Question],
        *,
        limit: float | None = None,
    ) -> list[VisibilityAnswer]:
        """Ask PostgreSQL each question, in order. Questions about a locked table stay unanswered.

        Args:
            rows: the rows that the questions are about.
            questions: one for each viewer.
            limit: seconds that all questions have together. The viewer that uses them up has
                timed out, and the questions behind it stay unanswered. None: each viewer has the
                whole timeout.

        Raises:
            psycopg.OperationalError: if the connection is lost; then nothing is answered.
        """
        answers = [VisibilityAnswer() for _ in questions]
        query = VisibilityQuery(rows, questions, answers, self._said)
        least = _PLANNING if rows.table.functions.immutable else 1
        asked = [self._ask(query, chunk, limit) for chunk in _chunks(questions, least)]
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

    async def check_alone(
        self, rows: RowsToCheck, questions: Sequence[Question], *, may_retry: bool = True
    ) -> list[VisibilityAnswer]:
        """Ask PostgreSQL which rows each viewer may see, one viewer after the other.

        So nobody's policies delay the query of another viewer. Each question is asked
        with :meth:`check_by_halves`.

        The parameters are those of :class:`~realtime_server.rls.table_check.Lookup`. ``may_retry``
        changes nothing, since no question stays unanswered because of another one.
        """
        return [await self.check_by_halves(rows, one) for one in questions]

    async def check_by_halves(self, rows: RowsToCheck, question: Question) -> VisibilityAnswer:
        """Ask a question that may time out; find the rows that take too long by asking about
        halves.

        If a table that this needs is locked meanwhile, the rows that are left stay unanswered.
        """
        answer = VisibilityAnswer()
        halves = [question.places]
        timeouts = 0
        while halves:
            part = Question(question.viewer, halves.pop())
            [found] = await self.check(rows, [part])
            slow = tuple(p for p, why in found.failed.items() if why is Failure.TIMEOUT)
            answer.visible |= found.visible
            answer.failed |= found.failed
            answer.seconds += found.seconds
            if found.locked:
                answer.locked |= found.locked
                left = (place for half in halves for place in half)
                answer.failed |= dict.fromkeys(left, Failure.LOCKED)
                break
            if len(slow) > 1:
                timeouts += 1
                if timeouts < _MOST_TIMEOUTS:
                    half = len(slow) // 2
                    halves += [slow[half:], slow[:half]]
                    for place in slow:
                        del answer.failed[place]
        return answer

    async def _ask(
        self,
        query: VisibilityQuery,
        todo: list[tuple[int, tuple[int, ...]]],
        limit: float | None,
        losses: int = 0,
    ) -> None:
        """Fill in the answers of some of a query's questions.

        Calls PostgreSQL again until every question has an answer or has failed. If a call ends the
        session twice, a policy probably does that, and would with each call. Its viewer is found by
        halving ``todo``; it alone gets an error.

        Args:
            query: has the questions, and the answers that are filled in.
            todo: the questions, as pairs of a question's place and the places of its rows.
            limit: seconds that the questions have together; None: each viewer has the whole
                timeout.
            losses: how many calls for these questions have ended the session already.
        """
        while todo:
            try:
                rows = await self._call(query, todo, limit)
            except _LostError:
                losses += 1
                if losses == 1:
                    # PostgreSQL may have been restarted; then there is no connection yet.
                    continue
                if len(todo) > 1:
                    half = len(todo) // 2
                    for part in (todo[:half], todo[half:]):
                        await self._ask(query, part, limit, losses=1)
                    return
                [(place, places)] = todo
                query.note(place, places, Failure.ERROR, "it ends the session")
                return
            again: list[tuple[int, tuple[int, ...]]] = []
            for index, visible, problem, detail, seconds, locked in rows:
                place, places = todo[index - 1]
                answer = query.answers[place]
                answer.seconds += seconds or 0.0
                if visible is not None:
                    answer.visible.update(one - 1 for one in visible)
                elif locked and (found := await self._locks_in_the_way(query, locked)):
                    query.leave_out([*again, *todo[index - 1 :]], found)
                    return
                elif problem == CANCELED:
                    # The first may have ended the call by itself, and would do so again.
                    may_take = _CULPRIT * (self.timeout if limit is None else limit)
                    is_culprit = index == 1 or (seconds or 0.0) >= may_take
                    if limit is not None:
                        query.leave_out([*again, *todo[index - 1 :]])
                        if is_culprit:
                            answer.failed |= dict.fromkeys(places, Failure.TIMEOUT)
                        return
                    if is_culprit:
                        query.note(place, places, Failure.TIMEOUT)
                    else:
                        again.append(todo[index - 1])
                elif len(places) > 1:
                    # Which of the rows is it? Each by itself, and the others are answered.
                    again += [(place, (one,)) for one in places]
                else:
                    query.note(place, places, Failure.ERROR, problem, detail)
            todo = again + todo[len(rows) :]

    async def _locks_in_the_way(
        self, query: VisibilityQuery, locked: Collection[int]
    ) -> frozenset[LockedRelation]:
        async with self.catalog.one() as connection:
            return await locks_in_the_way(connection, query.rows.table.oid, locked)

    async def _call(self, query: VisibilityQuery, todo: Todo, limit: float | None) -> list[Found]:
        table = query.rows.table
        name, definition = query.function()
        call, parameters = query.call(name, todo)
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
                        "row level security of %s.%s cannot be checked (%s); the server's role "
                        "needs USAGE on the schemas of its primary key's types",
                        table.schema,
                        table.name,
                        exc.diag.message_primary,
                    )
                    return none_found(todo, exc)
                made.add(name)
                if limit is not None:
                    limit += _COLD
            # A policy that catches the cancellation would run for ever.
            patience = self.timeout * 2 + 1 if limit is None else limit * 2 + _GRACE
            running = RunningCall(connection, self._terminate)
            try:
                async with running.ended_after(limit, patience):
                    cursor = await connection.execute(call, parameters)
                    return await cursor.fetchall()
            except psycopg.Error as exc:
                if running.is_terminated:
                    return [(1, None, CANCELED, None, None, None)]
                if connection.closed:
                    raise _LostError from exc
                if isinstance(exc, psycopg.OperationalError):
                    return [(1, None, CANCELED, None, None, None)]
                # Not of a policy, which the function catches, but of the call itself: a key
                # that is none any more.
                return none_found(todo, exc)

    def _terminate(self, pid: int) -> asyncio.Task[None]:
        """End a session that catches the cancellation, even if the calling task is canceled."""
        task = asyncio.create_task(self.catalog.terminate(pid))
        self._terminating.add(task)
        task.add_done_callback(self._terminating.discard)
        return task


class _LostError(Exception):
    """The connection was lost while policies ran."""


async def _may_define(connection: AsyncConnection[Any]) -> bool:
    """Say whether the server's role may define any function at all."""
    cursor = await connection.execute(
        "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')"
    )
    [[may]] = await cursor.fetchall()
    return bool(may)


def _chunks(
    questions: Sequence[Question], least: int
) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
    """Yield the questions of each call; a question counts as ``least`` lookups at least."""
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
