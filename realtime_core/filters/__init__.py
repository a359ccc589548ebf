"""Filter expressions: conditions that a row must meet, with the meaning that they have in SQL.

:func:`parse_filter` reads an expression. :meth:`Filter.compile` reads its values by the types of a
relation's columns, and the compiled filter says whether a row passes. :class:`FilterIndex` finds
out of many filters those that a row passes. ``docs/reference/filters.md`` describes the language.
"""

from ..types.columns import EnumOrders, comparison_key
from ._regex import has_regex
from ._table_filters import Workload
from .filter import CompiledFilter, Filter, Match, parse_filter
from .index import FilterIndex
from .nodes import And, Comparison, Node, Not, Operator, Or, Reference, Side

__all__ = [
    "And",
    "Comparison",
    "CompiledFilter",
    "EnumOrders",
    "Filter",
    "FilterIndex",
    "Match",
    "Node",
    "Not",
    "Operator",
    "Or",
    "Reference",
    "Side",
    "Workload",
    "comparison_key",
    "has_regex",
    "parse_filter",
]
