"""PolicyChecks: which questions share a call and an answer, and who waits apart. No database."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from realtime_server.messages.policies import policy_checks
from realtime_server.messages.policies.policy_checks import PolicyChecks
from realtime_server.messages.policies.questions import Answer, Extension, Problem, Question
from realtime_server.messages.policies.waiting_questions import Waiting, WaitingQuestions
from realtime_server.rls.viewers import Viewer
from tests.rls_helpers import at

YES = Answer(frozenset({Extension.BROADCAST}))
SLOW = Answer(problem=Problem.TIMED_OUT)
BUSY = Answer(problem=Problem.BUSY)
AWAY = Answer(problem=Problem.AWAY)


def question(topic: str = "room", who: str = "ann", *, is_write: bool = False) -> Question:
    viewer = Viewer.of({"role": "member", "sub": who})
    return Question(viewer, "{}", topic, (Extension.BROADCAST,), is_write=is_write)


class Database:
    """Sessions that answer when they are let, and remember what they were asked together."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.closed = 0

    def session(self, name: str) -> Session:
        return Session(self, name)


class Session:
    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name

    async def ask(
        self, questions: list[Question], *, begin_within: float, limit: float
    ) -> list[Answer | None]:
        self._database.calls.append((self._name, [one.topic for one in questions]))
        await self._database.may_answer.wait()
        answers: list[Answer | None] = [None] * len(questions)
        for place, one in enumerate(questions):
            if one.topic == "bug":
                raise RuntimeError
            if one.topic == "slow":
                answers[place] = YES if self._name == "policies apart" else SLOW
                # What is behind is not reached.
                break
            answers[place] = YES
        return answers

    async def aclose(self) -> None:
        self._database.closed += 1


@asynccontextmanager
async def open_checks() -> AsyncIterator[tuple[PolicyChecks, Database]]:
    database = Database()
    async with PolicyChecks(at(""), timeout=1.0, make_session=database.session) as checks:
        yield checks, database
    assert database.closed == 5


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def keep_busy(checks: PolicyChecks) -> list[asyncio.Task[Answer]]:
    """Have both shared sessions ask something, so that the rest waits together."""
    tasks = []
    for number in range(2):
        tasks.append(asyncio.create_task(checks.ask(question(f"{number}", f"{number}"))))
        await settle()
    return tasks


async def test_equal_questions_that_wait_share_an_answer_and_others_a_call() -> None:
    async with open_checks() as (checks, database):
        asked = [
            question(),
            question(),
            question(is_write=True),
            question("other"),
            question(who="bob"),
            question(),
        ]
        assert await asyncio.gather(*map(checks.ask, asked)) == [YES] * 6
        assert sorted(topic for _, topics in database.calls for topic in topics) == [
            *("other", "room", "room", "room"),
        ]
        assert len(database.calls) <= 2


async def test_who_asks_when_the_question_is_under_way_is_answered_anew() -> None:
    async with open_checks() as (checks, database):
        database.may_answer.clear()
        first = asyncio.create_task(checks.ask(question()))
        await settle()
        # A policy may have changed since.
        second = asyncio.create_task(checks.ask(question()))
        await settle()
        database.may_answer.set()
        assert (await first, await second) == (YES, YES)
        assert [topics for _, topics in database.calls] == [["room"], ["room"]]


async def test_a_slow_question_is_asked_again_alone_and_what_was_behind_it_too() -> None:
    async with open_checks() as (checks, database):
        database.may_answer.clear()
        busy = await keep_busy(checks)
        asked = [question(who="a"), question("slow", "b"), question("x", "c"), question("y", "d")]
        answers = asyncio.gather(*map(checks.ask, asked))
        await settle()
        database.may_answer.set()
        assert await answers == [YES] * 4
        assert ("policies", ["room", "slow", "x", "y"]) in database.calls
        assert ("policies apart", ["slow"]) in database.calls
        assert ("policies", ["x", "y"]) in [(name, sorted(each)) for name, each in database.calls]
        await asyncio.gather(*busy)
        # From now on the same viewer shares no calls with others.
        assert await checks.ask(question("z", "b")) == YES
        assert database.calls[-1] == ("policies on trial", ["z"])
        assert await checks.ask(question("z", "a")) == YES
        assert database.calls[-1] == ("policies", ["z"])


async def test_slow_viewers_are_remembered_although_nothing_is_kept_of_a_refused_join() -> None:
    async with open_checks() as (checks, database):
        for who in "abcdefgh":
            assert await checks.ask(question("slow", who)) == YES
        for who in "abcdefgh":
            assert await checks.ask(question("z", who)) == YES
            assert database.calls[-1] == ("policies on trial", ["z"])


async def test_a_slow_viewer_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_checks, "_REMEMBERED", 0.0)
    async with open_checks() as (checks, database):
        viewers: weakref.WeakSet[Viewer] = weakref.WeakSet()
        for number in range(20):
            asked = question("slow", f"nobody else {number}")
            viewers.add(asked.viewer)
            assert await checks.ask(asked) == YES
        # The last ones may still be in variables of what has asked.
        assert len(viewers) < 10
        assert await checks.ask(asked) == YES
        assert [name for name, _ in database.calls[-2:]] == ["policies", "policies apart"]


async def test_when_too_many_wait_whoever_has_most_is_told_that_the_server_is_busy() -> None:
    async with open_checks() as (checks, database):
        database.may_answer.clear()
        busy = await keep_busy(checks)
        waiting = [asyncio.create_task(checks.ask(question(f"t{n}"))) for n in range(1000)]
        await settle()
        async with asyncio.timeout(10):
            assert await checks.ask(question("one more")) == BUSY
        others = [asyncio.create_task(checks.ask(question("room", f"{n}"))) for n in range(20)]
        await settle()
        # Who asks the same as one that waits needs no place; what was turned away needs one.
        shared = asyncio.create_task(checks.ask(question("t7")))
        async with asyncio.timeout(10):
            assert await checks.ask(question("t999")) == BUSY
        database.may_answer.set()
        assert await asyncio.gather(*waiting) == [YES] * 980 + [BUSY] * 20
        assert {*await asyncio.gather(*busy, *others, shared)} == {YES}
        assert await checks.ask(question("t999")) == YES


async def test_a_defect_answers_nothing_and_the_next_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_checks() as (checks, _):
        assert await checks.ask(question("bug")) == AWAY
        assert await checks.ask(question()) == YES
    assert "a bug in realtime_server" in caplog.text


async def test_who_waits_when_the_server_stops_is_answered() -> None:
    async with open_checks() as (checks, database):
        database.may_answer.clear()
        asked = [asyncio.create_task(checks.ask(question(f"{n}", f"{n}"))) for n in range(100)]
        await settle()
    assert {await one for one in asked} == {AWAY}


async def test_who_gives_up_waiting_takes_no_answer_from_others() -> None:
    async with open_checks() as (checks, database):
        database.may_answer.clear()
        first, second = (asyncio.create_task(checks.ask(question())) for _ in range(2))
        await settle()
        first.cancel()
        await asyncio.wait({first})
        database.may_answer.set()
        assert await second == YES


async def test_viewers_have_their_turns() -> None:
    waiting = WaitingQuestions(5, 3)

    def put(who: str, topic: str) -> str:
        """Return the topic of the question for which there is no room; empty if there is."""
        crowded_out = waiting.put(Waiting(question(topic, who)))
        return "" if crowded_out is None else crowded_out.question.topic

    assert [put("a", "1"), put("a", "2"), put("a", "3"), put("a", "4")] == ["", "", "", "4"]
    assert [put("b", "5"), put("c", "6"), put("d", "7")] == ["", "", "3"]
    # Among equals the last has none.
    assert [put("e", "8"), put("f", "9"), put("b", "10")] == ["2", "9", "10"]
    taken = waiting.take(3)
    assert [one.question.topic for one in taken] == ["1", "5", "6"]
    waiting.put_back(taken[:1])
    assert [one.question.topic for one in waiting.take(9)] == ["7", "8", "1"]
    assert len(waiting) == 0
