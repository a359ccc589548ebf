"""Visit: a connection, with what replay knows of its client and channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..fanout.groups import Subscription
from .connection_proof import ConnectionProof
from .identity import Visitor
from .standing import Standing

__all__ = ["Visit", "VisitedOutbox"]


class VisitedOutbox(Protocol):
    """The outbox of a connection."""

    @property
    def proof(self) -> ConnectionProof | None:
        """What the connection's client is proven to have received; None if nobody asks it."""
        ...


class Visit:
    """One connection.

    Args:
        visitor: who the connection's client is.
        proof: what the connection's client is proven to have received.
        last_ref: returns the highest ref that the client has sent.
    """

    __slots__ = (
        "__weakref__",
        "_last_ref",
        "_owes_since",
        "_proven",
        "charge",
        "is_new",
        "proof",
        "standings",
        "visitor",
    )

    def __init__(
        self, visitor: Visitor, proof: ConnectionProof, last_ref: Callable[[], int]
    ) -> None:
        self._last_ref = last_ref
        # Since when nothing more is proven than then, if something is to be proven.
        self._owes_since: float | None = None
        self._proven = proof.proven
        self.visitor = visitor
        """Who the connection's client is."""
        self.proof = proof
        """What the client is proven to have received."""
        self.charge: Callable[[int], None] = lambda asked: None
        """Called with the number of other clients that are asked because of a join of this one."""
        self.is_new = False
        """Whether the client has sent its first message here, so that it was on no other connection
        before."""
        self.standings: dict[Subscription, Standing] = {}
        """The standings of the joined channels that have a key."""

    @property
    def last_ref(self) -> int:
        """The highest ref that the client has sent; 0 if it has sent none."""
        return self._last_ref()

    def owes(self, now: float) -> float:
        """Return for how many seconds the client has not answered the pings behind what it was
        sent; 0 if it has answered one since the last call, or all."""
        proven = self.proof.proven
        if proven >= self.proof.written:
            self._owes_since = None
        elif self._owes_since is None or proven != self._proven:
            self._owes_since, self._proven = now, proven
        return 0.0 if self._owes_since is None else now - self._owes_since

    def note_told(self, subscription: Subscription | None) -> None:
        """Note that a channel was just told where it starts."""
        standing = None if subscription is None else self.standings.get(subscription)
        if standing is not None:
            standing.note_told()

    @property
    def has_answered(self) -> bool:
        """Whether the client has answered a ping."""
        return self.proof.has_answered

    @property
    def began(self) -> int:
        """The ordinal of the last write to any client when the connection began."""
        return self.proof.began

    @property
    def seen(self) -> int:
        """The ordinal of the last write behind which the client was certainly here."""
        return self.proof.seen

    @property
    def heard(self) -> tuple[int, int]:
        """A value that changes whenever the client sends a message or answers a ping."""
        return self.proof.messages, self.proof.proven
