"""What each client missed: a comparison of what it was told with what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.e2e.replay.rows import Place, Written

__all__ = ["Away", "Gap", "GaveUp", "Joined", "Positioned", "Row", "Told", "Verdict", "judge"]


@dataclass(frozen=True)
class Row:
    """The client's application got a row."""

    id: int


@dataclass(frozen=True)
class Joined:
    """The client's channel is joined."""


@dataclass(frozen=True)
class Positioned:
    """The server says whether the channel goes on where the former one ended."""

    resumed: bool


@dataclass(frozen=True)
class Away:
    """The client's channel is not joined any more, and the client has noticed."""


@dataclass(frozen=True)
class GaveUp(Away):
    """So because the reply to its join took too long."""


@dataclass(frozen=True)
class Gap:
    """The channel was told that it may have missed something.

    One client's library leaves out the positions: there it covers whatever is missing there.
    """

    reason: str
    after: Place | None = None
    until: Place | None = None


Told = Row | Joined | Positioned | Away | Gap


@dataclass
class Verdict:
    """What one client saw of the rows since its first join."""

    missing: list[int] = field(default_factory=list)
    """Rows that it never saw though it was joined afterwards, and no gap covers them."""
    behind: int = 0
    """Rows that it has not seen yet, as the last ones of all were not seen in time."""
    disordered: list[tuple[int, int]] = field(default_factory=list)
    """Rows that it first saw after a later one, each with that one."""
    leaked: list[int] = field(default_factory=list)
    """Rows that it saw and may not see."""
    covered: Counter[str] = field(default_factory=Counter)
    """How many rows it never saw that a gap covers, by the gap's reason."""
    restarted: int = 0
    """Rows that it never saw, and it was told that its channel does not go on."""
    repeated: int = 0
    """Sightings of rows that it had seen."""
    seen: int = 0
    """Rows that it saw."""
    joins: int = 0
    never_joined_again: bool = False
    """Whether it is not joined at the end."""

    @property
    def is_good(self) -> bool:
        return not (self.missing or self.behind or self.disordered or self.leaked)


def judge(
    told: Iterable[Told],
    written: Written,
    *,
    last: int,
    is_named: bool = True,
    comes_back: bool = True,
    may_see: Callable[[int], bool] = lambda row: True,
) -> Verdict:
    """Compare what a client was told with the rows up to ``last``.

    Args:
        told: what it was told, in order, from before the first row was written.
        written: the rows.
        last: the last row that everybody is to have.
        is_named: whether the client names its session; where it does not, it may be told that
            its channel does not go on instead of a gap.
        comes_back: whether the client always joins again.
        may_see: whether the client may see a row.
    """
    verdict = Verdict()
    seen: set[int] = set()
    highest = 0
    is_joined = False
    # Since the last new row.
    gaps: list[Gap] = []
    is_fresh = False

    def skip(until: int) -> None:
        """Account for the rows behind the highest one that did not come in their turn."""
        for row in filter(may_see, range(highest + 1, until)):
            reasons = [gap.reason for gap in gaps if _covers(gap, row, written)]
            if reasons:
                verdict.covered[reasons[0]] += 1
            elif is_fresh and not is_named:
                verdict.restarted += 1
            else:
                verdict.missing.append(row)

    for event in told:
        match event:
            case Row(row) if row in seen:
                verdict.repeated += 1
            case Row(row):
                if not may_see(row):
                    verdict.leaked.append(row)
                if row < highest:
                    verdict.disordered.append((row, highest))
                    if row in verdict.missing:
                        verdict.missing.remove(row)
                else:
                    if row <= last:
                        skip(row)
                    elif highest < last:
                        skip(last + 1)
                    highest = row
                seen.add(row)
                gaps, is_fresh = [], False
            case Gap():
                gaps.append(event)
            case Positioned(resumed):
                is_fresh = is_fresh or not resumed
            case Joined():
                verdict.joins += 1
                is_joined = True
            case Away():
                is_joined = False
    verdict.never_joined_again = not is_joined
    if highest < last and (is_joined or comes_back):
        known = len(verdict.missing)
        skip(last + 1)
        verdict.behind = len(verdict.missing) - known
        del verdict.missing[known:]
    verdict.seen = len(seen)
    return verdict


def _covers(gap: Gap, row: int, written: Written) -> bool:
    return gap.until is None or written.is_between(row, gap.after, gap.until)
