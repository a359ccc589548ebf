"""The grants that let the server's role act as another, without its privileges.

From PostgreSQL 16 on, being a member of a role and being allowed to SET ROLE to it are two things.
"""

from __future__ import annotations

from typing import Final

__all__ = ["acting", "grant"]

_SPLIT: Final = 160000


def acting(version: int) -> str:
    """Return the privilege that ``pg_has_role`` tests to find out whether a role may SET ROLE.

    Args:
        version: PostgreSQL's ``server_version_num``.
    """
    return "SET" if version >= _SPLIT else "MEMBER"


def grant(role: str, member: str, version: int) -> str:
    """Return the statement that lets a role act as another, without a semicolon.

    Args:
        role: the role to act as, quoted.
        member: the role that acts, quoted.
        version: PostgreSQL's ``server_version_num``.
    """
    how = " WITH INHERIT FALSE, SET TRUE" if version >= _SPLIT else ""
    return f"GRANT {role} TO {member}{how}"
