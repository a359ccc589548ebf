"""What a snapshot of PostgreSQL sees."""

from __future__ import annotations

import pytest

from realtime_core.snapshot.visibility import SeenTransactions


@pytest.mark.parametrize(
    ("xid", "sees"), [(9, True), (10, False), (11, True), (12, False), (13, True), (20, False)]
)
def test_what_had_ended_is_seen(xid: int, sees: bool) -> None:
    assert SeenTransactions.parse("10:20:10,12").sees(xid) is sees


def test_nothing_need_be_running() -> None:
    seen = SeenTransactions.parse("20:20:")
    assert seen.sees(19)
    assert not seen.sees(20)


def test_ids_of_the_stream_have_no_epoch() -> None:
    epoch = 2**32
    seen = SeenTransactions(3 * epoch - 5, 3 * epoch + 5, frozenset({3 * epoch - 3, 3 * epoch + 2}))
    assert [seen.sees(xid % epoch) for xid in (-6, -4, -3, 1, 2, 3, 5)] == [
        *(True, True, False, True, False, True, False)
    ]
