"""What ``--check`` finds about slots other than that of the main stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from realtime_core import Diagnosis, Finding, diagnose

from .. import SETTING_NAMES, ServerConfig
from .connections import connect

__all__ = ["findings_of_slot", "missing_slots"]

_SLOTS: Final = """
    SELECT pg_catalog.current_setting('max_replication_slots')::pg_catalog.int4,
        COALESCE(pg_catalog.json_agg(slot_name), '[]')
    FROM pg_catalog.pg_replication_slots
"""

_CHECKS: Final = ("slot", "free replication slots", "long transactions")
"""The checks that may find something else for another slot."""


async def findings_of_slot(
    config: ServerConfig,
    dsn: str,
    slot: str | None,
    diagnosis: Diagnosis,
    *,
    plugin: str,
    setting_names: Mapping[str, str] = SETTING_NAMES,
) -> tuple[Finding, ...]:
    """Check another slot; return the findings that the main stream's slot does not have.

    Args:
        config: the server's settings.
        dsn: the connection string, with the server's role.
        slot: the slot's name; None for a temporary one.
        diagnosis: the findings for the main stream's slot.
        plugin: the output plugin of the slot.
        setting_names: what findings call the settings, as in StreamOptions.

    Raises:
        SourceError: if the connection breaks.
    """
    found = await diagnose(
        dsn,
        publications=config.publications,
        slot=slot,
        plugin=plugin,
        persistent=True,
        setting_names=setting_names,
    )
    return tuple(
        finding
        for finding in found.findings
        if finding.check in _CHECKS and finding not in diagnosis.findings
    )


async def missing_slots(config: ServerConfig, dsn: str) -> tuple[Finding, ...]:
    """Return a problem if fewer slots are free than the server has to make.

    That none is free is found for each slot by itself.

    Args:
        config: the server's settings.
        dsn: the connection string, with the server's role.

    Raises:
        SourceError: if the connection cannot be opened.
    """
    async with await connect(dsn, name="check") as connection:
        cursor = await connection.execute(_SLOTS)
        row = await cursor.fetchone()
    assert row is not None
    most, there = row
    wanted = [None if config.temporary_slot else config.slot_name]
    if config.replay_slot is not None:
        wanted.append(config.replay_slot)
    if config.configuration_file.webhooks:
        wanted.append(config.webhook_slot)
    missing = [name or "a temporary one" for name in wanted if name is None or name not in there]
    free = most - len(there)
    if not 0 < free < len(missing):
        return ()
    names = f"{', '.join(missing[:-1])} and {missing[-1]}"
    needed = most + len(missing) - free
    return (
        Finding.problem(
            "free replication slots",
            f"{len(missing)} replication slots are to be made, {names}, and "
            f"{free} {'is' if free == 1 else 'are'} free",
            f"ALTER SYSTEM SET max_replication_slots = {needed};",
            remedy="restart PostgreSQL after this, or drop a slot that nobody needs"
            + ("; without replay over restarts, REPLAY_WAL_MB=0" if config.replay_slot else ""),
        ),
    )
