"""Broadcaster: reads changes from the source, publishes them, and acknowledges them, in this
order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol

from realtime_core import Begin, Delete, Event, Gap, Idle, Insert, Position, Update

from ...metrics import Metrics
from ..hub import Hub
from ..message_rows import has_messages
from ..turns import run_steps

__all__ = ["BatchSource", "LiveStream", "WithoutMessages", "broadcast"]


class BatchSource(Protocol):
    """What is needed here of a :class:`~realtime_core.ChangeSource`."""

    def batches(self) -> AsyncIterator[list[Event]]: ...

    def ack(self, upto: Event | Position) -> None: ...


class LiveStream(Protocol):
    """Is called before and after each batch is published to the live hub."""

    def before(self, batch: Sequence[Event]) -> None:
        """Prepare for a batch that is about to be published."""
        ...

    def after(self) -> None:
        """Note that the batch is in every outbox."""
        ...


class WithoutMessages:
    """Leaves rows of ``realtime.messages`` out of what replay is told: they are never sent again,
    and many of them would take the place of changes that are.

    Args:
        replay: is told of all other events.
    """

    def __init__(self, replay: LiveStream) -> None:
        self._replay = replay
        self.after = replay.after

    def before(self, batch: Sequence[Event]) -> None:
        self._replay.before([event for event in batch if not _is_message(event)])


def _is_message(event: Event) -> bool:
    if not isinstance(event, Insert | Update | Delete):
        return False
    return has_messages(event.relation.schema, event.relation.table)


async def broadcast(
    source: BatchSource,
    hub: Hub,
    metrics: Metrics,
    *,
    replay: LiveStream | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Publish everything that ``source`` yields, until it ends.

    A batch is acknowledged when it has been handed to every outbox: after a crash in between it is
    repeated, never skipped. A cancellation takes effect after the current batch.

    Args:
        source: yields batches of changes, with the boundaries of transactions.
        hub: hands the changes to the subscriptions.
        metrics: of the server.
        replay: keeps what is published for clients that are away, and lets those go live that have
            come back; None: nobody does.
        clock: seconds since 1970, to measure how long a commit took to reach the sockets.

    Raises:
        RealtimeError: if the source cannot go on.
    """
    async for batch in source.batches():
        if replay is not None:
            replay.before(batch)
        try:
            await run_steps(hub.publishing(batch))
        except asyncio.CancelledError:
            # All steps were done.
            if replay is not None:
                replay.after()
            _acknowledge(source, batch)
            raise
        if replay is not None:
            replay.after()
        commit_time = _first_commit_time(batch)
        if commit_time is not None:
            # The clocks of the two machines may differ by more than that.
            metrics.commit_to_socket.observe(max(clock() - commit_time, 0.0))
        _acknowledge(source, batch)


def _acknowledge(source: BatchSource, batch: Sequence[Event]) -> None:
    for event in reversed(batch):
        if not isinstance(event, (Begin, Gap)):
            source.ack(event)
            break


def _first_commit_time(batch: Iterable[Event]) -> float | None:
    """Return the commit time of a batch's first transaction, in seconds since 1970."""
    for event in batch:
        if not isinstance(event, (Gap, Idle)) and event.transaction is not None:
            time = event.transaction.commit_time
            return None if time is None else time.timestamp()
    return None
