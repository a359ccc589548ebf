"""Shares: absences in the order in which they came, and who has left most of them.

There is room for so many absences. If the oldest always went when it is full, one client that opens
channels and leaves them away would drive out everybody else's. So the one that goes is the oldest
of whoever has left most: first of the addresses, and then of the tokens' subjects that came from
that address. A proxy that does not say for whom it asks has one address for all of its clients, and
there the subjects count. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .absences import Absence

__all__ = ["Shares"]

_FEW: Final = 8
"""Absences that anybody may leave without being looked at: one page has some channels. So a server
whose clients have few each needs little memory for this."""
_LEVELS: Final = 2
"""Names of whoever has left an absence, see :attr:`.identity.Key.whose`."""


class Shares:
    """Absences in the order in which they were added.

    Args:
        level: which of the names of whoever has left an absence tells these absences apart.
        absences: the first ones.
    """

    __slots__ = ("_all", "_level", "_most", "_owners", "_ranks")

    def __init__(self, level: int = 0, absences: Sequence[Absence] = ()) -> None:
        self._level = level
        # A dict takes as long to find its first item as there were items before it.
        self._all: OrderedDict[Absence, None] = OrderedDict()
        # By whose they are. Those of whoever has left many are told apart further.
        self._owners: dict[bytes, list[Absence] | Shares] = {}
        # Whoever has left many, by how many, and how many are the most; 0 if nobody has.
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
        """Add an absence that is not there, as the youngest."""
        self._all[absence] = None
        if self._level == _LEVELS:
            return
        name = absence.key.whose[self._level]
        owner = self._owners.get(name)
        if owner is None:
            self._owners[name] = [absence]
        elif isinstance(owner, Shares):
            owner.add(absence)
            self._rank(name, len(owner) - 1, len(owner))
        else:
            owner.append(absence)
            if len(owner) > _FEW:
                self._owners[name] = Shares(self._level + 1, owner)
                self._rank(name, 0, len(owner))

    def discard(self, absence: Absence) -> None:
        """Remove an absence, if it is there."""
        if absence not in self._all:
            return
        del self._all[absence]
        if self._level == _LEVELS:
            return
        name = absence.key.whose[self._level]
        owner = self._owners[name]
        if isinstance(owner, Shares):
            owner.discard(absence)
            if len(owner) > _FEW:
                self._rank(name, len(owner) + 1, len(owner))
            else:
                self._owners[name] = list(owner)
                self._rank(name, len(owner) + 1, 0)
        else:
            owner.remove(absence)
            if not owner:
                del self._owners[name]

    def oldest(self) -> Absence:
        """Return the oldest of all; there is one."""
        return next(iter(self._all))

    def first_to_go(self) -> Absence:
        """Return the oldest of whoever has left most; there is one."""
        if not self._most:
            return self.oldest()
        owner = self._owners[next(iter(self._ranks[self._most]))]
        assert isinstance(owner, Shares)
        return owner.first_to_go()

    def _rank(self, name: bytes, before: int, now: int) -> None:
        """Note that somebody's absences have become more or fewer, by one; 0: they are few."""
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
            # It has gone to the next lower rank; or it was the only one with many.
            self._most = now
