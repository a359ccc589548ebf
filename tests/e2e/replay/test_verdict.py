"""The verdict itself: it sees each kind of loss, and excuses what is excused."""

from __future__ import annotations

import random

import pytest

from tests.e2e.replay.rows import Transaction, Written, parse_place
from tests.e2e.replay.verdict import Away, Gap, Joined, Positioned, Row, Told, Verdict, judge

LAST = 12


@pytest.fixture
def written() -> Written:
    """Rows 1 to 12: six transactions of two rows, whose commits are at 105, 115, 125, …"""
    written = Written()
    for number in range(6):
        before = 100 + 10 * number
        written.transactions.append(
            Transaction(2 * number + 1, 2 * number + 2, before, before + 10)
        )
    return written


def rows(first: int, last: int) -> list[Told]:
    return [Row(row) for row in range(first, last + 1)]


def verdict(written: Written, *told: list[Told], is_named: bool = True) -> Verdict:
    return judge(
        [Joined(), *(each for some in told for each in some)],
        written,
        last=LAST,
        is_named=is_named,
    )


def test_who_sees_all_misses_nothing_and_repetitions_are_counted_apart(written: Written) -> None:
    found = verdict(written, rows(1, 8), [Away(), Joined()], rows(5, 13))
    assert found == Verdict(seen=13, repeated=4, joins=2)
    assert found.is_good


@pytest.mark.parametrize("planted", range(1, LAST + 1))
def test_each_row_that_is_lost_is_seen(written: Written, planted: int) -> None:
    told = [row for row in rows(1, LAST + 1) if row != Row(planted)]
    found = verdict(written, told)
    assert found.missing == [planted]
    assert not found.is_good


def test_any_rows_that_are_lost_are_seen(written: Written) -> None:
    for seed in range(100):
        chance = random.Random(seed)
        lost = sorted(chance.sample(range(1, LAST + 1), chance.randint(1, LAST)))
        told = [row for row in rows(1, LAST + 1) if row not in [Row(each) for each in lost]]
        assert verdict(written, told).missing == lost


def test_a_row_that_comes_behind_a_later_one_is_out_of_order(written: Written) -> None:
    found = verdict(written, rows(1, 4), [Row(6), Row(5)], rows(7, LAST))
    assert found.disordered == [(5, 6)]
    assert found.missing == []
    assert not found.is_good


def test_a_gap_covers_the_rows_between_its_places_and_no_others(written: Written) -> None:
    # From the second row of the second transaction to the first of the fourth.
    gap = Gap("replay_limit", after=(115, 0), until=(135, 0))
    found = verdict(written, rows(1, 2), [gap], rows(9, LAST))
    assert found.missing == [3, 8]
    assert found.covered == {"replay_limit": 4}


def test_a_gap_that_came_before_rows_that_were_seen_covers_none_behind_them(
    written: Written,
) -> None:
    gap = Gap("replay_limit", after=None, until=(1000, 0))
    assert verdict(written, rows(1, 2), [gap], rows(5, 6), rows(9, LAST)).missing == [7, 8]


def test_a_gap_without_places_covers_what_is_missing_there(written: Written) -> None:
    found = verdict(written, rows(1, 2), [Gap("replay_limit")], rows(9, LAST))
    assert (found.covered, found.missing) == ({"replay_limit": 6}, [])


def test_a_fresh_start_excuses_clients_alone_that_name_no_session(written: Written) -> None:
    told = rows(1, 2), [Away(), Joined(), Positioned(resumed=False)], rows(9, LAST)
    assert verdict(written, *told).missing == [3, 4, 5, 6, 7, 8]
    assert verdict(written, *told, is_named=False).restarted == 6


def test_who_may_stay_away_has_lost_nothing_behind_what_it_has(written: Written) -> None:
    told: list[Told] = [Joined(), *rows(1, 2), *rows(4, 6), Away()]
    found = judge(told, written, last=LAST, comes_back=False)
    assert found.missing == [3]
    assert found.never_joined_again
    # If it is joined at the end, it is behind, and so is one that always joins again.
    for found in (
        judge([*told, Joined()], written, last=LAST, comes_back=False),
        judge(told, written, last=LAST),
    ):
        assert (found.missing, found.behind, found.is_good) == ([3], 6, False)


def test_a_place_is_read() -> None:
    assert parse_place("1/164C208:4@7711788188615102203.1/shop") == ((1 << 32) + 0x164C208, 4)


def test_rows_that_are_for_others_are_not_missed_and_must_not_be_seen(written: Written) -> None:
    def found(*seen: int) -> Verdict:
        told = [Joined(), *map(Row, seen)]
        return judge(told, written, last=LAST, may_see=lambda row: row % 2 == 0)

    assert found(2, 4, 6, 8, 10, 12, 14).is_good
    assert found(2, 4, 8, 10, 12, 14).missing == [6]
    leaky = found(2, 3, 4, 6, 8, 10, 12, 14)
    assert (leaky.leaked, leaky.missing) == ([3], [])
    assert not leaky.is_good
