"""TopicIndex: which groups a change goes to, by their topics."""

from __future__ import annotations

from typing import Any

from realtime_core import Change
from realtime_core.errors import FilterError
from realtime_server.fanout.allowed_topics import TopicRules
from realtime_server.fanout.groups import Group, Subscription
from realtime_server.fanout.payloads.row_payload import row_payloads
from realtime_server.fanout.topic_index import TopicIndex
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.serializers import SERIALIZERS
from tests.server_helpers import RecordingOutbox, insert, make_relation, truncate

TODOS = make_relation()
INSERT = insert(TODOS, "1", "bake")
FILTERED = "realtime:public:todos:id=eq.1"
TOPICS = [FILTERED, "realtime:public:todos", "realtime:*", "realtime:public"]


class Index:
    """An index, and the misfits that it reported."""

    def __init__(self, rules: TopicRules | None = None) -> None:
        self.misfits: list[tuple[str, FilterError]] = []
        self.topics = TopicIndex(rules or TopicRules(), self._note)

    def _note(self, group: Group, exc: FilterError) -> None:
        self.misfits.append((group.topic, exc))

    def add(self, topic: str, *, viewer: Any = None, vsn: str = "1.0.0") -> Subscription:
        subscription = Subscription(
            Topic.parse(topic), SERIALIZERS[vsn], RecordingOutbox(), viewer=viewer
        )
        self.topics.add(subscription)
        return subscription

    def found(self, change: Change, *, filtered: bool = True) -> list[str]:
        return [
            delivery.group.topic
            for payload in row_payloads(change, {})
            for delivery in self.topics.deliveries(payload, filtered=filtered)
        ]

    def found_in_steps(self, change: Change) -> list[str]:
        found = []
        for payload in row_payloads(change, {}):
            steps = self.topics.delivering(payload)
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    found += [delivery.group.topic for delivery in end.value]
                    break
        return found


def test_a_change_goes_to_schema_all_table_and_filters_in_this_order() -> None:
    index = Index()
    for topic in TOPICS:
        index.add(topic)
    order = ["realtime:public", "realtime:*", "realtime:public:todos", FILTERED]
    assert index.found(INSERT) == order
    assert index.found_in_steps(INSERT) == order


def test_a_row_that_passes_no_filter_goes_to_the_topics_without_one() -> None:
    index = Index()
    for topic in TOPICS[:2]:
        index.add(topic)
    other = insert(TODOS, "2", "eat")
    assert index.found(other) == index.found_in_steps(other) == ["realtime:public:todos"]
    # If filters are not evaluated, each passes; a TRUNCATE passes none.
    assert index.found(other, filtered=False) == ["realtime:public:todos", FILTERED]
    assert index.found(truncate(TODOS)) == ["realtime:public:todos"]


def test_each_serializer_and_viewer_has_a_group_of_its_own() -> None:
    index = Index()
    for viewer in (None, "ann"):
        for vsn in ("1.0.0", "2.0.0"):
            for _ in range(2):
                index.add("realtime:*", viewer=viewer, vsn=vsn)
    assert sorted(map(len, index.topics.groups())) == [2, 2, 2, 2]
    assert index.found(INSERT) == ["realtime:*"] * 4


def test_rules_keep_topics_and_the_columns_of_filters_apart() -> None:
    index = Index(TopicRules([("public", ["INSERT"]), ("public:todos:details", ["INSERT"])]))
    by_details = "realtime:public:todos:details=eq.bake"
    for topic in (*TOPICS, by_details):
        index.add(topic)
    assert index.found(INSERT) == ["realtime:public", by_details]


def test_a_filter_that_does_not_fit_its_table_is_reported_for_each_group() -> None:
    index = Index()
    for vsn in ("1.0.0", "2.0.0"):
        index.add("realtime:public:todos:color=eq.red", vsn=vsn)
    assert index.found(INSERT) == []
    assert [topic for topic, _ in index.misfits] == ["realtime:public:todos:color=eq.red"] * 2
    assert "color" in str(index.misfits[0][1])


def test_nothing_is_kept_of_what_was_removed() -> None:
    index = Index()
    subscriptions = [index.add(topic) for topic in TOPICS * 2]
    assert index.topics.has_filters("public", "todos")
    for one in subscriptions:
        assert not index.topics.is_empty
        index.topics.remove(one)
    index.topics.remove(subscriptions[0])
    assert index.topics.is_empty
    assert not index.topics.has_filters("public", "todos")
    assert index.found(INSERT) == []
