"""Filters: which changes somebody wants, in a language of conditions with SQL's meaning.

:func:`parse_filter` reads an expression, :meth:`Filter.compile` types it for a relation, and
the result says whether a row passes; :class:`FilterIndex` asks many filters at once. The
language and what it means is described in ``docs/reference/filters.md``.
"""

from ..types.columns import EnumOrders, comparison_key
from ._regex import has_regex
from ._table_filters import Asked
from .filter import CompiledFilter, Filter, Match, parse_filter
from .index import FilterIndex
from .nodes import And, Comparison, Node, Not, Operator, Or, Reference, Side

__all__ = [
    "And",
    "Asked",
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
    "comparison_key",
    "has_regex",
    "parse_filter",
]
