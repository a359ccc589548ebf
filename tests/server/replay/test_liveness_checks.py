from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import attrs
import pytest

from realtime_server.replay import liveness_checks
from realtime_server.replay.identity import Key
from realtime_server.replay.liveness_checks import LivenessChecks
from realtime_server.replay.membership import Membership
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

KEY = Key(b"key", is_exact=False)


@attrs.define(eq=False)
class Client:
    last_ref: int = 0
    heard: int = 0
    has_answered: bool = False
    began: int = 0
    seen: int = 0


class World:
    """Memberships that wait, others that are asked, and who was decided on."""

    def __init__(self) -> None:
        self.others: dict[Membership, list[Membership]] = {}
        self.asked: list[tuple[Membership, Callable[[bool], None]]] = []
        self.decided: list[tuple[Membership, set[Membership]]] = []
        self.bad: set[Membership] = set()
        """Those that cannot be decided on."""
        self.failed: list[Membership] = []
        self.charged: list[tuple[Membership, int]] = []
        self.checks = LivenessChecks(
            self.others.__getitem__,
            lambda member, asked: self.charged.append((member, asked)),
            self.ask,
            self.decide,
            on_failure=self.failed.append,
        )

    def ask(self, member: Membership, answer: Callable[[bool], None]) -> None:
        self.asked.append((member, answer))

    def decide(self, member: Membership, silent: Collection[Membership]) -> None:
        if member in self.bad:
            raise KeyError(member)
        self.decided.append((member, set(silent)))

    def join(self, *others: Membership) -> Membership:
        member = membership()
        self.others[member] = list(others)
        self.checks.add(member)
        return member


def membership() -> Membership:
    return Membership(KEY, 1, Client())


async def test_nobody_waits_if_nobody_is_to_be_asked() -> None:
    world = World()
    member = world.join()
    assert world.decided == [(member, set())]
    assert world.charged == []


async def test_whoever_has_others_asked_is_charged_for_each() -> None:
    world = World()
    others = [membership() for _ in range(20)]
    first = world.join(*others)
    # It waits for the next check, in which these are asked again.
    second = world.join(*others[:5])
    assert world.charged == [(first, 20)]
    for _, answer in list(world.asked):
        answer(True)
    await eventually(lambda: len(world.charged) == 2)
    assert world.charged == [(first, 20), (second, 5)]


async def test_it_is_decided_when_all_have_answered() -> None:
    world = World()
    one, other = membership(), membership()
    member = world.join(one, other)
    for asked, answer in world.asked:
        assert world.decided == []
        answer(asked is one)
    await eventually(lambda: world.decided == [(member, set())])


async def test_who_does_not_answer_in_time_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness_checks, "WITHIN", 0.01)
    world = World()
    one, other = membership(), membership()
    member = world.join(one, other)
    world.asked[0][1](True)
    await eventually(lambda: len(world.decided) == 1)
    [(decided, silent)] = world.decided
    assert decided is member
    assert len(silent) == 1
    assert silent < {one, other}


async def test_whoever_comes_meanwhile_waits_for_the_next() -> None:
    world = World()
    one = membership()
    first = world.join(one)
    second = world.join(one)
    third = world.join()
    assert len(world.asked) == 1
    world.asked[0][1](True)
    await eventually(lambda: len(world.asked) == 2)
    assert [member for member, _ in world.decided] == [first]
    world.asked[1][1](True)
    await eventually(lambda: [member for member, _ in world.decided] == [first, second, third])


async def test_an_answer_that_comes_too_late_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(liveness_checks, "WITHIN", 0.01)
    world = World()
    one = membership()
    first = world.join(one)
    await eventually(lambda: len(world.decided) == 1)
    monkeypatch.setattr(liveness_checks, "WITHIN", 30.0)
    second = world.join(one)
    world.asked[0][1](True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [member for member, _ in world.decided] == [first]
    world.asked[1][1](True)
    await eventually(lambda: [member for member, _ in world.decided] == [first, second])


async def test_whoever_has_left_is_not_decided_on() -> None:
    world = World()
    one = membership()
    first, second = world.join(one), world.join(one)
    world.checks.remove(first)
    world.checks.remove(second)
    world.asked[0][1](True)
    await asyncio.sleep(0.01)
    assert world.decided == []


async def test_a_decision_that_fails_leaves_the_others_that_wait_as_they_are() -> None:
    world = World()
    one = membership()
    first = world.join(one)
    waiting = [world.join(one) for _ in range(4)]
    world.bad = {first, waiting[1]}
    # Whom it might go on from cannot be said.
    world.others.pop(waiting[2])
    world.asked[0][1](True)
    await eventually(lambda: len(world.asked) == 2)
    world.asked[1][1](True)
    good = [waiting[0], waiting[3]]
    await eventually(lambda: [member for member, _ in world.decided] == good)
    assert world.failed == [first, waiting[2], waiting[1]]


async def test_a_client_that_cannot_be_asked_counts_as_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(liveness_checks, "WITHIN", 0.01)
    world = World()
    one = membership()
    world.asked = None  # type: ignore[assignment]
    member = world.join(one)
    await eventually(lambda: world.decided == [(member, {one})])
    assert "a client cannot be asked" in caplog.text
