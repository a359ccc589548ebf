"""RowFilter without a source around it."""

from __future__ import annotations

import logging

import pytest

from realtime_core import LSN, FilterError, LogicalMessage, Truncate
from realtime_core.filters import CompiledFilter
from realtime_core.sources._filtering import RowFilter
from tests.alive import alive
from tests.core.filters.helpers import TRANSACTION, delete, insert, key, relation, row, update

ITEM = relation(id="int4", price="money")


def test_rows_are_filtered_and_all_else_passes() -> None:
    filter = RowFilter("id=gt.1", {})
    assert not filter.passes(insert(ITEM, "1", None))
    assert filter.passes(insert(ITEM, "2", None))
    assert not filter.passes(update(ITEM, row(ITEM, "1", None), key(ITEM, "2")))
    assert filter.passes(delete(ITEM, key(ITEM, "2")))
    assert filter.passes(Truncate(TRANSACTION, 0, (ITEM,), False, False))
    assert filter.passes(LogicalMessage(LSN(1), "p", b"", None, 0))
    assert (filter.left_out, filter.errors) == (2, 0)


def test_a_table_has_its_own_filter_or_that_of_the_others() -> None:
    other = relation(schema="shop", table="other", n="int4")
    filter = RowFilter({"shop.other": "n=eq.1"}, {})
    assert filter.passes(insert(ITEM, "1", None))
    assert not filter.passes(insert(other, "2"))
    filter = RowFilter({"shop.other": "n=eq.1", "*": "id=eq.7"}, {})
    assert not filter.passes(insert(ITEM, "1", None))
    assert filter.passes(insert(other, "1"))


def test_a_row_that_cannot_be_judged_is_left_out_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    filter = RowFilter("price=gt.1", {})
    with caplog.at_level(logging.ERROR, "realtime.source"):
        assert not filter.passes(insert(ITEM, "1", "5,00 €"))
        assert not filter.passes(insert(ITEM, "1", "6,00 €"))
    assert filter.passes(insert(ITEM, "1", "$5.00"))
    assert (filter.left_out, filter.errors) == (2, 2)
    (line,) = caplog.messages
    assert line.startswith(
        "the filter cannot be evaluated for a change, which is left out, as later ones will be: a "
        "row of public.t cannot"
    )


def test_a_filter_is_typed_anew_for_another_shape() -> None:
    filter = RowFilter("id=gt.5", {})
    assert filter.passes(insert(relation(id="int4"), "10"))
    assert not filter.passes(insert(relation(id="text"), "10"))
    with pytest.raises(FilterError, match="no column 'id'"):
        filter.passes(insert(relation(n="text"), "10"))


@pytest.mark.slow
def test_what_is_kept_of_relations_is_bounded() -> None:
    filter = RowFilter("id=gt.5", {})
    before = alive(CompiledFilter)
    for _ in range(2_500):
        filter.passes(insert(relation(id="int4"), "10"))
    assert 0 < alive(CompiledFilter) - before <= 1_000
