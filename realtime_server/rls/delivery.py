"""Delivery: sends to each viewer's channels what the viewer may see of changes.

Channels may leave, or get another viewer by a new token, between the match and the delivery. Such
channels do not get the change; those that stay joined get a gap instead.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from typing import Final, TypeAlias

from realtime_core import Gap

from ..fanout.dispatch import Members, Subscriber
from ..fanout.groups import AnyDelivery, AnyGroup
from ..fanout.hub import Hub
from ..fanout.record_limit import RecordLimit
from ..fanout.turns import Steps
from ..logs import LineLimit
from .channel_gaps import ChannelGap, ChannelGapReason
from .counters import Counters
from .payloads import ErrorView, View
from .pending_changes import Decided, Lost, PendingChange, Shown
from .receivers import Receivers
from .viewers import Viewer

__all__ = ["ChannelGroups", "Delivery"]

logger = logging.getLogger("realtime.rls")

ChannelGroups: TypeAlias = list[tuple[AnyGroup, Members]]
"""Some channels as they were at some time: groups, each with its members."""

_CAUSES: Final = {
    ChannelGapReason.TOO_SLOW: "too many waited for its row level security; make its policies "
    "faster",
    ChannelGapReason.TOKEN_REPLACED: "their token was replaced while they waited for its row level "
    "security; if that happens often, make its policies faster",
    ChannelGapReason.FAILED: "they cannot be checked",
    ChannelGapReason.STOPPED: "the server stops before their row level security is checked",
    ChannelGapReason.TABLE_REPLACED: "their table was renamed, replaced or dropped before they "
    "could be checked",
}


class Delivery:
    """Sends to each viewer's channels what the checks have found that the viewer may see.

    Args:
        hub: has the joined channels.
        counters: counts the changes that a viewer did not get.
    """

    def __init__(self, hub: Hub, counters: Counters) -> None:
        self._hub = hub
        self._counters = counters
        self._gap_lines = {reason: LineLimit() for reason in ChannelGapReason}

    def handing_out(self, decided: Decided) -> Steps:
        """Send changes to channels in order, and yield now and then.

        The steps must be brought to their end before those of the next changes begin.
        """
        yield from self._hub.writing(self._messages(decided))
        self._tell_lost(decided)
        self._tell_moved(decided)

    def telling(self, gap: Gap, *, later_for: Container[Viewer] = ()) -> Steps:
        """Tell all channels of a gap in the stream, and yield now and then.

        Args:
            gap: the gap.
            later_for: the viewers whose channels get it later.
        """
        # As they are now: a channel that gets another viewer between two steps moves to another
        # group, which may have been told already.
        channels = [
            (group, Members(group.members))
            for group in self._hub.groups()
            if group.viewer not in later_for
        ]
        yield from self._hub.writing(
            (members, group.gap_message(gap)) for group, members in channels
        )

    def channels_of(self, viewers: Container[Viewer]) -> Mapping[Viewer, ChannelGroups]:
        """Return the channels of some viewers, as they are now."""
        found: dict[Viewer, ChannelGroups] = {}
        for group in self._hub.groups():
            if isinstance(group.viewer, Viewer) and group.viewer in viewers:
                # A channel that has another viewer by now must get the gap all the same.
                found.setdefault(group.viewer, []).append((group, Members(group.members)))
        return found

    def tell_late(self, gap: Gap, channels: ChannelGroups) -> None:
        """Tell some channels of a gap in the stream that other channels were told of before."""
        self._hub.write((members, group.gap_message(gap)) for group, members in channels)

    def hand_out_late(
        self, viewer: Viewer, decided: Decided, *, told: Set[Subscriber] = frozenset()
    ) -> None:
        """Send changes that were checked late to one viewer's channels, with one write for each
        socket.

        Channels that have another viewer by now get a gap instead.

        Args:
            viewer: the role and claims.
            decided: the changes, and what the viewer may see of them.
            told: channels that were told when they got another viewer.
        """
        self._hub.write(self._messages(decided))
        self._tell_lost(decided)
        # For all changes, since it is not known whether those that took too long could be seen.
        self.tell_moved(viewer, [pending for pending, _ in decided], told=told)

    def tell_moved(
        self,
        viewer: Viewer,
        pending: Sequence[PendingChange],
        *,
        told: Set[Subscriber] = frozenset(),
    ) -> Iterable[Subscriber]:
        """Tell channels of a gap that asked for changes, and that have got another viewer since.

        Args:
            viewer: the viewer that they had.
            pending: the changes.
            told: channels that were told when they got another viewer.

        Returns:
            The channels.
        """
        reason = ChannelGapReason.TOKEN_REPLACED
        gap = ChannelGap.of(viewer, reason, pending, is_of_moved=True, told=told)
        self.tell(gap)
        return [one for members in gap.channels.values() for one in members.values()]

    def tell(self, gap: ChannelGap) -> None:
        """Tell channels of a gap, in place of changes that they do not get."""
        if not gap.channels:
            return
        self._counters.given_up += gap.count
        others = self._gap_lines[gap.reason].take()
        if others is not None:
            logger.warning(
                "%d changes for a role are not sent; its channels are sent a gap instead (%d such "
                "gaps more since the last such line): %s",
                gap.count,
                others,
                _CAUSES[gap.reason],
            )
        logger.debug("the role is %s", gap.viewer.role)
        self._hub.write(
            (members, group.gap_message(gap)) for group, members in gap.channels.items()
        )

    def _tell_lost(self, decided: Decided) -> None:
        """Send a gap to the channels whose changes could not be checked."""
        lost: dict[Viewer, list[PendingChange]] = {}
        for pending, shown in decided:
            for viewer, view in shown.items():
                if isinstance(view, Lost):
                    lost.setdefault(viewer, []).append(pending)
        for viewer, theirs in lost.items():
            self.tell(ChannelGap.of(viewer, ChannelGapReason.TABLE_REPLACED, theirs))

    def _tell_moved(self, decided: Decided) -> None:
        """Send a gap to channels that got another viewer between the match and the delivery."""
        moved: dict[Viewer, list[PendingChange]] = {}
        for pending, shown in decided:
            receivers = Receivers(self._hub, pending)
            for viewer, view in shown.items():
                channels = pending.listening.get(viewer, {})
                if all(members.is_current for members in channels.values()):
                    continue
                if isinstance(view, Lost):
                    # The channels have got their gap already.
                    continue
                if isinstance(view, ErrorView) or receivers.of(viewer, view):
                    moved.setdefault(viewer, []).append(pending)
        for viewer, theirs in moved.items():
            self.tell_moved(viewer, theirs)

    def _messages(self, decided: Decided) -> Iterator[tuple[Members, bytes]]:
        for pending, shown in decided:
            yield from self._of_one(pending, shown)

    def _of_one(self, pending: PendingChange, shown: Shown) -> Iterator[tuple[Members, bytes]]:
        receivers = Receivers(self._hub, pending)
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
                    # One change that cannot be written must not hold up all that follow.
                    self._counters.errors += 1
                    logger.exception(
                        "a change of %s cannot be sent "
                        "(a bug in realtime_server: please report it)",
                        pending.change.relation,
                    )
                    continue
                yield members, message
        if is_any_shortened:
            limit.note(pending.change.relation)


def _within(limit: RecordLimit, view: View, delivery: AnyDelivery) -> tuple[bytes, bool]:
    """Return a view's message, and whether it is without the long values of the change."""
    message = delivery.message(view.payload(delivery.select))
    if len(message) <= limit.max_message_bytes:
        return message, view.is_too_large(delivery.select)
    return delivery.message(view.short_payload(delivery.select)), True
