"""What came of sessions: what their messages cost, and which cost too much."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

import attrs

from realtime_core import Change
from tests.fuzz.session_loop import Cost
from tests.fuzz.session_messages import Sent
from tests.fuzz.session_server import Session, TestedServer

__all__ = ["MOST", "Finding", "Report", "Setting"]

MOST: Final = 0.050
"""Seconds that a message may cost."""
STEPS: Final = (0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05)
"""Of the distribution, in seconds."""


@attrs.frozen
class Setting:
    """How a session is held."""

    vsn: str
    is_secure: bool
    is_deflating: bool
    is_talking: bool
    """Whether most of what is sent is about rooms."""

    @classmethod
    def choose(cls, random: Random) -> Setting:
        vsn, is_talking = random.choice(("1.0.0", "2.0.0")), random.random() < 0.3
        is_secure = random.random() < (0.9 if is_talking else 0.6)
        return cls(vsn, is_secure, random.random() < 0.25, is_talking)

    def session(self, server: TestedServer) -> Session:
        return Session(server, self.vsn, is_secure=self.is_secure, is_deflating=self.is_deflating)


@attrs.frozen
class Finding:
    """A message that cost too much each time it was tried."""

    setting: Setting
    sent: Sent
    changes: Sequence[Change]
    cost: Cost
    """The least of all tries."""
    of_message: Cost
    """The same without the change."""
    where: str

    def __str__(self) -> str:
        cost, alone = self.cost, self.of_message
        return (
            f"{self.sent.kind} ({self.where}): {1000 * cost.total:.0f} ms, "
            f"{1000 * cost.longest:.0f} ms without giving way; of it the message's own "
            f"{1000 * alone.total:.0f} and {1000 * alone.longest:.0f} ms; {self.setting}; "
            f"{len(self.sent.data)} bytes {self.sent.data[:160]!r}"
        )

    @property
    def is_too_much(self) -> bool:
        return (self.cost.longest if self.sent.is_many else self.cost.total) > MOST


@attrs.define
class Report:
    """What came of a run."""

    tries: int = 0
    sessions: int = 0
    changes: int = 0
    bytes: int = 0
    kinds: Counter[str] = attrs.field(factory=Counter)
    """Messages by what they were."""
    outcomes: Counter[str] = attrs.field(factory=Counter)
    """Joins, channels and sessions by what became of them."""
    totals: list[int] = attrs.field(factory=lambda: [0] * (len(STEPS) + 1))
    """Messages by what they cost, in the steps of :data:`STEPS`."""
    worst: dict[str, Cost] = attrs.field(factory=dict)
    """By kind, the most seconds in all, and the most without giving way."""
    once: int = 0
    """Messages that took too long once, and not again."""
    findings: list[Finding] = attrs.field(factory=list)

    def note(self, sent: Sent, cost: Cost) -> None:
        self.tries += 1
        self.bytes += len(sent.data)
        self.kinds[sent.kind] += 1
        self.totals[bisect(STEPS, cost.total)] += 1
        worst = self.worst.get(sent.kind, Cost())
        if cost.total > worst.total or cost.longest > worst.longest:
            self.worst[sent.kind] = Cost(
                max(cost.total, worst.total), max(cost.longest, worst.longest)
            )

    def add(self, other: Report) -> None:
        """Take what came of another run, too."""
        self.tries += other.tries
        self.sessions += other.sessions
        self.changes += other.changes
        self.bytes += other.bytes
        self.kinds += other.kinds
        self.outcomes += other.outcomes
        self.totals = [
            mine + theirs for mine, theirs in zip(self.totals, other.totals, strict=True)
        ]
        for kind, worst in other.worst.items():
            mine = self.worst.get(kind, Cost())
            self.worst[kind] = Cost(max(mine.total, worst.total), max(mine.longest, worst.longest))
        self.once += other.once
        self.findings += other.findings

    def at_most(self, share: float) -> float:
        """Return the seconds that this share of the messages cost at most; a step of STEPS."""
        seen = 0
        for step, count in zip((*STEPS, float("inf")), self.totals, strict=True):
            seen += count
            if seen >= share * self.tries:
                return step
        return float("inf")

    def lines(self) -> Iterator[str]:
        yield (
            f"{self.tries:,} messages ({self.bytes:,} bytes) in {self.sessions:,} sessions, "
            f"{self.changes:,} changes"
        )
        for name, counts in (("message", self.kinds), ("outcome", self.outcomes)):
            for what, count in counts.most_common():
                worst = self.worst.get(what)
                cost = (
                    f"  at most {1000 * worst.total:.1f} ms, {1000 * worst.longest:.1f} ms at once"
                    if worst and name == "message"
                    else ""
                )
                yield f"{count:>12,}  {name}: {what}{cost}"
        for step, count in zip((*STEPS, float("inf")), self.totals, strict=True):
            yield f"{count:>12,}  cost up to {1000 * step:g} ms"
        for share in (0.5, 0.99, 0.999, 0.9999):
            yield f"{100 * share:g} % cost up to {1000 * self.at_most(share):g} ms"
        yield f"{self.once:,} took more than {1000 * MOST:g} ms once, and less when tried again"
        yield f"{len(self.findings):,} messages cost more than {1000 * MOST:g} ms each time"
        yield from map(str, self.findings)
