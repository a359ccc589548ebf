"""Nodes of the tree that a filter expression is parsed into, and their canonical text.

:func:`~realtime_core.filters.parse_filter` reads ``str(node)`` back as an equal tree. Where a node
stood in the text is kept for error messages; nodes are equal wherever they stood.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Final, TypeAlias

import attrs

__all__ = [
    "And",
    "Comparison",
    "Node",
    "Not",
    "Operator",
    "Or",
    "Reference",
    "Side",
    "comparisons",
    "references",
]

# Names of columns that would mean something else at the beginning of a condition.
_RESERVED: Final = frozenset({"and", "or", "not", "old", "new"})
_BARE_NAME: Final = re.compile(r"[^\W\d]\w*")
_BARE_VALUE: Final = re.compile(r'[^\s,()\[\]{}"\\](?:[^,()\[\]{}"\\]*[^\s,()\[\]{}"\\])?')


class Operator(enum.Enum):
    """The operators of comparisons. Their values are PostgREST's names for them."""

    EQ = "eq"
    NEQ = "neq"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    IN = "in"
    LIKE = "like"
    ILIKE = "ilike"
    MATCH = "match"
    IMATCH = "imatch"
    IS = "is"
    ISDISTINCT = "isdistinct"
    CS = "cs"
    """Contains, ``@>`` in SQL."""
    CD = "cd"
    """Contained in, ``<@``."""
    OV = "ov"
    """Overlaps, ``&&``."""
    SL = "sl"
    """Strictly left of, ``<<``."""
    SR = "sr"
    """Strictly right of, ``>>``."""
    NXR = "nxr"
    """Does not extend to the right of, ``&<``."""
    NXL = "nxl"
    """Does not extend to the left of, ``&>``."""
    ADJ = "adj"
    """Adjacent to, ``-|-``."""


_OPERATOR_NAMES: Final = frozenset(operator.value for operator in Operator)


class Side(enum.Enum):
    """The version of the row that a reference reads."""

    ROW = ""
    """The new row; for a DELETE the old one."""
    OLD = "old"
    """The row before the change."""
    NEW = "new"
    """The row after the change."""


@attrs.frozen
class Reference:
    """The left side of a comparison: a column, or a part of a JSON column."""

    column: str
    path: tuple[str | int, ...] = ()
    """Object keys and places in arrays that lead to a part of a JSON column; empty for the
    column."""
    as_text: bool = False
    """Whether the path ends with ``->>`` and so leads to a text rather than to JSON."""
    side: Side = Side.ROW
    position: int = attrs.field(default=0, eq=False, repr=False)
    """Where the reference stands in the filter's text, in characters from 0."""

    def __str__(self) -> str:
        text = _name(self.column)
        if self.side is not Side.ROW:
            # Behind old. and new. the parser takes an operator's name for the operator.
            if self.column in _OPERATOR_NAMES:
                text = _quote(self.column)
            text = f"{self.side.value}.{text}"
        for place, key in enumerate(self.path):
            last = place == len(self.path) - 1
            text += "->>" if last and self.as_text else "->"
            text += str(key) if isinstance(key, int) else _name(key)
        return text


@attrs.frozen
class Comparison:
    """One condition: a reference, an operator and a value."""

    reference: Reference
    operator: Operator
    value: str | tuple[str, ...]
    """The value as it was written, without quotes; for ``in`` a tuple of values."""
    position: int = attrs.field(default=0, eq=False, repr=False)
    """Where the operator stands in the filter's text, in characters from 0."""
    value_positions: tuple[int, ...] = attrs.field(default=(0,), eq=False, repr=False)
    """Where each value stands in the filter's text, in characters from 0."""

    def __str__(self) -> str:
        return _format(self, nested=False)


@attrs.frozen
class Not:
    """Passes if its node fails. If the node's result is unknown, so is this one's."""

    item: Node

    def __str__(self) -> str:
        return _format(self, nested=False)


@attrs.frozen
class And:
    """Passes if all of its nodes do."""

    items: tuple[Node, ...]

    def __str__(self) -> str:
        return ",".join(_format(item, nested=False) for item in self.items)


@attrs.frozen
class Or:
    """Passes if at least one of its nodes does."""

    items: tuple[Node, ...]

    def __str__(self) -> str:
        return _format(self, nested=False)


Node: TypeAlias = Comparison | Not | And | Or


def comparisons(node: Node) -> Iterator[Comparison]:
    """Yield every comparison of a tree, in the order of its text."""
    match node:
        case Comparison():
            yield node
        case Not():
            yield from comparisons(node.item)
        case And() | Or():
            for item in node.items:
                yield from comparisons(item)


def references(node: Node) -> Iterator[Reference]:
    """Yield every reference of a tree, in the order of its text."""
    for comparison in comparisons(node):
        yield comparison.reference


def _format(node: Node, *, nested: bool, negated: bool = False) -> str:
    match node:
        case Not():
            return _format(node.item, nested=nested, negated=not negated)
        case Comparison():
            between = "." if nested else "="
            prefix = "not." if negated else ""
            return f"{node.reference}{between}{prefix}{node.operator.value}.{_literal(node)}"
        case And() | Or():
            word = "and" if isinstance(node, And) else "or"
            prefix = "not." if negated else ""
            items = ",".join(_format(item, nested=True) for item in node.items)
            return f"{prefix}{word}({items})"


def _literal(node: Comparison) -> str:
    if isinstance(node.value, str):
        # An empty value is written without quotes.
        return _value(node.value) if node.value else ""
    return f"({','.join(map(_value, node.value))})"


def _name(name: str) -> str:
    if _BARE_NAME.fullmatch(name) and name not in _RESERVED:
        return name
    return _quote(name)


def _value(value: str) -> str:
    return value if _BARE_VALUE.fullmatch(value) else _quote(value)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
