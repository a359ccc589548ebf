"""Memberships: what lets the server's role act as others, without having their rights.

From PostgreSQL 16 on, being a member and being allowed to SET ROLE are two things.
"""

from __future__ import annotations

from typing import Final

__all__ = ["acting", "grant"]

_SPLIT: Final = 160000


def acting(version: int) -> str:
    """Return what ``pg_has_role`` calls being allowed to SET ROLE.

    Args:
        version: of the PostgreSQL server, as ``server_version_num`` has it.
    """
    return "SET" if version >= _SPLIT else "MEMBER"


def grant(role: str, member: str, version: int) -> str:
    """Return the statement that lets a role act as another, without a semicolon.

    Args:
        role: whom to act as, quoted.
        member: who acts, quoted.
        version: of the PostgreSQL server.
    """
    how = " WITH INHERIT FALSE, SET TRUE" if version >= _SPLIT else ""
    return f"GRANT {role} TO {member}{how}"
