"""Connection strings, and what is wrong with one in words that do not quote it."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, Final

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict

__all__ = ["parse_dsn"]

# libpq's own words quote what they are about: a URI as a whole, or a part of a password.
_SPELLING: Final = (
    "dsn is not a connection string: write 'host=… dbname=… user=… password=…', a value with "
    "blanks in single quotes, or postgresql://user:password@host:port/dbname, with %25 for a % "
    "and %40 for an @ in the password"
)

_UNKNOWN: Final = re.compile(r'invalid (?:connection option|URI query parameter:) "([^"]*)"')
# What others call libpq's options, too far from their names to be found by likeness.
_ELSEWHERE: Final = {
    "database": "dbname",
    "db": "dbname",
    "hostname": "host",
    "server": "host",
    "ssl": "sslmode",
    "timeout": "connect_timeout",
    "username": "user",
}


def parse_dsn(dsn: str) -> dict[str, Any]:
    """Return a connection string's parameters.

    Raises:
        ValueError: if it is none, saying how one is written, or which option there is not.
    """
    try:
        return conninfo_to_dict(dsn)
    except ProgrammingError as exc:
        found = _UNKNOWN.search(str(exc))
        meant = None if found is None else _meant(found[1])
        if found is None or meant is None:
            raise ValueError(_SPELLING) from None
        raise ValueError(f"dsn has no option {found[1]!r}: write {meant!r}") from None


def _meant(name: str) -> str | None:
    """Return the option that a name is likely to stand for, None if it may be anything.

    It may be part of a password with blanks, which must not be quoted.
    """
    options = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
    close = get_close_matches(name, options, 1, cutoff=0.7)
    return _ELSEWHERE.get(name) or (close[0] if close else None)
