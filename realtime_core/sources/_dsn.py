"""Parses connection strings; its errors do not quote them, because they may hold a password."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, Final

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict

__all__ = ["parse_dsn"]

# libpq's own error messages quote the URI as a whole, or a part of a password.
_SPELLING: Final = (
    "dsn is not a connection string: write 'host=… dbname=… user=… password=…', a value with "
    "blanks in single quotes, or postgresql://user:password@host:port/dbname, with %25 for a % "
    "and %40 for an @ in the password"
)

_UNKNOWN: Final = re.compile(r'invalid (?:connection option|URI query parameter:) "([^"]*)"')
# Names that other programs use for libpq's options, and that are not similar to libpq's own.
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
        ValueError: if it is not a connection string, saying how to write one, or which option is
            not known.
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
    """Return the option that an unknown name is likely to stand for; None if there is none.

    Without a likely option the name may be part of a password with blanks, and must not be quoted.
    """
    options = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
    close = get_close_matches(name, options, 1, cutoff=0.7)
    return _ELSEWHERE.get(name) or (close[0] if close else None)
