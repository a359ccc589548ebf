"""Real PostgreSQL servers and databases for the tests.

`pg17` is Debian's PostgreSQL 17, `pg18` the demo's embedded PostgreSQL 18, and `older_pg` each of
14, 15 and 16, for the tests of what depends on the version. All of them run as an unprivileged
user and end with the session. `pg` is each of
them in turn, or the one server that TEST_DSN names. `database` is an empty
database of its own on `pg`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from realtime_server.config.process_memory import memory_limit
from realtime_server.demo.embedded import EmbeddedPostgres, StopMode

TEST_DSN = os.environ.get("TEST_DSN")

DEBIAN_BINDIR = Path("/usr/lib/postgresql/17/bin")
OLDER = Path(__file__).parent / "postgres" / "node_modules"
"""Where `make test` installs the older versions, each as `pg14` and so on."""

SETTINGS = {
    "max_connections": "200",
    "max_wal_senders": "30",
    "max_replication_slots": "30",
    "max_prepared_transactions": "10",
}

IN_MEMORY = Path("/dev/shm")
"""Where clusters are, if it has SPACE: a database is made there in a fifth of the time."""
SPACE = 8 * 2**30
"""Bytes of its space, and half of the bytes of memory."""

Rows = list[tuple[Any, ...]]


class Server:
    """A running PostgreSQL server with logical decoding and a superuser's DSN."""

    def __init__(self, dsn: str, embedded: EmbeddedPostgres | None = None) -> None:
        self.dsn = dsn
        self._embedded = embedded
        with psycopg.connect(dsn, autocommit=True) as connection:
            self.version = connection.info.server_version // 10000
            """The major version."""
            allow_wal2json(connection)

    @property
    def embedded(self) -> EmbeddedPostgres:
        """The process behind it; a test that needs it skips when TEST_DSN is set."""
        if self._embedded is None:
            pytest.skip("TEST_DSN names a server that the tests may not restart")
        return self._embedded

    def down(self, mode: StopMode = "fast") -> AbstractContextManager[None]:
        """Have no server inside the `with` block."""
        return self.embedded.down(mode)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start it; every connection is lost."""
        self.embedded.restart(mode)

    def execute(
        self, query: str | sql.Composed, parameters: Mapping[str, Any] | tuple[Any, ...] = ()
    ) -> Rows:
        """Run one statement, committed, in the server's own database."""
        return execute(self.dsn, query, parameters)

    @contextmanager
    def setting(self, name: str, value: str) -> Iterator[None]:
        """Give a setting that needs no restart another value inside the `with` block.

        Sessions that are open notice it with their next statement.
        """
        setting = sql.Identifier(name)
        self.execute(sql.SQL("alter system set {} = {}").format(setting, value))
        try:
            self.execute("select pg_reload_conf()")
            yield
        finally:
            self.execute(sql.SQL("alter system reset {}").format(setting))
            self.execute("select pg_reload_conf()")

    def create_database(self, name: str, options: LiteralString = "") -> None:
        """Make a database with SQL's ``options``.

        Its files are copied, which takes half of the time of writing them to the log, from where
        each walsender would read them.
        """
        strategy: LiteralString = "strategy file_copy " if self.version >= 15 else ""
        create = sql.SQL("create database {} " + strategy + options)
        self.execute(create.format(sql.Identifier(name)))

    def needs(self, version: int, what: str) -> None:
        """Skip the test on a server that is older than what it is about."""
        if self.version < version:
            pytest.skip(f"{what} came with PostgreSQL {version}")

    def has_wal2json(self) -> bool:
        """Say whether the output plugin is installed, by trying a slot."""
        try:
            self.execute(
                "select pg_create_logical_replication_slot(%s, 'wal2json', temporary => true)",
                (unique_name("probe"),),
            )
        except psycopg.errors.UndefinedFile:
            return False
        return True


class Database:
    """A database that one test has for itself."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.dsn = make_conninfo(server.dsn, dbname=name)

    def execute(
        self, query: str | sql.Composed, parameters: Mapping[str, Any] | tuple[Any, ...] = ()
    ) -> Rows:
        """Run one statement (or several, without parameters), committed."""
        return execute(self.dsn, query, parameters)

    def connect(self) -> psycopg.Connection:
        """Open a connection that commits each statement; the caller closes it."""
        return psycopg.connect(self.dsn, autocommit=True)

    def drop(self) -> None:
        """Drop the database with its replication slots, whoever uses them."""
        self._drop_slots()
        self.server.execute(
            sql.SQL("drop database {} with (force)").format(sql.Identifier(self.name))
        )

    def _drop_slots(self) -> None:
        deadline = time.monotonic() + 10
        where = "from pg_replication_slots where database = %s"
        while self.server.execute(f"select 1 {where}", (self.name,)):
            self.server.execute(
                f"select pg_terminate_backend(active_pid, 5000) {where} and active", (self.name,)
            )
            try:
                self.server.execute(
                    f"select pg_drop_replication_slot(slot_name) {where} and not active",
                    (self.name,),
                )
            except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                # Somebody reconnected, or a temporary slot went by itself.
                assert time.monotonic() < deadline, "a replication slot cannot be dropped"


def execute(
    dsn: str, query: str | sql.Composed, parameters: Mapping[str, Any] | tuple[Any, ...] = ()
) -> Rows:
    """Run one statement on a connection of its own and return its rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query, parameters or None)
        return cursor.fetchall() if cursor.description else []


def unique_name(prefix: str) -> str:
    """Return a name that no other test and no other session has.

    Not from `random`, which pytest-randomly seeds before each test.
    """
    return f"{prefix}_{secrets.token_hex(5)}"


def allow_wal2json(connection: psycopg.Connection) -> None:
    """Let the newer minor versions load wal2json, which they no longer do by themselves."""
    name = "output_plugin_libraries"
    known = connection.execute("select current_setting(%s, true)", (name,)).fetchone()
    assert known is not None
    if known[0] is None or "wal2json" in known[0]:
        return
    connection.execute(
        sql.SQL("alter system set {} = {}").format(
            sql.Identifier(name), sql.SQL("pgoutput, wal2json, test_decoding")
        )
    )
    connection.execute("select pg_reload_conf()")


def parent_of_clusters() -> Path | None:
    """Return the folder in memory for the files of servers; None where there is little of either.

    A container may have less memory than the folder is large: what is in it counts, too.
    """
    has_space = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > SPACE
    return IN_MEMORY if has_space and memory_limit() > 2 * SPACE else None


@contextmanager
def running_postgres(
    bindir: Path | None = None, settings: Mapping[str, str] = SETTINGS
) -> Iterator[EmbeddedPostgres]:
    """Run a server of the embedded wheel or of another folder, with a cluster of its own."""
    with tempfile.TemporaryDirectory(prefix="realtime-pg-", dir=parent_of_clusters()) as folder:
        # The server's user has to come through.
        os.chmod(folder, 0o711)
        with EmbeddedPostgres(bindir, Path(folder, "data"), settings=settings) as embedded:
            yield embedded


@pytest.fixture(scope="session")
def pg18() -> Iterator[Server]:
    """PostgreSQL 18 from the embedded wheel."""
    with running_postgres() as embedded:
        yield Server(embedded.dsn, embedded)


@pytest.fixture(scope="session")
def pg17() -> Iterator[Server]:
    """PostgreSQL 17 from Debian's packages, which has wal2json."""
    if not (DEBIAN_BINDIR / "postgres").exists():
        pytest.skip(f"PostgreSQL 17 is not installed in {DEBIAN_BINDIR}")
    with running_postgres(DEBIAN_BINDIR) as embedded:
        yield Server(embedded.dsn, embedded)


@pytest.fixture(scope="session", params=[14, 15, 16], ids=lambda version: f"pg{version}")
def older_pg(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A version that most tests do not run on."""
    folder = OLDER / f"pg{request.param}"
    # Its libraries find each other by links that `make older` makes.
    if not (folder / ".linked").exists():
        pytest.skip(f"PostgreSQL {request.param} is not installed in {folder}: make older")
    with running_postgres(folder / "native" / "bin") as embedded:
        yield Server(embedded.dsn, embedded)


@pytest.fixture(scope="session", params=["TEST_DSN"] if TEST_DSN else ["pg17", "pg18"])
def pg(request: pytest.FixtureRequest) -> Server:
    """Each server in turn, or the one of TEST_DSN."""
    if TEST_DSN:
        return Server(TEST_DSN)
    return cast(Server, request.getfixturevalue(request.param))


@pytest.fixture(scope="session")
def one_pg(request: pytest.FixtureRequest) -> Server:
    """One server, for what does not depend on its version."""
    if TEST_DSN:
        return Server(TEST_DSN)
    return cast(Server, request.getfixturevalue("pg18"))


@pytest.fixture
def database(pg: Server) -> Iterator[Database]:
    """An empty database on `pg`, dropped after the test."""
    database = Database(pg, unique_name("test"))
    pg.create_database(database.name)
    yield database
    database.drop()
