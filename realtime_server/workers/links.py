"""Links: the supervisor's side of all links to its workers.

It packs what a RawPgoutputSource yields into envelopes, sends each to every worker, and
acknowledges to the slot what all of them have handed out. While a worker is too far behind, nothing
is read. The links themselves are pairs of sockets that whoever starts a worker has made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from realtime_core import (
    Gap,
    Idle,
    LogicalMessage,
    RawEvent,
    RawPgoutputSource,
    StreamIdentity,
)
from realtime_core.errors import ServerError

from ..cluster.envelope import NOWHERE
from ..cluster.packer import Packed, Packer
from .frames import (
    AttachedFrame,
    EnvelopeFrame,
    FrameBuffer,
    HandedOutFrame,
    encode_frame,
)
from .window import Window

__all__ = ["Links"]

logger = logging.getLogger("realtime.server")

_READ_BYTES: Final = 64 * 1024
_LOOK: Final = 1.0
"""Seconds between two looks at workers that make no progress while nothing is read."""


class Links:
    """Sends one source's changes to every worker.

    Args:
        source: made with ``boundaries=True`` and ``on_gap="continue"``, and open.
        window: the envelopes under way.
        clock: seconds, which only grow.
        stalled: called with the number of a worker that is to be ended.
    """

    def __init__(
        self,
        source: RawPgoutputSource,
        window: Window,
        *,
        clock: Callable[[], float],
        stalled: Callable[[int], None],
    ) -> None:
        self._source = source
        self._window = window
        self._clock = clock
        self._stalled = stalled
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._is_attached = False
        # Made with the first event, which says which stream it is.
        self._packer: Packer | None = None
        # Set when a worker has handed something out, or has come.
        self._moved = asyncio.Event()

    async def serve(
        self, worker: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one worker, until its link ends.

        Args:
            worker: its number. One that was started in place of another has the same number.
            reader: the link.
            writer: the link's other direction.

        Raises:
            ServerError: if the worker runs another version.
        """
        missed = self._window.join(worker, self._clock())
        if self._is_attached:
            writer.write(self._attached_frame())
        for sequence, data in missed:
            writer.write(encode_frame(EnvelopeFrame(sequence, data)))
        self._writers[worker] = writer
        self._moved.set()
        buffer = FrameBuffer()
        try:
            while data := await reader.read(_READ_BYTES):
                for frame in buffer.feed(data):
                    if not isinstance(frame, HandedOutFrame):
                        raise ServerError(f"worker {worker} has sent a {type(frame).__name__}")
                    self._handed_out(worker, frame.sequence)
        except OSError as exc:
            logger.warning("the link to worker %d has broken: %s", worker, exc)
        finally:
            del self._writers[worker]
            self._window.leave(worker)
            writer.close()

    def _handed_out(self, worker: int, sequence: int) -> None:
        upto = self._window.handed_out(worker, sequence, self._clock())
        if upto is not None:
            self._source.ack(upto)
        self._moved.set()

    async def run(self) -> None:
        """Read the source and send everything to every worker, until the source ends.

        Raises:
            RealtimeError: if the source cannot go on.
        """
        await self._source.attached()
        self._is_attached = True
        self._write(self._attached_frame())
        batches = self._source.batches()
        while True:
            await self._wait_for_room()
            try:
                batch = await anext(batches)
            except StopAsyncIteration:
                return
            packer = self._packer
            if packer is None:
                packer = self._packer = Packer(NOWHERE, _stream_of(batch[0]))
            for event in batch:
                for packed in packer.feed(event):
                    self._send(packed)
            # What is left of a transaction that has not ended is on its way: its last change waits
            # for that in the packer.
            for packed in packer.flush():
                self._send(packed)

    async def _wait_for_room(self) -> None:
        """Wait while a worker is too far behind; have one ended that makes no progress."""
        while self._window.is_full:
            self._moved.clear()
            try:
                async with asyncio.timeout(_LOOK):
                    await self._moved.wait()
            except TimeoutError:
                for worker in self._window.stalled(self._clock()):
                    logger.error(
                        "worker %d has handed nothing out for %g s and holds the others back: it "
                        "is ended, and another one started",
                        *(worker, self._window.patience),
                    )
                    self._stalled(worker)

    def _send(self, packed: Packed) -> None:
        sequence = self._window.append(packed.data, packed.upto, self._clock())
        self._write(encode_frame(EnvelopeFrame(sequence, packed.data)))

    def _write(self, frame: bytes) -> None:
        for writer in self._writers.values():
            writer.write(frame)

    def _attached_frame(self) -> bytes:
        return encode_frame(AttachedFrame(self._source.enum_orders))


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
