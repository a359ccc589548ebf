"""ChangeSource: the contract of everything that yields changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

from ..changes import Event
from ..positions import Position

__all__ = ["ChangeSource"]


class ChangeSource(Protocol):
    """An async iterator of changes in commit order, in constant memory.

    * ``async with`` attaches it, ``async for`` reads it; one consumer a source.
    * Cancelling a read loses nothing: the next one goes on where it stood.
    * Nothing is acknowledged unless :meth:`ack` says so. What was not acknowledged may
      be seen again by a new process, but never twice by this one.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Event:
        """Return the next event, waiting for it."""
        ...

    def batches(self) -> AsyncIterator[list[Event]]:
        """Iterate over what each wake-up brought, never an empty list."""
        ...

    def ack(self, upto: Event | Position) -> None:
        """Say that everything up to and including ``upto`` is done with."""
        ...

    @property
    def position(self) -> Position | None:
        """The last position handed over, None before the first."""
        ...

    async def aclose(self) -> None:
        """Send the last acknowledgement and let go of the slot."""
        ...
