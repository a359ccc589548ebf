"""The findings of ``--check`` about a slot besides that of the main stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from realtime_core import Diagnosis, Finding, diagnose

from .. import SETTING_NAMES, ServerConfig

__all__ = ["findings_of_slot"]

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
    """Return what is found for another slot, and was not found for the main stream's.

    Args:
        config: the server's settings.
        dsn: the connection string, with the server's role.
        slot: the slot's name; None for a temporary one.
        diagnosis: the findings for the main stream's slot.
        plugin: the output plugin of the slot.
        setting_names: the names of settings as findings have them.

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
