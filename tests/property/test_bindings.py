"""Bindings in the hub, held against a plain statement of what they do."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import Change, Delete, Insert, Record, ReplicaIdentity, Truncate, Update
from realtime_core.filters import Match
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.payloads.row_payload import row_payloads
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.joins import Binding, parse_join
from realtime_server.phoenix.serializers import SERIALIZERS
from tests.property.examples import examples
from tests.server_helpers import (
    RecordingOutbox,
    delete,
    insert,
    make_relation,
    truncate,
    update,
)

pytestmark = pytest.mark.slow

RELATIONS = [
    make_relation(
        schema,
        table,
        [("id", "int4", True), ("name", "text", full)],
        identity=ReplicaIdentity.FULL if full else ReplicaIdentity.DEFAULT,
        oid=oid,
    )
    for oid, (schema, table, full) in enumerate(
        [("public", "a", True), ("public", "b", False), ("shop", "a", False)]
    )
]

values = st.tuples(st.sampled_from(["1", "2", "3"]), st.sampled_from(["x", "y", None]))


@st.composite
def changes(draw: st.DrawFn) -> Change:
    relation = draw(st.sampled_from(RELATIONS))
    full = relation.replica_identity is ReplicaIdentity.FULL
    row, old_row = draw(values), draw(values)
    old = Record(relation.shape, old_row) if full else Record(relation.key_shape, old_row[:1])
    match draw(st.sampled_from(["INSERT", "UPDATE", "DELETE", "TRUNCATE"])):
        case "INSERT":
            return insert(relation, *row)
        case "UPDATE":
            return update(relation, row, old if full else draw(st.none() | st.just(old)))
        case "DELETE":
            return delete(relation, old)
    return truncate(*draw(st.lists(st.sampled_from(RELATIONS), min_size=1, max_size=3)))


FILTERS = ["", "id=eq.1", "id=gt.1", "name=eq.x", "or=(id.eq.2,name.is.null)", "id=in.(1,3)"]


@st.composite
def bindings(draw: st.DrawFn) -> dict[str, Any]:
    binding: dict[str, Any] = {
        "event": draw(st.sampled_from(["*", "INSERT", "UPDATE", "DELETE", "TRUNCATE"])),
        "schema": draw(st.sampled_from(["public", "shop", "*"])),
        "table": draw(st.sampled_from(["a", "b", "*"])),
    }
    if "*" not in (binding["schema"], binding["table"]):
        filters = FILTERS if binding["event"] != "TRUNCATE" else [""]
        binding["filter"] = draw(st.sampled_from(filters))
        binding["select"] = draw(st.sampled_from([None, ["name"], ["id"], []]))
        if binding["filter"] and binding["event"] in ("*", "DELETE"):
            binding["leaves"] = draw(st.booleans())
    return binding


def told(binding: Binding, change: Change, relation: Any) -> str | None:
    """Return as what event a binding is told a change of a table, None if it is not."""
    if binding.schema not in ("*", relation.schema) or binding.table not in ("*", relation.table):
        return None
    match change:
        case Truncate():
            return "TRUNCATE" if binding.event == "TRUNCATE" else None
        case Insert() | Update() | Delete():
            event = type(change).__name__.upper()
            if binding.filter is not None:
                found = binding.filter.compile(relation).match(change)
                left = found is Match.LEAVES and isinstance(change, Update)
                if found is None or (left and not binding.leaves):
                    return None
                event = "DELETE" if left else event
            return event if binding.event in ("*", event) else None
    raise AssertionError(change)


Message = tuple[str, str, frozenset[int], frozenset[str] | None]


def expected(channel: tuple[Binding, ...], change: Change) -> list[set[Message]]:
    """Return the messages that a change is to a channel: a set for each table of it."""
    messages = []
    for payload in row_payloads(change, {}):
        relation = payload.plan.relation
        forms: dict[tuple[str, frozenset[str] | None], set[int]] = {}
        for binding in channel:
            event = told(binding, change, relation)
            if event is not None:
                forms.setdefault((event, binding.select), set()).add(binding.id)
        found = {
            (str(relation), event, frozenset(ids), shown(relation, select))
            for (event, select), ids in forms.items()
        }
        messages.append(found)
    return [each for each in messages if each]


def shown(relation: Any, select: frozenset[str] | None) -> frozenset[str]:
    names = frozenset(relation.shape.names)
    if select is None:
        return names
    keys = frozenset(relation.key_shape.names)
    full = relation.replica_identity is ReplicaIdentity.FULL
    return select if full else select | keys


def received(outbox: RecordingOutbox) -> list[Message]:
    messages = []
    for frame in outbox.frames:
        payload = frame["payload"] if isinstance(frame, dict) else frame[4]
        data = payload["data"]
        columns = frozenset(column["name"] for column in data["columns"])
        ids = payload["ids"]
        assert len(set(ids)) == len(ids)
        for row in (data.get("record"), data.get("old_record")):
            assert row is None or row.keys() <= columns
        table = f"{data['schema']}.{data['table']}"
        messages.append((table, data["type"], frozenset(ids), columns))
    return messages


channels = st.lists(bindings(), max_size=4)
steps = st.lists(
    st.tuples(st.just("join"), channels)
    | st.tuples(st.just("leave"), st.integers(0, 8))
    | st.tuples(st.just("publish"), st.lists(changes(), max_size=4)),
    max_size=16,
)


@attrs.define
class Channel:
    subscription: Subscription
    outbox: RecordingOutbox
    expected: list[set[Message]] = attrs.field(factory=list)


@examples(150)
@given(steps)
def test_the_hub_tells_each_channel_what_brute_force_would(steps: list[Any]) -> None:
    hub = Hub()
    joined: list[Channel] = []
    everyone: list[Channel] = []
    for number, (kind, argument) in enumerate(steps):
        if kind == "join":
            config = parse_join({"config": {"postgres_changes": argument}})
            assert config is not None
            outbox = RecordingOutbox()
            serializer = SERIALIZERS[("1.0.0", "2.0.0")[number % 2]]
            topic = Topic(f"realtime:{number % 3}", ())
            subscription = Subscription(topic, serializer, outbox, config.bindings)
            hub.subscribe(subscription)
            joined.append(Channel(subscription, outbox))
            everyone.append(joined[-1])
        elif kind == "leave" and argument < len(joined):
            hub.unsubscribe(joined.pop(argument).subscription)
        elif kind == "publish":
            hub.publish(argument)
            for channel in joined:
                for change in argument:
                    channel.expected += expected(channel.subscription.bindings or (), change)
    for channel in everyone:
        messages = received(channel.outbox)
        # Messages of one change may come in any order.
        for group in channel.expected:
            assert set(messages[: len(group)]) == group
            del messages[: len(group)]
        assert messages == []
    for channel in joined:
        hub.unsubscribe(channel.subscription)
    assert hub.stats().subscriptions == 0


@examples(60)
@given(st.lists(bindings(), min_size=1, max_size=4), st.lists(changes(), max_size=6))
def test_both_versions_carry_the_same(sent: list[Any], published: list[Change]) -> None:
    config = parse_join({"config": {"postgres_changes": sent}})
    assert config is not None
    hub = Hub()
    outboxes = {vsn: RecordingOutbox() for vsn in ("1.0.0", "2.0.0")}
    for vsn, outbox in outboxes.items():
        hub.subscribe(
            Subscription(Topic("realtime:x", ()), SERIALIZERS[vsn], outbox, config.bindings)
        )
    hub.publish(published)
    v1, v2 = (outbox.frames for outbox in outboxes.values())
    assert [
        [None, frame["ref"], frame["topic"], frame["event"], frame["payload"]] for frame in v1
    ] == v2
    assert json.dumps(v2)
