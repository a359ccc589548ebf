"""Hub: the registry of subscriptions, and the way from a change to their outboxes.

It knows no sockets. Each subscription's outbox takes bytes and never waits; what one
wake-up of the source brought is handed to each outbox in one write.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import attrs

from realtime_core import Begin, Change, Commit, Event, Gap, Idle
from realtime_core.errors import FilterError
from realtime_core.filters import EnumOrders, FilterIndex

from .bindings import BindingIndex, Form
from .encoding import Plans, RowPayload, gap_payload, row_payloads, text_frame
from .errors import JoinError, TopicError
from .gate import TopicGate
from .phoenix.joins import Binding
from .phoenix.messages import (
    CHANNEL_PREFIX,
    POSTGRES_CHANGES,
    SYSTEM,
    Message,
    subscription_failed,
)
from .phoenix.serializers import Serializer
from .topics import Topic

__all__ = ["Delivery", "Hub", "HubStats", "Outbox", "Subscription"]

logger = logging.getLogger("realtime.hub")


class Outbox(Protocol):
    """Where a socket's frames go. It is bounded, and drops a socket that cannot keep up."""

    def write(self, frames: bytes, count: int = 1) -> None:
        """Take ``count`` whole frames, in order, at once."""
        ...


@attrs.define(eq=False)
class Subscription:
    """A channel's interest in changes."""

    topic: Topic
    serializer: Serializer
    outbox: Outbox
    bindings: tuple[Binding, ...] | None = None
    """What was asked for in a join with ``config``; None: the topic itself says it."""
    viewer: Hashable = None
    """In whose eyes rows are looked at; None: everybody sees them."""
    is_open: bool = attrs.field(default=False, init=False)
    """Whether it is in a hub."""


@attrs.frozen
class HubStats:
    """What a hub counts."""

    subscriptions: int = 0
    """There are."""
    filter_misfits: int = 0
    """Subscriptions with a filter that was found not to fit its table after the join."""
    filter_errors: int = 0
    """How often a row could not be judged by a filter; it passed none."""


class _Group:
    """Subscriptions to a topic that get the same bytes: same topic, serializer and viewer."""

    __slots__ = ("envelopes", "serializer", "subscriptions", "topic", "viewer")

    def __init__(self, topic: str, serializer: Serializer, viewer: Hashable) -> None:
        self.topic = topic
        self.serializer = serializer
        self.viewer = viewer
        # A dict for its order: subscribers are served as they came.
        self.subscriptions: dict[Subscription, None] = {}
        self.envelopes: dict[str, tuple[bytes, bytes]] = {}

    def frame(self, event: str, data: bytes) -> bytes:
        envelope = self.envelopes.get(event)
        if envelope is None:
            envelope = self.envelopes[event] = self.serializer.envelope(self.topic, event)
        before, behind = envelope
        return text_frame(before + data + behind)


class _BoundGroup:
    """Subscriptions with bindings that get the same bytes: the bindings are the same, too."""

    __slots__ = (
        "_before",
        "_behind",
        "bindings",
        "serializer",
        "subscriptions",
        "topic",
        "viewer",
    )

    def __init__(
        self,
        topic: str,
        serializer: Serializer,
        bindings: tuple[Binding, ...],
        viewer: Hashable,
    ) -> None:
        self.topic = topic
        self.serializer = serializer
        self.bindings = bindings
        self.viewer = viewer
        self.subscriptions: dict[Subscription, None] = {}
        self._before, self._behind = serializer.envelope(topic, POSTGRES_CHANGES)

    def frame(self, ids: Iterable[int], data: bytes) -> bytes:
        head = f'{{"ids":[{",".join(map(str, ids))}],"data":'.encode()
        return text_frame(b"".join((self._before, head, data, b"}", self._behind)))


class Delivery(NamedTuple):
    """What goes to one group of subscriptions because of one change."""

    group: _Group
    payload: RowPayload

    @property
    def select(self) -> frozenset[str] | None:
        """Names of the columns that are asked for; None: all."""
        return None

    @property
    def is_bound(self) -> bool:
        """Whether it is for clients that joined with ``config``."""
        return False

    def frame(self, data: bytes) -> bytes:
        """Frame a payload for the group."""
        return self.group.frame(self.payload.event, data)

    def render(self) -> bytes:
        """Return the payload that shows the whole change."""
        return self.payload.payload


class BoundDelivery(NamedTuple):
    """The same for subscriptions with bindings."""

    group: _BoundGroup
    payload: RowPayload
    form: Form
    ids: Sequence[int]

    @property
    def select(self) -> frozenset[str] | None:
        return self.form[1]

    @property
    def is_bound(self) -> bool:
        return True

    def frame(self, data: bytes) -> bytes:
        return self.group.frame(self.ids, data)

    def render(self) -> bytes:
        return self.payload.typed(*self.form)


AnyDelivery: TypeAlias = Delivery | BoundDelivery


class Hub:
    """Hands changes to the subscriptions whose topics they match.

    Args:
        gate: which topics are open at all.
        enums: the declared orders of enum types, by schema and name, for filters.
    """

    def __init__(self, gate: TopicGate | None = None, *, enums: EnumOrders | None = None) -> None:
        self._gate = gate or TopicGate()
        self._enums: EnumOrders = {} if enums is None else enums
        self._groups: dict[str, dict[tuple[Serializer, Hashable], _Group]] = {}
        # The topics that have filters.
        self._filters: FilterIndex[Topic] = FilterIndex(
            enums=self._enums, on_error=self._note_topic_misfit
        )
        # The same by schema and table, for what is told whatever a filter says.
        self._filtered: dict[tuple[str, str], dict[Topic, None]] = {}
        self._bound: dict[tuple[str, Serializer, tuple[Binding, ...], Hashable], _BoundGroup] = {}
        self._bindings: BindingIndex[_BoundGroup] = BindingIndex(
            self._gate, self._note_misfit, enums=self._enums
        )
        # Groups and what they are to be told.
        self._misfits: list[tuple[_Group | _BoundGroup, str]] = []
        self._misfits_told = 0
        self._plans: Plans = {}
        self.version = 0
        """Grows with each subscription that comes, moves or goes."""

    def check(self, bindings: Iterable[Binding]) -> None:
        """Refuse what does not fit the tables that are known so far.

        Raises:
            JoinError: with the place in the join's payload.
        """
        for place, binding in enumerate(bindings):
            plan = self._plans.get((binding.schema, binding.table))
            if plan is None:
                continue
            relation = plan.relation
            at = f"config.postgres_changes[{place}]"
            unknown = sorted((binding.select or frozenset()) - relation.shape.index.keys())
            if unknown:
                raise JoinError(
                    f"{at}.select: {relation} has no column {unknown[0]!r}; it has "
                    f"{', '.join(relation.shape.names[:20])}"
                )
            try:
                if binding.filter is not None:
                    binding.filter.compile(relation, enums=self._enums)
            except FilterError as exc:
                raise JoinError(f"{at}.filter: {exc}") from exc

    def check_topic(self, topic: Topic) -> None:
        """Refuse a topic whose filter does not fit its table, if that is known so far.

        Raises:
            TopicError: with the reason.
        """
        problem: FilterError | None = None
        for item in topic.filters:
            plan = self._plans.get((item.schema, item.table))
            if plan is None:
                # That table may be the one that is meant.
                return
            try:
                item.filter.compile(plan.relation, enums=self._enums)
            except FilterError as exc:
                problem = problem or exc
            else:
                return
        if problem is not None:
            raise TopicError(f"cannot filter by {problem.text!r}: {problem}")

    def stats(self) -> HubStats:
        """Return what is counted, as it is now."""
        return HubStats(
            subscriptions=sum(len(group.subscriptions) for group in self._all_groups()),
            filter_misfits=self._misfits_told,
            filter_errors=self._filters.errors + self._bindings.errors,
        )

    def _all_groups(self) -> Iterator[_Group | _BoundGroup]:
        for groups in self._groups.values():
            yield from groups.values()
        yield from self._bound.values()

    def subscribe(self, subscription: Subscription) -> None:
        """Hand over what is published from now on."""
        subscription.is_open = True
        self.version += 1
        if subscription.bindings is None:
            self._join(subscription, subscription.topic)
        else:
            self._bind(subscription, subscription.bindings)
        self.write(self.misfit_frames())

    def _join(self, subscription: Subscription, topic: Topic) -> None:
        is_new = topic.name not in self._groups
        groups = self._groups.setdefault(topic.name, {})
        key = (subscription.serializer, subscription.viewer)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(topic.name, *key)
        group.subscriptions[subscription] = None
        for item in topic.filters if is_new else ():
            self._filtered.setdefault((item.schema, item.table), {})[topic] = None
            try:
                self._filters.add(topic, item.schema, item.table, item.filter)
            except FilterError as exc:
                # The index may know a table longer than we do.
                self._note_topic_misfit(topic, exc)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Hand over nothing more. A subscription that is not there is ignored."""
        subscription.is_open = False
        self.version += 1
        if subscription.bindings is not None:
            self._unbind(subscription, subscription.bindings)
            return
        topic = subscription.topic
        groups = self._groups.get(topic.name, {})
        key = (subscription.serializer, subscription.viewer)
        group = groups.get(key)
        if group is None or subscription not in group.subscriptions:
            return
        del group.subscriptions[subscription]
        if group.subscriptions:
            return
        del groups[key]
        if groups:
            return
        del self._groups[topic.name]
        for item in topic.filters:
            self._filters.remove(topic, item.schema, item.table, item.filter)
            filtered = self._filtered.get((item.schema, item.table), {})
            filtered.pop(topic, None)
            if not filtered:
                self._filtered.pop((item.schema, item.table), None)

    def move(self, subscription: Subscription, viewer: Hashable) -> None:
        """Let a subscription look at rows in other eyes."""
        if viewer != subscription.viewer:
            self.unsubscribe(subscription)
            subscription.viewer = viewer
            self.subscribe(subscription)

    def _bind(self, subscription: Subscription, bindings: tuple[Binding, ...]) -> None:
        key = (subscription.topic.name, subscription.serializer, bindings, subscription.viewer)
        group = self._bound.get(key)
        if group is None:
            group = self._bound[key] = _BoundGroup(*key)
            for binding in bindings:
                try:
                    self._bindings.add(group, binding)
                except FilterError as exc:
                    self._note_misfit(group, binding, exc)
        group.subscriptions[subscription] = None

    def _unbind(self, subscription: Subscription, bindings: tuple[Binding, ...]) -> None:
        key = (subscription.topic.name, subscription.serializer, bindings, subscription.viewer)
        group = self._bound.get(key)
        if group is None or subscription not in group.subscriptions:
            return
        del group.subscriptions[subscription]
        if not group.subscriptions:
            del self._bound[key]
            for binding in bindings:
                self._bindings.remove(group, binding)

    def publish(self, events: Iterable[Event]) -> None:
        """Hand out what one wake-up brought, in order, one write for each outbox."""
        self.write(frame for event in events for frame in self._frames(event))

    def write(self, frames: Iterable[tuple[Subscription, bytes]]) -> None:
        """Hand frames out, in order, one write for each outbox."""
        parts: dict[Outbox, list[bytes]] = {}
        for subscription, frame in frames:
            parts.setdefault(subscription.outbox, []).append(frame)
        for outbox, some in parts.items():
            outbox.write(some[0] if len(some) == 1 else b"".join(some), len(some))

    def deliveries(self, change: Change, *, filtered: bool = True) -> list[AnyDelivery]:
        """Say which groups a change goes to, topics in the ladder's order, then bindings.

        What :meth:`misfit_frames` has to tell afterwards goes out before it.

        Args:
            change: to hand out.
            filtered: whether filters are looked at; else each passes.
        """
        found: list[AnyDelivery] = []
        for payload in row_payloads(change, self._plans):
            for topic in self._matches(payload, filtered):
                found += (Delivery(group, payload) for group in self._groups[topic].values())
            for bound_group, forms in self._bindings.match(payload, filtered=filtered).items():
                found += (
                    BoundDelivery(bound_group, payload, form, ids) for form, ids in forms.items()
                )
        return found

    def _frames(self, event: Event) -> Iterator[tuple[Subscription, bytes]]:
        if isinstance(event, Gap):
            yield from self._gap_frames(event)
        elif not isinstance(event, (Begin, Commit, Idle)):
            deliveries = self.deliveries(event)
            if self._misfits:
                yield from self.misfit_frames()
            for delivery in deliveries:
                frame = delivery.frame(delivery.render())
                for subscription in delivery.group.subscriptions:
                    yield subscription, frame

    def _note_misfit(self, group: _BoundGroup, binding: Binding, exc: FilterError) -> None:
        where = f"{binding.schema}.{binding.table}"
        self._misfits.append((group, f"the filter on {where} does not fit it: {exc}"))

    def _note_topic_misfit(self, topic: Topic, exc: FilterError) -> None:
        # Where a topic may mean several tables, another one may be meant.
        if len(topic.filters) == 1:
            self._misfits += ((group, str(exc)) for group in self._groups[topic.name].values())

    def misfit_frames(self) -> Iterator[tuple[Subscription, bytes]]:
        """Tell the channels whose filters were found not to fit since the last time."""
        misfits, self._misfits = self._misfits, []
        for group, reason in misfits:
            logger.info("a filter of %.200r does not fit its table: %s", group.topic, reason)
            self._misfits_told += len(group.subscriptions)
            payload = subscription_failed(group.topic.removeprefix(CHANNEL_PREFIX), reason)
            yield from _system_frames(group, payload)

    def _matches(self, payload: RowPayload, filtered: bool) -> list[str]:
        """Return the joined topics that get a change, in the ladder's order."""
        relation = payload.plan.relation
        opening = self._gate.opening(relation.schema, relation.table, payload.event)
        matches = [topic for topic in opening.topics if topic in self._groups]
        passing: Iterable[Topic]
        if filtered:
            passing = self._filters.match(payload.change)
        else:
            passing = self._filtered.get((relation.schema, relation.table), ())
        matches += (topic.name for topic in passing if opening.lets_filter_by(topic.columns))
        return matches

    def filtering(self, schema: str, table: str) -> frozenset[Hashable]:
        """Return the viewers of those who have a filter on a table."""
        by_topic = (
            group.viewer
            for topic in self._filtered.get((schema, table), ())
            for group in self._groups[topic.name].values()
        )
        bound = (group.viewer for group, _ in self._bindings.with_filter(schema, table))
        return frozenset((*by_topic, *bound))

    def _gap_frames(self, gap: Gap) -> Iterator[tuple[Subscription, bytes]]:
        for group in self._all_groups():
            payload = gap_payload(gap, group.topic.removeprefix(CHANNEL_PREFIX))
            yield from _system_frames(group, payload)


def _system_frames(
    group: _Group | _BoundGroup, payload: dict[str, Any]
) -> Iterator[tuple[Subscription, bytes]]:
    frame = text_frame(group.serializer.encode(Message(group.topic, SYSTEM, payload)))
    for subscription in group.subscriptions:
        yield subscription, frame
