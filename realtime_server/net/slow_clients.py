"""Slow clients: measures what waits to be sent to clients, and decides which are cut off.

A client is too slow when more bytes wait for it than one client may have waiting
(OUTBOX_MAX_BYTES), or when a byte has waited for it for too long (OUTBOX_MAX_AGE). Besides,
thousands of clients that each keep within these bounds could take all of the server's memory. So
when too much waits for all clients together (OUTBOX_TOTAL_BYTES), those for whom most waits are cut
off first.

All of that is decided here. Each client's :class:`~realtime_server.net.outbox.SocketOutbox` reports
how much waits in it, whenever that changes and something waits or waited: a client that keeps up
costs nothing. It also carries the decision out.
"""

from __future__ import annotations

from typing import Final, Protocol

import attrs

__all__ = ["Backlog", "BoundedOutbox", "OutboxLimits", "WaitingAge"]

_BEHIND: Final = 4
"""A client is behind when more waits for it than this part of what may."""
_HIGH: Final = 2
"""Much waits for all clients together when it is more than this part of what may."""
_MARGIN: Final = 8
"""When too much waits for all clients, as many are cut off as leave this part of the bound free: to
look at all outboxes takes long, and must not be done again for each further byte."""


class BoundedOutbox(Protocol):
    """One client's outbox."""

    def waiting(self) -> int:
        """Return how many bytes wait in it now."""
        ...

    def cut_off(self, reason: str) -> None:
        """Disconnect the client, log the reason, and report that nothing waits any more."""
        ...


@attrs.frozen
class OutboxLimits:
    """The limits on what may wait for clients. A client beyond one of them is disconnected."""

    max_bytes: int
    """Bytes that may wait for one client (OUTBOX_MAX_BYTES). A single write that is larger is taken
    when nothing else waits."""
    max_age: float
    """Seconds that a byte may wait (OUTBOX_MAX_AGE)."""
    total_bytes: int
    """Bytes that may wait for all clients together (OUTBOX_TOTAL_BYTES)."""


class WaitingAge:
    """The age of the oldest byte that waits for one client.

    A transport's buffer does not say when its bytes came. So it is noted from time to time how many
    bytes were written in all by then. The oldest note of which a byte still waits tells the age.

    Args:
        waiting: the bytes that begin to wait.
        now: seconds of any clock that only goes forward.
    """

    __slots__ = ("_notes", "_written")

    def __init__(self, waiting: int, now: float) -> None:
        # Bytes written in all since something waits.
        self._written = waiting
        # How many these were at some times, and when.
        self._notes = [(waiting, now)]

    def wrote(self, size: int) -> None:
        """Count bytes that were written."""
        self._written += size

    def note(self, now: float) -> None:
        """Note that all that was written so far waits at most since now."""
        self._notes.append((self._written, now))

    def seconds(self, waiting: int, now: float) -> float:
        """Return the age of the oldest byte when so many bytes wait.

        The few bytes that websockets wrote itself make the others look older, never younger.
        """
        gone = self._written - waiting
        notes = self._notes
        while notes and notes[0][0] <= gone:
            del notes[0]
        return now - notes[0][1] if notes else 0.0


class Backlog:
    """The bytes that wait in all outboxes of a server.

    Args:
        limits: when clients are too slow.
    """

    __slots__ = ("_bytes", "_sizes", "limits")

    def __init__(self, limits: OutboxLimits) -> None:
        self.limits = limits
        self._bytes = 0
        # Of the outboxes in which something waits: how much, as they last reported.
        self._sizes: dict[BoundedOutbox, int] = {}

    @property
    def bytes(self) -> int:
        """Bytes that wait in all outboxes, as each last reported. Fewer may wait, never more."""
        return self._bytes

    def why_too_much(self, waiting: int) -> str | None:
        """Return why a client is cut off that has too many bytes to read; None if it is not.

        Args:
            waiting: bytes that wait for the client.
        """
        most = self.limits.max_bytes
        if waiting <= most:
            return None
        return f"{waiting} bytes wait for it, and OUTBOX_MAX_BYTES is {most}"

    def why_too_old(self, waiting: int, age: float) -> str | None:
        """Return why a client is cut off whose oldest byte waits too long; None if it is not.

        Args:
            waiting: bytes that wait for the client.
            age: seconds for which the oldest of them has waited.
        """
        most = self.limits.max_age
        if age <= most:
            return None
        return (
            f"{waiting} bytes wait for it, the oldest for {age:.1f} s, and OUTBOX_MAX_AGE is "
            f"{most * 1000:g} ms"
        )

    def is_behind(self, waiting: int) -> bool:
        """Return whether a client is close to being cut off, so that the next write should wait.

        Args:
            waiting: bytes that wait for the client.
        """
        if _BEHIND * waiting > self.limits.max_bytes:
            return True
        return waiting > 0 and _HIGH * self._bytes > self.limits.total_bytes

    def note(self, outbox: BoundedOutbox, size: int) -> None:
        """Record how many bytes wait in an outbox: 0 when it is empty, or its client is gone.

        If too much waits for all clients now, some are cut off, perhaps the one of this outbox.
        """
        self._bytes += size - self._sizes.pop(outbox, 0)
        if size:
            self._sizes[outbox] = size
            if self._bytes > self.limits.total_bytes:
                self._relieve()

    def _relieve(self) -> None:
        """Cut off those for whom most waits, if too much really does."""
        # Some clients have taken something since their outboxes reported.
        sizes = ((outbox, outbox.waiting()) for outbox in self._sizes)
        self._sizes = {outbox: size for outbox, size in sizes if size}
        self._bytes = total = sum(self._sizes.values())
        most = self.limits.total_bytes
        if total <= most:
            return
        enough = most - most // _MARGIN
        for outbox in sorted(self._sizes, key=self._sizes.__getitem__, reverse=True):
            if self._bytes <= enough:
                break
            outbox.cut_off(
                f"{outbox.waiting()} bytes wait for it, {total} for all clients together, and "
                f"OUTBOX_TOTAL_BYTES is {most}"
            )
