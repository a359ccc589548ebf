"""Needs: the lowest places of all clients, from which follows which changes nobody needs any more.

A connection whose client answers no pings proves nothing. After some seconds its channels get
places of their own, as channels in rounds have them. Otherwise one such client would hold back the
place that the journal has for all channels of the process, and the changes that are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from realtime_core import LSN

from .absences import Absences
from .connection_proof import ConnectionProof
from .parking import Parking
from .places import BEFORE, Place
from .proofs import Proofs
from .queue_places import QueuePlaces
from .rounds import Rounds
from .standing import LASTS
from .standings import Standings
from .visit import Visit

__all__ = ["Needs"]

OVERDUE: Final = 10.0
"""Seconds after which a proof is not waited for. Clients that are there answer within two or three
seconds."""
_PARTS: Final = 20
"""How many places of the last window are remembered."""


class Needs:
    """Knows which changes the clients of a server may still need.

    Args:
        proofs: what clients have proven.
        queues: the places of viewers whose changes wait for slow policies.
        standings: the places of channels.
        parking: the channels that may be joined again on the same connection.
        absences: the absences of clients that are away.
        rounds: the channels that are being brought up to now.
        window: seconds for which a client may be away.
    """

    def __init__(
        self,
        proofs: Proofs,
        queues: QueuePlaces,
        standings: Standings,
        parking: Parking,
        absences: Absences,
        rounds: Rounds,
        *,
        window: float,
    ) -> None:
        self._proofs = proofs
        self._queues = queues
        self._standings = standings
        self._parking = parking
        self._absences = absences
        self._rounds = rounds
        self._window = window
        self.visits: dict[Visit, None] = {}
        """All connections."""
        self.elsewhere: Callable[[], Place | None] = lambda: None
        """Returns the lowest place that clients of other processes may go on from; None: there are
        none."""
        # The places up to which everything had been handed out, and when, the oldest first. One of
        # them is as old as the window.
        self._handed: deque[tuple[float, Place]] = deque()
        # The places that all connections had proven, and when, the oldest first. All but the first
        # are younger than ``LASTS``.
        self._proven: deque[tuple[float, Place]] = deque([(proofs.clock(), BEFORE)])

    @property
    def handed(self) -> Place:
        """The place up to which everything has been handed to whomever it concerns."""
        return self._rounds.handed

    def look(self) -> None:
        """Note which connections are late with the answer to a ping. Call this every second or
        so."""
        now = self._proofs.clock()
        for visit in self.visits:
            proof = visit.proof
            is_overdue = proof.is_unprovable or visit.owes(now) > OVERDUE
            if is_overdue != proof.is_overdue:
                proof.is_overdue = is_overdue
                for standing in chain(visit.standings.values(), self._parking.of(visit)):
                    self._standings.unsettle(standing)
        proven = self._proven
        if (place := self.proven_here()) > proven[-1][1]:
            proven.append((now, place))
        while len(proven) > 1 and proven[1][0] <= now - LASTS:
            proven.popleft()
        handed = self._handed
        if not handed or now - handed[-1][0] >= self._window / _PARTS:
            handed.append((now, self.handed))
            while len(handed) > 1 and handed[1][0] <= now - self._window:
                handed.popleft()

    def begin_anew(self) -> None:
        """Forget the places of the former stream."""
        self._handed.clear()
        self._proven = deque([(self._proofs.clock(), BEFORE)])

    def lowest(self) -> Place:
        """Return the lowest place from which a client may go on. The log keeps what is behind
        it."""
        places = [self.here(), self._absences.lowest(), self._rounds.lowest, self.elsewhere()]
        return min(place for place in places if place is not None)

    def first_needed_lsn(self) -> LSN | None:
        """Return the LSN of the first change that a client may need, unless it has been away for
        longer than the window; None if no client needs a change that was handed out."""
        needed = self.lowest()
        if self._handed and self._proofs.clock() - self._handed[0][0] >= self._window:
            needed = max(needed, self._handed[0][1])
        return LSN(needed[0]) if needed < self.handed else None

    def here(self) -> Place:
        """Return the lowest place that a client that is here may go on from when its connection has
        ended in whatever way."""
        return min(chain([self._place(self._least_sure())], self._standings.sure_places()))

    def _least_sure(self) -> int | None:
        """Return the lowest ordinal that connections have proven however they end; None if they
        have proven everything."""
        least: int | None = None
        # Each second this looks at every connection, so there are no calls within.
        for visit in self.visits:
            proof = visit.proof
            if not visit.standings or proof.is_overdue or proof.is_unprovable:
                continue
            sure = proof.proven
            if proof.proven_before_close < sure:
                sure = proof.proven_before_close
            if sure < proof.written and (least is None or sure < least):
                least = sure
        return least

    def proven_here(self) -> Place:
        """Return the lowest place up to which connections have proven what the live hub wrote."""
        return self._place(min((one.proven for one in self._without_proof()), default=None))

    def lasting_here(self) -> Place:
        """Return the lowest place up to which that is proven for long enough, or however the
        connections end."""
        return max(self._proven[0][1], self._place(self._least_sure()))

    @property
    def highest_proven(self) -> Place:
        """The highest place that :meth:`lasting_here` may come to by what is proven so far."""
        return self._proven[-1][1]

    def without_proof(self) -> int:
        """Return the number of connections that still owe a proof of what was written to them."""
        return sum(1 for _ in self._without_proof())

    def _without_proof(self) -> Iterator[ConnectionProof]:
        for visit in self.visits:
            proof = visit.proof
            if not visit.standings or proof.is_overdue or proof.is_unprovable:
                continue
            if proof.proven < proof.written:
                yield proof

    def _place(self, ordinal: int | None) -> Place:
        """Return the place up to which the changes of every viewer are in the writes up to an
        ordinal; None: in all writes."""
        queues, proofs = self._queues, self._proofs
        handed = queues.lowest_at(proofs.ordinal, self.handed)
        if ordinal is None:
            return handed
        return min(handed, queues.lowest_at(ordinal, proofs.place_at(ordinal)))
