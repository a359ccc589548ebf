"""Kind: how the values of one type are compared.

A value's text becomes a comparison key: any Python object that is hashable and that ``==``
and ``<`` order as PostgreSQL does the values. Keys exist only while something is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import attrs

__all__ = ["GREATEST", "Compare", "Key", "Kind", "Reader", "UnreadableError", "as_is", "reason"]

Key: TypeAlias = Any
"""Hashable and ordered among keys of its kind."""

Reader: TypeAlias = Callable[[str], Key]
"""Makes a key of a text; raises ValueError if it is none of the type."""

Compare: TypeAlias = Callable[[Key, Key], bool]
"""Takes the row's key and the literal's."""


class UnreadableError(ValueError):
    """Says why a text is none of its type, in words that do not quote it."""


def reason(exc: Exception) -> str:
    """Return why a row could not be judged, without a value of it.

    The text of Python's own errors quotes what they are about.
    """
    if isinstance(exc, UnreadableError):
        return str(exc)
    return f"a value is not written as its type's are ({type(exc).__name__})"


def as_is(text: str) -> str:
    """Read a text that is its own key."""
    return text


@attrs.frozen(eq=False)
class Kind:
    """A type, as filters see it."""

    name: str
    """For messages."""
    read: Reader
    """Of what PostgreSQL writes."""
    parse: Reader
    """Of what people write."""
    comparable: bool = True
    """Whether the type has ``=``."""
    ordered: bool = True
    """Whether the type has ``<``, and its order is known here."""
    textual: bool = False
    """Whether LIKE and regular expressions apply, to the text as it comes."""
    ignores_case: bool = False
    """Whether LIKE and regular expressions do so, as equality and order do by their keys."""
    boolean: bool = False
    by_text: bool = False
    """Whether only the text is compared, for want of better knowledge."""
    rank: Reader | None = None
    """Makes the key that is compared for order, where it is not the one for equality."""
    relations: Mapping[str, Compare] = attrs.field(factory=dict)
    """What arrays, ranges, addresses and JSON have besides, by PostgreSQL's operator: ``@>``."""
    remedy: str = ""
    """What to do where something is missing."""


class _Greatest:
    """NaN, as PostgreSQL orders it: equal to itself and above all else."""

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
