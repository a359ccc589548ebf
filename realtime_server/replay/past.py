"""Past: where a process that begins finds what clients of former processes have missed.

That is the second slot (:mod:`.second_slot_past`), or the log that several servers share. Both have
the changes, and among them the records of the journal.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Protocol

import attrs

from realtime_core import LSN, Event, LogicalMessage

from .older_changes import ReadOlder
from .places import Place

__all__ = ["Past", "Shared", "Telling"]


@attrs.frozen
class Telling:
    """What whoever keeps the past has to know of the process, and may have it do."""

    needed: Callable[[], LSN | None]
    """Returns the LSN from which on commits have to be kept; None if no client needs a change that
    was handed out."""
    tell_all: Callable[[LSN], Awaitable[bool]]
    """Writes everything that is known of clients into the journal, waits until that is on the disk,
    and returns whether it did. It is called with an LSN before which everything that committed was
    handed out."""
    has_channels: bool
    """Whether any channel is known."""
    snapshot_bytes: int
    """Bytes that all processes write when each of them tells everything."""


class Past(Protocol):
    """Keeps changes and the journal for processes that begin later."""

    @property
    def floor(self) -> Place | None:
        """The place behind which everything was read; None if not all of it was."""
        ...

    @property
    def read_older(self) -> ReadOlder | None:
        """Reads changes again that the memory has given up; None: they are kept for a process that
        begins alone."""
        ...

    @property
    def wal_bytes(self) -> int:
        """Bytes of WAL that are kept."""
        ...

    @property
    def lost(self) -> int:
        """How often what was kept was lost."""
        ...

    def read(
        self,
        begin: Place,
        read_message: Callable[[LogicalMessage], Awaitable[None]],
        needed: Callable[[], Place | None],
    ) -> AsyncGenerator[Sequence[Event], None]:
        """Read what was committed before the stream begins, once.

        Args:
            begin: the place behind which the stream has everything.
            read_message: takes each logical message.
            needed: returns the lowest place that any client has whom the messages were about that
                have been read; None if there is none.

        Yields:
            Batches of events up to ``begin``, without logical messages but for those right before
            gaps.

        Raises:
            RealtimeError: if it cannot be read.
        """
        ...

    async def keep(self, telling: Telling) -> None:
        """Look after what is kept. This is called every half a minute or so; what fails is logged.

        Args:
            telling: what has to be known for that.
        """
        ...

    def ended(self, slots: Collection[bytes]) -> Collection[bytes]:
        """Return which processes have ended that others have not been told of.

        Args:
            slots: what the processes have been known by that have channels which are joined.
        """
        ...


class Shared(Protocol):
    """What makes a process one of several that have one slot."""

    @property
    def slot(self) -> bytes:
        """What the process is known by in the journal, in 8 bytes."""
        ...

    @property
    def past(self) -> Past | None:
        """Where the process finds what clients have missed; None: in the second slot."""
        ...

    @property
    def keeps_slot(self) -> bool:
        """Whether the process looks after the second slot for all of them."""
        ...

    @property
    def left_out(self) -> Collection[bytes]:
        """What those are known by that there may have been before, and are not started any more, as
        far as the process has to tell that."""
        ...

    def begin(self) -> Place:
        """Return the place behind which the stream has everything, once the stream runs."""
        ...

    def passed(self) -> LSN:
        """Return an LSN before which the process has handed out everything that committed."""
        ...
