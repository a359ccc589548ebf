"""Nodes: a filter expression as a tree, and its canonical text.

``str(node)`` is what :func:`~realtime_core.filters.parser.parse_filter` reads back as the
same tree. Nodes are compared by what they say; where they stood in the text is kept for
error messages only.
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

# Names that mean something else at the start of a condition.
_RESERVED: Final = frozenset({"and", "or", "not", "old", "new"})
_BARE_NAME: Final = re.compile(r"[^\W\d]\w*")
_BARE_VALUE: Final = re.compile(r'[^\s,()\[\]{}"\\](?:[^,()\[\]{}"\\]*[^\s,()\[\]{}"\\])?')


class Operator(enum.Enum):
    """The operators, by the names that PostgREST gave them."""

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
    """Contains, SQL's ``@>``."""
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
    """Which version of the row a reference reads."""

    ROW = ""
    """The new row; of a DELETE the old one."""
    OLD = "old"
    NEW = "new"


@attrs.frozen
class Reference:
    """What is compared: a column, or something inside of a JSON column."""

    column: str
    path: tuple[str | int, ...] = ()
    """JSON object keys and array places."""
    as_text: bool = False
    """Whether the path ends with ``->>`` and gives text rather than JSON."""
    side: Side = Side.ROW
    position: int = attrs.field(default=0, eq=False, repr=False)
    """Where it stands in the filter's text, in characters from 0."""

    def __str__(self) -> str:
        text = _name(self.column)
        if self.side is not Side.ROW:
            # Behind old. and new. an operator's name is an operator.
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
    """One condition."""

    reference: Reference
    operator: Operator
    value: str | tuple[str, ...]
    """The literal, unquoted; of ``in`` all of them."""
    position: int = attrs.field(default=0, eq=False, repr=False)
    """Where the operator stands."""
    value_positions: tuple[int, ...] = attrs.field(default=(0,), eq=False, repr=False)
    """Where each literal stands."""

    def __str__(self) -> str:
        return _format(self, nested=False)


@attrs.frozen
class Not:
    item: Node

    def __str__(self) -> str:
        return _format(self, nested=False)


@attrs.frozen
class And:
    items: tuple[Node, ...]

    def __str__(self) -> str:
        return ",".join(_format(item, nested=False) for item in self.items)


@attrs.frozen
class Or:
    items: tuple[Node, ...]

    def __str__(self) -> str:
        return _format(self, nested=False)


Node: TypeAlias = Comparison | Not | And | Or


def comparisons(node: Node) -> Iterator[Comparison]:
    """Yield every condition of a tree, in the order of its text."""
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
        # An empty value needs no quotes where nothing but the end can follow.
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
