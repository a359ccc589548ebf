"""SlotEnvelopes: what a supervisor reads from the slot, as envelopes for its workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from realtime_core import (
    Gap,
    Idle,
    LogicalMessage,
    Position,
    RawEvent,
    RawPgoutputSource,
    SourceStats,
    StreamIdentity,
)

from ..cluster.envelope import NOWHERE
from ..cluster.packer import Packed, Packer
from .frames import MAX_FRAME, EnumOrders
from .in_flight import Behind, ToSend

__all__ = ["SlotEnvelopes"]

_MOST_BYTES: Final = MAX_FRAME - 1024
"""How large an envelope may be. None goes in parts: a worker that takes the place of a dead one may
begin behind any of them."""


class SlotEnvelopes:
    """Packs what a source yields.

    Args:
        source: made with ``boundaries=True`` and ``on_gap="continue"``.
    """

    def __init__(self, source: RawPgoutputSource) -> None:
        self._source = source
        # Made with the first event, which says which stream it is.
        self._packer: Packer | None = None
        # How many gaps were packed.
        self._gaps = 0

    async def __aenter__(self) -> None:
        await self._source.__aenter__()

    async def aclose(self) -> None:
        """Free the slot."""
        await self._source.aclose()

    @property
    def enum_orders(self) -> EnumOrders:
        """The labels of enum types in their declared order, by schema and name."""
        return self._source.enum_orders

    async def attached(self) -> None:
        """Wait until the database's changes are being read."""
        await self._source.attached()

    def begin(self) -> Behind:
        """Return where a worker begins, as long as nothing was read."""
        return Behind(self.stats().confirmed_lsn, -1, 0)

    async def batches(self) -> AsyncIterator[list[ToSend[Position]]]:
        """Iterate over batches of envelopes, until the source ends.

        Raises:
            RealtimeError: from the iterator, if the source cannot go on.
        """
        async for batch in self._source.batches():
            packer = self._packer
            if packer is None:
                packer = self._packer = Packer(
                    NOWHERE, _stream_of(batch[0]), max_payload=_MOST_BYTES
                )
            found: list[ToSend[Position]] = []
            for event in batch:
                envelopes = packer.feed(event)
                for packed in envelopes:
                    # The envelope of a gap comes last.
                    self._gaps += type(event) is Gap and packed is envelopes[-1]
                    found.append(self._to_send(packed))
            # What is left of a transaction that has not ended is on its way: its last change waits
            # for that in the packer.
            found += map(self._to_send, packer.flush())
            yield found

    def ack(self, upto: Position) -> None:
        """Acknowledge to the slot what all workers have handed out."""
        self._source.ack(upto)

    def stats(self) -> SourceStats:
        """Return what the source counts."""
        return self._source.stats()

    def what_is_kept(self) -> str:
        """Return a sentence on what comes again at the next start."""
        lsn = self.stats().confirmed_lsn
        return f"The slot keeps everything behind {lsn}, and that comes again at the next start"

    def _to_send(self, packed: Packed) -> ToSend[Position]:
        _, lsn, index = packed.last
        return ToSend(packed.data, Behind(lsn, index, self._gaps), packed.upto)


def _stream_of(event: RawEvent) -> StreamIdentity:
    """Return the stream that an event was read from; every event of a source has one."""
    match event:
        case Gap(until=position) | Idle(position):
            stream = position.stream
        case LogicalMessage(stream=stream):
            pass
        case _:
            stream = event.transaction.stream
    assert stream is not None
    return stream
