"""Broadcaster: reads the source, publishes, acknowledges, in this order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final

from realtime_core import Begin, ChangeSource, Commit, Event, Gap, Idle, LogicalMessage
from realtime_core.errors import RealtimeError

from .dispatch import give_way
from .hub import Hub
from .metrics import Metrics

__all__ = ["broadcast"]

_PATIENCE: Final = 0.002
"""Seconds to wait for the rest of a transaction."""
_MANY: Final = 64
"""Events that are handed out without their transaction's rest: they fill a write."""


async def broadcast(
    source: ChangeSource,
    hub: Hub,
    metrics: Metrics,
    *,
    clock: Callable[[], float] = time.time,
) -> None:
    """Publish everything that ``source`` yields until it ends, boundaries included.

    A batch is acknowledged when it has been handed to every outbox: a crash in between
    repeats it, and never skips it. A cancellation waits until that is done.

    Raises:
        RealtimeError: if the source cannot go on.
    """
    async for batch in _batches(source.batches()):
        try:
            await give_way(hub.publishing(batch))
        except asyncio.CancelledError:
            _acknowledge(source, batch)
            raise
        commit_time = _first_commit_time(batch)
        if commit_time is not None:
            # Two machines' clocks may differ by more than it took.
            metrics.commit_to_socket.observe(max(clock() - commit_time, 0.0))
        _acknowledge(source, batch)


async def _batches(source: AsyncIterator[list[Event]]) -> AsyncIterator[list[Event]]:
    """Yield what each wake-up brought, small transactions whole.

    PostgreSQL may send ten rows in ten pieces, and as many writes to each socket would take
    ten times as long.
    """
    async for batch in source:
        while _goes_on(batch[-1]) and len(batch) < _MANY:
            try:
                async with asyncio.timeout(_PATIENCE):
                    batch += await anext(source)
            except (TimeoutError, StopAsyncIteration, RealtimeError):
                # An error comes again, after what came before it.
                break
        yield batch


def _goes_on(event: Event) -> bool:
    """Say whether more of the event's transaction comes."""
    match event:
        case Commit() | Gap() | Idle() | LogicalMessage(transaction=None):
            return False
        case _:
            return True


def _acknowledge(source: ChangeSource, batch: Sequence[Event]) -> None:
    for event in reversed(batch):
        if not isinstance(event, (Begin, Gap)):
            source.ack(event)
            break


def _first_commit_time(batch: Iterable[Event]) -> float | None:
    """Return the commit time of a batch's first transaction, seconds since 1970."""
    for event in batch:
        if not isinstance(event, (Gap, Idle)) and event.transaction is not None:
            time = event.transaction.commit_time
            return None if time is None else time.timestamp()
    return None
