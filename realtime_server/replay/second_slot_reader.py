"""What the second slot keeps, read once: what was committed before the main stream begins.

That is what clients of former processes may have missed, and the journal, as far as the slot has
kept them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, Protocol

from realtime_core import Event, LogicalMessage
from realtime_core.errors import SlotInUseError, SourceError

from .places import Place, place_of

__all__ = ["SecondSlotSource", "read_second_slot"]

_SILENCE: Final = 60.0
"""Seconds without an event after which nothing more is expected from the second slot."""
_PATIENCE: Final = 10.0
"""Seconds within which the second slot has to be free. An ended process may still use it."""
_PATIENCE_WITH_OTHERS: Final = 60.0
"""The same where other processes share the slot, which begin together, and read it in turns: so
long may each of them take."""
_PAUSE: Final = 1.0
"""Seconds from one attempt to open the source to the next; ..."""
_PAUSE_WITH_OTHERS: Final = 0.2
"""... and where others share it, so that none of them waits for long when the slot is free."""


class SecondSlotSource(Protocol):
    """A source on the second slot."""

    async def __aenter__(self) -> SecondSlotSource: ...

    async def aclose(self) -> None: ...

    def batches(self) -> AsyncIterator[Sequence[Event]]: ...


async def read_second_slot(
    open_source: Callable[[], SecondSlotSource],
    begin: Place,
    read_message: Callable[[LogicalMessage], Awaitable[None]],
    *,
    slot: str,
    on_open: Callable[[], Awaitable[None]],
    is_shared: bool = False,
) -> AsyncGenerator[Sequence[Event], None]:
    """Read the changes that the second slot keeps, up to where the main stream begins.

    Args:
        open_source: returns a new source on the second slot.
        begin: the place behind which the main stream has everything.
        read_message: takes each logical message.
        slot: the name of the second slot, for errors.
        on_open: called when the slot is held, so that nobody moves it any more, and before anything
            is read.
        is_shared: whether other processes may read the slot first.

    Yields:
        Batches of events up to ``begin``, without logical messages.

    Raises:
        SourceError: if the slot cannot be read from.
    """
    source = await _opened(open_source, is_shared=is_shared)
    try:
        await on_open()
        batches = source.batches()
        while True:
            # A record of this process comes at the latest.
            async with asyncio.timeout(_SILENCE):
                batch = await anext(batches)
            changes: list[Event] = []
            for event in batch:
                place = place_of(event)
                if place is not None and place > begin:
                    yield changes
                    return
                if isinstance(event, LogicalMessage):
                    await read_message(event)
                else:
                    changes.append(event)
            yield changes
    except TimeoutError:
        raise SourceError(f"nothing comes from slot {slot!r}") from None
    finally:
        await source.aclose()


async def _opened(
    open_source: Callable[[], SecondSlotSource], *, is_shared: bool
) -> SecondSlotSource:
    """Return an open source on the second slot, which may be in use for a while."""
    loop = asyncio.get_running_loop()
    patience = _PATIENCE_WITH_OTHERS if is_shared else _PATIENCE
    deadline = loop.time() + patience
    holder: int | None = None
    while True:
        source = open_source()
        try:
            await source.__aenter__()
        except SourceError as exc:
            if is_shared and isinstance(exc, SlotInUseError) and exc.pid != holder:
                # It is another one's turn.
                holder, deadline = exc.pid, loop.time() + patience
            if not exc.transient or loop.time() > deadline:
                raise
            await asyncio.sleep(_PAUSE_WITH_OTHERS if is_shared else _PAUSE)
        else:
            return source
