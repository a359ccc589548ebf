"""TopicIndex: from a change to the channels of topic clients, by their topics.

A topic without a filter is looked up by its name. A topic with one is found by its table's
:class:`~realtime_core.filters.FilterIndex`. So a change costs what matches, however many topics
there are. Its counterpart for binding clients is
:class:`~realtime_server.fanout.binding_index.BindingIndex`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Hashable, Iterator

from realtime_core import Relation, RowChange
from realtime_core.errors import FilterError
from realtime_core.filters import EnumOrders, FilterIndex, Workload

from ..phoenix.serializers import Serializer
from .allowed_topics import ROW_EVENTS, TopicRules
from .groups import Group, Subscription, TopicDelivery
from .payloads.row_payload import RowPayload
from .topic_parser import Topic

__all__ = ["TopicIndex"]


class TopicIndex:
    """Subscriptions to topics, in groups that get the same bytes.

    Args:
        rules: which topics a relation's changes may go to at all.
        on_misfit: told when a topic's filter turns out not to fit its table: of each group of the
            topic, with the reason. The topic gets nothing until the filter fits.
        enums: the declared orders of enum types, by schema and name, for filters.
    """

    def __init__(
        self,
        rules: TopicRules,
        on_misfit: Callable[[Group, FilterError], None],
        *,
        enums: EnumOrders | None = None,
    ) -> None:
        self._rules = rules
        self._on_misfit = on_misfit
        # By topic; then by what else makes the bytes that a subscription gets.
        self._groups: dict[str, dict[tuple[Serializer, Hashable], Group]] = {}
        # The topics that have a filter.
        self._filters: FilterIndex[Topic] = FilterIndex(enums=enums, on_error=self._note_misfit)
        # The same topics by schema and table, for when filters are not looked at.
        self._with_filter: dict[tuple[str, str], dict[Topic, None]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no subscription is left, nor anything that belonged to one."""
        return not (self._groups or len(self._filters) or self._with_filter)

    @property
    def errors(self) -> int:
        """How often a filter could not be evaluated for a row; the row did not pass it then."""
        return self._filters.errors

    def groups(self) -> Iterator[Group]:
        """Iterate over all groups; none may come or go meanwhile."""
        for groups in self._groups.values():
            yield from groups.values()

    def add(self, subscription: Subscription) -> None:
        """Add a subscription, in place of another one of the same socket and group."""
        topic = subscription.topic
        is_new = topic.name not in self._groups
        groups = self._groups.setdefault(topic.name, {})
        key = (subscription.serializer, subscription.viewer)
        group = groups.get(key)
        if group is None:
            group = groups[key] = Group(topic.name, *key, is_filtered=bool(topic.filters))
        group.add(subscription)
        for item in topic.filters if is_new else ():
            self._with_filter.setdefault((item.schema, item.table), {})[topic] = None
            self._filters.add(topic, item.schema, item.table, item.filter, wait=True)

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription. One that is not there is ignored."""
        topic = subscription.topic
        groups = self._groups.get(topic.name, {})
        key = (subscription.serializer, subscription.viewer)
        group = groups.get(key)
        if group is None:
            return
        group.remove(subscription)
        if len(group):
            return
        del groups[key]
        if groups:
            return
        del self._groups[topic.name]
        for item in topic.filters:
            self._filters.remove(topic, item.schema, item.table, item.filter)
            topics = self._with_filter.get((item.schema, item.table), {})
            topics.pop(topic, None)
            if not topics:
                self._with_filter.pop((item.schema, item.table), None)

    def has_filters(self, schema: str, table: str) -> bool:
        """Return whether any topic has a filter on a table."""
        return (schema, table) in self._with_filter

    def wants(self, relation: Relation) -> bool:
        """Return whether any topic may get rows of a table."""
        schema, table = relation.schema, relation.table
        return self.has_filters(schema, table) or any(
            topic in self._groups
            for event in ROW_EVENTS
            for topic in self._rules.for_event(schema, table, event).topics
        )

    def prepare(self, relation: Relation) -> Iterator[None]:
        """Compile the filters on a table step by step, as :meth:`FilterIndex.prepare` does."""
        return self._filters.prepare(relation)

    def workload(self, relation: Relation) -> Iterator[Workload]:
        """Yield how much work the filters on a table are for each row."""
        yield self._filters.workload(relation)

    def deliveries(self, payload: RowPayload, *, filtered: bool = True) -> list[TopicDelivery]:
        """Return which groups a change goes to: first topics without a filter, then those with one.

        Args:
            payload: the change.
            filtered: whether filters are evaluated; if not, each passes.
        """
        if not self._groups:
            return []
        passing: Collection[Topic]
        if filtered:
            passing = self._filters.match(payload.change)
        else:
            relation = payload.plan.relation
            passing = self._with_filter.get((relation.schema, relation.table), ())
        return [
            TopicDelivery(group, payload)
            for topic in self._matches(payload, passing)
            for group in self._groups[topic].values()
        ]

    def delivering(self, payload: RowPayload) -> Generator[None, None, list[TopicDelivery]]:
        """Do what :meth:`deliveries` does, and yield before each small part of the work.

        The change must be a row's.
        """
        assert isinstance(payload.change, RowChange)
        passing = yield from self._filters.matching(payload.change)
        found: list[TopicDelivery] = []
        for topic in self._matches(payload, passing):
            yield
            # It may have gone meanwhile.
            found += [
                TopicDelivery(group, payload) for group in self._groups.get(topic, {}).values()
            ]
        return found

    def _matches(self, payload: RowPayload, passing: Collection[Topic]) -> list[str]:
        """Return the joined topics that get a change: first those without a filter.

        Args:
            payload: the change.
            passing: the topics whose filter it passes.
        """
        relation = payload.plan.relation
        rules = self._rules.for_event(relation.schema, relation.table, payload.event)
        matches = [topic for topic in rules.topics if topic in self._groups]
        if passing:
            matches += [topic.name for topic in passing if rules.allows_filter_on(topic.columns)]
        return matches

    def _note_misfit(self, topic: Topic, exc: FilterError) -> None:
        # A topic with several filters may mean several tables: if one does not fit, another may.
        if len(topic.filters) == 1:
            for group in self._groups[topic.name].values():
                self._on_misfit(group, exc)
