"""Hub: the registry of subscriptions, and the way from a change to their outboxes.

It knows no sockets. Each subscription's outbox takes bytes and never waits; what one
wake-up of the source brought is handed to each outbox in one write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import attrs

from realtime_core import Begin, Commit, Event, Gap, Idle

from .encoding import RelationPlan, RowPayload, gap_payload, row_payloads, text_frame
from .gate import TopicGate
from .phoenix.messages import CHANNEL_PREFIX, SYSTEM, Message
from .phoenix.serializers import Serializer
from .topics import Topic

__all__ = ["Hub", "Outbox", "Subscription"]


class Outbox(Protocol):
    """Where a socket's frames go. It is bounded, and drops a socket that cannot keep up."""

    def write(self, frames: bytes, count: int = 1) -> None:
        """Take ``count`` whole frames, in order, at once."""
        ...


@attrs.frozen(eq=False)
class Subscription:
    """A channel's interest in changes."""

    topic: Topic
    serializer: Serializer
    outbox: Outbox


class _Group:
    """The subscriptions that get the same bytes: same topic, same serializer."""

    __slots__ = ("envelopes", "serializer", "subscriptions", "topic")

    def __init__(self, topic: str, serializer: Serializer) -> None:
        self.topic = topic
        self.serializer = serializer
        # A dict for its order: subscribers are served as they came.
        self.subscriptions: dict[Subscription, None] = {}
        self.envelopes: dict[str, tuple[bytes, bytes]] = {}

    def frame(self, payload: RowPayload) -> bytes:
        envelope = self.envelopes.get(payload.event)
        if envelope is None:
            envelope = self.serializer.envelope(self.topic, payload.event)
            self.envelopes[payload.event] = envelope
        before, behind = envelope
        return text_frame(before + payload.payload + behind)


class Hub:
    """Hands changes to the subscriptions whose topics they match.

    Args:
        gate: which topics are open at all.
    """

    def __init__(self, gate: TopicGate | None = None) -> None:
        self._gate = gate or TopicGate()
        self._groups: dict[str, dict[Serializer, _Group]] = {}
        # table topic → column → value → topics: the filters on a change's table.
        self._filters: dict[str, dict[str, dict[str, dict[str, None]]]] = {}
        self._plans: dict[int, RelationPlan] = {}

    def count(self) -> int:
        """Return how many subscriptions there are."""
        return sum(
            len(group.subscriptions)
            for groups in self._groups.values()
            for group in groups.values()
        )

    def subscribe(self, subscription: Subscription) -> None:
        """Hand over what is published from now on."""
        topic = subscription.topic
        groups = self._groups.setdefault(topic.name, {})
        group = groups.get(subscription.serializer)
        if group is None:
            group = _Group(topic.name, subscription.serializer)
            groups[subscription.serializer] = group
        group.subscriptions[subscription] = None
        for item in topic.filters:
            columns = self._filters.setdefault(item.table_topic, {})
            columns.setdefault(item.column, {}).setdefault(item.value, {})[topic.name] = None

    def unsubscribe(self, subscription: Subscription) -> None:
        """Hand over nothing more. A subscription that is not there is ignored."""
        topic = subscription.topic
        groups = self._groups.get(topic.name, {})
        group = groups.get(subscription.serializer)
        if group is None or subscription not in group.subscriptions:
            return
        del group.subscriptions[subscription]
        if group.subscriptions:
            return
        del groups[subscription.serializer]
        if groups:
            return
        del self._groups[topic.name]
        for item in topic.filters:
            columns = self._filters[item.table_topic]
            values = columns[item.column]
            del values[item.value][topic.name]
            if not values[item.value]:
                del values[item.value]
            if not values:
                del columns[item.column]
            if not columns:
                del self._filters[item.table_topic]

    def publish(self, events: Iterable[Event]) -> None:
        """Hand out what one wake-up brought, in order, one write for each outbox."""
        frames: dict[Outbox, list[bytes]] = {}
        for event in events:
            for outbox, frame in self._frames(event):
                frames.setdefault(outbox, []).append(frame)
        for outbox, parts in frames.items():
            outbox.write(parts[0] if len(parts) == 1 else b"".join(parts), len(parts))

    def _frames(self, event: Event) -> Iterator[tuple[Outbox, bytes]]:
        if isinstance(event, Gap):
            yield from self._gap_frames(event)
            return
        if isinstance(event, (Begin, Commit, Idle)):
            return
        for payload in row_payloads(event, self._plans):
            for topic in self._matches(payload):
                for group in self._groups[topic].values():
                    frame = group.frame(payload)
                    for subscription in group.subscriptions:
                        yield subscription.outbox, frame

    def _matches(self, payload: RowPayload) -> list[str]:
        """Return the joined topics that get a change, in the ladder's order."""
        relation = payload.plan.relation
        opening = self._gate.opening(relation.schema, relation.table, payload.event)
        groups = self._groups
        matches = [topic for topic in opening.topics if topic in groups]
        columns = self._filters.get(payload.plan.table_topic)
        if columns is not None:
            found = columns.keys() & payload.filterable.keys()
            if opening.columns is not None:
                found &= opening.columns
            for column in sorted(found):
                value = payload.filterable[column]
                if value is not None:
                    matches.extend(columns[column].get(value, ()))
        return matches

    def _gap_frames(self, gap: Gap) -> Iterator[tuple[Outbox, bytes]]:
        for topic, groups in self._groups.items():
            payload = gap_payload(gap, topic.removeprefix(CHANNEL_PREFIX))
            for group in groups.values():
                message = Message(topic, SYSTEM, payload)
                frame = text_frame(group.serializer.encode(message))
                for subscription in group.subscriptions:
                    yield subscription.outbox, frame
