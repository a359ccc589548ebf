"""DataType describes one of PostgreSQL's types: how its text is read, and how values compare.

A value's text is read into a key. Keys are Python objects that can be hashed, and for which ``==``
and ``<`` say what they say for the values in PostgreSQL. A key exists only while something is
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import attrs

__all__ = [
    "GREATEST",
    "Compare",
    "Key",
    "DataType",
    "TextReader",
    "UnreadableError",
    "as_is",
    "reason",
]

Key: TypeAlias = Any
"""The key that a value's text is read into; it can be hashed, and compared with other keys of its
type."""

TextReader: TypeAlias = Callable[[str], Key]
"""Reads a text into a key. Raises ValueError if the text is not a value of the type."""

Compare: TypeAlias = Callable[[Key, Key], bool]
"""Compares two keys: that of the left operand and that of the right one."""


class UnreadableError(ValueError):
    """Says why a text is not a value of its type. The message never quotes the text."""


def reason(exc: Exception) -> str:
    """Return why a text could not be read, without quoting it.

    The messages of Python's own errors do quote it.
    """
    if isinstance(exc, UnreadableError):
        return str(exc)
    return f"a value is not written as its type's are ({type(exc).__name__})"


def as_is(text: str) -> str:
    """Return the text itself, as the key of a type whose values compare as their texts do."""
    return text


@attrs.frozen(eq=False)
class DataType:
    """One of PostgreSQL's types."""

    name: str
    """The type's name, for messages."""
    read: TextReader
    """Reads the text that PostgreSQL writes for a value."""
    parse: TextReader
    """Reads what a person may write for a value, which PostgreSQL would accept as input."""
    comparable: bool = True
    """Whether the type has the operator ``=``."""
    ordered: bool = True
    """Whether the type has the operator ``<``, and keys are in its order."""
    textual: bool = False
    """Whether LIKE and regular expressions can be applied to its texts."""
    ignores_case: bool = False
    """Whether LIKE and regular expressions ignore case, as the keys of such a type do."""
    boolean: bool = False
    """Whether the type is ``boolean``: of other types no filter may ask ``IS TRUE``."""
    by_text: bool = False
    """Whether the type is not known here, so that only texts are compared, for equality."""
    rank: TextReader | None = None
    """Reads the text into a key that is in the type's order, if the key for equality is not."""
    relations: Mapping[str, Compare] = attrs.field(factory=dict)
    """The comparisons that arrays, ranges, addresses and JSON have besides, by PostgreSQL's
    operator, such as ``@>``."""
    remedy: str = ""
    """The advice that messages give in place of a comparison that the type does not have."""


class _Greatest:
    """The key of NaN, which in PostgreSQL is equal to itself and greater than any other number."""

    def __lt__(self, other: object) -> bool:
        return False

    def __le__(self, other: object) -> bool:
        return other is self

    def __gt__(self, other: object) -> bool:
        return other is not self

    def __ge__(self, other: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "NaN"


GREATEST: Final = _Greatest()
