"""The gate: which topics the configuration file opens."""

from __future__ import annotations

import pytest

from realtime_server.config import EVENTS
from realtime_server.fanout.allowed_topics import OWN_SCHEMA, EventRules, TopicRules

LADDER = ("realtime:public", "realtime:*", "realtime:public:users")
NOTHING = EventRules((), frozenset())


def rules_for(*relations: str, event: str = "INSERT") -> EventRules:
    gate = TopicRules((relation, ("INSERT",)) for relation in relations)
    return gate.for_event("public", "users", event)


@pytest.mark.parametrize(
    ("relation", "topics"),
    [
        ("*", ("realtime:public", "realtime:*")),
        ("public", ("realtime:public",)),
        ("public:users", ("realtime:public:users",)),
        ("public:*", ("realtime:public:users",)),
        ("*:users", ("realtime:public:users",)),
        ("*:*", ("realtime:public:users",)),
        ("other", ()),
        ("other:users", ()),
        ("public:other", ()),
        ("users", ()),
    ],
)
def test_a_rule_opens_topics_of_its_own_kind(relation: str, topics: tuple[str, ...]) -> None:
    assert rules_for(relation) == EventRules(topics, frozenset())


@pytest.mark.parametrize("relation", ["public:users:id", "*:users:id", "public:*:id", "*:*:id"])
def test_a_rule_of_three_parts_opens_filters_on_its_column(relation: str) -> None:
    assert rules_for(relation) == EventRules((), frozenset({"id"}))


@pytest.mark.parametrize("relation", ["public:users:*", "*:users:*", "public:*:*", "*:*:*"])
def test_any_column_is_all_of_them(relation: str) -> None:
    assert rules_for(relation, "public:users:id") == EventRules((), None)


def test_rules_of_another_table_open_no_column() -> None:
    assert rules_for("public:orders:id", "other:users:id", "public:user:id") == NOTHING


def test_what_several_rules_open_adds_up_in_the_ladders_order() -> None:
    assert rules_for("public:users", "*", "*:*:a", "public:users:b") == EventRules(
        LADDER, frozenset({"a", "b"})
    )


def test_a_rule_is_for_its_events_alone() -> None:
    assert rules_for("*", "*:*", "*:*:*", event="DELETE") == NOTHING


def test_two_rules_of_one_relation_add_their_events() -> None:
    gate = TopicRules([("*", ["INSERT"]), ("*", ["DELETE"]), ("public", [])])
    for event in ("INSERT", "DELETE"):
        assert gate.for_event("public", "users", event).topics == LADDER[:2]
    assert gate.for_event("public", "users", "UPDATE") == NOTHING


@pytest.mark.parametrize("event", EVENTS)
def test_without_rules_all_is_open(event: str) -> None:
    assert TopicRules().for_event("public", "users", event) == EventRules(LADDER, None)
    everything = TopicRules((relation, EVENTS) for relation in ("*", "*:*", "*:*:*"))
    assert everything.for_event("public", "users", event) == EventRules(LADDER, None)


def test_no_rules_open_nothing() -> None:
    assert TopicRules([]).for_event("public", "users", "INSERT") == NOTHING


@pytest.mark.parametrize("event", EVENTS)
def test_nothing_opens_the_servers_own_schema(event: str) -> None:
    assert TopicRules().for_event(OWN_SCHEMA, "subscription", event) == NOTHING
    relations = ("*", "*:*", "*:*:*", "realtime", "realtime:subscription", "realtime:*:claims")
    gate = TopicRules((relation, EVENTS) for relation in relations)
    assert gate.for_event(OWN_SCHEMA, "subscription", event) == NOTHING
