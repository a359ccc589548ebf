"""Hooks: functions of a program that a source calls when something happens to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..changes import Commit, Gap
from ..errors import SourceError
from ..positions import StreamIdentity
from .base import SourceStats

__all__ = ["Hooks"]

logger = logging.getLogger("realtime.source")


class Hooks:
    """What a source tells a program, besides what it hands over: the option ``hooks``.

    Make a class of it with the methods that you want; the others do nothing. They are called in
    the event loop of the source, so they have to be quick. An exception in one of them changes
    nothing for the source; it is logged when the method raises for the first time.
    """

    def attached(self, stream: StreamIdentity, database: str, slot: str) -> None:
        """The source was attached, for the first time or again.

        Args:
            stream: the cluster, its timeline and the publications.
            database: the name of the database.
            slot: the name of the slot.
        """

    def lost(self, error: SourceError) -> None:
        """The stream broke off. The source attaches again, or raises the error."""

    def gap(self, gap: Gap) -> None:
        """Changes may have been lost, with ``on_gap="continue"``; otherwise that is an error."""

    def transaction(self, commit: Commit) -> None:
        """A transaction was read to its end. Its changes may still wait for the consumer."""

    def lag(self, stats: SourceStats) -> None:
        """``lag_interval`` seconds are over.

        Args:
            stats: the counters and positions of the moment; ``lag_bytes`` and ``lag_seconds`` say
                how far the consumer is behind.
        """


class HookCalls:
    """Calls a program's hooks, which may raise what they like.

    Args:
        hooks: the hooks.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        # The methods that have raised.
        self._failed: set[str] = set()
        # Calls Hooks.lag; None before the source is entered.
        self._task: asyncio.Task[None] | None = None

    def call(self, name: str, *arguments: Any) -> None:
        """Call a method of the hooks."""
        try:
            getattr(self._hooks, name)(*arguments)
        except Exception:
            if name not in self._failed:
                self._failed.add(name)
                logger.exception("the hook %s() has failed; this is logged once", name)

    def watching(self, events: Iterable[Any]) -> Iterator[Any]:
        """Yield events, and tell of transactions and gaps."""
        for event in events:
            kind = type(event)
            if kind is Commit and event.changes:
                self.call("transaction", event)
            elif kind is Gap:
                self.call("gap", event)
            yield event

    def start(self, interval: float, stats: Callable[[], SourceStats]) -> None:
        """Begin to tell of the lag every ``interval`` seconds."""
        self._task = asyncio.create_task(self._tell_lag(interval, stats))

    async def _tell_lag(self, interval: float, stats: Callable[[], SourceStats]) -> None:
        while True:
            await asyncio.sleep(interval)
            self.call("lag", stats())

    async def aclose(self) -> None:
        """Tell of the lag no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
