"""FilterBudget: what the filters of clients may cost, for one connection and for all.

A filter costs by its conditions, and by the instructions that its regular expressions become when
RE2 compiles them. A join of few bytes may have thousands of conditions, or hundreds of thousands of
instructions, which the server keeps and evaluates for each row. So there is a bound for all
filters of one connection, and another one for those of all connections. Filters that connections
share count for each of them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Final

import attrs

from realtime_core import FilterError
from realtime_core.filters import Filter, has_regex

from ..config import ServerConfig
from ..errors import LimitError, RefusedError, place_of, quoted
from ..fanout.topic_parser import Topic
from ..phoenix.joins import JoinConfig
from ..phoenix.reasons import ReplyReason

__all__ = ["FilterAccount", "FilterBound", "FilterBudget", "FilterCost", "filters_of"]

_LEAST_FOR_A_REGEX: Final = 500
"""Instructions that a regular expression counts as at least: RE2 keeps a cache of up to 1 MiB for
each, however short it is."""


@attrs.frozen
class FilterCost:
    """The cost of filters."""

    conditions: int = 0
    """Comparisons that each row is tested with."""
    instructions: int = 0
    """Instructions of their regular expressions, as RE2 compiles them."""

    def __add__(self, other: FilterCost) -> FilterCost:
        return FilterCost(
            self.conditions + other.conditions, self.instructions + other.instructions
        )

    def __sub__(self, other: FilterCost) -> FilterCost:
        return FilterCost(
            self.conditions - other.conditions, self.instructions - other.instructions
        )


@attrs.frozen
class FilterBound:
    """The most that filters may cost, for one connection or for all."""

    conditions: int
    conditions_name: str
    """The environment variable that sets ``conditions``."""
    instructions: int
    instructions_name: str
    """The environment variable that sets ``instructions``."""
    whose: str
    """The owner of the filters, as errors to the client name it."""

    def check(self, cost: FilterCost) -> None:
        """Raise LimitError if filters cost more than the bound."""
        if cost.conditions > self.conditions:
            raise LimitError(
                "conditions",
                ReplyReason.CONDITIONS.told(
                    whose=self.whose, most=self.conditions, variable=self.conditions_name
                ),
            )
        if cost.instructions > self.instructions:
            raise LimitError(
                "instructions",
                ReplyReason.PATTERNS.told(
                    whose=self.whose, most=self.instructions, variable=self.instructions_name
                ),
            )


class FilterBudget:
    """The most that the filters of a server's clients may cost, and their present cost.

    Args:
        config: says the bounds.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.per_connection = FilterBound(
            config.max_conditions,
            "MAX_CONDITIONS",
            config.max_regex_instructions,
            "MAX_REGEX_INSTRUCTIONS",
            "this connection",
        )
        self.total = FilterBound(
            config.max_total_conditions,
            "MAX_TOTAL_CONDITIONS",
            config.max_total_regex_instructions,
            "MAX_TOTAL_REGEX_INSTRUCTIONS",
            "all connections",
        )
        self.held = FilterCost()
        """The present cost of the filters of all connections."""


class FilterAccount:
    """The cost of one connection's filters, by topic.

    Args:
        budget: of the server.
    """

    __slots__ = ("_budget", "_by_topic", "_held")

    def __init__(self, budget: FilterBudget) -> None:
        self._budget = budget
        self._held = FilterCost()
        self._by_topic: dict[str, FilterCost] = {}

    def charging(self, topic: str, filters: Iterable[Filter]) -> Generator[None]:
        """Charge a topic for the filters of its join, one by one, and yield after each.

        Call :meth:`refund` when the topic ends, also if this raises: what was charged before stays
        charged until then.

        Raises:
            LimitError: if the filters cost too much. The remaining ones were not looked at.
            RefusedError: if a regular expression is too large for RE2.
        """
        for filter in filters:
            self._charge(topic, FilterCost(filter.conditions))
            # Without the package google-re2 they are refused when the join is registered.
            if filter.uses_regex and has_regex():
                try:
                    size = filter.regex_size()
                except FilterError as exc:
                    raise RefusedError(
                        ReplyReason.FILTER.told(filter=quoted(exc.text), problem=exc),
                        logged=f"its filter cannot be used, {place_of(exc)}",
                    ) from exc
                self._charge(topic, FilterCost(0, max(size, _LEAST_FOR_A_REGEX)))
            yield

    def refund(self, topic: str) -> None:
        """Free what a topic was charged, because it has ended, or its join was refused."""
        cost = self._by_topic.pop(topic, None)
        if cost is not None:
            self._held -= cost
            self._budget.held -= cost

    def close(self) -> None:
        """Free everything, because the connection has ended."""
        for topic in list(self._by_topic):
            self.refund(topic)

    def _charge(self, topic: str, cost: FilterCost) -> None:
        budget = self._budget
        budget.per_connection.check(self._held + cost)
        budget.total.check(budget.held + cost)
        self._held += cost
        budget.held += cost
        self._by_topic[topic] = self._by_topic.get(topic, FilterCost()) + cost


def filters_of(topic: Topic, config: JoinConfig | None) -> Iterator[Filter]:
    """Yield the filters of a join."""
    for item in topic.filters:
        yield item.filter
    for binding in config.bindings if config is not None else ():
        if binding.filter is not None:
            yield binding.filter
