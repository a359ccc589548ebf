"""HookCalls: calls the functions of a program that a source tells what happens to it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..changes import Commit, Gap
from .base import SourceStats
from .hooks import Hooks

__all__ = ["HookCalls"]

logger = logging.getLogger("realtime.source")


class HookCalls:
    """Calls a program's hooks, which may raise what they like.

    Args:
        hooks: the hooks.

    Raises:
        TypeError: if one of them is an async function.
    """

    def __init__(self, hooks: Hooks) -> None:
        for name in ("attached", "lost", "gap", "transaction", "lag"):
            if inspect.iscoroutinefunction(getattr(hooks, name)):
                raise TypeError(
                    f"the hook {name}() is an async function, and hooks are called without await: "
                    "make it a plain one, which may create a task"
                )
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
