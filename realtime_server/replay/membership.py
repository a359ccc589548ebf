"""Membership: one connection's channel, from its join to its end; see :mod:`.memberships`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

import attrs

from .absences import LostReason
from .identity import Key
from .places import Place

__all__ = ["Choice", "ConnectedClient", "Membership"]


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
