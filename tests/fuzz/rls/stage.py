"""Stages: PostgreSQL of a version, and the server on it, as its variables may have it.

Several worlds are played on one, one after the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.fix_postgres import Database, Server, unique_name
from tests.fuzz.rls.clients import PATIENCE
from tests.fuzz.rls.filters import name_of
from tests.fuzz.rls.policies import Roles
from tests.fuzz.rls.world import PREPARE
from tests.server_process import ServerProcess
from tests.tokens import SECRET

__all__ = ["SETTINGS", "Setting", "Stage", "Stages", "execute", "settings_for"]

SESSION: Final = """
    SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3;
    SET timezone = 'UTC'; SET bytea_output = 'hex'; SET client_min_messages = 'error'
"""
NOBODY: Final = """
    DO $$ BEGIN
        CREATE ROLE realtime_nobody NOLOGIN NOINHERIT;
    EXCEPTION WHEN duplicate_object THEN
        -- All databases share it.
    END $$
"""
ENVIRONMENT: Final = {
    "REPLICATION_MODE": "RLS",
    "REPLAY_WINDOW": "0",
    "SECURE_CHANNELS": "true",
    "JWT_SECRET": SECRET,
    "PUBLICATIONS": '["leaves", "roots"]',
    # No clock decides: what takes long on a busy machine is waited for.
    "RLS_CHECK_TIMEOUT": "30000",
    "OUTBOX_MAX_AGE": "60000",
    "IDLE_TIMEOUT": "600000",
    "MAX_JOINS_PER_SECOND": "100000",
    "MAX_TOKENS": "100000",
}

REPLAY: Final = {
    "REPLAY_WINDOW": "600000",
    # Nobody waits for long until a client has proven what it got.
    "REPLAY_PING_INTERVAL": "50",
    # The server is not restarted.
    "REPLAY_WAL_MB": "0",
}


@attrs.frozen
class Setting:
    """How a server is run, and on what."""

    version: int
    """PostgreSQL's."""
    plugin: str = "pgoutput"
    is_strict: bool = False
    asks_for_deleted: bool = False
    replays: bool = False
    """Whether clients go away and come back."""

    @property
    def compares(self) -> bool:
        """Whether some are told only of rows that still are as the change says."""
        return self.is_strict or self.replays

    @property
    def environment(self) -> dict[str, str]:
        return {
            **ENVIRONMENT,
            **(REPLAY if self.replays else {}),
            "OUTPUT_PLUGIN": self.plugin,
            "RLS_STRICT": str(self.is_strict).lower(),
            "RLS_DELETE": "policy" if self.asks_for_deleted else "key",
        }

    def __str__(self) -> str:
        strict = ", RLS_STRICT" if self.is_strict else ""
        deleted = ", RLS_DELETE=policy" if self.asks_for_deleted else ""
        replays = ", replay" if self.replays else ""
        return f"PostgreSQL {self.version}, {self.plugin}{strict}{deleted}{replays}"


SETTINGS: Final = (
    Setting(18),
    Setting(18, replays=True),
    Setting(17, "wal2json", is_strict=True, asks_for_deleted=True),
    Setting(18, is_strict=True, asks_for_deleted=True),
    Setting(17, "wal2json"),
    Setting(17, "wal2json", asks_for_deleted=True, replays=True),
    Setting(17, asks_for_deleted=True),
    Setting(18, is_strict=True),
    Setting(17, asks_for_deleted=True, replays=True),
)
"""Of one world after the other."""


@attrs.frozen
class Stage:
    """What all worlds of a setting share."""

    setting: Setting
    connection: psycopg.Connection
    roles: Roles
    port: int


class Stages:
    """Makes each when the first world is to be played on it.

    Args:
        servers: by version.
        module: what is run as the server.
        environment: more of its variables.
    """

    def __init__(
        self, servers: Mapping[int, Server], module: str, environment: Mapping[str, str]
    ) -> None:
        self._servers = servers
        self._module = module
        self._environment = environment
        self._stack = contextlib.ExitStack()
        self._made: dict[Setting, Stage] = {}

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def of(self, setting: Setting) -> Stage:
        if setting not in self._made:
            stage = _stage(self._servers[setting.version], setting, self._module, self._environment)
            self._made[setting] = self._stack.enter_context(stage)
        return self._made[setting]


@contextlib.contextmanager
def _stage(
    server: Server, setting: Setting, module: str, environment: Mapping[str, str]
) -> Iterator[Stage]:
    database = Database(server, unique_name("fuzz"))
    roles = Roles(
        *(unique_name(name) for name in ("plain", "Mem ber", "str-ange", "by", "own", "ch"))
    )
    user = unique_name("server")
    # Text is ordered by code point, as filters have it.
    server.execute(
        sql.SQL(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING utf8 "
            "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C.UTF-8'"
        ).format(sql.Identifier(database.name))
    )
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.prepare_threshold = None
        execute(
            connection,
            SESSION,
            PREPARE,
            f"CREATE ROLE {user} LOGIN REPLICATION",
            NOBODY,
            f"GRANT realtime_nobody TO {user} WITH INHERIT FALSE, SET TRUE",
        )
        for role in roles.names:
            execute(
                connection,
                f"CREATE ROLE {name_of(role)}",
                f"GRANT {name_of(role)} TO {user} WITH INHERIT FALSE, SET TRUE",
            )
        plain = name_of(roles.plain)
        execute(
            connection,
            f"GRANT {plain} TO {name_of(roles.member)}",
            f"GRANT {plain} TO {name_of(roles.stranger)} WITH INHERIT FALSE",
            f"ALTER ROLE {name_of(roles.bypassing)} BYPASSRLS",
            f"GRANT CREATE ON DATABASE {database.name} TO {user}",
        )
        try:
            dsn = make_conninfo(database.dsn, user=user)
            variables = {**setting.environment, **environment}
            # At the lowest priority all takes long.
            server_process = ServerProcess(dsn, module=module, patience=PATIENCE, **variables)
            with server_process as process:
                process.wait_until_streaming()
                yield Stage(setting, connection, roles, process.port)
        finally:
            connection.close()
            database.drop()
            for role in (user, *roles.names):
                server.execute(f"DROP ROLE {name_of(role)}")


def execute(connection: psycopg.Connection, *statements: str) -> None:
    """Run statements one after the other; an error names its own."""
    for statement in statements:
        try:
            connection.execute(statement.encode())
        except psycopg.Error as error:
            error.add_note(statement[:1000])
            raise


def settings_for(servers: Mapping[int, Server]) -> Sequence[Setting]:
    """Return those that can be had."""
    return [one for one in SETTINGS if one.version in servers and _has_plugin(servers, one)]


def _has_plugin(servers: Mapping[int, Server], setting: Setting) -> bool:
    return setting.plugin == "pgoutput" or servers[setting.version].has_wal2json()
