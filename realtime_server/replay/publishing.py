"""Publishing: how changes get to the hub of a round, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import Final, TypeAlias

import attrs

from realtime_core import Event

from ..fanout.hub import Hub
from ..fanout.turns import run_steps

__all__ = ["CannotPublishError", "Publish", "Published", "one_at_a_time"]


@attrs.frozen
class Published:
    """The viewers for which publishing takes too long, which is the fault of their policies."""

    slow: Collection[Hashable] = ()
    """The viewers whose channels are told of a gap and go live."""
    apart: Collection[Hashable] = ()
    """The viewers to which nothing was published, and which have rounds of their own from now
    on."""
    costly: Collection[Hashable] = ()
    """The viewers to which everything was published, and which have rounds of their own from now
    on."""


Publish: TypeAlias = Callable[[Hub, list[Event]], Awaitable[Published]]
"""Publishes events to the hub of a round, and returns when every outbox has got them. It raises
:exc:`CannotPublishError` if the events can be published to nobody."""


class CannotPublishError(Exception):
    """Changes cannot be published to a round, whose channels are told of a gap and go live."""


_TO_ALL: Final = Published()


def one_at_a_time() -> Publish:
    """Return the function that publishes to rounds' hubs in STREAM mode, to one hub at a time.

    Each dispatch gives way to the live one after a slice of time. If four rounds published at the
    same time, the live dispatch would wait for four slices.
    """
    lock = asyncio.Lock()

    async def publish(hub: Hub, events: list[Event]) -> Published:
        async with lock:
            await run_steps(hub.publishing(events))
        return _TO_ALL

    return publish
