"""Budget: what clients may have the server hold, compile and ask of each row.

A filter costs by its conditions, and by what its regular expressions become for RE2: one join of
few bytes may have thousands of the ones, or hundreds of thousands of the other's instructions.
Each connection has a bound for all that it has joined, and so has the server for all connections,
whatever their joins share with each other.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Final

import attrs

from realtime_core import FilterError
from realtime_core.filters import Filter, has_regex

from ..config import ServerConfig
from ..errors import LimitError, RefusedError, place_of, quoted
from ..phoenix.reasons import ReplyReason

__all__ = ["Account", "Bound", "Budget", "Cost"]

_LEAST_FOR_A_REGEX: Final = 500
"""Instructions that a regular expression counts as at least: RE2 keeps what it has found out about
texts, up to 1 MiB, however short the pattern is."""


@attrs.frozen
class Cost:
    """What a join costs."""

    conditions: int = 0
    """Of its filters."""
    instructions: int = 0
    """Of their regular expressions."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.conditions + other.conditions, self.instructions + other.instructions)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.conditions - other.conditions, self.instructions - other.instructions)


@attrs.frozen
class Bound:
    """What may be held, by a connection or by all of them."""

    conditions: int
    conditions_name: str
    """Of the variable that says so."""
    instructions: int
    instructions_name: str
    whose: str
    """Where it is held, for the client."""

    def check(self, cost: Cost) -> None:
        """Raise LimitError if something costs more than that."""
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


class Budget:
    """That of a server.

    Args:
        config: its bounds.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.each = Bound(
            config.max_conditions,
            "MAX_CONDITIONS",
            config.max_regex_instructions,
            "MAX_REGEX_INSTRUCTIONS",
            "this connection",
        )
        self.total = Bound(
            config.max_total_conditions,
            "MAX_TOTAL_CONDITIONS",
            config.max_total_regex_instructions,
            "MAX_TOTAL_REGEX_INSTRUCTIONS",
            "all connections",
        )
        self.held = Cost()
        """What all connections have now."""


class Account:
    """What one connection has of it, by topic.

    Args:
        budget: of the server.
    """

    __slots__ = ("_budget", "_by_topic", "_held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = Cost()
        self._by_topic: dict[str, Cost] = {}

    def taking(self, topic: str, filters: Iterable[Filter]) -> Generator[None]:
        """Take what a join's filters cost, one by one, and stop after each.

        Whatever comes of it, the topic has what was taken until :meth:`give_back`.

        Raises:
            LimitError: if it is too much. Nothing further was looked at, then.
            RefusedError: if a regular expression can never be taken.
        """
        for filter in filters:
            self._hold(topic, Cost(filter.conditions))
            # Without the package that runs them they are refused elsewhere.
            if filter.uses_regex and has_regex():
                try:
                    size = filter.regex_size()
                except FilterError as exc:
                    raise RefusedError(
                        ReplyReason.FILTER.told(filter=quoted(exc.text), problem=exc),
                        logged=f"its filter cannot be used, {place_of(exc)}",
                    ) from exc
                self._hold(topic, Cost(0, max(size, _LEAST_FOR_A_REGEX)))
            yield

    def give_back(self, topic: str) -> None:
        """Take the end of a topic, or of its join."""
        cost = self._by_topic.pop(topic, None)
        if cost is not None:
            self._held -= cost
            self._budget.held -= cost

    def close(self) -> None:
        """Take the end of the connection."""
        for topic in list(self._by_topic):
            self.give_back(topic)

    def _hold(self, topic: str, cost: Cost) -> None:
        budget = self._budget
        budget.each.check(self._held + cost)
        budget.total.check(budget.held + cost)
        self._held += cost
        budget.held += cost
        self._by_topic[topic] = self._by_topic.get(topic, Cost()) + cost
