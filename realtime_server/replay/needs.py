"""Needs: the lowest places of all clients, from which follows which changes nobody needs any more.

A connection whose client answers no pings proves nothing. After some seconds its channels get
places of their own, as channels in rounds have them. Otherwise one such client would hold back the
place that the journal has for all channels of the process, and the changes that are kept.

To look at each of a hundred thousand channels takes long, so that is done once in a second or so,
and in steps. The places that were found hold until the next time: places of clients only go up, and
whenever a channel gets a lower one, :meth:`Needs.lower` notes it.

What the journal tells of a client may be lower than what is known here, and another process may
have the client go on from there, or have a new client begin of which nothing is known here yet. If
such a client comes here, it needs what is behind that place. So changes are kept until the journal
has told for some seconds that nobody goes on before them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Final, Protocol

from realtime_core import LSN

from .absences import Absences
from .catch_up import CatchUp
from .parking import Parking
from .places import BEFORE, Place
from .proofs import Proofs
from .queue_places import QueuePlaces
from .standing import LASTS
from .standings import STEP, Standings
from .visit import Visit

__all__ = ["Needs"]

OVERDUE: Final = 10.0
"""Seconds after which a proof is not waited for. Clients that are there answer within two or three
seconds."""
_PARTS: Final = 20
"""How many places of the last window are remembered."""
_ON_ITS_WAY: Final = 10.0
"""Seconds within which all processes have read what one of them tells the journal, and have handed
out what another one has."""


class ToldPlaces(Protocol):
    """Knows what processes tell each other of the places of their clients."""

    def lowest(self) -> Place | None:
        """Return a place up to which the others' channels have everything; None: there are none."""
        ...

    def told_low(self) -> Place | None:
        """Return the place from which others take the joined channels of this process to go on,
        but for those of :meth:`told_open`; None: there are none."""
        ...

    def told_open(self) -> Iterator[Place]:
        """Yield the places from which others take those joined channels of this process to go on
        that have places of their own."""
        ...


class Needs:
    """Knows which changes the clients of a server may still need.

    Args:
        proofs: what clients have proven.
        queues: the places of viewers whose changes wait for slow policies.
        standings: the places of channels.
        parking: the channels that may be joined again on the same connection.
        absences: the absences of clients that are away.
        catch_up: the channels that are being brought up to now.
        window: seconds for which a client may be away.
    """

    def __init__(
        self,
        proofs: Proofs,
        queues: QueuePlaces,
        standings: Standings,
        parking: Parking,
        absences: Absences,
        catch_up: CatchUp,
        *,
        window: float,
    ) -> None:
        self._proofs = proofs
        self._queues = queues
        self._standings = standings
        self._parking = parking
        self._absences = absences
        self._catch_up = catch_up
        self._window = window
        self.visits: dict[Visit, None] = {}
        """All connections."""
        self.journal: ToldPlaces | None = None
        """What processes tell each other of their clients; None: there are no other processes."""
        # The lowest places that any process had been told of, and when, the oldest first. One of
        # them is as old as what others may not have read yet.
        self._told: deque[tuple[float, Place]] = deque([(proofs.clock(), BEFORE)])
        # The places up to which everything had been handed out, and when, the oldest first. One of
        # them is as old as the window.
        self._handed: deque[tuple[float, Place]] = deque()
        # The places that all connections had proven, and when, the oldest first. All but the first
        # are younger than ``LASTS``.
        self._proven: deque[tuple[float, Place]] = deque([(proofs.clock(), BEFORE)])
        # How often the stream has become another one.
        self._streams = 0
        # What was found when the connections were last looked at: the place from which on anybody
        # who is here may need changes, the place up to which connections had proven everything, and
        # that up to which they had however they end. And the lowest place that any channel has got
        # since that began.
        self._here = self._proven_here = self._sure_here = BEFORE
        self._lowered: Place | None = None
        standings.on_place = catch_up.on_add = self.lower

    @property
    def handed(self) -> Place:
        """The place up to which everything has been handed to whomever it concerns."""
        return self._catch_up.handed

    def looking(self) -> Iterator[None]:
        """Note which connections have owed a proof for too long, and up to where all have
        everything, in steps: others may run in between. Do this every second or so."""
        now, streams = self._proofs.clock(), self._streams
        self._note_handed(now)
        # Whoever has everything now has everything up to here.
        handed = self._queues.lowest_at(self._proofs.ordinal, self.handed)
        self._here, self._lowered = self.here(), None
        sure: list[int] = []
        proven: list[int] = []
        for count, visit in enumerate(list(self.visits), 1):
            if visit in self.visits:
                self._look_at(visit, now)
                proof = visit.proof
                if visit.standings and not proof.is_overdue:
                    written = proof.written
                    if proof.proven < written:
                        proven.append(proof.proven)
                    if (least := proof.sure) < written:
                        sure.append(least)
            if count % STEP == 0:
                yield
        lowest = sure_here = self._place(min(sure, default=None), handed)
        places = chain(self._standings.sure_places(), self._catch_up.places())
        for count, place in enumerate(places, 1):
            lowest = min(lowest, place)
            if count % STEP == 0:
                yield
        told = handed
        for count, place in enumerate(self.journal.told_open() if self.journal else (), 1):
            told = min(told, place)
            if count % STEP == 0:
                yield
        if streams == self._streams:
            self._here, self._sure_here = lowest, sure_here
            self._note_told(now, told)
            self._note_proven(now, self._place(min(proven, default=None), handed))

    def _look_at(self, visit: Visit, now: float) -> None:
        """Note whether a connection has owed a proof for too long."""
        proof = visit.proof
        is_overdue = proof.is_unprovable or visit.owes(now) > OVERDUE
        if is_overdue == proof.is_overdue:
            return
        proof.is_overdue = is_overdue
        for standing in chain(visit.standings.values(), self._parking.of(visit)):
            self._standings.unsettle(standing)

    def _note_proven(self, now: float, place: Place) -> None:
        self._proven_here = place
        proven = self._proven
        if place > proven[-1][1]:
            proven.append((now, place))
        while len(proven) > 1 and proven[1][0] <= now - LASTS:
            proven.popleft()

    def _note_told(self, now: float, place: Place) -> None:
        """Note from where clients may go on by what processes have told each other.

        Args:
            now: the present time.
            place: not above what has been handed out, and not above :meth:`.ToldPlaces.told_open`.
        """
        if self.journal is None:
            return
        journal, told = self.journal, self._told
        places = (place, journal.told_low(), self._absences.lowest(), journal.lowest())
        told.append((now, min(one for one in places if one is not None)))
        while len(told) > 1 and told[1][0] <= now - _ON_ITS_WAY:
            told.popleft()

    def _note_handed(self, now: float) -> None:
        handed = self._handed
        if not handed or now - handed[-1][0] >= self._window / _PARTS:
            handed.append((now, self.handed))
            while len(handed) > 1 and handed[1][0] <= now - self._window:
                handed.popleft()

    def lower(self, place: Place) -> None:
        """Note the place of a channel that has begun, or that goes on from a lower place."""
        if self._lowered is None or place < self._lowered:
            self._lowered = place

    def begin_anew(self, place: Place) -> None:
        """Forget the places of a former stream.

        Args:
            place: the place at which the new stream begins.
        """
        self._told = deque([(self._proofs.clock(), BEFORE)])
        self._handed.clear()
        self._streams += 1
        self._proven = deque([(self._proofs.clock(), BEFORE)])
        self._here = self._proven_here = self._sure_here = place
        self._lowered = None

    def lowest(self) -> Place:
        """Return the lowest place that anybody may go on from."""
        places = [self.here(), self._absences.lowest()]
        if self.journal is not None:
            places += (self.journal.lowest(), *(place for _, place in self._told))
        return min(place for place in places if place is not None)

    def first_needed_lsn(self) -> LSN | None:
        """Return the LSN of the first change that a client may need, unless it has been away for
        longer than the window; None if no client needs a change that was handed out."""
        needed = self.lowest()
        if self._handed and self._proofs.clock() - self._handed[0][0] >= self._window:
            needed = max(needed, self._handed[0][1])
        return LSN(needed[0]) if needed < self.handed else None

    def here(self) -> Place:
        """Return a place that no client which is here goes on before, in whatever way its
        connection ends."""
        return self._here if self._lowered is None else min(self._here, self._lowered)

    def proven_here(self) -> Place:
        """Return a place up to which all connections have proven what the live hub wrote."""
        return self._proven_here

    def lasting_here(self) -> Place:
        """Return a place up to which that is proven for long enough, or however the connections
        end."""
        return max(self._proven[0][1], self._sure_here)

    @property
    def highest_proven(self) -> Place:
        """The highest place that :meth:`lasting_here` may come to by what is proven so far."""
        return self._proven[-1][1]

    def without_proof(self) -> int:
        """Return the number of connections that still owe a proof of what was written to them."""
        proofs = (visit.proof for visit in self.visits if visit.standings)
        return sum(proof.proven < proof.written and not proof.is_overdue for proof in proofs)

    def _place(self, ordinal: int | None, handed: Place) -> Place:
        """Return the place up to which the changes of every viewer are in the writes up to an
        ordinal, if that is not above another one; None: in all writes."""
        if ordinal is None:
            return handed
        return min(handed, self._queues.lowest_at(ordinal, self._proofs.place_at(ordinal)))
