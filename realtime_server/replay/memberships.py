"""Memberships: which channel of somebody who comes back goes on where which former one ended.

A membership is one connection's channel, from its join to its end. When its connection is lost, it
leaves an absence: the place up to which its client has everything. A join that has the same key
goes on from there. Pure: no clock but the one given, no sockets.

Theory of operation. Stock clients number their messages over their whole life, and not anew for
each connection. So a membership whose client has sent a ref that is not below the join's cannot be
the join's predecessor; a page that is loaded anew begins with low refs, and takes nothing over.
Refs exclude; they do not identify.

If a key is exact, because the application has named a session for each client object, all
candidates were this client, and the highest of their places is what it has. Otherwise several
clients may have the key, and which of the candidates was this one is not known. Then the lowest
place counts: changes may come twice, but none is lost. One candidate is taken away, the one with
the nearest ref, which most likely was this client. If it was another's, that other one will find
the one that really was this client's: its ref is not higher, and so that its place is not higher
either, all that are left are lowered to the place of the one that is taken. To take away the
candidate with the highest place would not do: its owner may have sent fewer messages than all that
are left.

A lost connection may still look open. Such a membership is a candidate if it does not answer; the
caller asks. If it is chosen, it is claimed: it leaves no absence, unless it answers after all.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator
from heapq import heapify, heappop, heappush
from typing import Final, Protocol

import attrs

from .identity import Key
from .places import Place

__all__ = ["Absence", "Choice", "Client", "LostReason", "Membership", "Memberships"]

MOST_OF_A_KEY: Final = 1000
"""Absences of one key that are kept apart; what further ones need goes to the last of them."""
MOST_REPEATS: Final = 10
"""How often in a row the same changes are replayed to a client that proves nothing of them."""
_MOST_LOST: Final = 100_000
"""Absences that are remembered after their changes have gone."""
_REMEMBERED: Final = 86_400.0
"""Seconds for which they are."""
_MOST_SHARED: Final = 100_000
"""Sessions that are remembered to be several clients'."""


class LostReason(enum.Enum):
    """Why a channel cannot go on where it ended, so that it is told of a gap."""

    WINDOW = "replay_window"
    """It was away for longer than ``REPLAY_WINDOW``."""
    LIMIT = "replay_limit"
    """More clients were away, or more changes waited, than is kept."""
    LOST = "replay_lost"
    """What was kept for it belongs to another stream than the present one."""
    UNPROVEN = "unproven"
    """Nobody knows what it has received: it does not send pings back as they are."""


class Client(Protocol):
    """The other end of a connection."""

    @property
    def last_ref(self) -> int:
        """The highest ref that the client has sent; 0 if it has sent none."""
        ...

    @property
    def heard(self) -> int:
        """How often anything came from the client."""
        ...


@attrs.define(eq=False)
class Membership:
    """A channel of an open connection."""

    key: Key
    ref: int | None
    """The ref of its join; None if that was no number."""
    client: Client
    is_chosen: bool = attrs.field(default=False, init=False)
    """Whether it is decided where it goes on; until then it has no place."""
    repeats: int = attrs.field(default=0, init=False)
    """How often in a row its client was replayed the same changes."""
    lowered_to: Place | None = attrs.field(default=None, init=False)
    """A place to leave behind, if its own is not lower: somebody else's, perhaps."""
    # What had been heard of the client when the membership was claimed; None: it was not.
    claimed_at: int | None = attrs.field(default=None, init=False)

    @property
    def is_claimed(self) -> bool:
        """Whether a later membership has gone on where this one stood, and nothing was heard of
        its client since."""
        return self.claimed_at is not None and self.claimed_at == self.client.heard


@attrs.define(eq=False)
class Absence:
    """What a membership has left behind whose client may come back."""

    key: Key
    ref: int
    """The highest ref that its client had sent."""
    place: Place
    """Up to where its client has everything."""
    since: float
    """When it began, by the caller's clock."""
    repeats: int = 0
    lost: LostReason | None = None
    """Why the changes behind its place are not kept for it; None: they are."""
    is_shared: bool = False
    """Whether it stands for several, so that it is never taken away."""
    needs: Place = attrs.field(init=False)
    """From where on changes are kept for it; ``place`` may be lower, if that is somebody's who was
    away for too long."""

    def __attrs_post_init__(self) -> None:
        self.needs = self.place


@attrs.frozen
class Choice:
    """Where a membership goes on."""

    place: Place | None
    """Up to where its client has everything; None: it begins now."""
    lost: LostReason | None = None
    """Why the changes behind ``place`` may not be there any more."""
    repeats: int = 0
    """How often in a row the client was replayed what is behind ``place``."""


_NOBODY: Final = Choice(None)


class Memberships:
    """All memberships of a server, those whose clients are here and those that are away.

    Args:
        place_of: returns up to where an open membership's client has everything.
        window: seconds for which a client may be away.
        most_away: how many memberships may be away.
        clock: seconds of any clock that only goes forward.
    """

    def __init__(
        self,
        place_of: Callable[[Membership], Place],
        *,
        window: float,
        most_away: int,
        clock: Callable[[], float],
    ) -> None:
        self._place_of = place_of
        self._window = window
        self._most_away = most_away
        self._clock = clock
        # By key, in the order in which they came.
        self._here: dict[bytes, dict[Membership, None]] = {}
        self._absent: dict[bytes, list[Absence]] = {}
        # Those whose changes are kept, and those that are only remembered; the oldest first.
        self._away: dict[Absence, None] = {}
        self._lost: dict[Absence, None] = {}
        # What those that are away need; some are outdated. The number breaks ties.
        self._lowest: list[tuple[Place, int, Absence]] = []
        self._pushed = 0
        # Exact keys that turned out to be several clients'.
        self._shared: dict[bytes, None] = {}

    @property
    def away(self) -> int:
        """How many memberships are away whose changes are kept."""
        return len(self._away)

    def lowest(self) -> Place | None:
        """Return the lowest place of all that are away and not lost; None if nobody is."""
        heap = self._lowest
        while heap and (heap[0][2] not in self._away or heap[0][2].needs != heap[0][0]):
            heappop(heap)
        return heap[0][0] if heap else None

    # Here

    def enter(self, member: Membership) -> None:
        """Add the membership of a new channel; :meth:`choose` says where it goes on."""
        if member.key.is_exact and member.ref and self._is_outnumbered(member):
            self.share(member.key)
        self._here.setdefault(member.key.digest, {})[member] = None

    def others(self, member: Membership) -> list[Membership]:
        """Return the open memberships that may be former ones of the same client.

        Ask whether their clients are still there before you choose.
        """
        here = self._here.get(member.key.digest, ())
        return [one for one in here if self._may_precede(one, member)]

    def choose(self, member: Membership, silent: Collection[Membership]) -> Choice:
        """Decide where a membership goes on, and take over what it goes on from.

        Args:
            member: that was entered.
            silent: those of the :meth:`others` that did not answer.
        """
        if member.is_claimed:
            # A later one of the same client was faster; this one is nobody's any more.
            member.is_chosen = True
            return _NOBODY
        quiet = [one for one in self.others(member) if one in silent]
        for one in quiet:
            if not one.is_chosen:
                self._claim(one)
        quiet = [one for one in quiet if one.is_chosen]
        choice = self._chosen(member, quiet)
        member.is_chosen = True
        return choice

    def share(self, key: Key) -> bool:
        """Note that several clients have an exact key; return whether that is news."""
        if not key.is_exact or key.digest in self._shared:
            return False
        self._shared[key.digest] = None
        if len(self._shared) > _MOST_SHARED:
            del self._shared[next(iter(self._shared))]
        return True

    def end(self, member: Membership) -> None:
        """Remove a membership that leaves nothing behind."""
        here = self._here.get(member.key.digest)
        if here is not None and member in here:
            del here[member]
            if not here:
                del self._here[member.key.digest]

    def depart(
        self,
        member: Membership,
        place: Place,
        *,
        began: Place,
        lost: LostReason | None = None,
    ) -> Absence | None:
        """Remove a membership whose client may come back; return what it leaves behind.

        Args:
            member: whose connection has ended.
            place: up to where its client has everything.
            began: where the membership began.
            lost: why it cannot go on from there; None if it can.
        """
        if member.is_claimed:
            self.end(member)
            return None
        if not member.is_chosen:
            # Whatever it would have gone on from is still there: no higher place may count.
            candidates = [one for one in self.others(member) if one.is_chosen]
            places = [self._place(one) for one in candidates]
            places += [one.place for one in self._fitting(member)]
            place = min([place, *places])
        if member.lowered_to is not None:
            place = min(place, member.lowered_to)
        self.end(member)
        absence = Absence(
            member.key,
            member.client.last_ref,
            place,
            self._clock(),
            0 if place > began else member.repeats,
            lost,
        )
        return self._add(absence)

    def change_key(self, member: Membership, key: Key) -> None:
        """Give a membership another key, because its token is another's now."""
        if key != member.key:
            self.end(member)
            member.key = key
            self.enter(member)

    # Away

    def expire(self) -> Iterator[Absence]:
        """Yield those that have been away for too long, now that this is so."""
        until = self._clock() - self._window
        while self._away:
            oldest = next(iter(self._away))
            if oldest.since > until:
                break
            self._lose(oldest, LostReason.WINDOW)
            yield oldest
        until = self._clock() - _REMEMBERED
        while self._lost:
            oldest = next(iter(self._lost))
            if oldest.since > until and len(self._lost) <= _MOST_LOST:
                break
            self._remove(oldest)

    def lose_all(self, why: LostReason) -> None:
        """Note that the changes are not kept any more for anybody who is away."""
        for absence in list(self._away):
            self._lose(absence, why)

    def _add(self, absence: Absence) -> Absence | None:
        absent = self._absent.setdefault(absence.key.digest, [])
        if len(absent) >= MOST_OF_A_KEY:
            last = absent[-1]
            last.is_shared = True
            last.ref = min(last.ref, absence.ref)
            last.since = max(last.since, absence.since)
            self._lower(last, absence.place, absence.lost)
            return None
        absent.append(absence)
        if absence.lost is not None:
            self._lost[absence] = None
            return absence
        self._away[absence] = None
        self._push(absence)
        if len(self._away) > self._most_away:
            self._lose(next(iter(self._away)), LostReason.LIMIT)
        return absence

    def _lose(self, absence: Absence, why: LostReason) -> None:
        del self._away[absence]
        absence.lost = why
        self._lost[absence] = None

    def _lower(self, absence: Absence, place: Place, lost: LostReason | None) -> None:
        """Have an absence serve somebody else, too, who was left behind at this place."""
        if place >= absence.place:
            return
        absence.place = place
        if lost is not None:
            absence.lost = lost
        elif place < absence.needs:
            absence.needs = place
            if absence in self._away:
                self._push(absence)

    def _push(self, absence: Absence) -> None:
        self._pushed += 1
        heappush(self._lowest, (absence.needs, self._pushed, absence))
        if len(self._lowest) > 2 * len(self._away) + 1000:
            self._lowest = [
                (one.needs, number, one) for number, one in enumerate(self._away, -len(self._away))
            ]
            heapify(self._lowest)

    def _remove(self, absence: Absence) -> None:
        self._away.pop(absence, None)
        self._lost.pop(absence, None)
        absent = self._absent[absence.key.digest]
        absent.remove(absence)
        if not absent:
            del self._absent[absence.key.digest]

    # Choosing

    def _may_precede(self, one: Membership, member: Membership) -> bool:
        return (
            one.client is not member.client
            and not one.is_claimed
            and (not member.ref or one.client.last_ref < member.ref)
        )

    def _fitting(self, member: Membership) -> list[Absence]:
        """Return the absences that the client of a membership may have left."""
        absent = self._absent.get(member.key.digest, ())
        ref = member.ref
        # An empty ref says nothing: some clients send one when they join again.
        return [one for one in absent if not ref or one.ref < ref]

    def _chosen(self, member: Membership, silent: list[Membership]) -> Choice:
        absent = self._fitting(member)
        if member.key.is_exact and member.key.digest not in self._shared:
            return self._take_all(absent, silent)
        return self._take_one(member, absent, silent)

    def _is_outnumbered(self, member: Membership) -> bool:
        """Return whether a client has the key, or had it, that has sent more than this one."""
        digest, ref = member.key.digest, member.ref or 0
        return any(one.ref >= ref for one in self._absent.get(digest, ())) or any(
            one.client.last_ref >= ref
            for one in self._here.get(digest, ())
            if one.client is not member.client and not one.is_claimed
        )

    def _take_all(self, absent: list[Absence], silent: list[Membership]) -> Choice:
        """Go on from the highest place: all candidates were this client."""
        choices = [Choice(one.place, one.lost, one.repeats) for one in absent]
        choices += [Choice(self._place(one), None, one.repeats) for one in silent]
        for gone in absent:
            self._remove(gone)
        for one in silent:
            self._claim(one)
        if not choices:
            return _NOBODY
        best = max(choices, key=_place)
        if any(one.lost is LostReason.UNPROVEN for one in choices):
            return attrs.evolve(best, lost=LostReason.UNPROVEN)
        return best

    def _take_one(
        self, member: Membership, absent: list[Absence], silent: list[Membership]
    ) -> Choice:
        """Go on from the lowest place, and take away the candidate that most likely was it."""
        candidates: list[Absence | Membership] = [*absent, *silent]
        if not candidates:
            return _NOBODY
        lowest = min((self._choice(one) for one in candidates), key=_place)
        if any(one.lost is LostReason.UNPROVEN for one in absent):
            lowest = attrs.evolve(lowest, lost=LostReason.UNPROVEN)
        takeable = [one for one in candidates if not (isinstance(one, Absence) and one.is_shared)]
        if takeable and (member.ref or len(candidates) == 1):
            nearest = max(takeable, key=self._nearness)
            self._take(nearest, [one for one in candidates if one is not nearest])
        return lowest

    def _take(self, taken: Absence | Membership, others: list[Absence | Membership]) -> None:
        choice = self._choice(taken)
        assert choice.place is not None
        for one in others:
            if isinstance(one, Absence):
                self._lower(one, choice.place, choice.lost)
                one.repeats = max(one.repeats, choice.repeats)
            elif choice.place < self._place(one):
                one.lowered_to = choice.place
        if isinstance(taken, Absence):
            self._remove(taken)
        else:
            self._claim(taken)

    def _claim(self, member: Membership) -> None:
        member.claimed_at = member.client.heard

    def _choice(self, one: Absence | Membership) -> Choice:
        if isinstance(one, Absence):
            return Choice(one.place, one.lost, one.repeats)
        return Choice(self._place(one), None, one.repeats)

    def _nearness(self, one: Absence | Membership) -> tuple[int, Place]:
        if isinstance(one, Absence):
            return one.ref, one.place
        return one.client.last_ref, self._place(one)

    def _place(self, member: Membership) -> Place:
        place = self._place_of(member)
        return place if member.lowered_to is None else min(place, member.lowered_to)


def _place(choice: Choice) -> Place:
    assert choice.place is not None  # a candidate has one
    return choice.place
