"""Explains why a connection to PostgreSQL could not be made, and what to do.

libpq has no SQLSTATE for a refused connection, so the reasons are told apart by the server's
English text. In any other language the error quotes the text, with general advice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from psycopg import Error

from .._text import one_line
from ..errors import AuthenticationError, ConnectionLostError, PrivilegeError, SourceError

__all__ = ["connection_failed", "one_line"]

# Parts of the text for reasons that last until somebody acts, and what to do; all other reasons may
# pass by themselves. In braces are libpq's parameters, some with a value.
_REFUSALS: Final = (
    ("password authentication failed", "check {user} and {password}"),
    ("no password supplied", "give one as {password}, in PGPASSWORD or a passfile"),
    ("pg_hba.conf", "allow this user, host and database (and replication) in pg_hba.conf"),
    ("must be superuser or replication role", "run ALTER ROLE … REPLICATION"),
    ("permission denied to start WAL sender", "run ALTER ROLE … REPLICATION"),
    ("server does not support SSL", "turn on ssl in postgresql.conf, or use {sslmode=disable}"),
    ("certificate verify failed", "give the authority that signed it as {sslrootcert}"),
    ("root certificate file", "give the authority that signed its certificate as {sslrootcert}"),
    ("does not match host name", "use a name that is in its certificate, or {sslmode=verify-ca}"),
    ("does not exist", "create it, or choose another {user} or {dbname}"),
)


# How libpq and psycopg report a parameter that has a wrong value.
_WRONG_VALUE: Final = re.compile(
    r'invalid (?P<a>\w+) value: "|invalid integer value ".*" for connection option "(?P<b>\w+)"|'
    r"bad value for (?P<c>\w+): |(?:invalid|could not match \d+) (?P<d>port) number"
)


class _Names(dict[str, str]):
    """What the application calls libpq's parameters; libpq's own names for those it does not call
    otherwise."""

    def __missing__(self, name: str) -> str:
        return name


def connection_failed(exc: Error, names: Mapping[str, str] | None = None) -> SourceError:
    """Return the SourceError for a connection that could not be made.

    Args:
        exc: the error that psycopg raised.
        names: what the application calls libpq's parameters, as in
            ``{"user": "DB_USER", "sslmode=disable": "DB_SSL=false"}``; those that are missing
            keep their names.
    """
    text = one_line(exc)
    called = _Names(names or {})
    for sign, remedy in _REFUSALS:
        if sign in text:
            if "REPLICATION" in remedy:
                return PrivilegeError(f"the role may not replicate ({text}); {remedy}")
            remedy = remedy.format_map(called)
            return AuthenticationError(f"PostgreSQL refused the connection ({text}); {remedy}")
    if found := _WRONG_VALUE.search(text):
        name = next(filter(None, found.groups()))
        return SourceError(f"a connection parameter is wrong ({text}); correct {called[name]}")
    if "max_wal_senders" in text:
        return ConnectionLostError(
            f"no free WAL sender ({text}); stop another consumer or raise max_wal_senders"
        )
    return ConnectionLostError(
        f"cannot connect to PostgreSQL ({text}); check that it runs and is reachable at "
        f"{called['host']} and {called['port']}"
    )
