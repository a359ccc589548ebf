"""Publishing: the interface through which rounds publish changes, and its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable
from typing import Protocol

import attrs

from realtime_core import Event

from ..fanout.hub import Hub
from ..fanout.turns import Steps, run_steps

__all__ = ["CannotPublishError", "Publish", "Published", "one_at_a_time", "write_all"]


@attrs.frozen
class Published:
    """The viewers that have not got all changes of a step, and why."""

    slow: Collection[Hashable] = ()
    """The viewers whose policies take too long: their channels are told of a gap and go live."""
    apart: Collection[Hashable] = ()
    """The viewers whose policies may take too long: nothing was published to them, and they have
    rounds of their own from now on."""
    costly: Collection[Hashable] = ()
    """The viewers to which everything was published, and which have rounds of their own from now
    on."""
    refused: Collection[Hashable] = ()
    """The viewers of which it cannot be decided what they may see: their channels are told of a gap
    and go live."""
    held: Collection[Hashable] = ()
    """The viewers to which nothing was published yet, and which go on when ``may_go_on`` says
    so."""
    may_go_on: Callable[[], bool] = lambda: True
    """Returns whether the viewers that are held may go on."""
    is_last: bool = False
    """Whether the task was cancelled while the changes were written, and has still to end."""


class Publish(Protocol):
    """Publishes a step of a round to the round's hub."""

    async def __call__(self, hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        """Publish events, and return when every outbox has got them.

        A cancellation ends it before the first outbox has got anything, or else is said in the
        result when all have: so it is known what channels have whose server stops.

        Args:
            hub: of the round.
            events: changes, or one gap.
            is_alone: whether the round is one of a single viewer, which has time.

        Raises:
            CannotPublishError: if the events can be published to nobody.
        """
        ...


class CannotPublishError(Exception):
    """No channel of a round can get the changes: they are told of a gap, and go live."""


async def write_all(steps: Steps) -> bool:
    """Do all steps that write something; return whether the task was cancelled meanwhile."""
    try:
        await run_steps(steps)
    except asyncio.CancelledError:
        # All steps were done.
        return True
    return False


def one_at_a_time() -> Publish:
    """Return the function that publishes to rounds' hubs in STREAM mode, to one hub at a time.

    Each dispatch gives way to the live one after a slice of time. If four rounds published at the
    same time, the live dispatch would wait for four slices.
    """
    lock = asyncio.Lock()

    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        async with lock:
            return Published(is_last=await write_all(hub.publishing(events)))

    return publish
