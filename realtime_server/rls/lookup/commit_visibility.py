"""Waits until what transactions have committed is visible to other sessions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any, Final

from psycopg import AsyncConnection

from ...config.database.snapshots import current_snapshot

__all__ = ["until_settled"]

logger = logging.getLogger("realtime.rls")

_PAUSES: Final = (0.001, 0.1)
"""The fewest and the most seconds between two looks at the snapshot. Most often the transaction's
session is just about to end it."""
_PATIENCE: Final = 5.0
"""After how many seconds it is logged what this waits for."""
_REMINDER: Final = 60.0
"""After how many seconds it is logged again."""


async def until_settled(connection: AsyncConnection[Any], xids: Collection[int]) -> None:
    """Wait until the changes of transactions are visible to other sessions.

    If PostgreSQL waits for a synchronous standby, this takes until the standby has answered.

    Args:
        connection: a connection in autocommit mode.
        xids: the lower 32 bits of the transactions' ids.

    Raises:
        psycopg.Error: if a query fails.
    """
    loop = asyncio.get_running_loop()
    mention_at = loop.time() + _PATIENCE
    pause, most = _PAUSES
    while True:
        snapshot = await current_snapshot(connection)
        left = [xid for xid in xids if not snapshot.is_over(xid)]
        if not left:
            return
        if loop.time() >= mention_at:
            mention_at = loop.time() + _REMINDER
            cursor = await connection.execute("SHOW synchronous_standby_names")
            [[standbys]] = await cursor.fetchall()
            logger.warning(
                "changes wait for transaction %d, which is committed and not visible yet: "
                "PostgreSQL waits for a synchronous standby (synchronous_standby_names is %r); "
                "SELECT application_name, state, sync_state FROM pg_stat_replication shows which "
                "there are",
                left[0],
                standbys,
            )
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, most)
