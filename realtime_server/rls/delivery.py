"""Delivery: what each viewer is shown of changes, written to its channels' sockets.

Channels may leave, or become another viewer's, between the match and the delivery: these get
nothing of it, and those that stay are told of a gap.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping
from typing import Final, TypeAlias

from realtime_core import Gap

from ..fanout.dispatch import Members
from ..fanout.groups import AnyDelivery, AnyGroup
from ..fanout.hub import Hub
from ..fanout.record_limit import RecordLimit
from ..fanout.turns import Steps
from .channel_gaps import ChannelGap, ChannelGapReason
from .counters import Counters
from .payloads import ErrorView, View
from .pending_changes import Decided, Lost, PendingChange, Shown
from .receivers import Receivers
from .viewers import Viewer

__all__ = ["Channels", "Delivery"]

logger = logging.getLogger("realtime.rls")

Channels: TypeAlias = list[tuple[AnyGroup, Members]]
"""Some channels, as they were at a time."""

_CAUSES: Final = {
    ChannelGapReason.TOO_SLOW: "too many waited for its row level security; make its policies "
    "faster",
    ChannelGapReason.TOKEN_REPLACED: "their token was replaced while they waited for its row level "
    "security; if that happens often, make its policies faster",
    ChannelGapReason.FAILED: "they cannot be looked at",
    ChannelGapReason.TABLE_REPLACED: "their table was renamed, replaced or dropped before they "
    "could be looked at",
}


class Delivery:
    """Hands out what was decided.

    Args:
        hub: who listens.
        counters: of what went wrong.
    """

    def __init__(self, hub: Hub, counters: Counters) -> None:
        self._hub = hub
        self._counters = counters

    def handing_out(self, decided: Decided) -> Steps:
        """Hand changes out in order; stop whenever others should have a turn.

        Each step says for how many seconds. It must be brought to its end before the next begins.
        """
        yield from self._hub.writing(self._messages(decided))
        self._tell_lost(decided)
        self._tell_moved(decided)

    def telling(self, gap: Gap, *, later_for: Container[Viewer] = ()) -> Steps:
        """Tell everybody of a gap, in the same way, but for those who are told later."""
        yield from self._hub.writing(self._hub.gap_messages(gap, later_for=later_for))

    def channels_of(self, viewers: Container[Viewer]) -> Mapping[Viewer, Channels]:
        """Return the channels of some viewers, as they are now."""
        found: dict[Viewer, Channels] = {}
        for group in self._hub.groups():
            if isinstance(group.viewer, Viewer) and group.viewer in viewers:
                # Whoever of them has become another's meanwhile is to be told all the same.
                found.setdefault(group.viewer, []).append((group, Members(group.members)))
        return found

    def tell_late(self, gap: Gap, channels: Channels) -> None:
        """Tell channels of a gap that came before some of what they have got by now."""
        self._hub.write((members, group.gap_message(gap)) for group, members in channels)

    def hand_out_late(self, viewer: Viewer, decided: Decided) -> None:
        """Write what was decided late to the viewer's sockets, one write for each.

        Channels that have become another's meanwhile are told of a gap instead.
        """
        self._hub.write(self._messages(decided))
        self._tell_lost(decided)
        # Whatever was answered: of what took too long, nothing is known.
        theirs = [candidate for candidate, _ in decided]
        self.tell(ChannelGap.of(viewer, ChannelGapReason.TOKEN_REPLACED, theirs, is_of_moved=True))

    def tell(self, loss: ChannelGap) -> None:
        """Tell channels of what they do not get, as of a gap."""
        if not loss.channels:
            return
        self._counters.given_up += loss.count
        logger.warning(
            "%d changes for a role are given up, and its channels are told of a gap: %s",
            loss.count,
            _CAUSES[loss.reason],
        )
        logger.debug("the role is %s", loss.viewer.role)
        self._hub.write(
            (members, group.gap_message(loss)) for group, members in loss.channels.items()
        )

    def _tell_lost(self, decided: Decided) -> None:
        """Tell channels of a gap that would have got what could not be looked at."""
        lost: dict[Viewer, list[PendingChange]] = {}
        for candidate, shown in decided:
            for viewer, view in shown.items():
                if isinstance(view, Lost):
                    lost.setdefault(viewer, []).append(candidate)
        for viewer, theirs in lost.items():
            self.tell(ChannelGap.of(viewer, ChannelGapReason.TABLE_REPLACED, theirs))

    def _tell_moved(self, decided: Decided) -> None:
        """Tell channels of a gap that became another's before they got what was decided."""
        moved: dict[Viewer, list[PendingChange]] = {}
        for candidate, shown in decided:
            receivers = Receivers(self._hub, candidate)
            for viewer, view in shown.items():
                channels = candidate.listening.get(viewer, {})
                if all(members.is_current for members in channels.values()):
                    continue
                if isinstance(view, Lost):
                    # They have been told already.
                    continue
                if isinstance(view, ErrorView) or receivers.of(viewer, view):
                    moved.setdefault(viewer, []).append(candidate)
        for viewer, theirs in moved.items():
            self.tell(
                ChannelGap.of(viewer, ChannelGapReason.TOKEN_REPLACED, theirs, is_of_moved=True)
            )

    def _messages(self, decided: Decided) -> Iterator[tuple[Members, bytes]]:
        for candidate, shown in decided:
            yield from self._of_one(candidate, shown)

    def _of_one(self, candidate: PendingChange, shown: Shown) -> Iterator[tuple[Members, bytes]]:
        receivers = Receivers(self._hub, candidate)
        limit = self._hub.record_limit
        is_any_shortened = False
        for viewer, view in shown.items():
            if isinstance(view, Lost):
                continue
            for delivery, members in receivers.of(viewer, view):
                try:
                    if isinstance(view, ErrorView):
                        message = delivery.message(view.payload(has_time=delivery.is_bound))
                    else:
                        message, is_shortened = _within(limit, view, delivery)
                        is_any_shortened |= is_shortened
                except Exception:
                    # One change that cannot be shown must not keep back all that follow.
                    self._counters.errors += 1
                    logger.exception("a change of %s cannot be shown", candidate.change.relation)
                    continue
                yield members, message
        if is_any_shortened:
            limit.note(candidate.change.relation)


def _within(limit: RecordLimit, view: View, delivery: AnyDelivery) -> tuple[bytes, bool]:
    """Return a view's message, and whether it is without the long values of the change."""
    message = delivery.message(view.payload(delivery.select))
    if len(message) <= limit.max_message_bytes:
        return message, view.is_too_large(delivery.select)
    return delivery.message(view.short_payload(delivery.select)), True
