"""Connection strings, and what is wrong with one in words that do not quote it."""

from __future__ import annotations

from typing import Any, Final

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

__all__ = ["parse_dsn"]

# libpq's own words quote what they are about: a URI as a whole, or a part of a password.
_SPELLING: Final = (
    "dsn is not a connection string: write 'host=… dbname=… user=… password=…', a value with "
    "blanks in single quotes, or postgresql://user:password@host:port/dbname, with %25 for a % "
    "and %40 for an @ in the password"
)


def parse_dsn(dsn: str) -> dict[str, Any]:
    """Return a connection string's parameters.

    Raises:
        ValueError: if it is none, saying how one is written.
    """
    try:
        return conninfo_to_dict(dsn)
    except ProgrammingError:
        raise ValueError(_SPELLING) from None
