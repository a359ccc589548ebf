"""InFlight: the envelopes that not every worker has handed out yet.

They are acknowledged to where they come from when every worker has handed them out, so what a crash
of the supervisor takes comes again from the slot. A worker that dies is started again, and gets
what the one before it had not handed out: it is still here.

Their size is bounded. While the worker that is furthest behind is behind by more than
``max_bytes``, nothing more is to be read; if it makes no progress for ``patience`` seconds
meanwhile, it is to be ended.

A worker whose processes end again and again without handing anything out of what waits for them has
something before it that none of them can read, so starting it once more brings nothing.

It does no I/O, and the time is passed in.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

import attrs

__all__ = ["MAX_BYTES", "MOST_ENDS", "PATIENCE", "Behind", "InFlight", "ToSend"]

MAX_BYTES: Final = 8 * 1024 * 1024
"""How many bytes of envelopes a worker may be behind."""
PATIENCE: Final = 30.0
"""After how many seconds without progress a worker is given up that holds the others back."""
MOST_ENDS: Final = 5
"""How many processes of a worker may end, one after the other, at the same envelope."""


@attrs.frozen
class Behind:
    """What comes behind an envelope: where a worker begins that gets what follows."""

    lsn: int
    index: int
    """Everything up to this place of the stream is before it."""
    gaps: int
    """How many gaps are before it."""
    generation: int = 0
    """The place's generation, ..."""
    sequence: int = 0
    """... the envelope's number in the log that several machines share, ..."""
    log: str = ""
    """... and when that log was made; empty where there is none."""


Upto = TypeVar("Upto")
"""What is acknowledged: a position of the slot, or how many envelopes of the log were sent."""


@attrs.frozen
class ToSend(Generic[Upto]):
    """An envelope for every worker."""

    data: bytes
    behind: Behind
    """What comes behind it."""
    upto: Upto | None
    """What may be acknowledged when all workers have handed it out; None for nothing more."""
    is_behind_hole: bool = False
    """Whether what stands between it and the envelope before it is lost."""


@attrs.define
class _Standing:
    """How far a worker has come."""

    handed_out: int
    """The sequence of the last envelope that it has handed out."""
    moved_at: float
    """When it made progress, or had nothing to do; or when it left."""
    ends: int = 0
    """How many of its processes have ended since then, although something waited for them."""


class InFlight(Generic[Upto]):
    """The envelopes under way, and how far each worker has come.

    Args:
        max_bytes: how many bytes a worker may be behind.
        patience: after how many seconds without progress a worker is given up.
    """

    def __init__(self, *, max_bytes: int = MAX_BYTES, patience: float = PATIENCE) -> None:
        self._max_bytes = max_bytes
        self.patience = patience
        """After how many seconds without progress a worker is given up."""
        # With the number that each was sent with.
        self._kept: deque[tuple[int, ToSend[Upto]]] = deque()
        self._workers: dict[int, _Standing] = {}
        # Where each worker stood that has left, for the one that takes its place.
        self._left: dict[int, _Standing] = {}
        # What comes behind the last envelope that was let go of; None: none was.
        self._let_go: Behind | None = None
        self.sequence = 0
        """The number of the last envelope."""
        self.size = 0
        """How many bytes of envelopes are kept."""

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be read: a worker is too far behind, or none is there."""
        return self.size > self._max_bytes or not self._workers

    def join(self, worker: int, now: float) -> list[tuple[int, ToSend[Upto]]]:
        """Note a worker that was started; return the envelopes that it has to be sent, in order,
        with their sequences.

        Args:
            worker: its number. It gets what the last one with this number had not handed out; one
                with a new number begins behind what was sent so far.
            now: the time, in seconds.
        """
        left = self._left.pop(worker, None)
        standing = _Standing(self.sequence, now)
        if left is not None:
            standing = _Standing(left.handed_out, now, left.ends)
        self._workers[worker] = standing
        stands = standing.handed_out
        return [(sequence, kept) for sequence, kept in self._kept if sequence > stands]

    def begin_of(self, worker: int) -> Behind | None:
        """Return where a worker begins that has just joined; None if nothing was sent before."""
        stands = self._workers[worker].handed_out
        begin = self._let_go
        for sequence, kept in self._kept:
            if sequence > stands:
                break
            begin = kept.behind
        return begin

    def leave(self, worker: int, now: float) -> None:
        """Note that a worker has ended, and another one will be started in its place.

        What it had not handed out is kept for that one, for as long as ``patience`` says.
        """
        standing = self._workers.pop(worker, None)
        if standing is not None:
            standing.moved_at = now
            standing.ends += standing.handed_out < self.sequence
            self._left[worker] = standing

    def is_stuck(self, worker: int) -> bool:
        """Return whether a worker that has left cannot go on from where it stands.

        That is so when ``MOST_ENDS`` of its processes in a row have ended before they had handed
        out the next envelope.
        """
        left = self._left.get(worker)
        return left is not None and left.ends >= MOST_ENDS

    def forget_left(self, now: float) -> list[int]:
        """Give up workers that have left too long ago; return their numbers.

        Whoever takes the place of one of them begins behind what was sent until then.
        """
        long_ago = now - self.patience
        gone = [worker for worker, left in self._left.items() if left.moved_at <= long_ago]
        for worker in gone:
            del self._left[worker]
        return gone

    def append(self, envelope: ToSend[Upto], now: float) -> int:
        """Keep an envelope that is about to be sent to every worker; return its sequence.

        Args:
            envelope: the envelope.
            now: the time, in seconds.
        """
        for standing in self._workers.values():
            if standing.handed_out == self.sequence:
                standing.moved_at = now
        self.sequence += 1
        self._kept.append((self.sequence, envelope))
        self.size += len(envelope.data)
        return self.sequence

    def handed_out(self, worker: int, sequence: int, now: float) -> Upto | None:
        """Note how far a worker has come.

        Returns:
            What may be acknowledged now; None for nothing more than before.

        Raises:
            ValueError: if the worker cannot have handed that out.
        """
        standing = self._workers[worker]
        if not standing.handed_out <= sequence <= self.sequence:
            raise ValueError(
                f"worker {worker} says that it has handed out envelope {sequence}, behind "
                f"{standing.handed_out}, of {self.sequence}"
            )
        if sequence > standing.handed_out:
            standing.handed_out, standing.moved_at, standing.ends = sequence, now, 0
        return self.let_go()

    def let_go(self) -> Upto | None:
        """Let go of what every worker has handed out; return what may be acknowledged now."""
        standings = (*self._workers.values(), *self._left.values())
        done = min((each.handed_out for each in standings), default=self.sequence)
        upto: Upto | None = None
        kept = self._kept
        while kept and kept[0][0] <= done:
            _, first = kept.popleft()
            self.size -= len(first.data)
            self._let_go = first.behind
            upto = upto if first.upto is None else first.upto
        return upto

    def stalled(self, now: float) -> list[int]:
        """Return the workers that hold the others back, and have made no progress for too long."""
        if self.size <= self._max_bytes:
            return []
        return [
            worker
            for worker, standing in self._workers.items()
            if standing.handed_out < self.sequence and now - standing.moved_at > self.patience
        ]
