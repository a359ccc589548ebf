"""The second slot of replay, as ``--check`` finds it, and one that was left over."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from realtime_core import Diagnosis, Finding, SlotStatus, diagnose, slot_status
from realtime_core.errors import RealtimeError

from ..config import SETTING_NAMES, ServerConfig
from ..config.database.addresses import resolve_dsn

__all__ = ["replay_findings", "warn_of_leftover"]

logger = logging.getLogger("realtime.replay")

_CHECK: Final = "replay"
_OF_SLOTS: Final = ("slot", "free replication slots")
"""Findings that may be others for the second slot."""


async def replay_findings(
    config: ServerConfig, dsn: str, diagnosis: Diagnosis
) -> tuple[Finding, ...]:
    """Look at the second slot; change nothing.

    Args:
        config: the server's settings.
        dsn: where to connect, with the server's role.
        diagnosis: the findings of earlier checks.

    Raises:
        SourceError: if the connection breaks.
    """
    if diagnosis.database is None:
        return ()
    slot = config.replay_slot
    if slot is None:
        status = await _leftover(config, dsn)
        if status is None:
            return ()
        return (
            Finding.warning(
                _CHECK,
                f"slot {status.name!r} is left over from replay, which has none with these "
                "settings, and keeps WAL",
                _drop(status.name),
            ),
        )
    status = await slot_status(dsn, slot)
    if status is not None and status.is_lost:
        return (
            Finding.warning(
                _CHECK, f"slot {slot!r} of replay is lost; the server makes it anew when it starts"
            ),
        )
    again = await diagnose(
        dsn,
        publications=config.publications,
        slot=slot,
        plugin=config.output_plugin.value,
        persistent=True,
        setting_names=SETTING_NAMES,
    )
    return tuple(
        finding
        for finding in again.findings
        if finding.check in _OF_SLOTS and finding not in diagnosis.findings
    )


async def warn_of_leftover(config: ServerConfig, attached: Callable[[], Awaitable[None]]) -> None:
    """Say in the log that there is a second slot which nobody needs any more.

    Args:
        config: the server's settings.
        attached: waits until the server reads changes.
    """
    try:
        await attached()
        status = await _leftover(config, await resolve_dsn(config))
    except (RealtimeError, RuntimeError):
        # The stream says what is wrong, or the server ends.
        return
    if status is not None:
        logger.warning(
            "slot %r is left over from replay, which has none with these settings, and keeps WAL; "
            "drop it: %s",
            status.name,
            _drop(status.name),
        )


async def _leftover(config: ServerConfig, dsn: str) -> SlotStatus | None:
    """Return the second slot if there is one, and these settings have none."""
    if config.slot_name is None or config.replay_slot is not None:
        return None
    return await slot_status(dsn, f"{config.slot_name}_replay")


def _drop(name: str) -> str:
    return f"SELECT pg_drop_replication_slot('{name}');"
