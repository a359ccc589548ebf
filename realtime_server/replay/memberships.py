"""Memberships: finds, for a channel that is joined, the former channel of the same client.

A membership is one connection's channel, from its join to its end. When the connection is lost, the
membership leaves an absence: the place up to which the client has everything. A join that has the
same key goes on from that place. No I/O, and time is passed in.

Theory of operation. The candidates for a join are the absences with the same key, and the open
memberships with the same key whose clients do not answer, because a lost connection may still look
open. The caller asks these clients. Stock clients number their messages over their whole life, and
not anew for each connection. So a candidate whose client has sent a ref that is not below the
join's is left out. A page that is loaded anew begins with low refs, and takes nothing over. Refs
exclude candidates; they do not identify one.

If a key is exact, because the application has named a session for each client object, all
candidates were this client, and the highest of their places is what the client has. Otherwise
several clients may have the key, and it is not known which of the candidates was this client. Then
the lowest place counts: changes may come twice, but none is lost.

One of several candidates is taken away: the one with the nearest ref, which most likely was this
client. If the candidate was another client's, that other client will find the candidate that really
was this client's, whose ref is not higher. The place of that candidate must not be too high for the
other client either, so all remaining candidates are lowered to the place of the one that is taken.
To take away the candidate with the highest place would lose changes: its client may have sent fewer
messages than the clients of all remaining candidates, and would find nothing.

An open membership that is taken is claimed: it leaves no absence, unless its client answers after
all. A client that is there for the first time may be taken for another one. Then that other one
finds nothing, and is told of a gap (:mod:`.taken_places`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from operator import attrgetter
from typing import Final

from .absences import Absence, Absences, reason_to_tell
from .identity import Key
from .lost_reasons import LostReason
from .membership import FIRST_REF, Choice, Membership
from .places import Place
from .shared_sessions import SharedSessions
from .taken_places import Taken, TakenPlaces

__all__ = ["MOST_REPEATS", "Memberships"]

MOST_REPEATS: Final = 100
"""How often the same changes are replayed to a client that answers pings, but proves none."""
_UNANSWERED: Final = 10
"""As how many a replay counts if the client answers no pings."""
MOST_HERE: Final = 250
"""Open channels that may have one key, if the key of a further one is to count. Each join asks the
clients of all of them whether they are still there."""

_NOBODY: Final = Choice(None)
_LOST: Final = LostReason.LOST
_PLACE: Final = attrgetter("place")
_REF: Final = attrgetter("ref")
_REF_AND_PLACE: Final = attrgetter("ref", "place")


class Memberships:
    """All memberships of a server, those whose clients are here and those that are away.

    Args:
        place_of: returns the place up to which an open membership's client has everything.
        window: seconds for which a client may be away.
        most_away: how many memberships may be away.
        clock: seconds of any clock that only goes forward.
        written_to: returns up to where everything was written to an open one's client, if known.
        why_lost: returns why no other membership can go on from an open one's place, if none can.
    """

    def __init__(
        self,
        place_of: Callable[[Membership], Place],
        *,
        window: float,
        most_away: int,
        clock: Callable[[], float],
        written_to: Callable[[Membership], Place | None] = lambda member: None,
        why_lost: Callable[[Membership], LostReason | None] = lambda member: None,
    ) -> None:
        self._place_of = place_of
        self._written_to = written_to
        self._why_lost = why_lost
        self._clock = clock
        self.absences = Absences(window=window, most=most_away, clock=clock)
        """The absences of clients that may come back."""
        self.taken_places = TakenPlaces(window=window, clock=clock)
        """The places that were taken over, perhaps from other clients."""
        self.taken_places.on_missed = self._tell_lacking
        # The open memberships by key, in the order in which they came.
        self._here: dict[bytes, dict[Membership, None]] = {}
        self.shared_sessions = SharedSessions()
        """The exact keys that several clients turned out to have."""
        self.shared_sessions.on_add = self._tell_lacking
        self.on_change: Callable[[Membership], None] = lambda member: None
        """Called with each open membership that was claimed or lowered, or that has another key."""
        self.on_lacking: Callable[[Membership, Place], None] = lambda member, place: None
        """Called with an open membership that most likely went on from another client's place, and
        the place that its client had."""

    # Here

    def enter(self, member: Membership) -> None:
        """Add the membership of a new channel; :meth:`choose` says where it goes on."""
        if member.key.is_exact and self._is_outnumbered(member):
            # Some clients send an empty ref now and then, which says little.
            note = self.shared_sessions.find if member.ref else self.shared_sessions.suspect
            note(member.key)
        self._here.setdefault(member.key.digest, {})[member] = None

    def of(self, digest: bytes) -> Collection[Membership]:
        """Return the open memberships with a key, in the order in which they came."""
        return self._here.get(digest, ())

    def is_crowded(self, key: Key) -> bool:
        """Return whether so many open channels have a key that nobody could say who comes back."""
        return len(self.of(key.digest)) >= MOST_HERE

    def others(self, member: Membership) -> list[Membership]:
        """Return the open memberships that may be former ones of the same client.

        Ask whether their clients are still there before you choose.
        """
        return [one for one in self.of(member.key.digest) if self._may_precede(one, member)]

    def choose(self, member: Membership, silent: Collection[Membership]) -> Choice:
        """Decide where a membership goes on, and take over what it goes on from.

        Args:
            member: that was entered.
            silent: the memberships of :meth:`others` whose clients did not answer.
        """
        if member.is_claimed:
            # A later membership of the same client was faster, and has taken this one's place over.
            member.is_chosen = True
            return _NOBODY
        quiet = [one for one in self.others(member) if one in silent]
        for one in quiet:
            if not one.is_chosen:
                self._claim(one)
        quiet = [one for one in quiet if one.is_chosen]
        choice = self._chosen(member, quiet)
        member.is_chosen = True
        member.is_anew = choice.is_anew or (choice.place is None and member.ref != FIRST_REF)
        return choice

    def end(self, member: Membership) -> None:
        """Remove a membership whose client cannot come back to it."""
        here = self._here.get(member.key.digest)
        if here is not None and member in here:
            del here[member]
            if not here:
                del self._here[member.key.digest]
            self.taken_places.note_end(member.key.digest, member.client, member.client.last_ref)

    def depart(
        self,
        member: Membership,
        place: Place,
        *,
        began: Place,
        written: Place | None = None,
        lost: LostReason | None = None,
    ) -> Absence | None:
        """Remove a membership whose client may come back; return what it leaves behind.

        Args:
            member: the membership, whose connection has ended.
            place: the place up to which the client has everything.
            began: the place at which the membership began.
            written: the place up to which everything was written to the client; None: it is not
                known.
            lost: why no other membership can go on from the place; None if one can.
        """
        if member.is_claimed:
            self.end(member)
            return None
        if not member.is_chosen and (
            self._fitting(member)
            or any(self._chosen_others(member))
            or (not self.shared_sessions.is_exact(member.key) and self._find_taken(member))
        ):
            # The absence that this membership would have gone on from is still there. A second one
            # of the same client would keep the same changes for the whole window. Or another client
            # has taken it: then there is a gap, of which the client is told when it comes again.
            self.end(member)
            return None
        if member.lowered_to is not None:
            place = min(place, member.lowered_to)
        self.end(member)
        repeats = 0
        if place <= began:
            repeats = member.repeats
            if member.has_missed:
                repeats += 1 if member.client.has_answered else _UNANSWERED
        absence = member.absence(place, self._clock(), repeats=repeats, lost=lost, written=written)
        return self.absences.add(absence)

    def lose(self, member: Membership, place: Place) -> None:
        """Remember that a client has lost changes, so that it is told of a gap when it comes back.

        Args:
            member: the membership, which has ended.
            place: the highest place up to which the client may have everything.
        """
        client, now, lost = member.client, self._clock(), LostReason.LOST
        absence = Absence(member.key, client.last_ref, place, now, lost=lost, seen=client.seen)
        self.absences.add(absence)

    def change_key(self, member: Membership, key: Key) -> None:
        """Give a membership another key, because its token names somebody else now."""
        if key != member.key:
            self.end(member)
            member.key = key
            self.enter(member)
            self.on_change(member)

    # Choosing

    def _chosen_others(self, member: Membership) -> Iterator[Membership]:
        return (one for one in self.others(member) if one.is_chosen)

    def _may_precede(self, one: Membership, member: Membership) -> bool:
        return (
            one.client is not member.client
            and not one.is_claimed
            and (not member.ref or one.client.last_ref < member.ref)
            and one.client.seen <= member.client.began
        )

    def _fitting(self, member: Membership) -> list[Absence]:
        """Return the absences that the client of a membership may have left."""
        absent = self.absences.of(member.key)
        ref, began = member.ref, member.client.began
        # An empty ref says nothing: some clients send one when they join again.
        return [one for one in absent if (not ref or one.ref < ref) and one.seen <= began]

    def _chosen(self, member: Membership, silent: list[Membership]) -> Choice:
        absent = self._fitting(member)
        # Whoever finds a place above one that was taken before may be the client that had that one.
        taken = self._find_taken(member)
        places: list[Place] = []
        if self.shared_sessions.is_exact(member.key):
            # Unless another client turns out to have the session.
            places += [one.place for one in absent]
            places += map(self._place, silent)
            choice = self._take_all(member, absent, silent)
        else:
            choice = self._take_one(member, absent, silent)
        places += [one.may_lack for one in absent if one.may_lack is not None]
        places += [one.may_lack for one in silent if one.may_lack is not None]
        places += [taken.place] if taken is not None else []
        if choice.place is not None and choice.lost is None:
            lowest = min(places, default=choice.place)
            member.may_lack = lowest if lowest < choice.place else None
        return choice

    def _is_outnumbered(self, member: Membership) -> bool:
        """Return whether another client has the same key: one that has sent more messages, or that
        was there when this one was connected already."""
        # A join without a ref counts as a first message.
        digest, ref, began = member.key.digest, member.ref or 1, member.client.began
        return (
            any(one.ref >= ref or one.seen > began for one in self.absences.of(member.key))
            or self.taken_places.is_by_another(digest, ref, member.client)
            or any(
                one.client.last_ref >= ref or one.client.seen > began
                for one in self.of(digest)
                if one.client is not member.client and not one.is_claimed
            )
        )

    def _taken_from(self, member: Membership, candidates: list[Absence]) -> Choice | None:
        """Return that another client may have gone on from a client's place; None if none has."""
        taken = self._find_taken(member)
        # A candidate with a lower ref than the client had whose place was taken over is not that
        # client, but perhaps the one that took the place over without a ref. Otherwise it may be
        # the joining client itself, which has counted on while it was away.
        if taken is None or any(
            not taken.lacks_ref or one.ref >= taken.ref or one.place <= taken.place
            for one in candidates
        ):
            return None
        taken.add_taker(member.client)
        self._tell_lacking(member.key.digest)
        self.taken_places.on_change(member.key.digest, True)
        return Choice(taken.place, LostReason.LOST)

    def _find_taken(self, member: Membership) -> Taken | None:
        """Return the taken places of which the client may have left one."""
        return self.taken_places.find(member.key.digest, member.ref, member.client)

    def _tell_lacking(self, digest: bytes) -> None:
        """Have the clients of a key be told of a gap that may have gone on from another's place:
        there are more clients than places."""
        for one in self.of(digest):
            if one.may_lack is not None:
                place, one.may_lack = one.may_lack, None
                self.on_lacking(one, place)
        self.absences.lose_lacking(digest)

    def _take_all(
        self, member: Membership, absent: list[Absence], silent: list[Membership]
    ) -> Choice:
        """Choose the highest place, and take all candidates away: all were this client.

        Of absences that may be several clients' the lowest place counts. So whichever of them this
        client is, it gets what it has missed, and another one finds out that its place was taken.
        """
        candidates = [*absent, *map(self._as_absence, silent)]
        unrelated = self.absences.unrelated(absent)
        for gone in absent:
            self.absences.remove(gone)
        for one in silent:
            self._claim(one)
        if not candidates:
            return _NOBODY
        best = min(unrelated, key=_PLACE) if unrelated else max(candidates, key=_PLACE)
        # In case several clients have the key after all.
        seen, ref = min(one.seen for one in candidates), min([best, *unrelated], key=_REF).ref
        digest, client = member.key.digest, member.client
        self.taken_places.note(digest, ref, best.place, client, seen=seen, is_told=bool(unrelated))
        written = max((one.written for one in candidates if one.written), default=None)
        lost = reason_to_tell(candidates) or best.lost
        is_anew = any(one.is_anew for one in candidates)
        return Choice(best.place, lost, best.repeats, written, is_anew)

    def _take_one(
        self, member: Membership, absent: list[Absence], silent: list[Membership]
    ) -> Choice:
        """Choose the lowest place, and take away the candidate that most likely was this client."""
        open_ones = {self._as_absence(one): one for one in silent}
        candidates = [*absent, *open_ones]
        missed = self._taken_from(member, candidates)
        if missed is not None:
            return missed
        if not candidates:
            return _NOBODY
        lowest = min(candidates, key=_PLACE)
        lost = reason_to_tell(candidates) or lowest.lost
        is_anew = any(one.is_anew for one in candidates)
        takeable = [one for one in candidates if not one.is_shared]
        if not takeable or not (member.ref or len(candidates) == 1):
            repeats = max(one.repeats for one in candidates)
            return Choice(lowest.place, lost, repeats, is_anew=is_anew)
        taken = max(takeable, key=_REF_AND_PLACE)
        choice = Choice(lowest.place, lost, taken.repeats, taken.written, is_anew)
        digest, client, has_ref = member.key.digest, member.client, bool(member.ref)
        self.taken_places.note(
            digest, taken.ref, taken.place, client, seen=taken.seen, has_ref=has_ref
        )
        if taken in open_ones:
            self._claim(open_ones[taken])
        else:
            self.absences.remove(taken)
        for one in candidates:
            # Each of them may be this client's. Then the client that was taken for this one will go
            # on from it.
            if one is not taken and one in open_ones:
                self._lower(open_ones[one], taken)
            elif one is not taken:
                self.absences.lower(one, taken.place, taken.lost)
        return choice

    def _lower(self, member: Membership, taken: Absence) -> None:
        if taken.place < self._place(member):
            member.lowered_to = taken.place
        member.lost = member.lost or (taken.lost if taken.lost is _LOST else None)
        self.on_change(member)

    def _claim(self, member: Membership) -> None:
        member.claimed_at = member.client.heard
        self.on_change(member)

    def _as_absence(self, member: Membership) -> Absence:
        """Return the absence that an open membership would leave."""
        return member.absence(
            self._place(member),
            self._clock(),
            repeats=member.repeats,
            lost=self._why_lost(member),
            written=self._written_to(member),
        )

    def _place(self, member: Membership) -> Place:
        place = self._place_of(member)
        return place if member.lowered_to is None else min(place, member.lowered_to)
