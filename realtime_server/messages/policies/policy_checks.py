"""PolicyChecks: answers questions about private channels, many with each call of the database.

Equal questions that wait share an answer. A policy may take its time, so most questions have little
of it, and no more than :data:`_LIMIT`: who needs more is asked again alone, on a connection that
only such questions have, and has all of RLS_CHECK_TIMEOUT there. The viewer's next questions do not
share a call with those of others for a while. So a policy that takes its time harms only the
viewer that it is asked about.

Nothing queues without bound: where too many wait, the viewer with most of them is answered that the
server is busy.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

import attrs

from ...config.database.connections import Dsn
from ...fanout.cancellation import cancel_within
from ...logs import LineLimit
from ...rls.viewers import Viewer
from .policy_session import PolicySession
from .questions import Answer, Problem, Question
from .waiting_questions import Waiting, WaitingQuestions

__all__ = ["PolicyChecks", "Session"]

logger = logging.getLogger("realtime.policies")

_AT_ONCE: Final = 32
"""Questions of one call. Each has a subtransaction, of which PostgreSQL keeps 64 at hand."""
_BEGIN_WITHIN: Final = 0.05
"""Seconds after which a call begins no further question."""
_LIMIT: Final = 0.15
"""Seconds until the question of a call that takes its time is canceled. It has had 0.1 s then."""
_MOST: Final = 1000
"""Questions that may wait."""
_MOST_APART: Final = 64
"""Those of them that may wait to be asked alone."""
_MOST_OF_ONE: Final = 8
"""The same for one viewer."""
_PATIENCE: Final = 1.0
"""Seconds that a call may take to end when the server stops."""
_REMEMBERED: Final = 30.0
"""Seconds for which the viewer of a question that was canceled is asked apart from others."""


class Session(Protocol):
    """A connection on which policies are asked: see :class:`.policy_session.PolicySession`."""

    async def ask(
        self, questions: list[Question], *, begin_within: float, limit: float
    ) -> list[Answer | None]: ...

    async def aclose(self) -> None: ...


@attrs.define(eq=False)
class _Lane:
    """Questions that wait, and the sessions that ask them."""

    questions: WaitingQuestions
    sessions: int
    at_once: int
    limit: float
    more: asyncio.Event = attrs.field(factory=asyncio.Event)
    """Set while questions wait."""

    def put(self, waiting: Waiting) -> Waiting | None:
        self.more.set()
        return self.questions.put(waiting)

    async def take(self) -> list[Waiting]:
        while not len(self.questions):
            self.more.clear()
            await self.more.wait()
        return self.questions.take(self.at_once)


class PolicyChecks:
    """Answers questions, while it is open as a context manager.

    Args:
        dsn: returns the connection string, with the server's role.
        timeout: seconds that policies may take for one question.
        make_session: makes a session with a name; None: one with the database.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        timeout: float,
        make_session: Callable[[str], Session] | None = None,
    ) -> None:
        lines: defaultdict[str, LineLimit] = defaultdict(LineLimit)

        def session(name: str) -> Session:
            return PolicySession(dsn, name=name, timeout=timeout, lines=lines)

        self._make_session = make_session or session
        limit = min(_LIMIT, timeout)
        # For most; for viewers who had a policy canceled lately; for such questions themselves.
        self._shared = _Lane(WaitingQuestions(_MOST, _MOST), 2, _AT_ONCE, limit)
        self._trial = _Lane(WaitingQuestions(_MOST, _MOST // 4), 1, _AT_ONCE, limit)
        self._apart = _Lane(WaitingQuestions(_MOST_APART, _MOST_OF_ONE), 2, 1, timeout)
        # What waits, and has not been asked yet, so that equal questions may share it.
        self._waiting: dict[Question, Waiting] = {}
        # Until when viewers are asked apart from others, in this order. Nobody else may hold them:
        # nothing is kept of a refused join.
        self._slow: dict[Viewer, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Begin to answer; the sessions connect when they are needed."""
        for name, lane in (
            ("policies", self._shared),
            ("policies on trial", self._trial),
            ("policies apart", self._apart),
        ):
            for _ in range(lane.sessions):
                self._tasks.add(asyncio.create_task(self._serve(lane, self._make_session(name))))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Answer nothing more; who waits is told that the database is away."""
        for task in self._tasks:
            task.cancel()
        await cancel_within(self._tasks, _PATIENCE)
        for lane in (self._shared, self._trial, self._apart):
            for waiting in lane.questions.take(len(lane.questions)):
                self._share_no_more(waiting)
                waiting.resolve(Answer(problem=Problem.AWAY))

    async def ask(self, question: Question) -> Answer:
        """Answer a question."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        waiting = self._waiting.get(question)
        if waiting is not None:
            waiting.answers.append(answer)
        else:
            waiting = self._waiting[question] = Waiting(question)
            waiting.answers.append(answer)
            is_slow = self._slow.get(question.viewer, 0.0) > loop.time()
            self._put(self._trial if is_slow else self._shared, waiting)
        return await answer

    def _put(self, lane: _Lane, waiting: Waiting) -> None:
        """Have a question wait; tell the one for which there is no room then that all are busy."""
        crowded_out = lane.put(waiting)
        if crowded_out is not None:
            self._share_no_more(crowded_out)
            crowded_out.resolve(Answer(problem=Problem.BUSY))

    def _share_no_more(self, waiting: Waiting) -> None:
        """Have equal questions from now on asked anew."""
        if self._waiting.get(waiting.question) is waiting:
            del self._waiting[waiting.question]

    async def _serve(self, lane: _Lane, session: Session) -> None:
        try:
            while True:
                taken = await lane.take()
                for waiting in taken:
                    # Who asks the same from now on may know of another policy.
                    self._share_no_more(waiting)
                try:
                    await self._ask(lane, session, taken)
                except BaseException as exc:
                    for waiting in taken:
                        waiting.resolve(Answer(problem=Problem.AWAY))
                    if not isinstance(exc, Exception):
                        raise
                    logger.exception(
                        "policies cannot be asked (a bug in realtime_server: please report it)"
                    )
        finally:
            await session.aclose()

    async def _ask(self, lane: _Lane, session: Session, taken: list[Waiting]) -> None:
        questions = [waiting.question for waiting in taken]
        answers = await session.ask(questions, begin_within=_BEGIN_WITHIN, limit=lane.limit)
        again = []
        for waiting, answer in zip(taken, answers, strict=True):
            if answer is None:
                again.append(waiting)
            elif answer.problem is Problem.TIMED_OUT and lane is not self._apart:
                self._remember(waiting.question.viewer)
                self._put(self._apart, waiting)
            else:
                waiting.resolve(answer)
        lane.questions.put_back(again)

    def _remember(self, viewer: Viewer) -> None:
        """Ask a viewer apart from others for a while; forget those for whom that is over."""
        now = asyncio.get_running_loop().time()
        self._slow.pop(viewer, None)
        self._slow[viewer] = now + _REMEMBERED
        while self._slow[first := next(iter(self._slow))] < now:
            del self._slow[first]
