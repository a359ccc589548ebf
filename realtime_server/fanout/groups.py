"""Groups: subscriptions that get the same bytes, and what goes to them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import attrs

from ..phoenix.joins import Binding
from ..phoenix.messages import CHANNEL_PREFIX, POSTGRES_CHANGES, SYSTEM, Message
from ..phoenix.serializers import Serializer
from .dispatch import Members, Outbox
from .payloads.v1 import AnyGap, RowPayload, gap_payload
from .topics import Topic

__all__ = [
    "AnyDelivery",
    "AnyGroup",
    "BoundDelivery",
    "BoundGroup",
    "Delivery",
    "Form",
    "Group",
    "Listening",
    "Subscription",
]


Form: TypeAlias = tuple[str, frozenset[str] | None]
"""As what event a change is told, and which columns are shown: what a payload depends on."""


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


class _GroupMembers(Members):
    """Those who were in a group; who looks at rows in other eyes meanwhile is none of them."""

    __slots__ = ("_viewer",)

    def __init__(self, subscriptions: Mapping[Outbox, Subscription], viewer: Hashable) -> None:
        super().__init__(subscriptions, is_current=True)
        self._viewer = viewer

    def still_has(self, outbox: Outbox) -> bool:
        one = self[outbox]
        assert isinstance(one, Subscription)  # it was made of them
        return one.is_open and one.viewer == self._viewer


class _SameBytes:
    """Subscriptions that get the same bytes. A socket has one of them."""

    __slots__ = ("_as_they_are", "_subscriptions", "serializer", "topic", "viewer")

    def __init__(self, topic: str, serializer: Serializer, viewer: Hashable) -> None:
        self.topic = topic
        self.serializer = serializer
        self.viewer = viewer
        # Subscribers are served as they came.
        self._subscriptions: dict[Outbox, Subscription] = {}
        self._as_they_are: Members | None = None

    def __len__(self) -> int:
        return len(self._subscriptions)

    @property
    def members(self) -> Members:
        """Those who are there now; the same object as long as they are the same."""
        if self._as_they_are is None:
            self._as_they_are = _GroupMembers(self._subscriptions, self.viewer)
        return self._as_they_are

    def add(self, subscription: Subscription) -> None:
        """Take one in, instead of another of the same socket."""
        self._subscriptions[subscription.outbox] = subscription
        self._have_changed()

    def remove(self, subscription: Subscription) -> None:
        """Take one out. One that is not there is ignored."""
        if self._subscriptions.get(subscription.outbox) is subscription:
            del self._subscriptions[subscription.outbox]
            self._have_changed()

    def _have_changed(self) -> None:
        if self._as_they_are is not None:
            self._as_they_are.is_current = False
            self._as_they_are = None

    def gap_message(self, gap: AnyGap) -> bytes:
        """Return what tells them of a gap."""
        return self.system_message(gap_payload(gap, self.topic.removeprefix(CHANNEL_PREFIX)))

    def system_message(self, payload: dict[str, Any]) -> bytes:
        """Return the event ``system`` as they get it."""
        return self.serializer.encode(Message(self.topic, SYSTEM, payload))


class Group(_SameBytes):
    """Subscriptions to a topic that get the same bytes: same topic, serializer and viewer."""

    __slots__ = ("envelopes", "is_filtered")

    def __init__(
        self, topic: str, serializer: Serializer, viewer: Hashable, *, is_filtered: bool
    ) -> None:
        super().__init__(topic, serializer, viewer)
        self.is_filtered = is_filtered
        """Whether the topic has a filter."""
        self.envelopes: dict[str, tuple[bytes, bytes]] = {}

    def message(self, event: str, data: bytes) -> bytes:
        """Return a payload as the message that they get."""
        envelope = self.envelopes.get(event)
        if envelope is None:
            envelope = self.envelopes[event] = self.serializer.envelope(self.topic, event)
        before, behind = envelope
        return before + data + behind


class BoundGroup(_SameBytes):
    """Subscriptions with bindings that get the same bytes: the bindings are the same, too."""

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
        """Return a payload as the message that they get, for the bindings with these ids."""
        head = f'{{"ids":[{",".join(map(str, ids))}],"data":'.encode()
        return b"".join((self._before, head, data, b"}", self._behind))


class Delivery(NamedTuple):
    """What goes to one group of subscriptions because of one change."""

    group: Group
    payload: RowPayload

    @property
    def select(self) -> frozenset[str] | None:
        """Names of the columns that are asked for; None: all."""
        return None

    @property
    def is_bound(self) -> bool:
        """Whether it is for clients that joined with ``config``."""
        return False

    @property
    def is_filtered(self) -> bool:
        """Whether the group is given such changes as far as they pass a filter."""
        return self.group.is_filtered

    @property
    def has_filters(self) -> bool:
        """Whether a filter has a say in any of it."""
        return self.is_filtered

    def message(self, data: bytes) -> bytes:
        """Return a payload as the message that the group gets."""
        return self.group.message(self.payload.event, data)

    def render(self) -> bytes:
        """Return the payload that shows the whole change."""
        return self.payload.payload

    def render_short(self) -> bytes:
        """Return the payload that shows it without its long values."""
        return self.payload.short.payload


class BoundDelivery(NamedTuple):
    """The same for subscriptions with bindings."""

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


AnyDelivery: TypeAlias = Delivery | BoundDelivery
AnyGroup: TypeAlias = Group | BoundGroup
Listening: TypeAlias = Mapping[Hashable, Mapping[AnyGroup, Members]]
"""By viewer, who listens to a table's changes at a time, whatever the filters say."""
