"""Hub: the registry of subscriptions, and the way from a change to their outboxes.

It knows no sockets. An outbox takes frames and never waits. What one wake-up of the source brought
is handed to each outbox in one write, by a :class:`~realtime_server.fanout.dispatch.Dispatch`.

Topic clients and binding clients are served alike: those that joined without ``config`` are found
by a :class:`~realtime_server.fanout.topic_index.TopicIndex`, the others by a
:class:`~realtime_server.fanout.binding_index.BindingIndex`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from itertools import chain
from typing import Final, TypeAlias

from realtime_core import (
    Begin,
    Change,
    Commit,
    Delete,
    Event,
    Gap,
    Idle,
    Insert,
    LogicalMessage,
    Relation,
    RowChange,
    Update,
)
from realtime_core.errors import FilterError
from realtime_core.filters import EnumOrders

from ..phoenix.joins import Binding
from ..phoenix.messages import CHANNEL_PREFIX, subscription_failed
from .allowed_topics import OWN_SCHEMA, TopicRules
from .binding_index import BindingIndex
from .database_broadcasts import DatabaseBroadcasts
from .dispatch import Dispatch, Members, Ordinals
from .filter_pace import MESSAGES, QUICK, UNWANTED, Pace, pace_of
from .frames import TextFrame
from .groups import AnyDelivery, AnyGroup, BoundGroup, Listening, Subscription
from .hub_stats import HubStats
from .message_rows import has_messages
from .output_rate import OutputRate
from .payloads.row_payload import Plans, row_payloads
from .record_limit import RecordLimit
from .topic_index import TopicIndex
from .topic_parser import shown_topic
from .turns import Steps
from .wanted_tables import WantedTables

__all__ = ["Hub", "AddressedMessages"]

logger = logging.getLogger("realtime.hub")


_MAX_LISTENING: Final = 64
"""Kinds of tables' changes of which the hub remembers who listens: each may have all channels."""

_MAX_TYPED: Final = 1000
"""Tables for which the hub remembers that their filters are compiled."""

_WITHOUT_MESSAGES: Final = frozenset((Begin, Commit, Idle))
_ROWS: Final = frozenset((Insert, Update, Delete))

AddressedMessages: TypeAlias = Iterable[tuple[Members, bytes]]
"""Text messages, each with the subscribers that are to get it."""


class Hub:
    """Sends changes to the subscriptions that ask for them.

    Args:
        rules: which topics, and which bindings, a relation's changes may go to at all.
        enums: the declared orders of enum types, by schema and name, for filters.
        max_record_bytes: of a change's values as text, beyond which the long ones are left out.
        names_columns: whether every client may know what columns the tables have. If not, a channel
            whose filter does not fit its table any more is not told why: its client may have no
            right to the table.
        clock: seconds of any clock that only goes forward, for giving way in time.
        ordinals: of the server's writes; None: they have none.
    """

    def __init__(
        self,
        rules: TopicRules | None = None,
        *,
        enums: EnumOrders | None = None,
        max_record_bytes: int = sys.maxsize,
        names_columns: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        ordinals: Ordinals | None = None,
    ) -> None:
        self._clock = clock
        self._ordinals = ordinals
        # Bounds how fast changes are written while many clients are behind.
        self._output_rate = OutputRate(clock)
        self._names_columns = names_columns
        self.record_limit = RecordLimit(max_record_bytes)
        """How large a change may be that is sent whole."""
        rules = rules or TopicRules()
        # The subscriptions to topics and to bindings.
        self._topics = TopicIndex(rules, self._note_misfit, enums=enums)
        self._bindings = BindingIndex(rules, self._note_binding_misfit, enums=enums)
        # Groups whose filter does not fit its table, and the reasons that they are to be told.
        self._misfits: list[tuple[AnyGroup, str]] = []
        # Subscriptions that were told so.
        self._misfits_told = 0
        # By schema and table: how its changes are rendered.
        self._plans: Plans = {}
        self.wanted = WantedTables()
        """Which tables clients have asked for: told of each channel before it begins."""
        # Gets the rows of realtime.messages; None: they go to nobody.
        self._broadcasts: DatabaseBroadcasts | None = None
        self.on_relation: Callable[[Relation], None] = lambda _: None
        """Told of a table when its first change comes, and the first after it was altered."""
        # By relations whose filters are compiled: how long these take for a row. Cleared when a
        # subscription comes.
        self._typed: dict[Relation, Pace] = {}
        # By schema, table and kind of change. Cleared when a subscription comes, moves or goes.
        self._listening: dict[
            tuple[str, str, type[RowChange]], tuple[Listening, frozenset[Hashable]]
        ] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no subscription is left, nor anything that belonged to one."""
        return self._topics.is_empty and self._bindings.is_empty and not self._misfits

    def stats(self) -> HubStats:
        """Return the counts, as they are now."""
        return HubStats(
            subscriptions=sum(map(len, self.groups())),
            filter_misfits=self._misfits_told,
            filter_errors=self._topics.errors + self._bindings.errors,
            too_large=self.record_limit.exceeded,
        )

    def groups(self) -> Iterator[AnyGroup]:
        """Iterate over all groups that get the same bytes; none may come or go meanwhile."""
        return chain(self._topics.groups(), self._bindings.groups())

    def broadcast_rows_by(self, broadcasts: DatabaseBroadcasts) -> None:
        """Have rows of ``realtime.messages`` broadcast from now on."""
        self._broadcasts = broadcasts
        self.wanted.want(OWN_SCHEMA)

    def subscribe(self, subscription: Subscription) -> None:
        """Send a subscription the changes that are published from now on.

        A filter that does not fit its table as the last change showed it is not reported now, but
        when a change shows that the table was altered and the filter still does not fit: whoever
        lets a client join has checked the filter against the table as it is now.
        """
        subscription.is_open = True
        if subscription.bindings != ():  # Else it is told of gaps alone.
            self._listening.clear()
            self._typed.clear()
        misfits, self._misfits = self._misfits, []
        self._index_of(subscription).add(subscription)
        self._misfits = misfits

    def unsubscribe(self, subscription: Subscription) -> None:
        """Send a subscription nothing more. One that is not there is ignored."""
        subscription.is_open = False
        if subscription.bindings != ():
            self._listening.clear()
        self._index_of(subscription).remove(subscription)

    def move(self, subscription: Subscription, viewer: Hashable) -> None:
        """Give a subscription another viewer: the role and claims its rows are checked for."""
        if viewer != subscription.viewer:
            self.unsubscribe(subscription)
            subscription.viewer = viewer
            self.subscribe(subscription)

    def _index_of(self, subscription: Subscription) -> TopicIndex | BindingIndex:
        return self._topics if subscription.bindings is None else self._bindings

    def publish(self, events: Iterable[Event]) -> None:
        """Send the events of a batch to their subscribers, in order, without awaiting anything."""
        for _ in self.publishing(events):
            pass

    def publishing(self, events: Iterable[Event]) -> Steps:
        """Send the events of a batch to their subscribers, in order, and yield now and then.

        The steps must be brought to their end before those of the next batch begin. Clients may
        come and go in between: they get what comes from then on, or nothing more.
        """
        dispatch = Dispatch(self._clock, self._output_rate, self._ordinals)
        for event in events:
            # By class, and not by isinstance: this runs for every event.
            kind = type(event)
            if kind in _WITHOUT_MESSAGES:
                continue
            deliveries: list[AnyDelivery] | None = None
            if kind in _ROWS:
                change: RowChange = event  # type: ignore[assignment]
                pace = self._typed.get(change.relation)
                if pace is UNWANTED:
                    continue
                if pace is not QUICK:
                    if pace is None:
                        yield from self.typing(change.relation)
                        pace = self.pace(change.relation)
                    if pace is MESSAGES:
                        yield from self._broadcast(change, dispatch)
                        continue
                    if pace.takes_long(change):
                        deliveries = yield from self._delivering(change, dispatch)
            elif kind is LogicalMessage:
                yield from self._broadcast(event, dispatch)  # type: ignore[arg-type]
                continue
            for members, message in self._messages(event, deliveries):
                dispatch.add(members, TextFrame(message))
                if dispatch.is_due():
                    yield from self._hand_out(dispatch)
            # Filters may have taken long although no client gets anything.
            if dispatch.is_over():
                yield from self._hand_out(dispatch)
        yield from self._hand_out(dispatch)

    def _broadcast(self, event: RowChange | LogicalMessage, dispatch: Dispatch) -> Steps:
        if self._broadcasts is not None:
            yield from self._broadcasts.adding(event, dispatch)
            if dispatch.is_due():
                yield from self._hand_out(dispatch)

    def _hand_out(self, dispatch: Dispatch) -> Steps:
        yield from dispatch.hand_out()
        if self._broadcasts is not None:
            self._broadcasts.release()
        yield from dispatch.give_way()

    def _delivering(
        self, change: RowChange, dispatch: Dispatch
    ) -> Generator[float, None, list[AnyDelivery]]:
        steps = self.delivering(change)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found: list[AnyDelivery] = end.value
                return found
            if dispatch.is_over():
                yield from self._hand_out(dispatch)

    def typing(self, relation: Relation) -> Steps:
        """Compile the filters on a table that is new or was altered, and yield now and then.

        The caller may leave this out: :meth:`deliveries` compiles what is not compiled yet.
        """
        plan = self._plans.get((relation.schema, relation.table))
        if plan is None or plan.relation is not relation:
            self.on_relation(relation)
        for _ in chain(self._topics.prepare(relation), self._bindings.prepare(relation)):
            yield 0.0
        if len(self._typed) >= _MAX_TYPED:
            self._typed.clear()
        self._typed[relation] = self.pace(relation)

    def pace(self, relation: Relation) -> Pace:
        """Return which changes of a table take long to filter, so far as its filters are
        compiled."""
        known = self._typed.get(relation)
        if known is None:
            if self._broadcasts is not None and has_messages(relation.schema, relation.table):
                return MESSAGES
            if not (self._topics.wants(relation) or self._bindings.wants(relation)):
                return UNWANTED
            workloads = chain(self._topics.workload(relation), self._bindings.workload(relation))
            known = pace_of(relation, workloads)
        return known

    def delivering(self, change: RowChange) -> Generator[None, None, list[AnyDelivery]]:
        """Do what :meth:`deliveries` does, and yield before each small part of the work.

        That is for changes of which :meth:`pace` says that they take long. Clients that come
        meanwhile do not get the change.
        """
        found: list[AnyDelivery] = []
        for payload in row_payloads(change, self._plans):
            found += yield from self._topics.delivering(payload)
            found += yield from self._bindings.delivering(payload)
        return found

    def write(self, messages: AddressedMessages) -> None:
        """Write messages to their subscribers, in order, without awaiting anything."""
        for _ in self.writing(messages):
            pass

    def writing(self, messages: AddressedMessages) -> Steps:
        """Write messages to their subscribers, in order, and yield now and then."""
        dispatch = Dispatch(self._clock, self._output_rate, self._ordinals)
        for members, message in messages:
            dispatch.add(members, TextFrame(message))
            if dispatch.is_due():
                yield from dispatch.hand_out()
        yield from dispatch.hand_out()

    def deliveries(self, change: Change, *, filtered: bool = True) -> list[AnyDelivery]:
        """Return which groups a change goes to: those of topics first, then those of bindings.

        Write what :meth:`misfit_messages` returns afterwards before the change itself.

        Args:
            change: to hand out.
            filtered: whether filters are evaluated; if not, each passes.
        """
        found: list[AnyDelivery] = []
        for payload in row_payloads(change, self._plans):
            found += self._topics.deliveries(payload, filtered=filtered)
            found += self._bindings.deliveries(payload, filtered=filtered)
        return found

    def _messages(
        self, event: Event, deliveries: list[AnyDelivery] | None
    ) -> Iterator[tuple[Members, bytes]]:
        if isinstance(event, Gap):
            yield from self.gap_messages(event)
        elif not isinstance(event, (Begin, Commit, Idle)):
            if deliveries is None:
                deliveries = self.deliveries(event)
            if self._misfits:
                yield from self.misfit_messages()
            limit = self.record_limit
            # Usually no change ever is too large.
            first = deliveries[0].payload.plan.relation if limit.exceeded and deliveries else None
            if first is not None and limit.was_exceeded_by(first):
                for delivery, message in limit.messages(deliveries):
                    yield delivery.group.members, message
                return
            for delivery in deliveries:
                data = delivery.render()
                if len(data) <= limit.always_fits:
                    message = delivery.message(data)
                else:
                    message = limit.message(delivery, data)
                yield delivery.group.members, message

    def _note_misfit(self, group: AnyGroup, exc: FilterError, *, table: str = "") -> None:
        why = str(exc) if self._names_columns else "the table has changed; join again to hear why"
        self._misfits.append(
            (group, f"the filter on {table} does not fit it: {why}" if table else why)
        )

    def _note_binding_misfit(self, group: BoundGroup, binding: Binding, exc: FilterError) -> None:
        self._note_misfit(group, exc, table=f"{binding.schema}.{binding.table}")

    def misfit_messages(self) -> Iterator[tuple[Members, bytes]]:
        """Yield messages for the channels whose filters turned out not to fit since the last
        call."""
        misfits, self._misfits = self._misfits, []
        for group, reason in misfits:
            logger.info("a filter of %.200r does not fit its table", shown_topic(group.topic))
            logger.debug("the channels of %r are sent: %s", group.topic, reason)
            self._misfits_told += len(group)
            payload = subscription_failed(group.topic.removeprefix(CHANNEL_PREFIX), reason)
            yield group.members, group.system_message(payload)

    def has_filters(self, schema: str, table: str) -> bool:
        """Return whether any subscription has a filter on a table."""
        return self._topics.has_filters(schema, table) or self._bindings.has_filters(schema, table)

    def listening(self, change: RowChange) -> Listening:
        """Return the viewers that listen to changes of this kind. It is the same object while
        none comes or goes."""
        return self._listening_and_filtering(change)[0]

    def filtering(self, change: RowChange) -> frozenset[Hashable]:
        """Return the viewers that listen to changes of this kind only with filters. It is the
        same object while none comes or goes."""
        return self._listening_and_filtering(change)[1]

    def _listening_and_filtering(self, change: RowChange) -> tuple[Listening, frozenset[Hashable]]:
        key = (change.relation.schema, change.relation.table, type(change))
        known = self._listening.get(key)
        if known is None:
            found: dict[Hashable, dict[AnyGroup, Members]] = {}
            unfiltered: set[Hashable] = set()
            for delivery in self.deliveries(change, filtered=False):
                group = delivery.group
                found.setdefault(group.viewer, {})[group] = group.members
                if not delivery.is_filtered:
                    unfiltered.add(group.viewer)
            if len(self._listening) >= _MAX_LISTENING:
                self._listening.clear()
            known = self._listening[key] = found, frozenset(found.keys() - unfiltered)
        return known

    def gap_messages(self, gap: Gap) -> Iterator[tuple[Members, bytes]]:
        """Yield messages that tell all channels of a gap."""
        # Groups may come or go before the last one has been told.
        for group in list(self.groups()):
            yield group.members, group.gap_message(gap)
