"""Ledger: tells the journal which channels of this process have changed.

The ledger notes which channels have changed, and tells the journal of them when a record is about
to be written, so that each record has everything that is true then. When a channel goes on where a
former one ended, the same record adds the one and ends the other. So one of the two is in the
journal whenever the process is killed.

The journal has a place of its own for each channel whose client is away, and for each channel that
is in a round. The places of all other channels follow from the process's ``Low``.

The ledger also presents the channels of other processes as absences, for clients that come back to
this process.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Final

import attrs

from .absences import Absence, Absences
from .identity import Key
from .journal import Journal, OtherChannel
from .liveness_checks import WITHIN
from .lost_reasons import LostReason
from .records import PlaceTaken
from .shared_sessions import SharedSessions
from .standing import LivePlaces, Standing
from .standings import STEP, Standings
from .taken_places import Taken, TakenPlaces

__all__ = ["AbsenceElsewhere", "Ledger"]


_FEW: Final = 10_000
"""Changed channels from which on the ledger forgets those that the journal need not know."""


@attrs.define(eq=False)
class AbsenceElsewhere(Absence):
    """A channel that a client has left behind in another process."""

    member: OtherChannel = attrs.field(kw_only=True)


class Ledger:
    """Tells the journal which channels of this process have been joined, moved or ended.

    Args:
        journal: the process's journal.
        live: the places up to which the live hub has handed changes out.
        standings: the standings of the process's channels.
        absences: the absences of the process's channels.
        shared: the sessions that several clients have.
        taken_places: the places that were taken over.
        clock: returns seconds of the absences' clock.
        wall_clock: returns seconds since 1970.
    """

    def __init__(
        self,
        journal: Journal,
        live: LivePlaces,
        standings: Standings,
        absences: Absences,
        *,
        shared: SharedSessions,
        taken_places: TakenPlaces,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._live = live
        self._standings = standings
        self._absences = absences
        self._shared = shared
        self._taken_places = taken_places
        self._clock = clock
        self._wall_clock = wall_clock
        self._numbers = count()
        # The numbers of the channels that the journal was told of, and the channels by number.
        self._known: dict[Standing | Absence, int] = {}
        self._by_number: dict[int, Standing | Absence] = {}
        # The channels that have changed since, and the channels of other processes that were taken
        # over here.
        self._changed: dict[Standing | Absence, None] = {}
        self._taken: dict[tuple[bytes, int], AbsenceElsewhere] = {}
        # The keys of which places were taken over, and whether a client has found nothing.
        self._places_taken: dict[bytes, bool] = {}
        # How many changed channels are noted before those are forgotten that need not be told.
        self._most_changed = _FEW
        # The channels that were claimed, as their clients did not answer.
        self._claimed: dict[Standing, None] = {}
        # The channels whose clients were asked: the client's ``heard`` then, and the time until
        # which it may answer.
        self._asked: dict[Standing, tuple[Hashable, float]] = {}
        standings.on_change = self._note
        standings.on_absence = self._on_absence
        absences.on_change = self._note
        absences.elsewhere = self.elsewhere
        journal.on_taken = self._on_taken
        journal.on_asked = self._on_asked
        journal.on_shared = shared.add
        shared.on_tell = journal.shared
        taken_places.on_change = self._note_places
        journal.on_place_taken = self._learn_places
        journal.places_taken = self._told_places
        journal.on_lost = partial(self._remember, why=LostReason.LOST)

    def _note(self, thing: Standing | Absence) -> None:
        if isinstance(thing, AbsenceElsewhere):
            # A new object is made for each look, so the channel's number counts.
            self._taken[thing.member.server, thing.member.number] = thing
            return
        self._changed[thing] = None
        if len(self._changed) > self._most_changed:
            # The journal cannot be written now. It need not know channels that came and went
            # meanwhile.
            self._changed = {
                one: None for one in self._changed if one in self._known or self._is_here(one)
            }
            self._most_changed = 2 * len(self._changed) + _FEW

    def _on_absence(self, standing: Standing, absence: Absence) -> None:
        """Note what a channel has left: others know that by the channel's number."""
        number = self._known.pop(standing, None)
        if number is not None:
            self._known[absence], self._by_number[number] = number, absence
            heard, _ = self._asked.pop(standing, (None, 0.0))
            if heard is not None and heard == standing.member.client.heard:
                self._absences.remove(absence)

    def _is_here(self, thing: Standing | Absence) -> bool:
        if isinstance(thing, Absence):
            return self._absences.has(thing)
        return self._standings.of_member(thing.member) is thing

    def telling(self) -> Iterator[None]:
        """Tell the journal what has changed since the last time, in steps: others may run in
        between. No record may be made before the last step: a channel and the one that it goes on
        from belong into the same record."""
        self._look_who_has_answered()
        taken, self._taken = self._taken, {}
        for one in taken.values():
            if one.may_be_here:
                # The channel is not taken over before its process has asked the client.
                self._journal.ask(one.member, has_moved=self._shared.is_exact(one.key))
            else:
                self._journal.taken(one.member)
        told = 0
        while self._places_taken:
            digest, is_missed = self._places_taken.popitem()
            if (found := self._taken_places.of(digest)) is not None:
                entry = self._entry(digest, found)
                self._journal.add(attrs.evolve(entry, is_missed=True) if is_missed else entry)
            told += 1
            if told % STEP == 0:
                yield
        while self._changed:
            thing, _ = self._changed.popitem()
            if isinstance(thing, Absence):
                self._tell_absence(thing)
            else:
                self._tell_standing(thing)
            told += 1
            if told % STEP == 0:
                yield
        self._most_changed = _FEW

    def _look_who_has_answered(self) -> None:
        for standing in list(self._claimed):
            if not standing.member.is_claimed:
                # The client has answered after all.
                del self._claimed[standing]
                self._note(standing)
        now = self._clock()
        for standing, (heard, until) in list(self._asked.items()):
            client = standing.member.client
            if client.heard != heard or not self._is_here(standing):
                del self._asked[standing]
            elif now >= until:
                del self._asked[standing]
                standing.member.claimed_at = heard
                self._note(standing)

    def _on_asked(self, number: int) -> None:
        """Ask the client of a channel whether it is still here: it may have come to another
        process. If it has left the channel it has, and goes on there from the channel's place."""
        thing = self._by_number.get(number)
        if isinstance(thing, Absence):
            self._absences.remove(thing)
        elif thing is not None and thing not in self._asked:
            self._asked[thing] = thing.member.client.heard, self._clock() + WITHIN
            thing.proof.ask(partial(self._answered, thing))

    def _answered(self, standing: Standing, is_there: bool) -> None:
        if is_there and self._is_here(standing):
            # Whoever has come to another process is another client.
            self._shared.find(standing.member.key)

    def _tell_absence(self, absence: Absence) -> None:
        if not (self._absences.keeps(absence) or self._absences.owes_gap(absence)):
            self._end(absence)
            return
        since = self._wall_clock() - (self._clock() - absence.since)
        self._journal.joined(
            self._number(absence),
            absence.key.digest,
            absence.ref,
            absence.place,
            since=since,
            lost=absence.lost,
            is_anew=absence.is_anew,
        )

    def _tell_standing(self, standing: Standing) -> None:
        member = standing.member
        if not self._is_here(standing):
            self._claimed.pop(standing, None)
            self._end(standing)
        elif member.is_claimed:
            self._claimed[standing] = None
            self._end(standing)
        elif member.is_chosen:
            place, lowered = standing.lasting_place(self._live), member.lowered_to
            lost = standing.why_lost or member.lost
            is_live = self._standings.is_settled(standing) and lowered is None and lost is None
            self._journal.joined(
                self._number(standing),
                member.key.digest,
                member.client.last_ref,
                place if lowered is None else min(place, lowered),
                since=None if is_live else self._wall_clock(),
                is_open=not is_live,
                lost=lost,
                is_anew=member.is_anew and not is_live,
            )

    def _number(self, thing: Standing | Absence) -> int:
        number = self._known.get(thing)
        if number is None:
            number = self._known[thing] = next(self._numbers)
            self._by_number[number] = thing
        return number

    def _end(self, thing: Standing | Absence) -> None:
        number = self._known.pop(thing, None)
        if number is not None:
            del self._by_number[number]
            self._journal.ended(number)

    def _on_taken(self, number: int) -> None:
        """Note that another process has taken a channel over."""
        thing = self._by_number.pop(number, None)
        if thing is None:
            return
        del self._known[thing]
        if isinstance(thing, Absence):
            self._absences.remove(thing)
        else:
            thing.member.claimed_at = thing.member.client.heard
            self._claimed[thing] = None

    # Places that were taken over

    def _note_places(self, digest: bytes, is_missed: bool) -> None:
        self._places_taken[digest] = is_missed or self._places_taken.get(digest, False)

    def _told_places(self) -> Iterator[PlaceTaken]:
        return (one.entry or self._entry(key, one) for key, one in self._taken_places.told())

    def _entry(self, digest: bytes, taken: Taken) -> PlaceTaken:
        # It is kept, since there may be very many when a snapshot is written.
        until = taken.until + self._wall_clock() - self._clock()
        place = (taken.place[0], taken.place[1])
        taken.entry = PlaceTaken(digest, taken.ref, place, until, taken.lacks_ref)
        return taken.entry

    def _learn_places(self, places: PlaceTaken) -> None:
        until = places.until + self._clock() - self._wall_clock()
        taken = Taken(places.ref, 0, places.place, until, places.lacks_ref, is_told=True)
        self._taken_places.learn(places.key, taken, is_missed=places.is_missed)

    # Other processes

    def elsewhere(self, key: Key) -> Sequence[Absence]:
        """Return the channels with a key that clients have left behind in other processes."""
        return [self._absence(member, key) for member in self._journal.find(key.digest)]

    def expired(self, members: Sequence[OtherChannel]) -> None:
        """Remember channels of other processes whose clients have been away for too long."""
        for member in members:
            self._remember(member, LostReason.WINDOW)

    def _remember(self, member: OtherChannel, why: LostReason) -> None:
        """Have the client of another process's channel be told of a gap when it comes here."""
        one = self._absence(member, Key(member.key, is_exact=False))
        absence = Absence(one.key, one.ref, one.place, one.since, lost=one.lost or why)
        self._absences.add(absence)
        # All processes have read the same.
        self._changed.pop(absence, None)

    def _absence(self, member: OtherChannel, key: Key) -> Absence:
        now, wall = self._clock(), self._wall_clock()
        return AbsenceElsewhere(
            key,
            member.ref or 0,
            member.place,
            now if member.since is None else now - (wall - member.since),
            lost=member.lost,
            is_anew=member.is_anew,
            may_be_here=member.may_be_there,
            is_asked_about=member.is_asked_about,
            member=member,
        )
