"""ChangeSource: the contract of everything that yields changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

import attrs

from ..changes import CommittedTransaction, Event, Gap, Idle, LogicalMessage
from ..lsn import LSN
from ..positions import Position

__all__ = ["E", "Acknowledgeable", "ChangeSource", "SourceStats", "TransactionEvent"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    E = TypeVar("E", bound=Event, default=Event, covariant=True)
    """The events that a source yields: which these are depends on its options."""
else:
    # Python 3.11 knows no defaults of type variables, and needs none to run.
    from typing import TypeVar

    E = TypeVar("E", bound=Event, covariant=True)

TransactionEvent: TypeAlias = CommittedTransaction | LogicalMessage | Gap | Idle
"""What :meth:`ChangeSource.transactions` yields. A message is one that is not transactional."""

Acknowledgeable: TypeAlias = Event | CommittedTransaction | Position
"""What :meth:`ChangeSource.ack` takes."""


@attrs.frozen
class SourceStats:
    """What a source has done since it was made, and where it stands."""

    changes: int = 0
    """Row changes, truncates and messages taken from the stream, repeated ones left out."""
    transactions: int = 0
    """Transactions taken from the stream to their end, repeated and empty ones left out."""
    bytes_received: int = 0
    """Of the stream's messages, as they came."""
    reconnects: int = 0
    """How often the stream was started again after a break."""
    gaps: int = 0
    """How often changes may have been lost."""
    received_lsn: LSN = attrs.field(factory=LSN)
    """Up to where WAL has been taken from the stream."""
    confirmed_lsn: LSN = attrs.field(factory=LSN)
    """Up to where the slot may move: all before it is acknowledged."""
    unacknowledged: int = 0
    """Transactions that have arrived and are not wholly acknowledged."""
    lag_bytes: int = 0
    """WAL between what the server is known to have written and what is acknowledged."""
    lag_seconds: float = 0.0
    """Between the commit of what was handed over last and when the server sent the latest
    message, by the server's clock; 0 when everything that came is handed over."""
    filtered: int = 0
    """Changes that the source's filter left out."""
    filter_errors: int = 0
    """Those among them that could not be judged."""
    connected: bool = False
    """Whether the stream runs now."""


class ChangeSource(Protocol[E]):
    """An async iterator of changes in commit order, in constant memory.

    ``ChangeSource`` alone yields any event; ``ChangeSource[Change]`` is a source whose options
    leave out :class:`Begin` and :class:`Commit` (``boundaries``), :class:`Gap` (``on_gap``) and
    :class:`Idle` (``start_at``), as type checkers know of a source that is made without them.

    * ``async with`` attaches it, ``async for`` reads it; one consumer a source. Reading by
      events, batches or transactions may be mixed: each goes on where the last one stood.
    * Cancelling a read loses nothing: the next one goes on where it stood.
    * Nothing is acknowledged unless :meth:`ack` says so, or ``auto_ack`` was asked for. What
      was not acknowledged may be seen again by a new process, but never twice by this one.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def attached(self) -> None:
        """Wait until the stream runs: what is committed after that is handed over, or a Gap says
        that it was lost.

        A persistent source enters its ``async with`` block before there is a slot, and what is
        committed before that is made is not in it. Any task may wait, and several at a time;
        cancelling a wait leaves the source attaching. A connection that has broken counts as
        long as nobody has noticed, which takes a read.

        Raises:
            SourceError: if it cannot attach, and trying again cannot help.
            RuntimeError: if it was closed, now or before.
        """
        ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> E:
        """Return the next event, waiting for it."""
        ...

    def batches(self) -> AsyncIterator[Sequence[E]]:
        """Iterate over what each wake-up brought, small transactions whole, never an empty list.

        The rest of a transaction is waited for as long as more of it keeps coming, up to 64
        events; what comes of it more than 50 ms later is another batch's.
        """
        ...

    def transactions(self, max_bytes: int) -> AsyncIterator[TransactionEvent]:
        """Iterate over whole transactions, those without changes left out.

        Args:
            max_bytes: how much one transaction may hold: the bytes of its values, as
                PostgreSQL writes them, and 100 for each change.

        Raises:
            TransactionTooLargeError: from the iterator, if one is larger.
        """
        ...

    def ack(self, upto: Acknowledgeable) -> None:
        """Say that everything up to and including ``upto`` is done with."""
        ...

    @property
    def position(self) -> Position | None:
        """The last position handed over, None before the first."""
        ...

    def stats(self) -> SourceStats:
        """Return counters and positions, as they are now."""
        ...

    async def aclose(self) -> None:
        """Send the last acknowledgement and let go of the slot."""
        ...
