"""Events and relations, which both lists of CONFIGURATION_FILE name."""

from __future__ import annotations

from typing import Final

__all__ = ["EVENTS", "check_relation"]

EVENTS: Final = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
"""Types of changes, in the payloads' words."""


def check_relation(place: str, relation: object, *, most: int) -> None:
    """Check that a relation has at most so many parts, and no empty one.

    Raises:
        ValueError: if it has others, or an empty one.
    """
    parts = relation.split(":", most - 1) if isinstance(relation, str) else [""]
    if not all(parts):
        form = ", ".join(("schema", "schema:table", "schema:table:column")[:most])
        raise ValueError(f"{place} in the file has the relation {relation!r}; use *, {form}")
