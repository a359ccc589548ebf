"""StreamMode: the parts of STREAM mode, put together."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from .broadcaster import broadcast
from .catalog.wishes import check_wish, possible, wishes_of
from .grants import Grant
from .hub import Hub
from .metrics import Metrics
from .phoenix.joins import Binding
from .registrar import Nobody, Registered
from .source import ServerSource
from .topics import Topic

__all__ = ["StreamMode"]


class StreamMode(Nobody):
    """Reads changes, and shows them to everybody who may join.

    Args:
        source: of the changes. The mode enters and closes it.
        hub: who listens.
        metrics: of the server.
    """

    def __init__(self, source: ServerSource, hub: Hub, metrics: Metrics) -> None:
        self._source = source
        self._hub = hub
        self._metrics = metrics

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

    async def run(self) -> None:
        """Hand changes to the hub's subscriptions until the stream ends.

        Raises:
            DecodeError: if the database sends what cannot be decoded.
        """
        await broadcast(self._source, self._hub, self._metrics)
