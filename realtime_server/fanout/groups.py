"""Groups: subscriptions that get the same bytes, and the deliveries of changes to them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import attrs

from ..phoenix.joins import Binding
from ..phoenix.messages import CHANNEL_PREFIX, POSTGRES_CHANGES, SYSTEM, Message
from ..phoenix.serializers import Serializer
from .dispatch import Members, Outbox
from .payloads.row_payload import AnyGap, RowPayload, gap_payload
from .topic_parser import Topic

__all__ = [
    "AnyDelivery",
    "AnyGroup",
    "BoundDelivery",
    "BoundGroup",
    "TopicDelivery",
    "Form",
    "Group",
    "Listening",
    "Subscription",
]


Form: TypeAlias = tuple[str, frozenset[str] | None]
"""How a change is sent: as which event, and with which columns (None: all). The payload of binding
clients depends on both."""


@attrs.define(eq=False)
class Subscription:
    """A channel's request for changes, and the client that gets them."""

    topic: Topic
    serializer: Serializer
    outbox: Outbox
    bindings: tuple[Binding, ...] | None = None
    """The bindings of a join with ``config``; None if the topic itself says what is asked for."""
    viewer: Hashable = None
    """The role and claims that rows are checked for; None: everybody sees them."""
    is_open: bool = attrs.field(default=False, init=False)
    """Whether it is subscribed in a hub."""


class _CurrentMembers(Members):
    """The members of a group; one that has got another viewer meanwhile is a member no more."""

    __slots__ = ("_viewer",)

    def __init__(self, subscriptions: Mapping[Outbox, Subscription], viewer: Hashable) -> None:
        super().__init__(subscriptions, is_current=True)
        self._viewer = viewer

    def still_includes(self, outbox: Outbox) -> bool:
        one = self[outbox]
        assert isinstance(one, Subscription)  # it was made of them
        return one.is_open and one.viewer == self._viewer


class _GroupBase:
    """Subscriptions that get the same bytes: at most one for each socket."""

    __slots__ = ("_members", "_subscriptions", "serializer", "topic", "viewer")

    def __init__(self, topic: str, serializer: Serializer, viewer: Hashable) -> None:
        self.topic = topic
        self.serializer = serializer
        self.viewer = viewer
        # In the order in which they came, in which they are served.
        self._subscriptions: dict[Outbox, Subscription] = {}
        self._members: Members | None = None

    def __len__(self) -> int:
        return len(self._subscriptions)

    @property
    def members(self) -> Members:
        """The members now; the same object as long as none comes or goes."""
        if self._members is None:
            self._members = _CurrentMembers(self._subscriptions, self.viewer)
        return self._members

    def add(self, subscription: Subscription) -> None:
        """Add a subscription, in place of another one of the same socket."""
        self._subscriptions[subscription.outbox] = subscription
        self._reset_members()

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription. One that is not there is ignored."""
        if self._subscriptions.get(subscription.outbox) is subscription:
            del self._subscriptions[subscription.outbox]
            self._reset_members()

    def _reset_members(self) -> None:
        if self._members is not None:
            self._members.is_current = False
            self._members = None

    def gap_message(self, gap: AnyGap) -> bytes:
        """Return the message that tells the members of a gap."""
        return self.system_message(gap_payload(gap, self.topic.removeprefix(CHANNEL_PREFIX)))

    def system_message(self, payload: dict[str, Any]) -> bytes:
        """Return a ``system`` message for the members."""
        return self.serializer.encode(Message(self.topic, SYSTEM, payload))


class Group(_GroupBase):
    """Subscriptions without bindings that get the same bytes: same topic, serializer and viewer."""

    __slots__ = ("envelopes", "is_filtered")

    def __init__(
        self, topic: str, serializer: Serializer, viewer: Hashable, *, is_filtered: bool
    ) -> None:
        super().__init__(topic, serializer, viewer)
        self.is_filtered = is_filtered
        """Whether the topic has a filter."""
        self.envelopes: dict[str, tuple[bytes, bytes]] = {}

    def message(self, event: str, data: bytes) -> bytes:
        """Return a payload as the message for the members."""
        envelope = self.envelopes.get(event)
        if envelope is None:
            envelope = self.envelopes[event] = self.serializer.envelope(self.topic, event)
        before, behind = envelope
        return before + data + behind


class BoundGroup(_GroupBase):
    """Subscriptions with bindings that get the same bytes: the same bindings, too."""

    __slots__ = ("_before", "_behind", "bindings")

    def __init__(
        self,
        topic: str,
        serializer: Serializer,
        bindings: tuple[Binding, ...],
        viewer: Hashable,
    ) -> None:
        super().__init__(topic, serializer, viewer)
        self.bindings = bindings
        self._before, self._behind = serializer.envelope(topic, POSTGRES_CHANGES)

    def message(self, ids: Iterable[int], data: bytes) -> bytes:
        """Return a payload as the message for the members, for the bindings with these ids."""
        head = f'{{"ids":[{",".join(map(str, ids))}],"data":'.encode()
        return b"".join((self._before, head, data, b"}", self._behind))


class TopicDelivery(NamedTuple):
    """One change for one group of subscriptions without bindings."""

    group: Group
    payload: RowPayload

    @property
    def select(self) -> frozenset[str] | None:
        """Names of the columns that are asked for; None: all."""
        return None

    @property
    def is_bound(self) -> bool:
        """Whether the group's clients joined with ``config``."""
        return False

    @property
    def is_filtered(self) -> bool:
        """Whether the group gets only such changes of the table as pass a filter."""
        return self.group.is_filtered

    @property
    def has_filters(self) -> bool:
        """Whether the change is sent because it passed a filter."""
        return self.is_filtered

    def message(self, data: bytes) -> bytes:
        """Return a payload as the message that the group gets."""
        return self.group.message(self.payload.event, data)

    def render(self) -> bytes:
        """Return the payload that shows the whole change."""
        return self.payload.payload

    def render_short(self) -> bytes:
        """Return the payload that shows the change without its long values."""
        return self.payload.short.payload


class BoundDelivery(NamedTuple):
    """One change for one group of subscriptions with bindings."""

    group: BoundGroup
    payload: RowPayload
    form: Form
    ids: Sequence[int]

    @property
    def select(self) -> frozenset[str] | None:
        return self.form[1]

    @property
    def is_bound(self) -> bool:
        return True

    @property
    def is_filtered(self) -> bool:
        plain = (one.id for one in self.group.bindings if one.filter is None)
        return not any(one in self.ids for one in plain)

    @property
    def has_filters(self) -> bool:
        return any(one.filter is not None and one.id in self.ids for one in self.group.bindings)

    def message(self, data: bytes) -> bytes:
        return self.group.message(self.ids, data)

    def render(self) -> bytes:
        return self.payload.typed(*self.form)

    def render_short(self) -> bytes:
        return self.payload.short.typed(*self.form)


AnyDelivery: TypeAlias = TopicDelivery | BoundDelivery
AnyGroup: TypeAlias = Group | BoundGroup
Listening: TypeAlias = Mapping[Hashable, Mapping[AnyGroup, Members]]
"""Who listens to a table's changes, whether these pass the filters or not: by viewer, the groups,
and their members at that time."""
