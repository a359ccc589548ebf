"""Janitor: keeps the partitions of ``realtime.messages`` while the server runs.

It opens a connection for each look at them. What fails is tried again and said in the log; until it
works, messages go into the default partition, and are broadcast from there as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import psycopg

from realtime_core.errors import SourceError
from realtime_core.sources.failures import one_line

from ..config.database.connections import Dsn, connect
from .partitions import keep_partitions

__all__ = ["keep_messages"]

logger = logging.getLogger("realtime.messages")

_INTERVAL: Final = 3600.0
"""Seconds from one look to the next."""
_RETRY: Final = 60.0
"""Seconds until another one after a failure, or while another server is at it."""


async def keep_messages(
    dsn: Dsn,
    attached: Callable[[], Awaitable[None]],
    *,
    interval: float = _INTERVAL,
    retry: float = _RETRY,
) -> None:
    """Make and drop partitions in time, for ever.

    Args:
        dsn: returns the connection string, with the server's role.
        attached: waits until the server reads the database's changes: until then the table may not
            have been made.
        interval: seconds from one look to the next.
        retry: seconds until another one after a failure.

    Raises:
        RealtimeError: if the stream of changes cannot go on.
    """
    await attached()
    was_said = ""
    while True:
        failed = await _look(dsn)
        if failed and failed != was_said:
            logger.warning(
                "partitions of realtime.messages are left for later, and messages go into "
                "realtime.messages_default: %s",
                failed,
            )
        was_said = failed or ""
        await asyncio.sleep(interval if failed == "" else retry)


async def _look(dsn: Dsn) -> str | None:
    """Look at the partitions once; return what failed, or None while another server is at it."""
    try:
        async with await connect(await dsn(), name="messages") as connection:
            upkeep = await keep_partitions(connection, datetime.now(UTC))
    except (SourceError, psycopg.Error) as exc:
        return one_line(exc)
    except Exception:
        logger.exception(
            "partitions of realtime.messages cannot be kept "
            "(a bug in realtime_server: please report it)"
        )
        return "see the error above"
    if upkeep is None:
        return None
    for kind, names in (("made", upkeep.made), ("dropped", upkeep.dropped)):
        if names:
            logger.info("%s partitions of realtime.messages: %s", kind, ", ".join(names))
    return "; ".join(upkeep.failed)
