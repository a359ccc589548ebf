"""The random test of row level security runs, for as long as a test may, and would find a leak.

A long run is started by hand.
"""

from __future__ import annotations

import os

import pytest

from tests.fix_postgres import Server
from tests.fuzz.fuzz_rls import WrongDecisionError, run
from tests.fuzz.rls.stage import Setting

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.pg17]

DECISIONS = 20_000
SEED = 8


@pytest.fixture
def servers(pg17: Server, pg18: Server) -> dict[int, Server]:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    return {17: pg17, 18: pg18}


async def test_everybody_is_told_what_a_select_shows_and_nothing_else(
    servers: dict[int, Server],
) -> None:
    # A server for each takes longer than the rest.
    settings = [Setting(18, is_strict=True, asks_for_deleted=True), Setting(17, "wal2json")]
    result = await run(servers, DECISIONS, SEED, settings=settings)
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
        "is delivered to who could see the old row": 20,
        "SELECT does not return the old row": 20,
        "the row is another by now": 20,
        "is told by either token": 20,
        "a token is replaced": 10,
        "a join is refused": 1,
    }.items():
        assert result.outcomes[outcome] >= least, (outcome, result.outcomes)


async def test_whoever_comes_back_is_told_what_a_select_with_the_new_token_shows(
    servers: dict[int, Server],
) -> None:
    result = await run(servers, DECISIONS // 2, SEED, settings=[REPLAYED])
    for outcome, least in {
        "missed: is delivered": 300,
        "missed: SELECT does not return the row": 200,
        "missed: does not pass the filter": 200,
        "missed: the row is another by now": 5,
        "missed: is told by either token": 10,
        "a client goes away": 20,
        "a channel that comes back goes on where it was": 50,
        "a channel that comes back begins anew": 10,
        "a channel that comes back is refused": 5,
        "a channel that has just come back gets a token": 5,
    }.items():
        assert result.outcomes[outcome] >= least, (outcome, result.outcomes)
    assert not result.outcomes["a channel that comes back is told of a gap"]


OLD, NEW = Setting(17), Setting(18)
WAL2JSON = Setting(17, "wal2json")
STRICT = Setting(18, is_strict=True)
DELETED = Setting(18, asks_for_deleted=True)
REPLAYED = Setting(18, replays=True)


SKIPPED = [
    ("visibility", OLD, 2),
    ("claims", NEW, 2),
    ("one_in_a_hundred", WAL2JSON, 1),
    ("delivery", OLD, 2),
    ("privileges", NEW, 1),
    ("filters", WAL2JSON, 1),
    ("old_rows", OLD, 2),
    ("deleted", NEW, 2),
    ("deleted_beside_others", NEW, 3),
    ("versions", STRICT, 2),
    ("policies_of_deleted", DELETED, 1),
    ("restrictive_of_deleted", DELETED, 3),
    ("row_filters", WAL2JSON, 2),
    ("column_lists", WAL2JSON, 1),
    ("publications", NEW, 1),
    ("truncate", NEW, 3),
    ("replaced_token", NEW, 2),
    ("replayed_visibility", REPLAYED, 1),
    ("replayed_token", REPLAYED, 3),
    ("replayed_versions", REPLAYED, 1),
    ("replayed_subject", REPLAYED, 1),
    ("replayed_rows", REPLAYED, 1),
]
"""Checks, and seeds whose first world has what it takes to miss them: others find it later."""


@pytest.mark.parametrize(
    ("skipped", "setting", "seed"),
    # All of them take minutes.
    SKIPPED if "EXAMPLES" in os.environ else SKIPPED[::4],
)
async def test_a_check_that_is_skipped_is_found(
    servers: dict[int, Server], skipped: str, setting: Setting, seed: int
) -> None:
    with pytest.raises(WrongDecisionError) as caught:
        await run(
            servers,
            DECISIONS,
            seed,
            settings=[setting],
            module="tests.fuzz.rls.faults",
            SKIPPED=skipped,
        )
    assert "expected" in str(caught.value)
    assert caught.value.__notes__[-2] == f"On {setting}."
    assert caught.value.__notes__[-1].startswith(
        f"To see it again: python -m tests.fuzz.fuzz_rls --seed {seed} --world "
    )
