"""LagGuard: checks how much WAL the slot retains, while the stream runs.

The stream itself does not tell, because a walsender reports how far it has decoded, and not how
far the server has written. So the guard asks by SQL, on a connection that it opens for each check.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..errors import SourceError
from . import catalog
from ._side_task import SideTask
from .catalog import SlotStatus
from .stream_options import StreamSettings

__all__ = ["LagGuard"]

logger = logging.getLogger("realtime.source")


class LagGuard(SideTask):
    """Checks a source's slot every ``lag_interval`` seconds.

    Args:
        settings: the source's settings, with ``max_lag_bytes`` set.
        slot: returns the name of the slot in use now, None while there is none.
        restart: called when the slot has to be recreated.
    """

    def __init__(
        self, settings: StreamSettings, slot: Callable[[], str | None], restart: Callable[[], None]
    ) -> None:
        super().__init__(settings.dsn, settings.lag_interval)
        self._settings = settings
        self._slot = slot
        self._restart = restart
        self._warned = False
        # Whether the last check found the consumer too far behind.
        self._behind = False

    async def _turn(self) -> None:
        name = self._slot()
        if name is None:
            return
        try:
            async with self._connected(name) as connection:
                status = await catalog.slot(connection, name)
        except SourceError as exc:
            # If the server is gone, the stream notices it, too.
            if not self._is_closed:
                logger.info("cannot check the lag of slot %r: %s", name, exc)
        except Exception:
            # A function that returns the DSN may raise anything.
            logger.exception("cannot check the lag of slot %r", name)
        else:
            if status is not None and name == self._slot():
                self._judge(status)

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
                # The consumer may be about to read what was just written: check once more.
                return
            self._behind = False
            logger.error(
                "slot %r retains %d bytes of WAL, max_lag_bytes is %d: it is recreated", *facts
            )
            self._restart()
        elif not self._warned:
            self._warned = True
            logger.warning(
                "slot %r retains %d bytes of WAL, max_lag_bytes is %d: the consumer does not keep "
                "up, or a transaction has been open for long",
                *facts,
            )
