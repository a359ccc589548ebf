"""Diagnosis: runs all checks on one connection, and tries replication on another one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import psycopg
from psycopg import AsyncConnection

from ..errors import ConfigError, SourceError
from ..replication.commands import check_slot_name
from ..sources._dsn import parse_dsn
from ..sources._sessions import ReplicationSession, plain_connection
from .findings import Finding, Severity
from .publications import check_publications, check_replica_identities
from .server import check_server, plugin_not_allowed, read_server
from .slots import check_slots

__all__ = ["Diagnosis", "diagnose"]


@attrs.frozen
class Diagnosis:
    """What :func:`diagnose` has found."""

    findings: tuple[Finding, ...]
    """One for each check that was made."""
    database: str | None
    """Name of the database; None if it could not be connected to."""
    server_version: str | None

    def count(self, severity: Severity) -> int:
        """Return how many findings there are of one severity."""
        return sum(finding.severity is severity for finding in self.findings)

    def lines(self) -> Iterator[str]:
        """Yield the lines of a report: the findings with statements to copy, and the conclusion."""
        for finding in self.findings:
            yield from finding.lines()
        yield ""
        problems, warnings = (self.count(each) for each in (Severity.PROBLEM, Severity.WARNING))
        if not problems:
            yield f"Nothing blocks replication; {_counted(warnings, 'warning')}."
        else:
            yield f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}."


async def diagnose(
    dsn: str,
    *,
    publications: Sequence[str],
    slot: str | None,
    plugin: str,
    persistent: bool = False,
    setting_names: Mapping[str, str] | None = None,
) -> Diagnosis:
    """Find out what blocks a source with these settings.

    Nothing is changed. If there is no other way to know whether the server loads the output
    plugin, a temporary slot is created and dropped.

    Args:
        dsn: a libpq connection string or URI.
        publications: names of the publications to check; empty for all of the database.
        slot: name of the permanent slot to check; None if the source uses a temporary one.
        plugin: the output plugin.
        persistent: whether the source is persistent, so that it waits for a slot in use.
        setting_names: the names of the application's own settings, as in
            :attr:`StreamOptions.setting_names`.

    Raises:
        ConfigError: if the arguments cannot work.
        SourceError: if the connection breaks.
    """
    _check_arguments(dsn, slot)
    connected = False
    try:
        async with plain_connection(dsn, slot or "", names=setting_names) as connection:
            connected = True
            # With this search path names of tables come with their schema, and no function of a
            # user goes before one of PostgreSQL's.
            await connection.execute("SET search_path TO pg_catalog, pg_temp")
            return await _diagnose(
                connection, dsn, publications, slot, plugin, persistent, setting_names or {}
            )
    except SourceError as exc:
        if connected:
            raise
        return Diagnosis((Finding.problem("connection", str(exc)),), None, None)


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _check_arguments(dsn: str, slot: str | None) -> None:
    problems = []
    try:
        parse_dsn(dsn)
    except ValueError as exc:
        problems.append(str(exc))
    if slot is not None:
        try:
            check_slot_name(slot)
        except ValueError as exc:
            problems.append(f"slot {exc}")
    if problems:
        raise ConfigError(problems)


async def _diagnose(
    connection: AsyncConnection[Any],
    dsn: str,
    publications: Sequence[str],
    slot: str | None,
    plugin: str,
    persistent: bool,
    setting_names: Mapping[str, str],
) -> Diagnosis:
    server = await read_server(connection)
    error = await _replication_error(dsn)
    findings = check_server(server, plugin=plugin, replication_error=error)
    findings += await check_slots(
        connection,
        server,
        slot=slot,
        plugin=plugin,
        persistent=persistent,
        names=setting_names,
    )
    names: Sequence[str] | None = None
    if plugin == "pgoutput":
        found, names = await check_publications(
            connection, publications, version=server.version, database=server.database
        )
        findings += found
    findings += await check_replica_identities(connection, names, version=server.version)
    # wal2json may not be installed. An empty setting is one that the role may not see.
    unknown = plugin == "wal2json" or server.output_plugin_libraries == ""
    if unknown and not any(each.severity is Severity.PROBLEM for each in findings):
        findings.append(await _try_plugin(connection, plugin))
    return Diagnosis(tuple(findings), server.database, server.version_text)


async def _replication_error(dsn: str) -> str | None:
    """Return why no replication connection can be made, None if one can."""
    try:
        connection = await ReplicationSession.connect(dsn, "doctor")
    except SourceError as exc:
        return str(exc)
    try:
        await connection.identify_system()
    except SourceError as exc:
        return str(exc)
    finally:
        connection.close()
    return None


async def _try_plugin(connection: AsyncConnection[Any], plugin: str) -> Finding:
    check, slot = "output plugin", f"realtime_doctor_{secrets.token_hex(8)}"
    try:
        await connection.execute("SELECT set_config('statement_timeout', '5s', false)")
        await connection.execute(
            "SELECT pg_create_logical_replication_slot(%s, %s, true)", (slot, plugin)
        )
        await connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
    except psycopg.errors.InsufficientPrivilege:
        # The role may not see which libraries the setting lists.
        return plugin_not_allowed("set and does not allow", ["pgoutput", "test_decoding"], plugin)
    except psycopg.errors.UndefinedFile:
        return Finding.problem(
            check,
            f"the output plugin {plugin} is not installed on the server",
            remedy=f"install its package there (on Debian: postgresql-<version>-{plugin})",
        )
    except psycopg.errors.QueryCanceled:
        # The plugin was loaded: the slot only waits for transactions to end.
        pass
    return Finding.ok(check, f"the server loads the output plugin {plugin}")
