"""Heartbeat: writes a logical message now and then, so that a slot goes on while nothing else does.

Source: ``pg_logical_emit_message``, in "Replication Management Functions" in the PostgreSQL
documentation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from psycopg import AsyncConnection

from ..errors import SourceError
from ._sessions import break_off, plain_connection
from .stream_options import StreamSettings

__all__ = ["HEARTBEAT_PREFIX", "Heartbeat"]

logger = logging.getLogger("realtime.source")

HEARTBEAT_PREFIX: Final = "realtime_core.heartbeat"
"""The prefix of the messages, whose content is the name of the slot."""

_SILENT: Final = 10.0
"""Seconds after which a server that does not answer is given up."""

# A message in no transaction: it needs no transaction ID, and no commit.
_WRITE: Final = """
    SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery()
        THEN pg_catalog.pg_logical_emit_message(false, %s, %s::pg_catalog.text) END
"""


class Heartbeat:
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
        self._settings = settings
        self._slot = slot
        self._transactions = transactions
        # What was logged last; None if messages can be written.
        self._trouble: str | None = None
        # Writes messages; None before :meth:`start`.
        self._task: asyncio.Task[None] | None = None
        # What a message is being written on.
        self._connection: AsyncConnection[Any] | None = None
        self._is_closed = False

    def start(self) -> None:
        """Begin to write messages."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Write no more messages. A server that does not answer is not waited for."""
        self._is_closed = True
        if self._task is None:
            return
        if self._connection is None:
            self._task.cancel()
        else:
            # psycopg would wait for the server to answer a cancellation, too.
            break_off(self._connection.pgconn)
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        assert self._settings.heartbeat_interval is not None
        seen = -1
        while True:
            slot, transactions = self._slot(), self._transactions()
            if slot is not None and transactions == seen:
                await self._write(slot)
            if self._is_closed:
                return
            seen = transactions
            await asyncio.sleep(self._settings.heartbeat_interval)

    async def _write(self, slot: str) -> None:
        trouble = None
        try:
            async with plain_connection(self._settings.dsn, slot) as connection:
                if not await self._written(connection, slot):
                    trouble = (
                        "the server is a standby, which writes nothing: leave "
                        "heartbeat_interval out, and have the primary written to now and then"
                    )
        except SourceError as exc:
            trouble = str(exc)
        except Exception:
            # A function that returns the DSN may raise anything, and nobody awaits this task.
            logger.exception("cannot write a heartbeat for slot %r", slot)
            return
        if trouble is not None and trouble != self._trouble and not self._is_closed:
            logger.warning("cannot write a heartbeat for slot %r: %s", slot, trouble)
        self._trouble = trouble

    async def _written(self, connection: AsyncConnection[Any], slot: str) -> bool:
        """Write a message; return whether the server writes at all."""
        self._connection = connection
        loop = asyncio.get_running_loop()
        timer = loop.call_later(_SILENT, break_off, connection.pgconn)
        try:
            written = await connection.execute(_WRITE, (HEARTBEAT_PREFIX, slot))
            return (await written.fetchone()) != (None,)
        finally:
            timer.cancel()
            self._connection = None
