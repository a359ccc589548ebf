"""FansOut and SyncFansOut: the method by which every source makes a FanOut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, cast

from .base import E

if TYPE_CHECKING:
    from ._queue import EventQueue
    from .fan_out import FanOut
    from .sync import SyncSource
    from .sync_fan_out import SyncFanOut

__all__ = ["FansOut", "SyncFansOut"]


class FansOut(Generic[E]):
    """A source that several consumers may read."""

    _has_fan_out = False

    def fan_out(self, *, max_events: int = 10_000, max_bytes: int = 64 * 1024 * 1024) -> FanOut[E]:
        """Make consumers of this source possible: see :class:`FanOut`.

        Args:
            max_events: how many events may wait for one consumer.
            max_bytes: how many bytes they may have, counted as for :meth:`transactions`.

        Raises:
            ConfigError: if one of them is not above 0.
            RuntimeError: if the source has a fan-out already, or is being read.
        """
        from .fan_out import FanOut

        if self._has_fan_out:
            raise RuntimeError("this source has a fan-out already: add consumers to that")
        source = cast("EventQueue[E]", self)
        if source._reading:
            raise RuntimeError("this source is being read: make its fan-out when no read waits")
        fan_out = FanOut(source, max_events=max_events, max_bytes=max_bytes)
        self._has_fan_out = True
        return fan_out

    def _check_unshared(self) -> None:
        if self._has_fan_out:
            raise RuntimeError(
                "this source has a fan-out, and nothing else may read it: read a consumer of that"
            )


class SyncFansOut(Generic[E]):
    """A SyncSource that several threads may read."""

    _source: EventQueue[E]
    # The consumers of the fan-out, which use the source's thread.
    _sharing: list[SyncSource[E]]

    def fan_out(
        self, *, max_events: int = 10_000, max_bytes: int = 64 * 1024 * 1024
    ) -> SyncFanOut[E]:
        """Make consumers of this source possible, each for a thread: see :class:`FanOut`.

        Raises:
            ConfigError: if a bound is not above 0.
            RuntimeError: if the source has a fan-out already, or is being read.
        """
        from .sync_fan_out import SyncFanOut

        fan_out = self._source.fan_out(max_events=max_events, max_bytes=max_bytes)
        return SyncFanOut(cast("SyncSource[E]", self), fan_out)

    def _tell_last_acks(self) -> None:
        """Tell the source what was acknowledged to it, and to its consumers, before it ends."""
        for source in (cast("SyncSource[E]", self), *self._sharing):
            source._tell_acks()

    def _end_consumers(self) -> None:
        """Let no consumer use the thread any more."""
        for consumer in self._sharing:
            consumer._source._closed = True
            consumer._thread = None
