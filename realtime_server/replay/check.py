"""What ``--check`` finds about the second slot of replay, and about slots that were left over."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from realtime_core import Diagnosis, Finding, slot_status
from realtime_core.errors import RealtimeError

from ..config import ServerConfig
from ..config.database.addresses import resolve_dsn
from ..config.database.other_slots_check import findings_of_slot
from .second_slot import SUFFIX, slots_left_over

__all__ = ["replay_findings", "warn_of_leftovers"]

logger = logging.getLogger("realtime.replay")

_CHECK: Final = "replay"


async def replay_findings(
    config: ServerConfig, dsn: str, diagnosis: Diagnosis
) -> tuple[Finding, ...]:
    """Report problems with replay's second replication slot, for ``--check``; change nothing.

    Slots that are left over from former settings, and keep WAL, are reported, too.

    Args:
        config: the server's settings.
        dsn: where to connect, with the server's role.
        diagnosis: the findings of earlier checks.

    Raises:
        SourceError: if the connection breaks.
    """
    if diagnosis.database is None:
        return ()
    found = [
        Finding.warning(
            _CHECK, f"slot {name!r} is left over from replay, {why}, and keeps WAL", _drop(name)
        )
        for name, why in await _leftovers(config, dsn)
    ]
    slot = config.replay_slot
    if slot is None:
        return tuple(found)
    status = await slot_status(dsn, slot)
    if status is not None and status.is_lost:
        said = f"slot {slot!r} of replay is lost; the server makes it anew when it starts"
        return (*found, Finding.warning(_CHECK, said))
    found += await findings_of_slot(config, dsn, slot, diagnosis, plugin=config.output_plugin.value)
    return tuple(found)


async def warn_of_leftovers(config: ServerConfig, attached: Callable[[], Awaitable[None]]) -> None:
    """Log a warning for each second slot that no server uses any more, and that still keeps WAL.

    Args:
        config: the server's settings.
        attached: waits until the server reads changes.
    """
    try:
        await attached()
        leftovers = await _leftovers(config, await resolve_dsn(config))
    except (RealtimeError, RuntimeError):
        # The stream says what is wrong, or the server ends.
        return
    for name, why in leftovers:
        logger.warning(
            "slot %r is left over from replay, %s, and keeps WAL; drop it: %s",
            name,
            why,
            _drop(name),
        )


async def _leftovers(config: ServerConfig, dsn: str) -> list[tuple[str, str]]:
    """Return the second slots that nobody needs any more, each with the reason."""
    found = [
        (name, f"whose slot {name.removesuffix(SUFFIX)!r} is not there any more")
        for name in await slots_left_over(dsn)
        if name != config.replay_slot
    ]
    if config.slot_name is not None and config.replay_slot is None:
        own = f"{config.slot_name}{SUFFIX}"
        known = [name for name, _ in found]
        if own not in known and await slot_status(dsn, own) is not None:
            found.append((own, "which needs no slot with these settings"))
    return found


def _drop(name: str) -> str:
    return f"SELECT pg_drop_replication_slot('{name}');"
