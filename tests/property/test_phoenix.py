"""The Phoenix protocol and the hub, held against plain statements of what they do."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime_core import Change, Record, Relation
from realtime_core.filters import Comparison, Filter, Operator, Reference
from realtime_server.errors import FrameError
from realtime_server.fanout.frames import Frames, TextFrame
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.payloads.row_payload import row_payloads
from realtime_server.fanout.topic_parser import TableFilter, Topic
from realtime_server.phoenix.actions import (
    Action,
    Channel,
    Close,
    Join,
    Refresh,
    RefusePayload,
    Release,
    Send,
    Subscribe,
)
from realtime_server.phoenix.message_handler import SocketState
from realtime_server.phoenix.messages import Message
from realtime_server.phoenix.serializers import SERIALIZERS, V1Serializer, V2Serializer
from tests.server_helpers import (
    RecordingOutbox,
    delete,
    insert,
    make_relation,
    texts,
    truncate,
    update,
)

pytestmark = pytest.mark.slow

quick = settings(max_examples=60, deadline=None)

V1, V2 = V1Serializer(), V2Serializer()

# orjson holds integers of 64 bits; a longer one comes in as a float.
integers = st.integers(-(2**63), 2**63 - 1)
numbers = integers | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
refs = st.none() | st.text() | numbers
messages = st.builds(Message, st.text(), st.text(), json_values, refs, refs)


# Serializers.


@quick
@given(messages)
def test_v2_reads_what_it_writes(message: Message) -> None:
    assert V2.decode(V2.encode(message).decode()) == message


@quick
@given(messages)
def test_v1_reads_what_it_writes_but_for_join_ref(message: Message) -> None:
    assert V1.decode(V1.encode(message).decode()) == attrs.evolve(message, join_ref=None)


@quick
@given(st.text(), st.text(), json_values)
def test_an_envelope_around_a_payload_is_the_broadcast(
    topic: str, event: str, payload: Any
) -> None:
    rendered = json.dumps(payload).encode()
    for serializer in (V1, V2):
        before, behind = serializer.envelope(topic, event)
        frame = serializer.decode((before + rendered + behind).decode())
        assert frame == Message(topic, event, payload)


@quick
@given(st.binary(max_size=300) | st.integers(65500, 65600).map(lambda size: b"x" * size))
def test_a_text_frame_decodes_with_websockets_own_parser(payload: bytes) -> None:
    payload = payload.decode(errors="ignore").encode()
    frames = Frames([TextFrame(payload), TextFrame(b"{}"), TextFrame(payload)])
    assert texts(frames.plain) == [payload.decode(), "{}", payload.decode()]


# The socket's state.

anything = st.text() | st.binary() | json_values.map(json.dumps)


@quick
@given(st.sampled_from(["1.0.0", "2.0.0"]), anything, anything)
def test_any_input_gives_actions_or_one_close(
    vsn: str, first: str | bytes, second: str | bytes
) -> None:
    state = SocketState(SERIALIZERS[vsn], max_payload_bytes=100)
    actions = state.receive(first)
    assert isinstance(actions, list)
    if any(isinstance(action, Close) for action in actions):
        assert len(actions) == 1
        assert state.receive(second) == []


@quick
@given(anything)
def test_any_input_is_a_message_or_a_frame_error_with_a_close_code(data: str | bytes) -> None:
    for serializer in (V1, V2):
        try:
            message = serializer.decode(data)
        except FrameError as caught:
            error = caught
        else:
            assert serializer.encode(message)
            continue
        assert error.code in (1003, 1007, 1008)
        assert len(error.reason.encode()) <= 123  # what fits into a close frame


topics = st.sampled_from(["realtime:a", "realtime:b", "realtime:", "phoenix", "other"])
events = st.sampled_from(
    ["phx_join", "phx_join", "phx_leave", "heartbeat", "access_token", "dance"]
)
short_refs = st.sampled_from(["1", "2", 1, None])
payloads = st.sampled_from([{}, {"config": {}}, {"access_token": "x"}])
v2_traffic = st.lists(
    st.tuples(st.builds(Message, topics, events, payloads, short_refs, short_refs), st.booleans())
)


@quick
@given(v2_traffic)
def test_subscriptions_are_exactly_the_channels_whatever_the_traffic(
    traffic: list[tuple[Message, bool]],
) -> None:
    state = SocketState(V2, max_payload_bytes=100)
    subscribed: set[Channel] = set()

    def perform(actions: list[Action], welcome: bool) -> list[Message]:
        sent = []
        for action in actions:
            match action:
                case Send(message):
                    sent.append(message)
                case Subscribe(channel):
                    assert channel not in subscribed
                    subscribed.add(channel)
                case Release(channel):
                    subscribed.remove(channel)
                case Join(channel, _):
                    answer = state.accept(channel) if welcome else state.refuse_join(channel, "no")
                    sent += perform(answer, welcome)
                case Refresh(channel, _):
                    if not welcome:
                        sent += perform(state.end(channel, "no"), welcome)
                case RefusePayload() | Close():
                    raise AssertionError
        return sent

    for message, welcome in traffic:
        sent = perform(state.receive(V2.encode(message).decode()), welcome)
        assert subscribed == set(state.channels.values())
        assert all(answer.topic == message.topic for answer in sent)
        replies = [answer for answer in sent if answer.event == "phx_reply"]
        assert all((r.ref, r.join_ref) == (message.ref, message.join_ref) for r in replies)
        if message.event in ("phx_join", "phx_leave") and message.join_ref is None:
            assert len(replies) == 1


# Topics and the hub.

names = st.sampled_from(["public", "a", "b:c", "ä", "x y", "*", ""])
values = st.sampled_from(["1", "", "a:b", "c=eq.1", "ä"])


@quick
@given(names, names, names.filter(bool), values)
def test_a_filter_topic_parses_to_what_made_it(
    schema: str, table: str, column: str, value: str
) -> None:
    table_topic = f"realtime:{schema}:{table}"
    topic = Topic.parse(f"{table_topic}:{column}=eq.{value}")
    literal = Filter(Comparison(Reference(column), Operator.EQ, value), "")
    assert TableFilter(schema, table, literal) in topic.filters


@quick
@given(st.text())
def test_any_topic_parses(rest: str) -> None:
    topic = Topic.parse(f"realtime:{rest}")
    assert topic.name == f"realtime:{rest}"


RELATIONS = [
    make_relation(
        schema, table, [("id", "text", True), ("b:c", "text", False), ("ä", "text", False)], oid=oid
    )
    for oid, (schema, table) in enumerate([("public", "a"), ("public", "b:c"), ("a", "a")])
]


def row(relation: Relation) -> st.SearchStrategy[Record]:
    fields = st.tuples(*[st.none() | values] * len(relation.columns))
    return fields.map(lambda fields: Record(relation.shape, fields))


@st.composite
def changes(draw: st.DrawFn) -> Change:
    relation = draw(st.sampled_from(RELATIONS))
    match draw(st.sampled_from(["INSERT", "UPDATE", "DELETE", "TRUNCATE"])):
        case "INSERT":
            return insert(relation, *draw(row(relation)).fields)
        case "UPDATE":
            return update(relation, draw(row(relation)).fields, draw(st.none() | row(relation)))
        case "DELETE":
            return delete(relation, draw(row(relation)))
    return truncate(*draw(st.lists(st.sampled_from(RELATIONS), min_size=1, max_size=3)))


def ladder(topic_of_table: str, schema: str, row: dict[str, Any]) -> list[str]:
    """Section 2 of the specification, word for word."""
    found = [f"realtime:{schema}", "realtime:*", topic_of_table]
    for column in sorted(row):
        if row[column] is not None:
            found.append(f"{topic_of_table}:{column}=eq.{row[column]}")
    return found


filter_topics = st.builds(
    lambda relation, column, value: (
        f"realtime:{relation.schema}:{relation.table}:{column.name}=eq.{value}"
    ),
    st.sampled_from(RELATIONS),
    st.sampled_from(RELATIONS[0].columns),
    values,
)
plain_topics = st.sampled_from(["realtime:*", "realtime:public", "realtime:a", "realtime:a:a"])
sockets = st.integers(0, 2)
steps = st.lists(
    st.tuples(st.just("join"), sockets, filter_topics | plain_topics)
    | st.tuples(st.just("leave"), st.integers(0, 20), st.none())
    | st.tuples(st.just("publish"), st.lists(changes(), max_size=4), st.none()),
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_the_hub_delivers_what_brute_force_would(steps: list[Any]) -> None:
    hub = Hub()
    outboxes = [RecordingOutbox() for _ in range(3)]
    expected: list[list[tuple[str, str]]] = [[], [], []]
    joined: list[tuple[int, Subscription]] = []
    for kind, argument, topic in steps:
        if kind == "join":
            subscription = Subscription(Topic.parse(topic), V1, outboxes[argument])
            hub.subscribe(subscription)
            # A socket that joins a topic again has joined it once.
            again = (argument, subscription.topic)
            joined = [one for one in joined if (one[0], one[1].topic) != again]
            joined.append((argument, subscription))
        elif kind == "leave" and argument < len(joined):
            hub.unsubscribe(joined.pop(argument)[1])
        elif kind == "publish":
            hub.publish(argument)
            for change in argument:
                for payload in row_payloads(change, {}):
                    relation = payload.plan.relation
                    table_topic = f"realtime:{relation.schema}:{relation.table}"
                    for name in ladder(table_topic, relation.schema, payload.rendered):
                        for socket, subscription in joined:
                            if subscription.topic.name == name:
                                expected[socket].append((name, payload.event))
    received = [[(frame["topic"], frame["event"]) for frame in box.frames] for box in outboxes]
    assert received == expected
