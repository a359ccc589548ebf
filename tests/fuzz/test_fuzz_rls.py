"""The random test of row level security runs, for as long as a test may, and would find a leak.

A long run is started by hand.
"""

from __future__ import annotations

import pytest

from tests.fix_postgres import Server
from tests.fuzz.fuzz_rls import WrongDecisionError, run

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DECISIONS = 20_000
SEED = 7


async def test_everybody_is_told_what_a_select_shows_and_nothing_else(pg18: Server) -> None:
    result = await run(pg18, DECISIONS, SEED)
    assert result.decisions >= DECISIONS
    # It gets somewhere: each reason to be told or not has had its part.
    for outcome, least in {
        "is delivered": 4_000,
        "does not pass the filter": 4_000,
        "SELECT does not return the row": 4_000,
        "SELECT raises": 50,
        "may not SELECT the key": 50,
        "may SELECT nothing of it": 50,
        "may not SELECT what the filter looks at": 1,
        "a join is refused": 1,
    }.items():
        assert result.outcomes[outcome] >= least, (outcome, result.outcomes)


@pytest.mark.parametrize(
    "skipped",
    [
        "visibility",
        "claims",
        "one_in_a_hundred",
        "delivery",
        "privileges",
        "filters",
        "old_rows",
        "deleted",
        "deleted_beside_others",
    ],
)
async def test_a_check_that_is_skipped_is_found(pg18: Server, skipped: str) -> None:
    with pytest.raises(WrongDecisionError) as caught:
        await run(pg18, DECISIONS, SEED, module="tests.fuzz.rls.faults", SKIPPED=skipped)
    assert "expected:" in str(caught.value)
    assert caught.value.__notes__[-1].startswith(
        f"To see it again: python -m tests.fuzz.fuzz_rls --seed {SEED} --world "
    )
