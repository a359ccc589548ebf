"""LagGuard: looks at how much WAL the slot retains, while the stream runs.

The stream does not tell: a walsender knows how far it has decoded, not how far the server has
written. So the guard asks by SQL, on a connection of its own that it opens for each look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..errors import SourceError
from . import catalog
from ._sessions import plain_connection
from .catalog import SlotStatus
from .options import StreamSettings

__all__ = ["LagGuard"]

logger = logging.getLogger("realtime.source")


class LagGuard:
    """Watches a source's slot.

    Args:
        settings: with ``max_lag_bytes`` set.
        slot: the name of the slot in use now, None while there is none.
        restart: called when the slot shall be made anew.
    """

    def __init__(
        self, settings: StreamSettings, slot: Callable[[], str | None], restart: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._slot = slot
        self._restart = restart
        self._warned = False
        # Whether the last look found the consumer behind.
        self._behind = False

    async def run(self) -> None:
        """Look at the slot again and again."""
        while True:
            name = self._slot()
            if name is not None:
                try:
                    async with plain_connection(self._settings.dsn, name) as connection:
                        status = await catalog.slot(connection, name)
                except SourceError as exc:
                    # The stream finds out by itself whether the server is gone.
                    logger.info("cannot look at the lag of slot %r: %s", name, exc)
                except Exception:
                    # A function that is asked for the DSN may raise anything, and nobody waits
                    # for this task: it would guard no more, without a word.
                    logger.exception("cannot look at the lag of slot %r", name)
                else:
                    if status is not None and name == self._slot():
                        self._judge(status)
            await asyncio.sleep(self._settings.lag_interval)

    def _judge(self, status: SlotStatus) -> None:
        limit = self._settings.max_lag_bytes
        retained = status.retained_bytes or 0
        was_behind = self._behind
        self._behind = limit is not None and status.exceeds(limit)
        if limit is None or retained <= limit:
            self._warned = False
            return
        facts = (status.name, retained, limit)
        if self._settings.on_lag == "gap" and self._behind:
            if not was_behind:
                # It may be about to read what has just been written: look once more.
                return
            self._behind = False
            logger.error(
                "slot %r retains %d bytes of WAL, max_lag_bytes is %d: it is made anew", *facts
            )
            self._restart()
        elif not self._warned:
            self._warned = True
            logger.warning(
                "slot %r retains %d bytes of WAL, max_lag_bytes is %d: the consumer does not keep "
                "up, or a transaction has been open for long",
                *facts,
            )
