"""Checks of the server and the role: version, settings, free WAL senders, privileges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import psycopg
from psycopg import AsyncConnection

from ..replication.commands import quote_identifier
from .findings import RELOAD, Finding, listed_names, rows, size

__all__ = ["Server", "check_server", "plugin_not_allowed", "read_server"]

_OLDEST: Final = 140000
_NEWEST_TESTED: Final = 18


@attrs.frozen
class Server:
    """The facts about a server that the checks need."""

    version: int
    """The setting ``server_version_num``."""
    version_text: str
    """The setting ``server_version``."""
    database: str
    """Name of the database."""
    role: str
    """Name of the role that is connected."""
    superuser: bool
    """Whether the role is a superuser."""
    replication: bool
    """Whether the role itself has REPLICATION."""
    wal_level: str
    """The setting ``wal_level``."""
    in_recovery: bool
    """Whether the server is a standby."""
    encoding: str
    """The encoding of the database."""
    output_plugin_libraries: str | None
    """The setting; None if there is no such setting, empty if the role may not see it."""
    max_slot_wal_keep_size: int
    """The setting in megabytes; -1 for no limit."""
    idle_replication_slot_timeout: int
    """The setting in seconds; 0 if it is off, or there is no such setting."""
    max_replication_slots: int
    """The setting ``max_replication_slots``."""
    replication_slots: int
    """How many replication slots there are."""
    max_wal_senders: int
    """The setting ``max_wal_senders``."""
    wal_senders: int
    """How many WAL senders are running."""

    @property
    def free_wal_senders(self) -> int:
        return self.max_wal_senders - self.wal_senders


_QUERY: Final = """
    SELECT current_setting('server_version_num')::int AS version,
           current_setting('server_version') AS version_text,
           current_database() AS database,
           current_user AS role,
           rolsuper AS superuser,
           rolreplication AS replication,
           current_setting('wal_level') AS wal_level,
           pg_is_in_recovery() AS in_recovery,
           current_setting('server_encoding') AS encoding,
           (SELECT setting::int FROM pg_settings
            WHERE name = 'max_slot_wal_keep_size') AS max_slot_wal_keep_size,
           COALESCE((SELECT setting::int FROM pg_settings
            WHERE name = 'idle_replication_slot_timeout'), 0) AS idle_replication_slot_timeout,
           current_setting('max_replication_slots')::int AS max_replication_slots,
           (SELECT count(*) FROM pg_replication_slots) AS replication_slots,
           current_setting('max_wal_senders')::int AS max_wal_senders,
           -- Unlike pg_stat_activity, this has a row for each, whatever the role may see.
           (SELECT count(*) FROM pg_stat_replication) AS wal_senders
    FROM pg_roles WHERE rolname = current_user
"""


async def read_server(connection: AsyncConnection[Any]) -> Server:
    """Ask the server about itself."""
    (row,) = await rows(connection, _QUERY)
    return Server(**row, output_plugin_libraries=await _output_plugin_libraries(connection))


async def _output_plugin_libraries(connection: AsyncConnection[Any]) -> str | None:
    try:
        (row,) = await rows(
            connection, "SELECT current_setting('output_plugin_libraries', true) AS libraries"
        )
    except psycopg.errors.InsufficientPrivilege:
        return ""
    libraries: str | None = row["libraries"]
    return libraries


def check_server(server: Server, *, plugin: str, replication_error: str | None) -> list[Finding]:
    """Check what does not depend on publications and slots.

    Args:
        server: the server.
        plugin: the output plugin to check.
        replication_error: why a replication connection cannot be made; None if it can.
    """
    return [
        _version(server),
        *_standby(server),
        _wal_level(server),
        _role(server, replication_error),
        *_plugin(server, plugin),
        _senders(server),
        _keep_size(server),
        *_idle_timeout(server),
        *_encoding(server),
    ]


def _version(server: Server) -> Finding:
    check, version = "server version", f"PostgreSQL {server.version_text}"
    if server.version < _OLDEST:
        return Finding.problem(check, f"{version} is too old", remedy="use PostgreSQL 14 to 18")
    if server.version // 10000 > _NEWEST_TESTED:
        return Finding.warning(
            check,
            f"{version} is newer than what this version of realtime-core was tested with (14 to "
            f"{_NEWEST_TESTED})",
            remedy="upgrade realtime-core",
        )
    return Finding.ok(check, version)


def _standby(server: Server) -> Iterator[Finding]:
    if not server.in_recovery:
        return
    check = "standby"
    if server.version < 160000:
        yield Finding.problem(
            check,
            f"the server is a standby, and PostgreSQL {server.version_text} decodes only on a "
            "primary",
            remedy="connect to the primary (target_session_attrs=read-write finds it)",
        )
    else:
        yield Finding.warning(
            check,
            "the server is a standby: to create a slot, it waits until its primary writes a "
            "snapshot of its running transactions",
            "SELECT pg_log_standby_snapshot();",
            remedy="run this on the primary while a slot is being created",
        )


def _wal_level(server: Server) -> Finding:
    check, message = "wal_level", f"wal_level is {server.wal_level}"
    if server.wal_level == "logical":
        return Finding.ok(check, message)
    return Finding.problem(
        check,
        f"{message}, logical decoding needs logical",
        "ALTER SYSTEM SET wal_level = logical;",
        remedy="then restart PostgreSQL",
    )


def _role(server: Server, replication_error: str | None) -> Finding:
    check, may = "replication privilege", server.superuser or server.replication
    # Without a free WAL sender the attempt has not shown whether the role may replicate.
    if replication_error is None or (may and server.free_wal_senders <= 0):
        return Finding.ok(check, f"role {server.role} may replicate")
    if may:
        return Finding.problem(
            check,
            f"role {server.role} may replicate, but: {replication_error}",
            remedy="if there is a pooler in between, connect to PostgreSQL itself",
        )
    return Finding.problem(
        check,
        f"role {server.role} may not replicate",
        f"ALTER ROLE {quote_identifier(server.role)} REPLICATION;",
        remedy="a superuser has to run this; a hosted database may have a role of its own to grant",
    )


def _plugin(server: Server, plugin: str) -> Iterator[Finding]:
    check, setting = "output_plugin_libraries", server.output_plugin_libraries
    if setting is None:
        yield Finding.ok(check, "this server allows any output plugin that is installed")
    elif setting:
        names = listed_names(setting)
        if plugin in names:
            yield Finding.ok(check, f"output_plugin_libraries allows {plugin}")
        else:
            yield plugin_not_allowed(f"{setting!r} and does not allow", names, plugin)


def plugin_not_allowed(how: str, names: Sequence[str], plugin: str) -> Finding:
    """Return the finding for an output plugin that the server does not load.

    Args:
        how: the text before the plugin's name.
        names: the libraries that the server loads.
        plugin: the output plugin.
    """
    libraries = ", ".join(map(quote_identifier, [*names, plugin]))
    return Finding.problem(
        "output_plugin_libraries",
        f"output_plugin_libraries is {how} {plugin}",
        f"ALTER SYSTEM SET output_plugin_libraries = {libraries};",
        RELOAD,
    )


def _senders(server: Server) -> Finding:
    check = "free WAL senders"
    free = server.free_wal_senders
    message = f"{max(free, 0)} of {server.max_wal_senders} WAL senders are free"
    if free > 0:
        return Finding.ok(check, message)
    return Finding.problem(
        check,
        message,
        f"ALTER SYSTEM SET max_wal_senders = {server.max_wal_senders + 10};",
        "SELECT pid, application_name, client_addr FROM pg_stat_replication;",
        remedy="restart PostgreSQL after the first, or stop a consumer that the second one shows",
    )


def _keep_size(server: Server) -> Finding:
    check, limit = "max_slot_wal_keep_size", server.max_slot_wal_keep_size
    if limit >= 0:
        kept = size(limit * 1024**2)
        return Finding.ok(
            check, f"a slot keeps {kept} of WAL at most; one that falls further behind is lost"
        )
    return Finding.warning(
        check,
        "max_slot_wal_keep_size is -1: a slot that no consumer reads keeps WAL until the disk is "
        "full",
        "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB';",
        RELOAD,
        remedy="choose a size that the disk has room for",
    )


def _idle_timeout(server: Server) -> Iterator[Finding]:
    if server.idle_replication_slot_timeout:
        yield Finding.warning(
            "idle_replication_slot_timeout",
            f"a slot that no consumer reads for {server.idle_replication_slot_timeout} s is lost",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0;",
            RELOAD,
            remedy="do this if a consumer may stand still for longer",
        )


def _encoding(server: Server) -> Iterator[Finding]:
    if server.encoding == "SQL_ASCII":
        yield Finding.warning(
            "server_encoding",
            f"database {server.database} has encoding SQL_ASCII, which takes any bytes: the first "
            "published text that is not UTF-8 stops the stream for good, as PostgreSQL cannot "
            "send it, and comes to it again after each reconnect",
            remedy="move to a database with encoding UTF8: pg_dump --encoding=UTF8 fails at the "
            "first text to correct; to skip such text, and every change before "
            "pg_current_wal_lsn(), use pg_replication_slot_advance()",
        )
