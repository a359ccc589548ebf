"""The hub: who gets which frames, in which order, in how many writes."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from realtime_core import (
    LSN,
    Begin,
    Column,
    Commit,
    Event,
    Gap,
    GapReason,
    Position,
    Record,
    Relation,
    ReplicaIdentity,
    Transaction,
)
from realtime_core.filters import FilterIndex
from realtime_core.positions import StreamIdentity
from realtime_server.fanout.allowed_topics import TopicRules
from realtime_server.fanout.groups import Subscription, TopicDelivery
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.payloads.row_payload import RowPayload
from realtime_server.fanout.topic_index import TopicIndex
from realtime_server.fanout.topic_parser import Topic
from realtime_server.fanout.turns import SLICE
from realtime_server.phoenix.serializers import SERIALIZERS
from tests.server_helpers import (
    TRANSACTION,
    RecordingOutbox,
    Vsn,
    delete,
    insert,
    make_relation,
    truncate,
    update,
)

TODOS = make_relation()
ORDERS = make_relation("shop", "orders", oid=16400)


def subscription(
    topic: str, outbox: RecordingOutbox | None = None, vsn: Vsn = "1.0.0"
) -> Subscription:
    return Subscription(Topic.parse(topic), SERIALIZERS[vsn], outbox or RecordingOutbox())


def join(hub: Hub, *topics: str, vsn: Vsn = "1.0.0") -> RecordingOutbox:
    """Subscribe one socket to topics; return its outbox."""
    outbox = RecordingOutbox()
    for topic in topics:
        hub.subscribe(subscription(topic, outbox, vsn))
    return outbox


def topics(outbox: RecordingOutbox) -> list[str]:
    return [frame["topic"] for frame in outbox.frames]


def received(change: Event, *joined: str) -> list[str]:
    """Return the topics on which a socket that joined ``joined`` gets the change."""
    hub = Hub()
    outbox = join(hub, *joined)
    hub.publish([change])
    found = topics(outbox)
    # By now the hub knows whether anybody wants the table's rows.
    hub.publish([change])
    assert topics(outbox) == 2 * found
    return found


def payload(details: str) -> dict[str, Any]:
    return {
        "schema": "public",
        "table": "todos",
        "type": "INSERT",
        "errors": None,
        "columns": [
            {"flags": ["key"], "name": "id", "type": "int8", "type_modifier": 4294967295},
            {"flags": [], "name": "details", "type": "text", "type_modifier": 4294967295},
        ],
        "commit_timestamp": "2026-11-24T05:36:00.166595Z",
        "record": {"id": "14", "details": details},
    }


def test_a_v1_frame_is_an_object_and_a_v2_frame_an_array() -> None:
    hub = Hub()
    first = join(hub, "realtime:public:todos", vsn="1.0.0")
    second = join(hub, "realtime:public:todos", vsn="2.0.0")
    hub.publish([insert(TODOS, "14", "x")])
    assert first.frames == [
        {"topic": "realtime:public:todos", "event": "INSERT", "ref": None, "payload": payload("x")}
    ]
    assert second.frames == [[None, None, "realtime:public:todos", "INSERT", payload("x")]]


def test_a_socket_gets_one_frame_for_each_topic_in_the_ladders_order() -> None:
    ladder = [
        "realtime:public",
        "realtime:*",
        "realtime:public:todos",
        "realtime:public:todos:details=eq.x",
        "realtime:public:todos:id=eq.14",
    ]
    assert received(insert(TODOS, "14", "x"), *reversed(ladder)) == ladder


def test_the_servers_own_schema_goes_to_nobody() -> None:
    own = make_relation("realtime", "subscription")
    joined = (
        *("realtime:realtime", "realtime:*", "realtime:realtime:subscription"),
        "realtime:realtime:subscription:id=eq.14",
    )
    for change in (insert(own, "14", "x"), update(own, ("14", "y")), truncate(own)):
        assert received(change, *joined) == []
    assert received(truncate(own, TODOS), *joined) == ["realtime:*"]


def test_filters_follow_their_columns_names_not_the_tables_order() -> None:
    columns = [("b", "text", True), ("a", "text", False), ("ä", "text", False), ("A", "text", 0)]
    relation = make_relation(columns=columns)  # type: ignore[arg-type]
    joined = [f"realtime:public:todos:{name}=eq.1" for name in ("a", "A", "ä", "b")]
    assert received(insert(relation, "1", "1", "1", "1"), *joined) == [
        f"realtime:public:todos:{name}=eq.1" for name in ("A", "a", "b", "ä")
    ]


@pytest.mark.parametrize(
    "topic",
    [
        "realtime:",
        "realtime:other",
        "realtime:public:other",
        "realtime:todos",
        "realtime:*:todos",
        "realtime:public:*",
        "realtime:Public:todos",
        "realtime:public:todos:id=eq.1",
        "realtime:public:todos:details=eq.",
        "realtime:public:todos:details=eq.null",
        "realtime:public:other:id=eq.14",
    ],
)
def test_a_topic_that_does_not_match_gets_nothing(topic: str) -> None:
    assert received(insert(TODOS, "14", None), topic) == []


def test_an_empty_value_matches_the_empty_string_but_not_null() -> None:
    topic = "realtime:public:todos:details=eq."
    assert received(insert(TODOS, "1", ""), topic) == [topic]
    assert received(insert(TODOS, "1", None), topic) == []


def test_a_long_value_matches() -> None:
    topic = "realtime:public:todos:details=eq." + "x" * 1000
    assert received(insert(TODOS, "1", "x" * 1000), topic) == [topic]


def test_a_timestamp_is_compared_as_an_instant() -> None:
    relation = make_relation(columns=[("at", "timestamptz", True)])
    change = insert(relation, "2026-11-24 05:36:00+00")
    shown = "realtime:public:todos:at=eq.2026-11-24T05:36:00Z"
    other = "realtime:public:todos:at=eq.2026-11-24 07:36:00+02"
    assert received(change, shown, other) == [shown, other]
    assert received(change, "realtime:public:todos:at=eq.2026-11-24T05:36:01Z") == []


def test_a_topic_may_have_any_filter() -> None:
    names = [
        *("id=gt.9", "id=eq.014", "id=in.(1,14)", "details=ilike.X*", "details=not.is.null"),
        *("and(id.eq.14,details.eq.x)", "or(id.eq.1,details.eq.x)", "id=eq.14,details=neq.y"),
    ]
    joined = [f"realtime:public:todos:{name}" for name in names]
    assert sorted(received(insert(TODOS, "14", "x"), *joined)) == sorted(joined)
    assert received(insert(TODOS, "1", "y"), *joined) == [
        f"realtime:public:todos:{name}"
        for name in ("id=in.(1,14)", "or(id.eq.1,details.eq.x)", "details=not.is.null")
    ]


def misfit(topic: str, message: str) -> dict[str, Any]:
    payload = {
        "channel": topic.removeprefix("realtime:"),
        "extension": "postgres_changes",
        "status": "error",
        "message": message,
    }
    return {"topic": topic, "event": "system", "ref": None, "payload": payload}


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        (
            "id=eq.x",
            "'x' cannot be read as int8: it is not an integer (at character 7 of 'id=eq.x')",
        ),
        (
            "ID=eq.14",
            "public.todos has no column 'ID'; it has id, details (at character 1 of 'ID=eq.14')",
        ),
    ],
)
def test_a_filter_that_does_not_fit_the_table_is_told_once_it_is_known(
    filter: str, message: str
) -> None:
    hub = Hub()
    topic = f"realtime:public:todos:{filter}"
    outbox = join(hub, topic, "realtime:public:todos")
    hub.publish([insert(TODOS, "1", "a"), insert(TODOS, "2", "b")])
    assert outbox.frames[0] == misfit(topic, message)
    assert topics(outbox)[1:] == ["realtime:public:todos"] * 2
    assert hub.stats().filter_misfits == 1
    # Who comes later has been let in by what the table is like now: it waits for its change.
    late = join(hub, f"{topic},id=neq.1")
    hub.publish([insert(TODOS, "1", "a")])
    assert late.frames == []
    assert hub.stats().filter_misfits == 1
    # Another shape may do both justice.
    narrower = make_relation(columns=[("ID", "text", True), ("id", "text", True)])
    hub.publish([insert(narrower, "14", "x")])
    assert topics(outbox)[4:] == ["realtime:public:todos", topic]
    assert topics(late) == [f"{topic},id=neq.1"]


def test_each_table_that_is_new_or_shown_otherwise_is_told_once() -> None:
    hub = Hub()
    shown: list[Relation] = []
    hub.on_relation = shown.append
    hub.publish([insert(TODOS, "1", "a"), insert(ORDERS, "1", "a"), insert(TODOS, "2", "b")])
    hub.publish([update(TODOS, ("2", "c"))])
    wider = make_relation(columns=[("id", "int8", True), ("extra", "text", False)])
    hub.publish([insert(wider, "3", "x"), insert(wider, "4", "x")])
    assert shown == [TODOS, ORDERS, wider]


def test_of_the_tables_that_a_topic_may_mean_one_is_enough() -> None:
    hub = Hub()
    odd = make_relation(table="todos:old")
    topic = "realtime:public:todos:old:id=eq.1"
    outbox = join(hub, topic)
    hub.publish([insert(TODOS, "1", "a"), insert(odd, "1", "a")])
    assert topics(outbox) == [topic]
    assert hub.stats().filter_misfits == 0


def test_a_row_that_cannot_be_judged_goes_to_no_filter_and_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = Hub()
    relation = make_relation(columns=[("id", "int8", True), ("price", "money", False)])
    outbox = join(hub, "realtime:public:todos:price=gt.1", "realtime:public:todos:id=eq.1")
    hub.publish([insert(relation, "1", "1,00 €")])
    assert topics(outbox) == ["realtime:public:todos:id=eq.1"]
    assert hub.stats().filter_errors == 1
    assert "cannot be matched with a filter on price" in caplog.text


def test_enums_are_compared_in_their_declared_order() -> None:
    hub = Hub(enums={("public", "mood"): ("sad", "ok", "happy")})
    relation = Relation(
        16385, "public", "todos", ReplicaIdentity.DEFAULT,
        (Column("mood", 16400, "mood", "public", -1, True),),
    )  # fmt: skip
    outbox = join(hub, "realtime:public:todos:mood=gt.ok")
    hub.publish([insert(relation, "sad"), insert(relation, "happy")])
    assert [frame["payload"]["record"] for frame in outbox.frames] == [{"mood": "happy"}]


@pytest.mark.slow
def test_what_is_known_of_relations_is_bounded() -> None:
    hub = Hub()
    changes = [
        insert(make_relation(table=f"t{number}", oid=number), "1", "a") for number in range(2500)
    ]
    hub.publish(changes)
    new: list[Relation] = []
    hub.on_relation = new.append
    # The last ones are known, the others are as new.
    hub.publish(changes[-1:])
    assert new == []
    hub.publish(changes)
    assert len(new) >= 1500


def test_an_update_is_filtered_by_its_new_row() -> None:
    old = Record(TODOS.shape, ("1", "before"))
    change = update(TODOS, ("2", "after"), old)
    names = ("details=eq.before", "details=eq.after", "id=eq.1", "id=eq.2")
    assert received(change, *(f"realtime:public:todos:{name}" for name in names)) == [
        "realtime:public:todos:details=eq.after",
        "realtime:public:todos:id=eq.2",
    ]


def test_a_delete_is_filtered_by_what_is_known_of_the_old_row() -> None:
    names = ("realtime:public:todos:id=eq.1", "realtime:public:todos:details=eq.x")
    key_only = delete(TODOS, Record(TODOS.key_shape, ("1",)))
    assert received(key_only, *names) == ["realtime:public:todos:id=eq.1"]
    full = delete(TODOS, Record(TODOS.shape, ("1", "x")))
    assert received(full, *names) == list(reversed(names))


def test_a_truncate_goes_to_the_topics_of_each_table_but_to_no_filter() -> None:
    joined = [
        "realtime:public:todos:id=eq.1",
        "realtime:*",
        "realtime:shop:orders",
        "realtime:public",
    ]
    assert received(truncate(TODOS, ORDERS), *joined) == [
        "realtime:public",
        "realtime:*",
        "realtime:*",
        "realtime:shop:orders",
    ]


def test_tables_of_the_same_name_in_two_schemas_are_told_apart() -> None:
    twin = make_relation("shop", "todos", oid=16401)
    joined = ["realtime:public:todos:id=eq.1", "realtime:shop:todos:id=eq.1"]
    assert received(insert(twin, "1", "x"), *joined) == ["realtime:shop:todos:id=eq.1"]


def test_one_batch_is_one_write_for_each_socket_and_keeps_the_order() -> None:
    # Whatever time it takes, no slice of it is over.
    hub = Hub(clock=lambda: 0.0)
    both = join(hub, "realtime:public", "realtime:shop:orders")
    one = join(hub, "realtime:shop")
    hub.publish([insert(TODOS, "1", "a"), insert(ORDERS, "2", "b"), insert(TODOS, "3", "c")])
    assert (len(both.writes), len(one.writes)) == (1, 1)
    assert [frame["payload"]["record"]["id"] for frame in both.frames] == ["1", "2", "3"]
    assert [frame["payload"]["record"]["id"] for frame in one.frames] == ["2"]


def test_nobody_is_written_to_when_nothing_matches() -> None:
    hub = Hub()
    outbox = join(hub, "realtime:other")
    hub.publish([insert(TODOS, "1", "a")])
    assert outbox.writes == []


def test_every_socket_gets_the_same_bytes() -> None:
    hub = Hub()
    first, second = join(hub, "realtime:public"), join(hub, "realtime:public")
    hub.publish([insert(TODOS, "1", "a")])
    assert first.writes[0] is second.writes[0]


def test_a_row_that_nobody_gets_is_not_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[RowPayload] = []

    def render(payload: RowPayload) -> bytes:
        rendered.append(payload)
        return b"{}"

    monkeypatch.setattr(RowPayload, "_render", render)
    hub = Hub()
    join(hub, "realtime:public:todos:id=eq.2")
    hub.publish([insert(TODOS, "1", "a"), insert(TODOS, "2", "b")])
    assert [payload.rendered["id"] for payload in rendered] == ["2"]


def test_a_table_that_nobody_wants_is_looked_up_once_until_somebody_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_up: list[str] = []
    deliveries = TopicIndex.deliveries

    def look_up(index: TopicIndex, payload: RowPayload, **options: bool) -> list[TopicDelivery]:
        looked_up.append(payload.rendered["id"])
        return deliveries(index, payload, **options)

    monkeypatch.setattr(TopicIndex, "deliveries", look_up)
    hub = Hub()
    join(hub, "realtime:shop:orders")
    hub.publish([insert(TODOS, "1", "a"), update(TODOS, ["2", "b"]), insert(TODOS, "3", "c")])
    hub.publish([insert(TODOS, "4", "a")])
    assert looked_up == ["1"]
    outbox = join(hub, "realtime:public")
    hub.publish([insert(TODOS, "5", "a")])
    assert looked_up == ["1", "5"]
    assert topics(outbox) == ["realtime:public"]


def test_begin_and_commit_are_not_told() -> None:
    transaction = Transaction(1, LSN(1), TRANSACTION.commit_time)
    assert received(Begin(transaction), "realtime:*") == []
    assert received(Commit(transaction, LSN(2), 0), "realtime:*") == []


STREAM = StreamIdentity(7416, 1, ("shop",))
GAP = Gap(Position(LSN(1), 0, STREAM), Position(LSN(2), 0, STREAM), GapReason.TEMPORARY_SLOT)


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_a_gap_is_told_once_to_each_channel_whatever_its_topic(vsn: Vsn) -> None:
    hub = Hub(clock=lambda: 0.0)
    names = ["public:todos", "*", "other:table:id=eq.1"]
    outbox = join(hub, *(f"realtime:{name}" for name in names), vsn=vsn)
    hub.publish([GAP])

    def frame(name: str) -> Any:
        shown = {
            "channel": name,
            "extension": "postgres_changes",
            "status": "ok",
            "message": "Gap: temporary_slot",
            "gap": {
                "after": "0/1:0@7416.1/shop",
                "until": "0/2:0@7416.1/shop",
                "reason": "temporary_slot",
            },
        }
        topic = f"realtime:{name}"
        if vsn == "2.0.0":
            return [None, None, topic, "system", shown]
        return {"topic": topic, "event": "system", "ref": None, "payload": shown}

    assert outbox.frames == [frame(name) for name in names]
    assert len(outbox.writes) == 1


def test_a_gap_keeps_its_place_among_the_changes() -> None:
    hub = Hub()
    outbox = join(hub, "realtime:public")
    hub.publish([insert(TODOS, "1", "a"), GAP, insert(TODOS, "2", "b")])
    assert [frame["event"] for frame in outbox.frames] == ["INSERT", "system", "INSERT"]


def test_after_unsubscribing_nothing_comes() -> None:
    hub = Hub()
    outbox = RecordingOutbox()
    gone = subscription("realtime:public:todos:id=eq.1", outbox)
    stays = subscription("realtime:public:todos:id=eq.1", outbox)
    hub.subscribe(gone)
    hub.subscribe(stays)
    hub.unsubscribe(gone)
    hub.publish([insert(TODOS, "1", "a")])
    assert topics(outbox) == ["realtime:public:todos:id=eq.1"]
    hub.unsubscribe(stays)
    hub.publish([insert(TODOS, "1", "a"), GAP])
    assert len(outbox.writes) == 1


def test_unsubscribing_twice_or_without_a_subscription_is_ignored() -> None:
    hub = Hub()
    outbox = join(hub, "realtime:public")
    stranger = subscription("realtime:public")
    hub.unsubscribe(stranger)
    hub.unsubscribe(subscription("realtime:public", vsn="2.0.0"))
    hub.unsubscribe(subscription("realtime:other:t:id=eq.1"))
    hub.subscribe(stranger)
    hub.unsubscribe(stranger)
    hub.unsubscribe(stranger)
    hub.publish([insert(TODOS, "1", "a")])
    assert topics(outbox) == ["realtime:public"]


def test_an_empty_hub_keeps_nothing() -> None:
    hub = Hub()
    topics = ["realtime:*", "realtime:s:t:a=eq.1", "realtime:s:t:b=eq.1", "realtime:s:t:u:b=eq.1"]
    subscriptions = [
        subscription(topic, vsn=vsn) for topic in topics for vsn in ("1.0.0", "2.0.0") for _ in "ab"
    ]
    for one in subscriptions:
        hub.subscribe(one)
    for one in reversed(subscriptions):
        hub.unsubscribe(one)
    assert hub.is_empty


def test_a_relation_that_changed_is_shown_as_it_is_now() -> None:
    hub = Hub()
    outbox = join(hub, "realtime:public:todos")
    hub.publish([insert(TODOS, "1", "a")])
    narrower = make_relation(columns=[("id", "int8", True)])
    hub.publish([insert(narrower, "2")])
    assert [frame["payload"]["record"] for frame in outbox.frames] == [
        {"id": "1", "details": "a"},
        {"id": "2"},
    ]
    assert json.dumps(outbox.frames[1]["payload"]["columns"]).count("name") == 1


# What the configuration file lets through.


def test_the_gate_closes_topics_and_not_the_ladders_other_steps() -> None:
    hub = Hub(TopicRules([("public", ["INSERT"]), ("public:todos:id", ["INSERT", "DELETE"])]))
    names = ("realtime:*", "realtime:public", "realtime:public:todos")
    outbox = join(
        hub, *names, "realtime:public:todos:id=eq.1", "realtime:public:todos:details=eq.x"
    )
    hub.publish([insert(TODOS, "1", "x")])
    assert topics(outbox) == ["realtime:public", "realtime:public:todos:id=eq.1"]
    hub.publish([update(TODOS, ("1", "x")), truncate(TODOS), insert(ORDERS, "1", "x")])
    assert len(outbox.frames) == 2
    hub.publish([delete(TODOS, Record(TODOS.shape, ("1", None)))])
    assert topics(outbox)[2:] == ["realtime:public:todos:id=eq.1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("filters", "value", "conditions"),
    [
        # Very many conditions.
        ([f"details=gt.y{number}" for number in range(600)], "x", 600),
        ([f"data->{number}=eq.1" for number in range(600)], "x", 600),
        ([f"id=eq.14,details=gt.y{number}" for number in range(600)], "x", 600),
        # A few, of a long text.
        (
            [",".join(f"details=not.like.*y{number}*" for number in range(10)) + ",id=gt.99"],
            "x" * 5000,
            11,
        ),
        (
            ["or(" + ",".join(f"details.ilike.*y{number}*" for number in range(10)) + ")"],
            "x" * 5000,
            10,
        ),
    ],
)
def test_others_have_their_turn_while_one_row_is_judged(
    filters: list[str], value: str, conditions: int
) -> None:
    columns = [("id", "int8", True), ("details", "text", False), ("data", "jsonb", False)]
    relation = make_relation(columns=columns)
    # Each reading of the clock ends a slice.
    hub = Hub(clock=itertools.count().__next__)
    outbox = join(hub, *(f"realtime:public:todos:{text}" for text in filters))
    change = insert(relation, "14", value, "{}")
    hub.publish([change])
    turns = len(list(hub.publishing([change])))
    assert turns >= conditions
    assert outbox.frames == []


@pytest.mark.parametrize("filters", [["id=eq.14"], ["details=like.x*"], ["details=neq.y"] * 20])
def test_few_filters_of_short_values_are_asked_at_once(
    filters: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(FilterIndex, "matching")
    hub = Hub()
    outbox = join(hub, *(f"realtime:public:todos:{text}" for text in filters))
    hub.publish([insert(TODOS, "14", "x"), insert(TODOS, "14", "x")])
    assert len(outbox.frames) == 2 * len(set(filters))


def test_who_comes_and_goes_while_a_row_is_judged() -> None:
    hub = Hub(clock=itertools.count().__next__)
    stays = join(hub, *(f"realtime:public:todos:details=neq.y{number}" for number in range(600)))
    goes = RecordingOutbox()
    one = subscription("realtime:public:todos:details=neq.z", outbox=goes)
    hub.subscribe(one)
    change = insert(TODOS, "14", "x")
    hub.publish([change])
    steps = hub.publishing([change])
    for _ in range(100):
        next(steps)
    hub.unsubscribe(one)
    comes = join(hub, "realtime:public:todos:details=neq.a")
    list(steps)
    assert (len(stays.frames), len(goes.frames), len(comes.frames)) == (1200, 1, 0)
    hub.publish([change])
    assert (len(stays.frames), len(goes.frames), len(comes.frames)) == (1800, 1, 1)


def test_who_comes_while_a_batch_is_published_gets_what_is_published_after_that() -> None:
    # Each reading of the clock ends a slice.
    ticks = itertools.count(1)
    hub = Hub(clock=lambda: next(ticks) * SLICE)
    first, second = join(hub, "realtime:*"), join(hub, "realtime:*")
    text = "x" * 40_000
    publishing = hub.publishing(insert(TODOS, str(number), text) for number in range(3))
    next(publishing)
    late = join(hub, "realtime:*")
    list(publishing)

    def ids(outbox: RecordingOutbox) -> list[str]:
        return [frame["payload"]["record"]["id"] for frame in outbox.frames]

    assert (ids(first), ids(second)) == (["0", "1", "2"], ["0", "1", "2"])
    assert ids(late) == ["1", "2"]


def test_a_socket_that_joins_a_topic_again_gets_its_changes_once() -> None:
    hub = Hub()
    outbox = RecordingOutbox()
    once, again = subscription("realtime:*", outbox), subscription("realtime:*", outbox)
    hub.subscribe(once)
    hub.subscribe(again)
    hub.unsubscribe(once)
    hub.publish([insert(TODOS, "1", "x")])
    assert len(outbox.frames) == 1
    assert hub.stats().subscriptions == 1


# Viewers.


def test_subscriptions_of_one_topic_and_several_viewers_are_told_apart() -> None:
    hub = Hub()
    joined = [subscription("realtime:*") for _ in range(3)]
    for one, viewer in zip(joined, ("ann", "bob", "ann"), strict=True):
        one.viewer = viewer
        hub.subscribe(one)
    found = {
        delivery.group.viewer: list(delivery.group.members.values())
        for delivery in hub.deliveries(insert(TODOS, "1", "x"))
    }
    assert found == {"ann": [joined[0], joined[2]], "bob": [joined[1]]}


def test_a_subscription_that_moves_is_told_once_with_its_new_viewer() -> None:
    hub = Hub()
    one = subscription("realtime:public:todos:id=eq.1")
    hub.subscribe(one)
    hub.move(one, "ann")
    hub.move(one, "ann")
    [delivery] = hub.deliveries(insert(TODOS, "1", "x"))
    assert (delivery.group.viewer, one.is_open) == ("ann", True)
    hub.unsubscribe(one)
    assert list(hub.deliveries(insert(TODOS, "1", "x"))) == []
    assert not one.is_open


def test_a_delivery_frames_what_it_is_given() -> None:
    hub = Hub()
    outbox = join(hub, "realtime:*", vsn="2.0.0")
    [delivery] = hub.deliveries(insert(TODOS, "1", "x"))
    hub.write([(delivery.group.members, delivery.message(b'{"mine":1}'))])
    assert outbox.frames == [[None, None, "realtime:*", "INSERT", {"mine": 1}]]


def test_who_looks_in_other_eyes_while_it_gives_way_gets_nothing_of_the_former() -> None:
    hub = Hub(clock=itertools.count().__next__)
    outboxes = [RecordingOutbox() for _ in range(3)]
    subscriptions = [
        Subscription(Topic.parse("realtime:*"), SERIALIZERS["1.0.0"], outbox, None, "ann")
        for outbox in outboxes
    ]
    for one in subscriptions:
        hub.subscribe(one)
    publishing = hub.publishing([insert(TODOS, "1", "x" * 40_000)])
    while not outboxes[0].writes:
        next(publishing)
    hub.move(subscriptions[1], "bob")
    list(publishing)
    assert [len(outbox.writes) for outbox in outboxes] == [1, 0, 1]


def test_who_listens_is_known_until_somebody_comes_moves_or_goes() -> None:
    hub = Hub()
    change = insert(TODOS, "1", "x")

    def listening() -> dict[Any, list[str]]:
        found = hub.listening(change)
        assert hub.listening(insert(TODOS, "2", "y")) is found
        return {
            viewer: [group.topic for group, members in groups.items() if members]
            for viewer, groups in found.items()
        }

    everything, filtered = "realtime:*", "realtime:public:todos:id=eq.9"
    one, other = subscription(everything), subscription(filtered)
    hub.subscribe(subscription("realtime:shop"))
    assert listening() == {}
    hub.subscribe(one)
    hub.subscribe(other)
    assert listening() == {None: [everything, filtered]}
    hub.move(other, "ann")
    assert listening() == {None: [everything], "ann": [filtered]}
    hub.unsubscribe(one)
    assert listening() == {"ann": [filtered]}
    # Thousands may come that have no bindings: who listens is not found out again for each.
    known = hub.listening(change)
    bound = Subscription(Topic("realtime:room", ()), SERIALIZERS["1.0.0"], RecordingOutbox(), ())
    hub.subscribe(bound)
    assert hub.listening(change) is known
    hub.unsubscribe(bound)
    assert hub.listening(change) is known


def test_who_listens_is_known_of_a_bounded_number_of_tables() -> None:
    hub = Hub()
    join(hub, "realtime:*")
    changes = [insert(make_relation("public", f"t{number}"), "1", "x") for number in range(200)]
    known = [hub.listening(change) for change in changes]
    assert hub.listening(changes[-1]) is known[-1]
    # Those that are known are the same object as before.
    still_known = [hub.listening(one) is before for one, before in zip(changes, known, strict=True)]
    assert sum(still_known) <= 64


def test_others_have_their_turn_while_filters_are_asked_that_nothing_passes() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.001
        return now

    hub = Hub(clock=clock)
    topic = Topic.parse("realtime:public:todos:id=lt.0")
    outbox = RecordingOutbox()
    hub.subscribe(Subscription(topic, SERIALIZERS["1.0.0"], outbox))
    turns = sum(1 for _ in hub.publishing([insert(TODOS, "1", "x")] * 1000))
    assert turns >= 1000 // 5 - 10
