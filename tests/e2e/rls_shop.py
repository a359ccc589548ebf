"""What the stock clients' tests of RLS mode share: a table with owners, and a server on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.integration.rls_stage import OWN
from tests.tokens import SECRET

__all__ = ["owned_rows", "rls_server"]


@contextlib.contextmanager
def owned_rows(pg17: Server, reader: str, table: str, columns: str) -> Iterator[Database]:
    """A database with a table of which everybody sees, as ``reader``, what they own.

    Args:
        reader: a role.
        table: its name.
        columns: one of them is ``owner``.
    """
    with fresh_database(pg17) as database:
        database.execute(
            f"create table {table} ({columns});"
            f" alter table {table} enable row level security;"
            f" create policy own on {table} using ({OWN});"
            f' grant select on {table} to "{reader}";'
            " create publication changes for all tables"
        )
        yield database


@contextlib.contextmanager
def rls_server(
    database: Database, *, port: int = 0, follows: bool = False, **settings: str
) -> Iterator[ServerProcess]:
    """A server in RLS mode.

    Args:
        database: its own.
        port: 0 takes a free one.
        follows: whether another one reads the database for it.
        settings: more variables.
    """
    ours = {
        "REPLICATION_MODE": "RLS",
        "SECURE_CHANNELS": "true",
        "JWT_SECRET": SECRET,
    }
    with ServerProcess(
        database,
        publications='["changes"]',
        port=port,
        streaming=False,
        **{**ours, **settings},
    ) as server:
        if not follows:
            server.wait_for_log("streaming from database")
        yield server
