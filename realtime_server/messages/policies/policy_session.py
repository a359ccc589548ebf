"""PolicySession: one connection on which policies are asked, many questions with each call.

A policy that takes too long is canceled, and its session ended if it catches that. What was behind
it in the call has no answer yet. A lost connection is opened again with the next call.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson
import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

from realtime_core.errors import SourceError

from ...auth.claims import load_claims
from ...config.database.connections import Dsn, brief, connect
from ...logs import LineLimit
from ...rls.lookup.running_call import RunningCall
from ...rls.role_grants import grant
from .policy_sql import CALL, CANCELED, FUNCTION, Step
from .questions import Answer, Extension, Problem, Question

__all__ = ["PolicySession"]

logger = logging.getLogger("realtime.policies")

_CONNECT_WITHIN: Final = 2.0
"""Seconds to connect within: clients wait no longer than ten for an answer."""
_COLD: Final = 0.2
"""Seconds more for the first call of a session, which reads catalogs and plans."""
_GRACE: Final = 0.2
"""Seconds after twice the time of a call until its session is ended: its policy catches the
cancellation."""
_NO_TABLE: Final = ("42P01", "3F000")
_NO_PRIVILEGE: Final = "42501"
_NO_PARTITION: Final = "23514"
_LOCKED: Final = "55P03"
_READ_ONLY: Final = "25006"
_SILENT: Final = "it does not answer"
_MIGRATE: Final = "run `python -m realtime_server migrate`"
_MEMBER: Final = "make it a member of the table's owner"


class PolicySession:
    """Asks policies on one connection, which it opens when it is needed.

    Args:
        dsn: returns the connection string, with the server's role.
        name: what ``pg_stat_activity`` shows after ``realtime_server``.
        timeout: seconds that policies may take for one question.
        lines: bounds the log lines of each kind; shared with other sessions.
    """

    def __init__(
        self, dsn: Dsn, *, name: str, timeout: float, lines: defaultdict[str, LineLimit]
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._timeout = timeout
        self._lines = lines
        self._connection: AsyncConnection[TupleRow] | None = None
        self._is_cold = True
        self._terminating: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Close the connection."""
        if self._terminating:
            await asyncio.wait(self._terminating)
        if self._connection is not None:
            await self._connection.close()

    async def ask(
        self, questions: Sequence[Question], *, begin_within: float, limit: float
    ) -> list[Answer | None]:
        """Ask questions, one after the other.

        Args:
            questions: one at least.
            begin_within: seconds after which no further question is begun.
            limit: seconds until the question that is being answered has timed out.

        Returns:
            An answer for each; None for those that were not reached.
        """
        try:
            try:
                return await self._ask(questions, begin_within, limit)
            except _LostError:
                # PostgreSQL was restarted since the last call, or a policy ends the session, and
                # would do it again: of these questions it is the first, sooner or later.
                behind: list[Answer | None] = [None] * (len(questions) - 1)
                return await self._ask(questions[:1], begin_within, limit) + behind
        except _LostError:
            return [Answer(problem=Problem.AWAY), *behind]
        except _AwayError:
            return [Answer(problem=Problem.AWAY)] * len(questions)

    async def _ask(
        self, questions: Sequence[Question], begin_within: float, limit: float
    ) -> list[Answer | None]:
        connection = await self._connected()
        if self._is_cold:
            limit += _COLD
        running = RunningCall(connection, self._terminate)
        try:
            async with running.ended_after(limit, limit * 2 + _GRACE):
                cursor = await connection.execute(CALL, _parameters(questions, begin_within))
                rows = await cursor.fetchall()
        except psycopg.Error as exc:
            if running.is_terminated or isinstance(exc, psycopg.errors.QueryCanceled):
                answered: list[Answer | None] = [Answer(problem=Problem.TIMED_OUT)]
                return answered + [None] * (len(questions) - 1)
            if not connection.closed:
                # Not of a policy, which the function catches: another session, another function.
                logger.warning("policies cannot be asked: %s", brief(exc))
                await connection.close()
            raise _LostError from exc
        self._is_cold = False
        found: list[Answer | None] = [None] * len(questions)
        for place, granted, step, state, message in rows:
            if state is None:
                found[place - 1] = Answer(frozenset(map(Extension, granted)))
            else:
                problem = self._problem(questions[place - 1].viewer.role, step, state, message)
                found[place - 1] = Answer(problem=problem)
        if any(state == _READ_ONLY for *_, state, _ in rows):
            # The database has moved to another server, and this one is a standby now.
            await connection.close()
        return found

    async def _connected(self) -> AsyncConnection[TupleRow]:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        self._is_cold = True
        milliseconds = max(1, round(self._timeout * 1000))
        try:
            async with asyncio.timeout(_CONNECT_WITHIN):
                connection = await connect(await self._dsn(), name=self._name)
                # Policies may prepare statements, and deallocate all of them.
                connection.prepare_threshold = None
                await connection.execute(
                    "RESET search_path; SET jit = off; SET synchronous_commit = off;"
                    f"SET lock_timeout = {max(1, milliseconds // 2)}; {FUNCTION}".encode()
                )
        except (TimeoutError, SourceError, psycopg.Error) as exc:
            why = brief(exc) if isinstance(exc, psycopg.Error) else str(exc)
            self._limited(
                logger.warning,
                "the database cannot be asked about private channels: %s",
                why or _SILENT,
            )
            raise _AwayError from exc
        self._connection = connection
        return connection

    def _problem(self, role: str, step: str, state: str, message: str) -> Problem | None:
        """Return why a question has no answer but no; log what the operator can do about it."""
        if state in (CANCELED, _LOCKED):
            return Problem.TIMED_OUT
        if step == Step.SETTINGS:
            if state != _NO_PRIVILEGE:
                return Problem.UNKNOWN_ROLE
            self._limited(
                logger.warning,
                "private channels are refused, because this is missing: %s",
                self._grant(role),
            )
            return Problem.MAY_NOT_ACT
        if state == _NO_PARTITION:
            self._limited(
                logger.warning, "realtime.messages has no partition messages_probes: %s", _MIGRATE
            )
            return Problem.NO_PARTITION
        if step == Step.ROWS:
            if state in _NO_TABLE:
                self._limited(logger.warning, "there is no table realtime.messages: %s", _MIGRATE)
            elif state == _NO_PRIVILEGE:
                self._limited(
                    logger.warning,
                    "the server's role may not write to realtime.messages: %s",
                    _MEMBER,
                )
            else:
                self._limited(
                    logger.warning, "realtime.messages cannot be written to: SQLSTATE %s", state
                )
            return Problem.AWAY
        if state == _READ_ONLY:
            return Problem.AWAY
        if state == _NO_PRIVILEGE:
            # The message may be one that a policy has raised.
            logger.debug("the role %s may not ask: %s", role, message)
            self._limited(
                logger.warning,
                "the role %s lacks a privilege on realtime.messages, or on what its policies read",
                role,
            )
            return None
        self._limited(
            logger.warning,
            "RlsPolicyError: a policy of realtime.messages fails: SQLSTATE %s",
            state,
        )
        return Problem.POLICY_FAILED

    def _grant(self, role: str) -> str:
        assert self._connection is not None  # it has just answered
        info = self._connection.info
        acting, acted = (sql.Identifier(name).as_string() for name in (info.user, role))
        return grant(acted, acting, info.server_version)

    def _limited(self, log: Callable[[str, str], None], template: str, value: str) -> None:
        """Log a line, unless there was one like it within ten seconds."""
        if self._lines[template].take() is not None:
            log(template, value)

    def _terminate(self, pid: int) -> asyncio.Task[None]:
        task = asyncio.create_task(self._end_session(pid))
        self._terminating.add(task)
        task.add_done_callback(self._terminating.discard)
        return task

    async def _end_session(self, pid: int) -> None:
        try:
            async with (
                asyncio.timeout(_CONNECT_WITHIN),
                await connect(await self._dsn(), name=self._name) as connection,
            ):
                await connection.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [pid])
        except (TimeoutError, SourceError, psycopg.Error) as exc:
            logger.debug("a session cannot be ended: %s", exc)


def _parameters(questions: Sequence[Question], begin_within: float) -> list[Any]:
    # Those that wait at the same time are mostly of one client's channels.
    subs = {viewer: _sub(viewer.claims) for viewer in {each.viewer for each in questions}}
    # psycopg takes ten times as long to write lists of texts.
    asked = orjson.dumps(
        [
            {
                "role": each.viewer.role,
                "claims": each.viewer.claims,
                "sub": subs[each.viewer],
                "headers": each.headers,
                "topic": each.topic,
                "extensions": ",".join(one.value for one in each.extensions),
                "is_write": each.is_write,
            }
            for each in questions
        ]
    )
    return [asked.decode(), begin_within]


def _sub(claims: str) -> str:
    sub = load_claims(claims).get("sub")
    return sub if isinstance(sub, str) else ""


class _AwayError(Exception):
    """The database cannot be connected to."""


class _LostError(Exception):
    """The connection was lost while policies were asked."""
