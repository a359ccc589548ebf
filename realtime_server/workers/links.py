"""Links: the supervisor's side of all links to its workers.

It sends each envelope that is read, from the slot or from the log that several machines share, to
every worker, and acknowledges what all of them have handed out. While a worker is too far behind,
nothing is read. The links themselves are pairs of sockets that whoever starts a worker has made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final, Generic, Protocol, TypeVar

from realtime_core import SourceStats
from realtime_core.errors import RealtimeError, ServerError

from .frames import (
    AttachedFrame,
    EnumOrders,
    EnumsFrame,
    EnvelopeFrame,
    FrameBuffer,
    HandedOutFrame,
    ReadyFrame,
    encode_frame,
)
from .in_flight import MOST_ENDS, Behind, InFlight, ToSend

__all__ = ["EnvelopeSource", "Links"]

logger = logging.getLogger("realtime.server")

_READ_BYTES: Final = 64 * 1024
_LOOK: Final = 1.0
"""Seconds between two looks at workers that make no progress while nothing is read."""


Upto = TypeVar("Upto")
"""What is acknowledged to the source: a position, or a number."""


class EnvelopeSource(Protocol[Upto]):
    """Where the envelopes come from: the slot, or the log that several machines share."""

    async def __aenter__(self) -> None:
        """Begin to attach."""
        ...

    async def aclose(self) -> None: ...

    @property
    def enum_orders(self) -> EnumOrders:
        """The labels of enum types in their declared order, if they are known here."""
        ...

    async def attached(self) -> None:
        """Wait until the changes are being read."""
        ...

    def begin(self) -> Behind:
        """Return where a worker begins, as long as nothing was read."""
        ...

    def batches(self) -> AsyncIterator[list[ToSend[Upto]]]:
        """Iterate over batches of whole envelopes, until the source ends."""
        ...

    def ack(self, upto: Upto) -> None:
        """Note what all workers have handed out."""
        ...

    def stats(self) -> SourceStats: ...

    def what_is_kept(self) -> str:
        """Return a sentence on what the next start begins with."""
        ...


class Links(Generic[Upto]):
    """Sends one source's changes to every worker.

    Args:
        source: the envelopes; open.
        in_flight: the envelopes under way.
        workers: how many workers are waited for before anything is read, so that all of them begin
            at the same place; one that is not ready when the patience of ``in_flight`` is over is
            waited for no longer.
        clock: seconds, which only grow.
        stalled: called with the number of a worker that is to be ended; None: none is that makes no
            progress, since it may be waiting for the database.
    """

    def __init__(
        self,
        source: EnvelopeSource[Upto],
        in_flight: InFlight[Upto],
        *,
        workers: int = 1,
        clock: Callable[[], float],
        stalled: Callable[[int], None] | None,
    ) -> None:
        self._source = source
        self._in_flight = in_flight
        self._expected = workers
        self._clock = clock
        self._stalled = stalled
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._is_attached = False
        # The orders of enum types that the workers were told.
        self._enum_orders: EnumOrders = {}
        # Set when a worker has handed something out, or has come.
        self._moved = asyncio.Event()

    async def serve(
        self, worker: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one worker, until its link ends.

        Args:
            worker: the worker's number. A worker that replaces another one has that one's number.
            reader: the link.
            writer: the link's other direction.

        Raises:
            ServerError: if the worker runs another version.
        """
        buffer = FrameBuffer()
        try:
            while data := await reader.read(_READ_BYTES):
                for frame in buffer.feed(data):
                    if isinstance(frame, HandedOutFrame) and worker in self._writers:
                        self._handed_out(worker, frame.sequence)
                    elif isinstance(frame, ReadyFrame) and worker not in self._writers:
                        self._join(worker, writer)
                    else:
                        raise ServerError(f"worker {worker} has sent a {type(frame).__name__}")
        except OSError as exc:
            logger.warning("the link to worker %d has broken: %s", worker, exc)
        finally:
            if self._writers.pop(worker, None) is not None:
                self._in_flight.leave(worker, self._clock())
            writer.close()

    def check_can_go_on(self, worker: int) -> None:
        """Check that a worker that has ended is worth being started again.

        Raises:
            RealtimeError: if several of its processes have ended at the same change.
        """
        if self._in_flight.is_stuck(worker):
            raise RealtimeError(
                f"worker {worker} has ended {MOST_ENDS} times in a row at the same change: its "
                f"errors are above. {self._source.what_is_kept()}"
            )

    def _join(self, worker: int, writer: asyncio.StreamWriter) -> None:
        missed = self._in_flight.join(worker, self._clock())
        if self._is_attached:
            self._tell_begin(worker, writer)
        for sequence, envelope in missed:
            writer.write(_frame(sequence, envelope))
        self._writers[worker] = writer
        self._moved.set()

    def _handed_out(self, worker: int, sequence: int) -> None:
        self._acknowledge(self._in_flight.handed_out(worker, sequence, self._clock()))
        self._moved.set()

    def _acknowledge(self, upto: Upto | None) -> None:
        if upto is not None:
            self._source.ack(upto)

    async def run(self) -> None:
        """Read the source and send everything to every worker, until the source ends.

        Raises:
            RealtimeError: if the source cannot go on.
        """
        await self._wait_for_workers()
        await self._source.attached()
        self._is_attached = True
        self._enum_orders = dict(self._source.enum_orders)
        for worker, writer in self._writers.items():
            self._tell_begin(worker, writer)
        batches = self._source.batches()
        while True:
            await self._wait_for_room()
            try:
                batch = await anext(batches)
            except StopAsyncIteration:
                return
            if self._source.enum_orders != self._enum_orders:
                # The source has attached again.
                self._enum_orders = dict(self._source.enum_orders)
                self._write(encode_frame(EnumsFrame(self._enum_orders)))
            for envelope in batch:
                self._write(_frame(self._in_flight.append(envelope, self._clock()), envelope))

    async def _wait_for_workers(self) -> None:
        until: float | None = None
        while len(self._writers) < self._expected:
            if self._writers:
                until = until or self._clock() + self._in_flight.patience
                if self._clock() >= until:
                    return
            await self._wait_for_move()

    async def _wait_for_move(self) -> None:
        """Wait for a worker to hand something out, or to come, for a second."""
        self._moved.clear()
        try:
            async with asyncio.timeout(_LOOK):
                await self._moved.wait()
        except TimeoutError:
            self.look()

    async def _wait_for_room(self) -> None:
        """Wait while a worker is too far behind."""
        while self._in_flight.is_full:
            await self._wait_for_move()

    def look(self) -> None:
        """Have workers ended that hold the others back; to be called each second or so."""
        now, patience = self._clock(), self._in_flight.patience
        for worker in self._in_flight.forget_left(now):
            logger.error(
                "worker %d has not come back for %.0f s: the others do not wait for it any more",
                *(worker, patience),
            )
            self._acknowledge(self._in_flight.let_go())
        if self._stalled is None:
            return
        for worker in self._in_flight.stalled(now):
            logger.error(
                "worker %d has handed nothing out for %.0f s and holds the others back: it is "
                "ended, and another one started",
                *(worker, patience),
            )
            self._stalled(worker)

    def _write(self, frame: bytes) -> None:
        for writer in self._writers.values():
            writer.write(frame)

    def _tell_begin(self, worker: int, writer: asyncio.StreamWriter) -> None:
        begin = self._in_flight.begin_of(worker)
        if begin is None:
            # Nothing was read so far.
            begin = self._source.begin()
        if self._enum_orders:
            writer.write(encode_frame(EnumsFrame(self._enum_orders)))
        writer.write(encode_frame(AttachedFrame(begin)))


def _frame(sequence: int, envelope: ToSend[Upto]) -> bytes:
    return encode_frame(EnvelopeFrame(sequence, envelope.data, envelope.is_behind_hole))
