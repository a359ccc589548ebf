"""What RLS mode cannot keep from whom: for ``--check``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from psycopg import AsyncConnection

from realtime_core import Finding

from ..catalog.immutable import immutable_calls

__all__ = ["exposure_findings"]

_MOST_NAMED: Final = 20
"""Of tables, policies or functions."""


async def exposure_findings(
    connection: AsyncConnection[Any], publications: Collection[str]
) -> list[Finding]:
    """Look at policies and privileges; change nothing.

    Args:
        connection: as the server's role.
        publications: their names.

    Raises:
        psycopg.Error: if the database cannot be asked.
    """
    return [*await _immutable(connection, publications)]


async def _immutable(
    connection: AsyncConnection[Any], publications: Collection[str]
) -> list[Finding]:
    calls = await immutable_calls(connection, publications)
    if not calls:
        return []
    said = [f"{call.function} ({_listed(call.policies)})" for call in calls]
    return [
        Finding.warning(
            "functions in policies",
            f"policies call functions that are declared IMMUTABLE, {_listed(said)}: PostgreSQL may "
            "keep what they return for one user and use it for the next; here their tables are "
            "asked with a new plan for each viewer, which takes several times as long",
            *(f"ALTER FUNCTION {call.function} STABLE;" for call in calls[:_MOST_NAMED]),
            remedy="each that reads claims, settings or tables; what depends on its arguments "
            "alone may stay",
        )
    ]


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:_MOST_NAMED]
    left = len(names) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")
