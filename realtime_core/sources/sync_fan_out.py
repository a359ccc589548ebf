"""SyncFanOut: several consumers of one SyncSource, each on a thread of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Literal, Self

from .base import E
from .sync import SyncSource

if TYPE_CHECKING:
    from .consumer import Consumer
    from .fan_out import FanOut

__all__ = ["SyncConsumer", "SyncFanOut"]


class SyncFanOut(Generic[E]):
    """Gives the events of one source to several threads; ``source.fan_out()`` makes it.

    All of :class:`FanOut` holds for it. Any thread may add consumers, while the source is open.
    """

    def __init__(self, source: SyncSource[E], fan_out: FanOut[E]) -> None:
        self._source = source
        self._fan_out = fan_out

    def consumer(self, name: str, *, on_full: Literal["wait", "drop"] = "wait") -> SyncConsumer[E]:
        """Add a consumer: see :meth:`FanOut.consumer`.

        Raises:
            ConfigError: if ``on_full`` is neither.
            RuntimeError: if the source is not open.
        """
        thread = self._source._running()
        consumer = SyncConsumer(thread.call(self._add(name, on_full)))
        consumer._thread = thread
        self._source._sharing.append(consumer)
        return consumer

    async def _add(self, name: str, on_full: Literal["wait", "drop"]) -> Consumer[E]:
        return self._fan_out.consumer(name, on_full=on_full)


class SyncConsumer(SyncSource[E]):
    """A consumer of a :class:`SyncFanOut`, which is read as a SyncSource is, by one thread.

    All of :class:`Consumer` holds for it. It ends when its source is closed.
    """

    def __enter__(self) -> Self:
        return self

    def _stop(self) -> None:
        # The thread is its source's.
        self._thread = None
