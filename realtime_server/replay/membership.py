"""Membership: one connection's channel, from its join to its end; see :mod:`.memberships`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Protocol

import attrs

from .absences import Absence
from .identity import Key
from .lost_reasons import LostReason
from .places import Place

__all__ = ["FIRST_REF", "Choice", "ConnectedClient", "Membership"]

FIRST_REF: Final = 1
"""The ref of the first message of a client. No other client is a former one of a client that joins
with it, since clients count over all their connections."""


class ConnectedClient(Protocol):
    """The client of a connection, as far as memberships look at it."""

    @property
    def last_ref(self) -> int:
        """The highest ref that the client has sent; 0 if it has sent none."""
        ...

    @property
    def has_answered(self) -> bool:
        """Whether the client has answered a ping."""
        ...

    @property
    def began(self) -> int:
        """The ordinal of the last write to any client when the connection began."""
        ...

    @property
    def seen(self) -> int:
        """The ordinal of the last write behind which the client was certainly on the connection. A
        connection that began before that write is another client's."""
        ...

    @property
    def heard(self) -> Hashable:
        """A value that changes whenever the client sends anything."""
        ...


@attrs.define(eq=False)
class Membership:
    """A channel of an open connection, by which its client is found when it comes back."""

    key: Key
    ref: int | None
    """The ref of the channel's join; None if that was no number."""
    client: ConnectedClient
    is_chosen: bool = attrs.field(default=False, init=False)
    """Whether it is decided where the channel goes on; until then it has no place."""
    repeats: int = attrs.field(default=0, init=False)
    """The sum of the replays of the same changes to the client before this one."""
    has_missed: bool = attrs.field(default=False, init=False)
    """Whether there was anything to replay."""
    is_anew: bool = attrs.field(default=False, init=False)
    """Whether the channel has begun anew, and its client may not know that yet."""
    lowered_to: Place | None = attrs.field(default=None, init=False)
    """The highest place that the membership may leave behind, since another client may go on from
    it; None: its own place."""
    lost: LostReason | None = attrs.field(default=None, init=False)
    """Why whoever goes on from the membership has to be told of a gap, since it may be a client
    whose place another one has taken; None: nobody has to, unless the standing says so."""
    may_lack: Place | None = attrs.field(default=None, init=False)
    """The place that the client had if the place that it goes on from was another client's. All
    changes between the two are missing then. None: no such place is known."""
    # What had been heard of the client when the membership was claimed; None: it was not.
    claimed_at: Hashable = attrs.field(default=None, init=False)

    @property
    def is_claimed(self) -> bool:
        """Whether a later membership has taken over this one's place, and this one's client has
        sent nothing since."""
        return self.claimed_at is not None and self.claimed_at == self.client.heard

    def absence(
        self,
        place: Place,
        since: float,
        *,
        repeats: int,
        lost: LostReason | None,
        written: Place | None,
    ) -> Absence:
        """Return what the membership leaves behind when its connection is lost.

        Args:
            place: the place up to which the client has everything.
            since: the present time, by the clock of the absences.
            repeats: the sum of the replays of the changes behind the place.
            lost: why nobody can go on from the place; None if somebody can.
            written: the place up to which everything was written to the client; None: it is not
                known.
        """
        return Absence(
            self.key,
            self.client.last_ref,
            place,
            since,
            repeats,
            lost or self.lost,
            written=written,
            seen=self.client.seen,
            is_anew=self.is_anew or not (self.is_chosen or self.ref == FIRST_REF),
            may_lack=self.may_lack,
        )


@attrs.frozen
class Choice:
    """From which former channel a new one goes on."""

    place: Place | None
    """The place up to which the client has everything; None: the channel begins now."""
    lost: LostReason | None = None
    """Why the changes behind ``place`` may not be there any more."""
    repeats: int = 0
    """The sum of the replays to the client of the changes behind ``place``."""
    written: Place | None = None
    """The place up to which everything was written to the client; None: it is not known."""
    is_anew: bool = False
    """Whether the former channel has begun anew, and its client may not know that."""
