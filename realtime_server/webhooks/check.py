"""The findings of ``--check`` about problems that would stop webhooks."""

from __future__ import annotations

from collections.abc import AsyncIterator

from realtime_core import ConfigError, Diagnosis, Finding, slot_status

from ..config import SETTING_NAMES, ServerConfig
from ..config.database.other_slots_check import findings_of_slot
from .client import Client
from .service import open_dead_letters

__all__ = ["webhook_findings"]


async def webhook_findings(
    config: ServerConfig, dsn: str, diagnosis: Diagnosis
) -> tuple[Finding, ...]:
    """Check what webhooks need besides the main stream, for ``--check``; change nothing.

    Args:
        config: the server's settings.
        dsn: where to connect, with the server's role.
        diagnosis: the findings of earlier checks.

    Raises:
        SourceError: if the connection breaks.
    """
    slot = config.webhook_slot
    if not config.configuration_file.webhooks:
        if slot is None or diagnosis.database is None or await slot_status(dsn, slot) is None:
            return ()
        return (
            Finding.warning(
                "webhooks",
                f"slot {slot!r} of the webhooks is there, there are none, and it keeps WAL",
                f"SELECT pg_drop_replication_slot('{slot}');",
            ),
        )
    found = [Finding.problem("webhooks", problem) async for problem in _problems(config)]
    if diagnosis.database is not None:
        names = {**SETTING_NAMES, "slot": "WEBHOOK_SLOT_NAME"}
        found += await findings_of_slot(
            config, dsn, slot, diagnosis, plugin="pgoutput", setting_names=names
        )
    return tuple(found)


async def _problems(config: ServerConfig) -> AsyncIterator[str]:
    try:
        async with Client(config):
            pass
        open_dead_letters(config)
    except ConfigError as exc:
        for problem in exc.problems:
            yield problem
