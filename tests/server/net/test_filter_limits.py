"""FilterBudget: what a connection, and all of them, may hold in filters."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from realtime_core.filters import parse_filter
from realtime_server.errors import LimitError, RefusedError
from realtime_server.net import filter_limits as budget_module
from realtime_server.net.filter_limits import FilterAccount, FilterBudget, FilterCost
from tests.server_helpers import open_config

BOUNDS = {
    "max_conditions": 5,
    "max_total_conditions": 8,
    "max_regex_instructions": 2000,
    "max_total_regex_instructions": 3000,
}


@pytest.fixture
def budget() -> FilterBudget:
    return FilterBudget(open_config(**BOUNDS))


def take(account: FilterAccount, topic: str, *filters: str) -> int:
    """Take filters; return how many steps that took."""
    return sum(1 for _ in account.charging(topic, map(parse_filter, filters)))


def refusal(account: FilterAccount, topic: str, *filters: str) -> str:
    with pytest.raises(RefusedError) as caught:
        take(account, topic, *filters)
    return caught.value.reason


def conditions(count: int) -> str:
    return ",".join(f"id=eq.{number}" for number in range(count))


def test_a_connection_holds_so_many_conditions_and_no_more(budget: FilterBudget) -> None:
    account = FilterAccount(budget)
    assert take(account, "a", conditions(2), conditions(2)) == 2
    assert take(account, "b", conditions(1)) == 1
    assert refusal(account, "c", conditions(1)) == (
        "TooManyConditions: the filters of this connection would have more than 5 conditions "
        "(MAX_CONDITIONS); leave some topics, or join with fewer"
    )


def test_all_connections_hold_so_many_and_no_more(budget: FilterBudget) -> None:
    take(FilterAccount(budget), "a", conditions(5))
    other = FilterAccount(budget)
    take(other, "a", conditions(3))
    assert "of all connections would have more than 8 conditions (MAX_TOTAL_CONDITIONS)" in refusal(
        other, "b", conditions(1)
    )


def test_what_ends_is_given_back(budget: FilterBudget) -> None:
    account, other = FilterAccount(budget), FilterAccount(budget)
    take(account, "a", conditions(4))
    # What was taken before the refusal is still held.
    refusal(account, "b", conditions(1), conditions(1))
    assert budget.held == FilterCost(5)
    account.refund("b")
    account.refund("b")
    assert budget.held == FilterCost(4)
    take(other, "a", conditions(4))
    account.close()
    assert budget.held == FilterCost(4)
    other.close()
    assert budget.held == FilterCost()


def test_regular_expressions_count_by_their_size(budget: FilterBudget) -> None:
    account = FilterAccount(budget)
    take(account, "a", r'v=match."\\w"')
    assert 1000 < budget.held.instructions < 1500
    assert refusal(account, "b", r'v=imatch."\\w"') == (
        "TooManyPatterns: the regular expressions of this connection would be larger than 2000 "
        "instructions (MAX_REGEX_INSTRUCTIONS); leave some topics, or use like, or write "
        "[A-Za-z0-9_] for \\w"
    )
    other = FilterAccount(budget)
    take(other, "a", r'v=match."\\w"')
    assert "(MAX_TOTAL_REGEX_INSTRUCTIONS)" in refusal(other, "b", "v=match.a", "v=match.b")


def test_a_short_one_counts_for_what_re2_keeps_of_it(budget: FilterBudget) -> None:
    account = FilterAccount(budget)
    take(account, "a", *[f"v=match.{letter}" for letter in "abcd"])
    assert budget.held == FilterCost(4, 2000)


def test_a_regular_expression_that_can_never_be_taken_is_told(budget: FilterBudget) -> None:
    assert refusal(FilterAccount(budget), "a", 'v=match."a("').startswith(
        "cannot filter by 'v=match.\"a(\"': RE2 refuses it: missing ): a( (at character 9"
    )


def test_without_re2_somebody_else_refuses_them(
    budget: FilterBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "has_regex", lambda: False)
    take(FilterAccount(budget), "a", 'v=match."a("')
    assert budget.held == FilterCost(1)


def test_nothing_is_compiled_behind_what_is_too_much(budget: FilterBudget) -> None:
    asked = []

    def filters() -> Iterable[str]:
        for number in range(100):
            asked.append(number)
            yield conditions(1)

    with pytest.raises(LimitError) as caught:
        list(FilterAccount(budget).charging("a", map(parse_filter, filters())))
    assert caught.value.limit == "conditions"
    assert len(asked) == 6
