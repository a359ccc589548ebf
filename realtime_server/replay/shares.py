"""Shares: decides which absence has to go when there are too many.

If the oldest absence always went, one client that opens many channels and leaves them would drive
out everybody else's absences. So the server looks for the address from which most absences come,
then for the token's subject that has left most of these, and gives up the oldest absence of that
subject. The subjects matter where a proxy does not say for whom it asks, since all of its clients
have one address then. No I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .absences import Absence

__all__ = ["Shares"]

_FEW: Final = 8
"""Absences of an address or a subject up to which these are not counted apart, since one page may
have several channels. So a server whose clients have few channels each needs little memory."""
_LEVELS: Final = 2
"""How many names an absence has of the client that left it, see :attr:`.identity.Key.whose`."""


class Shares:
    """The absences of clients, ordered by age and grouped by a name of their clients.

    Args:
        level: which of the client's names tells these absences apart.
        absences: the first ones.
    """

    __slots__ = ("_all", "_level", "_most", "_owners", "_ranks")

    def __init__(self, level: int = 0, absences: Sequence[Absence] = ()) -> None:
        self._level = level
        # A dict takes as long to find its first item as there were items before it.
        self._all: OrderedDict[Absence, None] = OrderedDict()
        # The absences by the client's name. If a name has many, they are told apart further.
        self._owners: dict[bytes, list[Absence] | Shares] = {}
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
        """Remove an absence, if it is here."""
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
        """Return the oldest absence. There must be one."""
        return next(iter(self._all))

    def first_to_go(self) -> Absence:
        """Return the absence to give up: the oldest one of the client name with the most
        absences. There must be one."""
        if not self._most:
            return self.oldest()
        owner = self._owners[next(iter(self._ranks[self._most]))]
        assert isinstance(owner, Shares)
        return owner.first_to_go()

    def _rank(self, name: bytes, before: int, now: int) -> None:
        """Note that a name has one absence more or fewer than before; 0: it has few."""
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
