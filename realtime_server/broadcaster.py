"""Broadcaster: reads the source, publishes, acknowledges, in this order."""

from __future__ import annotations

from realtime_core import Begin, ChangeSource, Gap

from .hub import Hub

__all__ = ["broadcast"]


async def broadcast(source: ChangeSource, hub: Hub) -> None:
    """Publish everything that ``source`` yields until it ends.

    A batch is acknowledged when it has been handed to every outbox: a crash in between
    repeats it, and never skips it.

    Raises:
        RealtimeError: if the source cannot go on.
    """
    async for batch in source.batches():
        hub.publish(batch)
        for event in reversed(batch):
            if not isinstance(event, (Begin, Gap)):
                source.ack(event)
                break
