"""Chain: which envelope comes next for a reader of one chain.

It puts the parts of a piece together, leaves out what the reader has, and never passes over a hole:
each envelope says at which place the one before it has ended.

It does no I/O.
"""

from __future__ import annotations

import attrs

from realtime_core import StreamIdentity
from realtime_core.errors import RealtimeError

from .envelope import NOWHERE, Envelope, Place, place_in

__all__ = ["Chain", "HoleError"]


class HoleError(RealtimeError):
    """Something is missing between what was read and an envelope.

    Attributes:
        after: the place up to which everything was read.
        until: the place that the envelope begins behind.
        sequence: the envelope's number.
    """

    def __init__(self, after: Place, until: Place, sequence: int) -> None:
        self.after = after
        self.until = until
        self.sequence = sequence
        super().__init__(f"envelope {sequence} follows {until}, but what was read ends at {after}")


class Chain:
    """Where a reader stands in a chain of envelopes.

    Args:
        last: the place up to which the reader has everything; None to begin at whichever envelope
            comes first.
        stream: the stream of that place.
    """

    def __init__(self, last: Place | None = None, stream: StreamIdentity | None = None) -> None:
        self.last = last
        """The place up to which everything was read; None if nothing was. Whoever has taken an
        envelope sets it to that one's end."""
        self.stream = stream
        """The stream of that place; None if nothing was read."""
        # The parts of a piece that has not come as a whole.
        self._pieces: list[bytes] = []

    def begin_anew(self) -> None:
        """Begin at whichever envelope comes next: behind a hole, or behind an unreadable one."""
        self.last = None
        self._pieces = []

    def feed(self, envelope: Envelope, sequence: int) -> Envelope | None:
        """Take the next envelope; return what the reader gets now, with the bodies of all parts.

        Args:
            envelope: the envelope.
            sequence: its number where it was read from, for errors.

        Returns:
            None if the reader has it, or if more parts of it have to come.

        Raises:
            HoleError: if something before it is missing. The same envelope may be fed again behind
                :meth:`begin_anew`.
        """
        whole = self._whole(envelope, sequence)
        if whole is None or self.last is None:
            return whole
        self.last = last = place_in(whole, self.last, self.stream)
        if whole.last <= last:
            return None
        if whole.prev > last:
            raise HoleError(last, whole.prev, sequence)
        return whole

    def _whole(self, envelope: Envelope, sequence: int) -> Envelope | None:
        if envelope.parts == 1:
            self._pieces = []
            return envelope
        if envelope.part == 1:
            # If a former first part was not followed by the others, another leader sends it again.
            self._pieces = [envelope.body]
            return None
        if envelope.part != len(self._pieces) + 1:
            last, has_begun = self.last, bool(self._pieces)
            self._pieces = []
            if last is None and not has_begun:
                # Reading has begun in the middle of it.
                return None
            if last is not None and envelope.part == envelope.parts and envelope.last <= last:
                return None
            # The log has let go of the parts between.
            raise HoleError(last or NOWHERE, envelope.last, sequence)
        self._pieces.append(envelope.body)
        if envelope.part < envelope.parts:
            return None
        body = b"".join(self._pieces)
        self._pieces = []
        return attrs.evolve(envelope, body=body, part=1, parts=1)
