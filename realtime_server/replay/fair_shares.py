"""FairShares: decides which absence has to go when there are too many.

If the oldest absence always went, one client that opens many channels and leaves them would drive
out everybody else's absences. So the server looks for the site from which most absences come, then
for the network there, and then for the token's subject that has left most of these, and gives up
the oldest absence of that subject. The sites matter because one customer of a provider may have
65,536 networks. The subjects matter where a proxy does not say for whom it asks, since all of its
clients have one address then. No I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .absences import Absence

__all__ = ["FairShares"]

_FEW: Final = 8
"""Absences of a site, a network or a subject up to which these are not counted apart, since one
page may have several channels. So a server whose clients have few channels each needs little
memory."""
_LEVELS: Final = 3
"""How many names an absence has of the client that left it, see :attr:`.identity.Key.whose`."""


class FairShares:
    """The absences of clients, ordered by age and grouped by a name of their clients.

    Args:
        level: which of the client's names tells these absences apart. An absence can be in one
            object of level 0 at a time.
        absences: the first ones.
    """

    __slots__ = ("_all", "_level", "_most", "_owners", "_ranks")

    def __init__(self, level: int = 0, absences: Sequence[Absence] = ()) -> None:
        self._level = level
        self._all: _Line | _Ordered = _Ordered() if level else _Line()
        # The absences by the client's name: the only one, several, or many, which are told apart
        # further.
        self._owners: dict[bytes, Absence | list[Absence] | FairShares] = {}
        # The names that have many absences, by how many these are, and the highest such number; 0
        # if no name has many.
        self._ranks: dict[int, dict[bytes, None]] = {}
        self._most = 0
        for absence in absences:
            self.add(absence)

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, absence: Absence) -> bool:
        return absence in self._all

    def __iter__(self) -> Iterator[Absence]:
        return iter(self._all)

    def add(self, absence: Absence) -> None:
        """Add an absence that is not here yet, as the youngest."""
        self._all.add(absence)
        if self._level == _LEVELS:
            return
        name = absence.key.owner(self._level)
        theirs = self._owners.get(name)
        if theirs is None:
            self._owners[name] = absence
        elif isinstance(theirs, FairShares):
            theirs.add(absence)
            self._rank(name, len(theirs) - 1, len(theirs))
        elif isinstance(theirs, list):
            theirs.append(absence)
            if len(theirs) > _FEW:
                self._owners[name] = FairShares(self._level + 1, theirs)
                self._rank(name, 0, len(theirs))
        else:
            self._owners[name] = [theirs, absence]

    def discard(self, absence: Absence) -> None:
        """Remove an absence, if it is here."""
        if absence not in self._all:
            return
        self._all.remove(absence)
        if self._level == _LEVELS:
            return
        name = absence.key.owner(self._level)
        theirs = self._owners[name]
        if isinstance(theirs, FairShares):
            theirs.discard(absence)
            if len(theirs) > _FEW:
                self._rank(name, len(theirs) + 1, len(theirs))
            else:
                self._owners[name] = list(theirs)
                self._rank(name, len(theirs) + 1, 0)
        elif isinstance(theirs, list) and len(theirs) > 1:
            theirs.remove(absence)
        else:
            del self._owners[name]

    def oldest(self) -> Absence:
        """Return the oldest absence. There must be one."""
        return next(iter(self._all))

    def first_to_go(self) -> Absence:
        """Return the absence to give up: the oldest one of the client name with the most
        absences. There must be one."""
        if not self._most:
            return self.oldest()
        theirs = self._owners[next(iter(self._ranks[self._most]))]
        assert isinstance(theirs, FairShares)
        return theirs.first_to_go()

    def _rank(self, name: bytes, before: int, now: int) -> None:
        """Note that a name's number of absences has changed by one; 0 stands for up to eight."""
        if before:
            ranked = self._ranks[before]
            del ranked[name]
            if not ranked:
                del self._ranks[before]
        if now:
            self._ranks.setdefault(now, {})[name] = None
        if now >= self._most:
            self._most = now
        elif before == self._most and before not in self._ranks:
            # The name has gone to the next lower rank, or was the only one with many absences.
            self._most = now


class _Line:
    """Absences in order, each of which knows its neighbours: there may be 100,000 of them, and so
    they take a fifth of the memory that they would take in a dict."""

    __slots__ = ("_count", "_first", "_last")

    def __init__(self) -> None:
        self._first: Absence | None = None
        self._last: Absence | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, absence: Absence) -> bool:
        return absence.line is self

    def __iter__(self) -> Iterator[Absence]:
        absence = self._first
        while absence is not None:
            yield absence
            absence = absence.younger

    def add(self, absence: Absence) -> None:
        absence.line, absence.older, absence.younger = self, self._last, None
        if self._last is None:
            self._first = absence
        else:
            self._last.younger = absence
        self._last = absence
        self._count += 1

    def remove(self, absence: Absence) -> None:
        older, younger = absence.older, absence.younger
        if older is None:
            self._first = younger
        else:
            older.younger = younger
        if younger is None:
            self._last = older
        else:
            younger.older = older
        absence.line = absence.older = absence.younger = None
        self._count -= 1


class _Ordered(OrderedDict["Absence", None]):
    """Absences in order, which are in a line besides. A dict that is not made for it takes as long
    to find its first item as there were items before it."""

    def add(self, absence: Absence) -> None:
        self[absence] = None

    def remove(self, absence: Absence) -> None:
        del self[absence]
