"""SharedCheck without a database: who is asked with whom, for how long, and who is asked again."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from realtime_server.config.database.tables import Table
from realtime_server.rls.lookup.questions import (
    Failure,
    LookupRow,
    Question,
    RowsToCheck,
    VisibilityAnswer,
)
from realtime_server.rls.lookup.shared_check import SharedCheck
from realtime_server.rls.lookup.visibility import Visibility
from realtime_server.rls.viewers import Viewer

ROWS = [LookupRow(("1",)), LookupRow(("2",))]
CROWD = [Viewer.of({"role": "reader", "sub": str(number)}) for number in range(100)]
ANN, BOB, EVE, *_ = CROWD


class Database:
    """Policies that take so many seconds, and what was asked."""

    timeout = 1.0

    def __init__(self) -> None:
        self.seconds: dict[Viewer, float] = {}
        self.asked: list[list[Viewer]] = []
        self.limits: list[float] = []
        self.is_locked = False

    async def check(
        self, rows: Any, questions: Sequence[Question], *, limit: float, **_: Any
    ) -> list[VisibilityAnswer]:
        self.asked.append([one.viewer for one in questions])
        self.limits.append(limit)
        left = 0.0 if self.is_locked else limit
        answers = []
        for one in questions:
            seconds = self.seconds.get(one.viewer, 0.0001)
            if left > 0 and (left := left - seconds) > 0:
                answers.append(VisibilityAnswer(set(one.places), seconds=seconds))
            else:
                was_asked = left + seconds > 0 and not self.is_locked
                why = Failure.TIMEOUT if was_asked else Failure.UNASKED
                answers.append(VisibilityAnswer(failed=dict.fromkeys(one.places, why)))
                left = -1e9
        return answers


def table(oid: int = 1, immutable: tuple[str, ...] = ()) -> Table:
    functions = SimpleNamespace(immutable=immutable)
    return cast("Table", SimpleNamespace(oid=oid, functions=functions))


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def together(database: Database) -> SharedCheck:
    return SharedCheck(cast("Visibility", database))


async def check(
    together: SharedCheck, viewers: Sequence[Viewer], at: Table | None = None, **more: Any
) -> list[Any]:
    """Return of each viewer whether it was answered, or why not."""
    questions = [Question(one, (0, 1)) for one in viewers]
    answers = await together.check(RowsToCheck(at or table(), ROWS), questions, **more)
    found = [set(answer.failed.values()) or answer.visible for answer in answers]
    return [True if one == {0, 1} else cast("Any", one.pop()) for one in found]


async def test_a_few_who_are_new_are_not_asked_for_until_the_next_time(
    database: Database, together: SharedCheck
) -> None:
    assert await check(together, [ANN]) == [Failure.UNASKED]
    assert await check(together, [ANN, BOB]) == [True, Failure.UNASKED]
    assert await check(together, [ANN, BOB, EVE]) == [True, True, Failure.UNASKED]
    assert database.asked == [[ANN], [ANN, BOB]]
    # To another table they are new again.
    assert await check(together, [ANN], table(oid=2)) == [Failure.UNASKED]


async def test_many_who_are_new_are_asked_for_beside_the_others(
    database: Database, together: SharedCheck
) -> None:
    await check(together, [ANN])
    database.seconds[CROWD[50]] = 60.0
    found = await check(together, CROWD)
    assert found[:50] == [True] * 50
    assert found[50:] == [Failure.TIMEOUT] + [Failure.UNASKED] * 49
    # Those who are not new did not wait for them, and these had half of the time at first.
    assert sorted(database.asked, key=len) == [[ANN], CROWD[1:]]
    assert max(database.limits) < 0.15


async def test_those_behind_who_takes_too_long_have_a_second_chance(
    database: Database, together: SharedCheck
) -> None:
    crowd = CROWD[:9]
    await check(together, crowd)
    database.seconds[crowd[3]] = 60.0
    assert await check(together, crowd) == [True] * 3 + [Failure.TIMEOUT] + [True] * 5
    database.seconds[crowd[6]] = 60.0
    others = crowd[:3] + crowd[4:]
    database.seconds[crowd[0]] = 60.0
    found = await check(together, others)
    assert found[:2] == [Failure.TIMEOUT, True]
    assert found[5:] == [Failure.TIMEOUT, Failure.UNASKED, Failure.UNASKED]
    # Not where others have taken long already.
    asked = len(database.asked)
    await check(together, others, may_retry=False)
    assert len(database.asked) == asked + 1


async def test_where_a_table_is_locked_nobody_is_asked_for_twice(
    database: Database, together: SharedCheck
) -> None:
    await check(together, CROWD[:9])
    database.is_locked = True
    asked = len(database.asked)
    assert await check(together, CROWD[:9]) == [Failure.UNASKED] * 9
    assert len(database.asked) == asked + 1


async def test_policies_that_take_more_have_more_time(
    database: Database, together: SharedCheck
) -> None:
    """As much as the machine needs, and no more for a few who take far more than others."""
    database.seconds = dict.fromkeys(CROWD, 0.001)
    await check(together, CROWD)
    for _ in range(30):
        await check(together, CROWD)
    assert 0.3 < database.limits[-1] < 0.6
    database.seconds[ANN] = 0.3
    for _ in range(30):
        await check(together, CROWD)
    assert 0.3 < database.limits[-1] < 0.6
    # One alone is waited for as long as one takes.
    await check(together, [BOB])
    assert 0.02 < database.limits[-1] < 0.03
    # Nobody has more than the whole timeout.
    database.seconds = dict.fromkeys(CROWD, 0.1)
    for _ in range(50):
        await check(together, CROWD)
    assert database.limits[-1] == 1.0


async def test_plans_that_are_made_for_each_viewer_have_their_time(
    database: Database, together: SharedCheck
) -> None:
    await check(together, CROWD, table(immutable=("uid",)))
    new = database.limits[-1]
    await check(together, CROWD, table(oid=2))
    assert new > 5 * database.limits[-1]
