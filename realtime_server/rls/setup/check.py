"""The findings of ``--check`` about RLS mode, besides those about any stream."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import AsyncConnection

from realtime_core import Finding
from realtime_core.errors import SourceError
from realtime_core.sources.failures import connection_failed

from ...config import SETTING_NAMES, OutputPlugin
from ...config.database.connections import connect
from ...config.database.publications import check_for_wal2json
from .exposure import exposure_findings
from .migrations import pending, why_not
from .powers import excess_powers
from .privileges import missing_privileges

__all__ = ["rls_findings"]


async def rls_findings(
    dsn: str, publications: Sequence[str], plugin: OutputPlugin
) -> tuple[Finding, ...]:
    """Check the schema ``realtime``, policies and privileges, for ``--check``; change nothing.

    Args:
        dsn: the connection string, with the server's role.
        publications: the names of the publications; the roles that may read their tables are
            expected as roles of tokens.
        plugin: the output plugin that the changes come from.

    Raises:
        SourceError: if the database cannot be queried.
    """
    try:
        async with await connect(dsn, name="check") as connection:
            findings = [await _schema(connection)]
            if plugin is OutputPlugin.WAL2JSON:
                findings.append(await _publications(connection, publications))
            exposed = await exposure_findings(connection, publications)
            missing = await missing_privileges(connection, publications)
            excess = await excess_powers(connection, publications)
    except psycopg.Error as exc:
        raise connection_failed(exc, SETTING_NAMES) from exc
    if missing.own:
        findings.append(
            Finding.problem("privileges", "the server's role lacks privileges", *missing.own)
        )
    if missing.roles:
        findings.append(
            Finding.warning(
                "roles",
                "the server's role may not act as roles that can read published tables: joins "
                "with their tokens are refused",
                *missing.roles,
            )
        )
    if missing.nobody:
        findings.append(
            Finding.warning(
                "types",
                "values of composite types and the like are sent as text, and filters on them, on "
                "domains, and on enums for which somebody has made operators or casts are refused: "
                "the code of types' owners runs as the role realtime_nobody, which lacks this",
                *missing.nobody,
                remedy="and run `python -m realtime_server migrate`",
            )
        )
    if excess is not None:
        findings.append(Finding.warning("role", excess.message, *excess.sql))
    if not missing.every:
        findings.append(Finding.ok("privileges", "the server's role has the privileges it needs"))
    return (*findings, *exposed)


async def _publications(
    connection: AsyncConnection[tuple[object, ...]], names: Sequence[str]
) -> Finding:
    try:
        await check_for_wal2json(connection, names)
    except SourceError as exc:
        return Finding.problem("publication", str(exc))
    return Finding.ok(
        "publication", f"{', '.join(map(repr, names))} can be applied to wal2json's changes"
    )


async def _schema(connection: AsyncConnection[tuple[object, ...]]) -> Finding:
    try:
        left = await pending(connection)
    except SourceError as exc:
        return Finding.problem("schema", str(exc))
    if not left:
        return Finding.ok("schema", "the schema realtime is up to date")
    if (reason := await why_not(connection)) is not None:
        return Finding.problem("schema", reason)
    return Finding.ok(
        "schema",
        f"the server brings the schema realtime up to date when it starts: "
        f"{', '.join(map(str, left))}",
    )
