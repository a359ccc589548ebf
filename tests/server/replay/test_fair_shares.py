"""FairShares: whose absences go first, compared with counting them all."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_server.replay.absences import Absence
from realtime_server.replay.fair_shares import FairShares
from realtime_server.replay.identity import Key

FEW = 8
"""Absences that anybody may have without being looked at."""


def absence(site: int, network: int, subject: int) -> Absence:
    whose = b"".join(name.to_bytes(8) for name in (site, network, subject))
    return Absence(Key(b"key", is_exact=True, whose=whose), 1, (0, 0), 0.0)


def first_to_go(absences: list[Absence], level: int = 0) -> list[Absence]:
    """Return those that may go first; there are several if some have left as many."""
    if level == 3:
        return absences[:1]
    counts = Counter(one.key.owner(level) for one in absences)
    most = max(counts.values())
    if most <= FEW:
        return absences[:1]
    owners = [name for name, count in counts.items() if count == most]
    theirs = [[one for one in absences if one.key.owner(level) == name] for name in owners]
    return [one for each in theirs for one in first_to_go(each, level + 1)]


STEPS = st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 2), st.integers(0, 5))


@pytest.mark.slow
@given(st.lists(STEPS, max_size=200))
def test_whoever_has_left_most_goes_first(steps: list[tuple[int, int, int, int]]) -> None:
    shares = FairShares()
    known: list[Absence] = []
    for site, network, subject, leaves in steps:
        # The lower the number, the more of them.
        one = absence(site * site // 5, network, subject)
        shares.add(one)
        known.append(one)
        if leaves == 0:
            gone = known.pop(len(known) // 2)
            shares.discard(gone)
            shares.discard(gone)
            assert gone not in shares
        if leaves == 1 and known:
            gone = shares.first_to_go()
            assert gone in first_to_go(known)
            shares.discard(gone)
            known.remove(gone)
        assert list(shares) == known
        assert len(shares) == len(known)
        if known:
            assert shares.oldest() is known[0]
            assert shares.first_to_go() in first_to_go(known)
    for one in known:
        shares.discard(one)
    assert not len(shares)
