"""Standing: the place up to which a channel's client is proven to have everything.

A channel that goes on where a former one ended gets its changes from a round first, and then from
the live hub. While the channel is live, its place follows from the last proof of its connection,
and is the same for all channels of the connection. Before that, the channel has checkpoints: pairs
of an ordinal and the place that is proven together with it. No I/O.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Protocol

import attrs

from ..fanout.groups import Subscription
from .connection_proof import ConnectionProof
from .lost_reasons import LostReason
from .membership import Membership
from .places import BEFORE, Place

__all__ = ["LASTS", "LivePlaces", "Standing"]

LASTS: Final = 2.0
"""Seconds after which a proof is written into the journal. A page that closes its connection by
itself may be behind what its browser has answered. Then its proofs count less, but if the process
is killed just then, nobody learns of that."""
_MOST_CHECKPOINTS: Final = 64

_PATIENCE: Final = 5.0
"""Seconds that every client waits for the answer to a join; stock clients wait 10 s."""
_COMES_BACK_WITHIN: Final = 30.0
"""Seconds within which a client that has given up a join has left the channel or joined it again:
the longest pause of stock clients is 10 s."""
_NEVER_ANSWERS: Final = 60.0
"""Seconds after which a client that has proven nothing is no longer taken for one whose network was
slow."""


class LivePlaces(Protocol):
    """Knows up to which places the live hub has sent changes."""

    @property
    def handed(self) -> Place:
        """The place up to which the live hub has sent all changes."""
        ...

    def handed_to(self, viewer: Hashable) -> Place:
        """Return the place up to which everything has been handed to a viewer's channels."""
        ...

    def place_at(self, ordinal: int, viewer: Hashable) -> Place:
        """Return the place up to which everything for a viewer is in the writes up to an
        ordinal."""
        ...


@attrs.define(eq=False)
class Standing:
    """The place of a channel, from its join to its end. If the channel is parked, its standing is
    kept until it is parked no more."""

    subscription: Subscription
    member: Membership
    proof: ConnectionProof
    """What the connection's client has proven."""
    first: Place
    """The place at which the channel began."""
    reply: int
    """The ordinal of the write that answered the channel's join."""
    came: float
    """When the channel's join had come at the earliest, in seconds of any clock that only goes
    forward: a client waits for the answer since then, or a little longer."""
    began: Place = attrs.field(init=False)
    """The place up to which the client has everything, as long as nothing more is proven."""
    since: int | None = attrs.field(default=None, init=False)
    """The ordinal of the last write before the channel became live; None while it is not live."""
    lost: LostReason | None = attrs.field(default=None, init=False)
    """Why a later channel could not go on from this place, until a write behind ``since`` is
    proven; None if it could."""
    written: Place | None = attrs.field(default=None, init=False)
    """The place up to which everything was written to the channel, when it has ended."""
    was_held: bool = attrs.field(default=False, init=False)
    """Whether the channel ended while it waited for the journal, so that it has got nothing."""
    has_left: bool = attrs.field(default=False, init=False)
    """Whether the client has left the channel for good, unless it joins again soon."""
    # The ordinal of the message that says where the channel starts; None: it was not sent, or the
    # client may ignore it. And since when that message was proven to have arrived.
    _told: int | None = attrs.field(default=None, init=False)
    _known_since: float | None = attrs.field(default=None, init=False)
    # What was proven lately, and when that was seen, the lowest first; and the place that has been
    # proven for long, so that it may be written into the journal.
    _lately: list[tuple[float, Place]] = attrs.field(factory=list, init=False)
    _lasting: Place = attrs.field(default=BEFORE, init=False)
    # When the client was known to have the answer to its join.
    _answered: float | None = attrs.field(default=None, init=False)
    # The checkpoints, in order.
    _checkpoints: list[tuple[int, Place]] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.began = self.first

    @property
    def is_settled(self) -> bool:
        """Whether the place follows from the connection's proofs alone: everything that was written
        before the channel became live is proven."""
        return self._has_proven_start and not self.proof.is_overdue

    @property
    def is_sure(self) -> bool:
        """Whether :attr:`is_settled` stays true even if the client closes the connection now."""
        is_sure = self.since is not None and self.proof.sure >= self.since
        return is_sure and not self.proof.is_overdue

    @property
    def _has_proven_start(self) -> bool:
        return self.since is not None and self.proof.proven >= self.since

    @property
    def why_lost(self) -> LostReason | None:
        """Why a later channel could not go on from this place now; None if it could."""
        if self.proof.is_unprovable:
            return LostReason.UNPROVEN
        return None if self._has_proven_start else self.lost

    def note_answer(self, now: float) -> None:
        """Note that the client has the answer to its join, if that is proven now."""
        if self._answered is None and self.proof.proven >= self.reply:
            self._answered = now

    def note_told(self) -> None:
        """Note that the message that says where the channel starts was just written."""
        self._told = self.proof.count_write()

    def knows_start(self, now: float) -> bool:
        """Return whether the client is proven to have read where the channel starts."""
        has_come = self._told is not None and self.proof.proven >= self._told
        return has_come and not self.may_be_given_up(now)

    def has_long_known_start(self, now: float) -> bool:
        """Return whether that has been proven for so long that it may be written into the journal.
        Call it now and then."""
        if not self.knows_start(now):
            self._known_since = None
            return False
        if self._known_since is None:
            self._known_since = now
        return now - self._known_since >= LASTS

    def may_be_given_up(self, now: float) -> bool:
        """Return whether the client may have given up its join before the answer came.

        If so, it ignores the answer, and where it needs what that says, the changes behind it, too,
        although it answers the pings among them. It joins the channel again some seconds later.
        """
        self.note_answer(now)
        if self._answered is None:
            return now - self.came < _NEVER_ANSWERS
        is_late = self._answered - self.came >= _PATIENCE
        return is_late and now - self._answered < _COMES_BACK_WITHIN

    def may_have_timed_out(self, now: float) -> bool:
        """Return whether a client that leaves the channel now may have given up its join.

        A browser answers pings while its page is behind, perhaps for so long that the page gives
        the join up before it reads the answer. What the page sends later shows that it is not.
        """
        return now - self.came >= _PATIENCE and self.proof.sure < self.reply

    def give_up(self) -> None:
        """Take nothing that was written to the channel as received, whatever its client proves."""
        self.began = self.first
        self.since = self._told = None
        self._forget_places()

    def go_on(self, place: Place) -> None:
        """Note where the channel begins, which may be before where it stood while it waited."""
        self.first = self.began = place
        self._forget_lasting()

    def go_live(self) -> None:
        """Note that everything up to now was written to the channel, which is in the live hub."""
        self.since = self.proof.written

    def note(self, place: Place) -> None:
        """Note that everything up to a place was written to the connection's outbox."""
        checkpoints = self._checkpoints
        checkpoints.append((self.proof.written, place))
        if len(checkpoints) > _MOST_CHECKPOINTS:
            del checkpoints[1 : _MOST_CHECKPOINTS // 2 : 2]

    def park(self, written: Place | None, live: LivePlaces) -> None:
        """Note that the channel has ended, and its client may join again on this connection.

        Args:
            written: the place up to which everything was written to the channel; None if the client
                may ignore that, so that what it proves from now on says nothing of this channel.
            live: the places up to which the live hub has handed changes out.
        """
        self.began = self.sure_place(live)
        self._forget_what_is_known()
        self.since = None
        self._forget_places()
        if written is not None:
            self.note(written)

    def succeed(self, former: Standing) -> Place:
        """Take over the place of a parked channel of the same connection.

        Returns:
            The place up to which everything was written to the parked channel, or up to which its
            client certainly has everything, if it may have ignored what was written.
        """
        self.first = self.began = former.began
        self._checkpoints = former._checkpoints
        self.lost = former.lost
        return self._checkpoints[-1][1] if self._checkpoints else self.began

    def hold(self, place: Place) -> None:
        """Keep the place where it is until all writes so far are proven, because the channel gets
        another viewer, and changes may have waited for the former one.

        Args:
            place: the place up to which the client has everything, however its connection ends.
        """
        self.began = place
        self._forget_places()
        self._forget_what_is_known()
        # The message that tells of a gap has no ordinal yet.
        self.since = self.proof.count_write()

    def _forget_places(self) -> None:
        self._checkpoints.clear()
        self._forget_lasting()

    def _forget_lasting(self) -> None:
        self._lately.clear()
        self._lasting = BEFORE

    def _forget_what_is_known(self) -> None:
        """Forget why a later channel could not go on, if the client is proven to know of it."""
        if self._has_proven_start:
            self.lost = None

    def begin_anew(self, place: Place) -> None:
        """Go on in another stream, with whose places the former ones cannot be compared.

        Args:
            place: the place up to which the live hub has handed out the new stream.
        """
        self.first = self.began = place
        self._forget_places()
        self.lost = LostReason.LOST
        if self.since is not None:
            self.since = self.proof.written

    def place(self, live: LivePlaces) -> Place:
        """Return the place up to which the channel's client is proven to have everything."""
        self._pass_checkpoints()
        proof = self.proof
        proven, began = proof.proven, self.began
        for ordinal, place in self._checkpoints:
            if ordinal > proven:
                break
            began = max(began, place)
        if not self._has_proven_start:
            return began
        if proven >= proof.written:
            return max(live.handed_to(self.subscription.viewer), began)
        return max(live.place_at(proven, self.subscription.viewer), began)

    def sure_place(self, live: LivePlaces) -> Place:
        """Return the place up to which the client has everything, however its connection ends."""
        self._pass_checkpoints()
        proof = self.proof
        if self.since is None or proof.sure < self.since:
            return self.began
        if proof.sure >= proof.written:
            return max(live.handed_to(self.subscription.viewer), self.began)
        return max(live.place_at(proof.sure, self.subscription.viewer), self.began)

    def lasting_place(self, live: LivePlaces) -> Place:
        """Return the place that may be written into the journal, since nothing that may happen to
        the connection makes it lower, or since it has been proven for long."""
        # What such a client has proven, it has proven long ago.
        if self.proof.is_overdue:
            return self.place(live)
        return max(self.sure_place(live), self._lasting)

    def note_lasting(self, live: LivePlaces, now: float) -> bool:
        """Note what has been proven for ``LASTS`` seconds of a channel that is not settled; return
        whether :meth:`lasting_place` has become higher by it. Call it now and then."""
        lately = self._lately
        if self.may_be_given_up(now):
            lately.clear()
            return False
        place = self.place(live)
        if place > (lately[-1][1] if lately else self.lasting_place(live)):
            lately.append((now, place))
        had = self._lasting
        while lately and now - lately[0][0] >= LASTS:
            self._lasting = max(had, lately.pop(0)[1])
        return self._lasting > had

    def _pass_checkpoints(self) -> None:
        # What is proven otherwise is taken back if the client closes the connection.
        sure = self.proof.sure
        while self._checkpoints and sure >= self._checkpoints[0][0]:
            self.began = max(self.began, self._checkpoints.pop(0)[1])
