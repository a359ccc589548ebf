"""Absences: what memberships leave behind when their clients may come back.

No I/O, and time is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from .fair_shares import FairShares
from .identity import Key
from .lost_reasons import LostReason
from .needed_places import NeededPlaces
from .places import Place

__all__ = ["Absence", "Absences", "reason_to_tell"]

MOST_OF_A_KEY: Final = 500
"""Absences of one key that are kept apart. A further one is merged into the last of them."""
_MOST_LOST: Final = 100_000
"""Absences that are remembered although their changes are not kept."""
_NOT_KEPT: Final = (LostReason.WINDOW, LostReason.LIMIT)
"""Why nobody needs the changes of an absence any more that are not kept."""
_REMEMBERED: Final = 86_400.0
"""Seconds for which such an absence is remembered."""


@attrs.define(eq=False, weakref_slot=False)
class Absence:
    """A channel whose client is away, and may come back."""

    key: Key
    ref: int
    """The highest ref that the client had sent."""
    place: Place
    """The place up to which the client has everything."""
    since: float
    """The time at which the client went away, by the caller's clock."""
    repeats: int = 0
    """The sum of the replays of the changes behind ``place``, see :mod:`.memberships`."""
    lost: LostReason | None = None
    """Why the changes behind ``place`` are not kept; None: they are kept."""
    is_shared: bool = False
    """Whether several absences were merged into this one, which is never taken away then."""
    written: Place | None = None
    """The place up to which everything was written to the client; None: it is not known."""
    may_be_here: bool = False
    """Whether the client may still be on a connection of another process, which has not asked the
    client yet. Then the absence is not removed before that process says so."""
    is_asked_about: bool = False
    """Whether the absence is another process's, and a client that may have left it has come to a
    third one since, or to this one."""
    seen: int = 0
    """The ordinal of the last write behind which the client was certainly on the connection that it
    has lost; 0: it is not known. Whose connection began before that is another client."""
    is_anew: bool = False
    """See :attr:`.Membership.is_anew`."""
    may_lack: Place | None = None
    """See :attr:`.Membership.may_lack`."""
    needs: Place = attrs.field(init=False)
    """The place from which on changes are kept for the absence. ``place`` may be lower, if it was
    lowered to the place of a client that was away for too long."""
    line: object = attrs.field(default=None, init=False, repr=False)
    """The line of :class:`.Shares` that the absence is in; None if it is in none."""
    older: Absence | None = attrs.field(default=None, init=False, repr=False)
    """The absence before this one in that line."""
    younger: Absence | None = attrs.field(default=None, init=False, repr=False)
    """The absence behind this one in that line."""

    def __attrs_post_init__(self) -> None:
        self.needs = self.place


class Absences:
    """All absences, by key, by age and by what changes they need.

    Args:
        window: seconds for which a client may be away.
        most: how many clients may be away.
        clock: seconds of any clock that only goes forward.
    """

    def __init__(self, *, window: float, most: int, clock: Callable[[], float]) -> None:
        self._window = window
        self._most = most
        self._clock = clock
        # By key: the only absence, or several.
        self._absent: dict[bytes, Absence | list[Absence]] = {}
        # The absences whose changes are kept, and the ones that are only remembered.
        self._away = FairShares()
        self._lost = FairShares()
        # Those whose changes are not kept any more, and for which that has still to be noted.
        self._losing: deque[tuple[FairShares, LostReason]] = deque()
        self._kept = NeededPlaces()
        self.on_change: Callable[[Absence], None] = lambda absence: None
        """Called with each absence that was added, changed or removed, and with each one of another
        process that was taken over here."""
        self.elsewhere: Callable[[Key], Sequence[Absence]] = lambda key: ()
        """Returns the absences of a key that other processes have."""

    def __len__(self) -> int:
        """Return the number of absences whose changes are kept."""
        return len(self._away)

    def of(self, key: Key) -> Sequence[Absence]:
        """Return the absences with a key: those of this process, those that were given up and
        are remembered, and those of other processes."""
        self._note_lost(key.digest)
        return [*self._here(key.digest), *self.elsewhere(key)]

    def _here(self, digest: bytes) -> Sequence[Absence]:
        absent = self._absent.get(digest, ())
        return (absent,) if isinstance(absent, Absence) else absent

    def has(self, absence: Absence) -> bool:
        """Return whether an absence of this process has not been removed."""
        return (
            absence in self._away
            or absence in self._lost
            or any(absence in losing for losing, _ in self._losing)
        )

    def unrelated(self, absent: Sequence[Absence]) -> list[Absence]:
        """Return those of the absences of a session that may be several clients', as far as is
        known; none if all of them are one client's.

        One client leaves one, which it takes away when it comes back: at once, or if that is
        another process's, as soon as that process has been asked. If the client is faster than the
        journal, it leaves several, at processes that have not read of each other.
        """
        away = [
            one
            for one in absent
            if not (one.may_be_here or one.is_asked_about or one.lost in _NOT_KEPT)
        ]
        return [] if len(away) < 2 or all(map(self.has, away)) else away

    def keeps(self, absence: Absence) -> bool:
        """Return whether the log keeps what the client of an absence has missed."""
        return absence in self._away and absence.lost is None

    def owes_gap(self, absence: Absence) -> bool:
        """Return whether the client of an absence has to be told of a gap if it comes back within
        the window."""
        is_recent = self._clock() - absence.since < self._window
        return is_recent and absence.lost is not None and self.has(absence)

    def lowest(self) -> Place | None:
        """Return the lowest place from which on changes are kept, or one below it if many absences
        have just gone; None if there is no absence."""
        return self._kept.lowest()

    def tidying(self) -> Iterator[None]:
        """Forget clients that have been away for too long, and yield now and then, so that other
        tasks can run."""
        while self._losing:
            losing, why = self._losing[0]
            while len(losing):
                self._lose(losing.oldest(), losing, why)
                yield
            self._losing.popleft()
        until = self._clock() - self._window
        while len(self._away) and (oldest := self._away.oldest()).since <= until:
            self._lose(oldest, self._away, LostReason.WINDOW)
            yield
        until = self._clock() - _REMEMBERED
        while len(self._lost) and (oldest := self._lost.oldest()).since <= until:
            self.remove(oldest)
            yield
        yield from self._kept.tidying()

    def lose_all(self, why: LostReason) -> None:
        """Give up what all clients that are away have missed; they get a gap when they come back.

        It takes no time: :meth:`tidying` notes it for each of them, or :meth:`of` for those of a
        key.
        """
        if len(self._away):
            self._losing.append((self._away, why))
            self._away, self._kept = FairShares(), NeededPlaces()

    def lose_lacking(self, digest: bytes) -> None:
        """Give up what those clients of a key have missed that may have gone on from another's
        place: they get a gap when they come back."""
        self._note_lost(digest)
        for absence in list(self._here(digest)):
            if absence.may_lack is not None and absence in self._away:
                self._lose(absence, self._away, LostReason.LOST)

    def _note_lost(self, digest: bytes) -> None:
        """Note of each absence of a key whether its changes are not kept any more."""
        for losing, why in self._losing:
            for absence in list(self._here(digest)):
                if absence in losing:
                    self._lose(absence, losing, why)

    def add(self, absence: Absence) -> Absence | None:
        """Add an absence.

        Returns:
            The absence; None if there are too many of its key, so that it was merged into another.
        """
        self._note_lost(absence.key.digest)
        absent = self._here(absence.key.digest)
        if len(absent) >= MOST_OF_A_KEY:
            last = absent[-1]
            last.is_shared = True
            last.ref = min(last.ref, absence.ref)
            last.seen = min(last.seen, absence.seen)
            lacking = [one.may_lack for one in (last, absence) if one.may_lack is not None]
            last.may_lack = min(lacking, default=None)
            last.since = max(last.since, absence.since)
            last.repeats = max(last.repeats, absence.repeats)
            last.is_anew = last.is_anew or absence.is_anew
            if last in self._away:
                # The merged absence is the youngest now.
                self._away.discard(last)
                self._away.add(last)
            self.lower(last, absence.place, absence.lost)
            return None
        if len(absent) > 1:
            assert isinstance(absent, list)
            absent.append(absence)
        else:
            self._absent[absence.key.digest] = [*absent, absence] if absent else absence
        self.on_change(absence)
        if absence.lost is not None:
            self._remember(absence)
            return absence
        self._away.add(absence)
        self._kept.add(absence.needs)
        if len(self._away) > self._most:
            self._lose(self._away.first_to_go(), self._away, LostReason.LIMIT)
        return absence

    def _lose(self, absence: Absence, away: FairShares, why: LostReason) -> None:
        if away is self._away:
            self._kept.remove(absence.needs)
        away.discard(absence)
        absence.lost = why
        self._remember(absence)
        self.on_change(absence)

    def _remember(self, absence: Absence) -> None:
        """Remember an absence whose changes are not kept."""
        self._lost.add(absence)
        if len(self._lost) > _MOST_LOST:
            self.remove(self._lost.first_to_go())

    def lower(self, absence: Absence, place: Place, lost: LostReason | None) -> None:
        """Lower the place of an absence to that of another client, which may come back to it too.

        If that one has to be told of a gap, whoever goes on from the absence will be.

        Args:
            absence: the absence.
            place: the place.
            lost: why the changes behind the place are not kept; None if they are.
        """
        is_owed = lost is LostReason.LOST and absence.lost is not lost
        if place >= absence.place and not is_owed:
            return
        place = min(place, absence.place)
        if absence.lost is LostReason.LOST:
            lost = absence.lost
        if not self.has(absence):
            # It is another process's, whose place cannot be changed. So another absence is added
            # here, beside the other process's or in its stead.
            if not absence.may_be_here:
                self.on_change(absence)
            elif any(
                one.ref <= absence.ref and one.place <= place and (not is_owed or one.lost is lost)
                for one in self._here(absence.key.digest)
            ):
                return
            key, ref, since = absence.key, absence.ref, absence.since
            why, is_anew = lost or absence.lost, absence.is_anew
            self.add(Absence(key, ref, place, since, lost=why, is_anew=is_anew))
            return
        self.on_change(absence)
        absence.place = place
        if lost is not None:
            absence.lost = lost
        elif place < absence.needs:
            if absence in self._away:
                self._kept.remove(absence.needs)
                self._kept.add(place)
            absence.needs = place

    def remove(self, absence: Absence) -> None:
        """Remove an absence, since its client has come back."""
        self.on_change(absence)
        if not self.has(absence):
            return
        if absence in self._away:
            self._kept.remove(absence.needs)
        for shares in (self._away, self._lost, *(losing for losing, _ in self._losing)):
            shares.discard(absence)
        absent = self._absent[absence.key.digest]
        if isinstance(absent, list) and len(absent) > 1:
            absent.remove(absence)
        else:
            del self._absent[absence.key.digest]


def reason_to_tell(candidates: list[Absence]) -> LostReason | None:
    """Return why a client has to be told of a gap that may be any of some clients, whatever changes
    are kept; None if it need not be."""
    reasons = {one.lost for one in candidates}
    return next((why for why in (LostReason.LOST, LostReason.UNPROVEN) if why in reasons), None)
