"""Heartbeat: writes a logical message now and then, so that a slot goes on while nothing else does.

Source: ``pg_logical_emit_message``, in "Replication Management Functions" in the PostgreSQL
documentation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from psycopg import AsyncConnection

from ..errors import SourceError
from ._side_task import SideTask
from .stream_options import StreamSettings

__all__ = ["HEARTBEAT_PREFIX", "Heartbeat"]

logger = logging.getLogger("realtime.source")

HEARTBEAT_PREFIX: Final = "realtime_core.heartbeat"
"""The prefix of the messages, whose content is the name of the slot."""

# A message in no transaction: it needs no transaction ID, and no commit.
_WRITE: Final = """
    SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery()
        THEN pg_catalog.pg_logical_emit_message(false, %s, %s::pg_catalog.text) END
"""


class Heartbeat(SideTask):
    """Writes a message every ``heartbeat_interval`` seconds in which no transaction has come.

    Args:
        settings: the source's settings, with ``heartbeat_interval`` set.
        slot: returns the name of the slot in use now, None while there is none.
        transactions: returns how many transactions with changes have come.
    """

    def __init__(
        self,
        settings: StreamSettings,
        slot: Callable[[], str | None],
        transactions: Callable[[], int],
    ) -> None:
        assert settings.heartbeat_interval is not None
        super().__init__(settings.dsn, settings.heartbeat_interval)
        self._slot = slot
        self._transactions = transactions
        # How many had come at the last turn.
        self._seen = -1
        # What was logged last; None if messages can be written.
        self._trouble: str | None = None

    async def _turn(self) -> None:
        slot, transactions = self._slot(), self._transactions()
        if slot is not None and transactions == self._seen:
            await self._write(slot)
        self._seen = transactions

    async def _write(self, slot: str) -> None:
        trouble = None
        try:
            async with self._connected(slot) as connection:
                if not await _written(connection, slot):
                    trouble = (
                        "the server is a standby, which writes nothing: leave "
                        "heartbeat_interval out, and have the primary written to now and then"
                    )
        except SourceError as exc:
            trouble = str(exc)
        except Exception:
            # A function that returns the DSN may raise anything.
            logger.exception("cannot write a heartbeat for slot %r", slot)
            return
        if trouble is not None and trouble != self._trouble and not self._is_closed:
            logger.warning("cannot write a heartbeat for slot %r: %s", slot, trouble)
        self._trouble = trouble


async def _written(connection: AsyncConnection[Any], slot: str) -> bool:
    """Write a message; return whether the server writes at all."""
    written = await connection.execute(_WRITE, (HEARTBEAT_PREFIX, slot))
    return (await written.fetchone()) != (None,)
