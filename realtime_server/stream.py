"""StreamMode: the parts of STREAM mode, put together."""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Self

from realtime_core import PgoutputSource, SourceStats
from realtime_core.filters import EnumOrders

from .addresses import resolve_dsn
from .broadcaster import broadcast
from .catalog.wishes import check_wish, possible, wishes_of
from .config import SETTING_NAMES, ServerConfig
from .grants import Grant
from .hub import Hub
from .metrics import Metrics
from .phoenix.joins import Binding
from .registrar import Nobody, Registered
from .topics import Topic

__all__ = ["StreamMode"]


class StreamMode(Nobody):
    """Reads changes with pgoutput, and shows them to everybody who may join.

    Args:
        config: of the server.
    """

    def __init__(self, config: ServerConfig) -> None:
        max_lag = config.max_replication_lag_mb * 1_000_000
        self._source = PgoutputSource(
            partial(resolve_dsn, config),
            publications=config.publications,
            slot=config.slot_name,
            temporary=config.temporary_slot,
            boundaries=True,
            on_gap="continue",
            persistent=True,
            # Nobody said that the slot may be dropped, unless there is a bound.
            max_lag_bytes=max_lag or None,
            on_lag="gap" if max_lag else "warn",
            replace_slot=bool(max_lag),
            backoff=(
                config.db_reconnect_backoff_min / 1000,
                config.db_reconnect_backoff_max / 1000,
            ),
            setting_names=SETTING_NAMES,
        )

    async def __aenter__(self) -> Self:
        """It attaches in the background."""
        await self._source.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._source.aclose()

    @property
    def enum_orders(self) -> EnumOrders:
        """Labels of enums in their declared order, by schema and name, for filters."""
        return self._source.enum_orders

    def stats(self) -> SourceStats:
        """Return where the stream stands."""
        return self._source.stats()

    async def attached(self) -> None:
        """Wait until the stream runs.

        Raises:
            RealtimeError: if it cannot go on.
            RuntimeError: if it was closed.
        """
        await self._source.attached()

    async def register(
        self, topic: Topic, bindings: tuple[Binding, ...] | None, grant: Grant
    ) -> Registered:
        for ways in wishes_of(topic, bindings):
            possible(ways, check_wish)
        return await super().register(topic, bindings, grant)

    async def run(self, hub: Hub, metrics: Metrics) -> None:
        """Hand changes to the hub's subscriptions until the stream ends.

        Raises:
            DecodeError: if the database sends what cannot be decoded.
        """
        await broadcast(self._source, hub, metrics)
