"""Bindings: which changes they get, in which form, and in how many messages."""

from __future__ import annotations

from typing import Any

import pytest

from realtime_core import Change, Gap, GapReason, Position, Record, ReplicaIdentity
from realtime_core.lsn import LSN
from realtime_server.fanout.allowed_topics import TopicRules
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.payloads.row_payload import RowPayload
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.joins import parse_join
from realtime_server.phoenix.serializers import SERIALIZERS
from tests.server_helpers import (
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
FULL = make_relation(
    columns=[("id", "int8", True), ("details", "text", True)], identity=ReplicaIdentity.FULL
)
ROOM = "realtime:room"


def subscription(
    *bindings: Any, outbox: RecordingOutbox | None = None, vsn: Vsn = "1.0.0", topic: str = ROOM
) -> Subscription:
    config = parse_join({"config": {"postgres_changes": list(bindings)}})
    assert config is not None
    return Subscription(
        Topic(topic, ()), SERIALIZERS[vsn], outbox or RecordingOutbox(), config.bindings
    )


def bound(hub: Hub, *bindings: Any, vsn: Vsn = "1.0.0", topic: str = ROOM) -> RecordingOutbox:
    outbox = RecordingOutbox()
    hub.subscribe(subscription(*bindings, outbox=outbox, vsn=vsn, topic=topic))
    return outbox


def ids_of(*bindings: Any) -> list[int]:
    return [binding.id for binding in subscription(*bindings).bindings or ()]


def wants(
    event: str = "*", schema: str = "public", table: str = "todos", **more: Any
) -> dict[str, Any]:
    return {"event": event, "schema": schema, "table": table, **more}


def received(change: Change, *bindings: Any) -> list[tuple[list[int], str]]:
    """Return ids and type of each message that a channel with the bindings gets."""
    hub = Hub()
    outbox = bound(hub, *bindings)
    # When the second one comes, the hub knows whether anybody wants the table's rows.
    hub.publish([change, change])
    found = [
        (frame["payload"]["ids"], frame["payload"]["data"]["type"])
        for frame in outbox.frames
        if frame["event"] == "postgres_changes"
    ]
    half = len(found) // 2
    assert found[:half] == found[half:]
    return found[:half]


def matches(change: Change, binding: Any) -> bool:
    found = received(change, binding)
    assert len(found) <= 1
    return bool(found)


INSERT = insert(TODOS, "14", "x")
UPDATE = update(TODOS, ("14", "x"))
DELETE = delete(TODOS, Record(TODOS.key_shape, ("14",)))
TRUNCATE = truncate(TODOS)


def test_a_message_has_the_ids_and_the_typed_change() -> None:
    hub = Hub()
    one, two = bound(hub, wants()), bound(hub, wants(), vsn="2.0.0")
    hub.publish([INSERT])
    payload = {
        "ids": ids_of(wants()),
        "data": {
            "schema": "public",
            "table": "todos",
            "type": "INSERT",
            "errors": None,
            "columns": [{"name": "id", "type": "int8"}, {"name": "details", "type": "text"}],
            "commit_timestamp": "2026-11-24T05:36:00.166Z",
            "position": "0/1000:0",
            "record": {"id": 14, "details": "x"},
        },
    }
    assert one.frames == [
        {"topic": ROOM, "event": "postgres_changes", "ref": None, "payload": payload}
    ]
    assert two.frames == [[None, None, ROOM, "postgres_changes", payload]]


@pytest.mark.parametrize(
    ("binding", "matched"),
    [
        (wants(), True),
        (wants("INSERT"), True),
        (wants("insert"), True),
        (wants("UPDATE"), False),
        (wants("DELETE"), False),
        (wants(table="*"), True),
        (wants(schema="*"), True),
        (wants(schema="*", table="*"), True),
        ({"event": "*"}, True),
        (wants(table="other"), False),
        (wants(schema="shop"), False),
        (wants(schema="shop", table="*"), False),
        (wants(schema="*", table="orders"), False),
        (wants(table="Todos"), False),
    ],
)
def test_an_insert_goes_to_the_bindings_that_name_it(binding: Any, matched: bool) -> None:
    assert matches(INSERT, binding) is matched


def test_each_event_goes_to_its_bindings_and_a_truncate_to_no_others() -> None:
    events = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "*")
    found = {
        change: [event for event in events if matches(one, wants(event))]
        for change, one in zip(
            ("INSERT", "UPDATE", "DELETE", "TRUNCATE"),
            (INSERT, UPDATE, DELETE, TRUNCATE),
            strict=True,
        )
    }
    assert found == {
        "INSERT": ["INSERT", "*"],
        "UPDATE": ["UPDATE", "*"],
        "DELETE": ["DELETE", "*"],
        "TRUNCATE": ["TRUNCATE"],
    }
    assert matches(TRUNCATE, wants("TRUNCATE", schema="*", table="*"))
    assert not matches(TRUNCATE, wants("TRUNCATE", table="orders"))
    assert not matches(TRUNCATE, wants(filter="id=eq.14"))


@pytest.mark.parametrize(
    ("text", "matched"),
    [
        ("id=eq.14", True),
        ("id=eq.014", True),
        ("id=gt.9", True),
        ("id=eq.15", False),
        ("id=in.(1,14)", True),
        ("details=like.x*,id=lt.100", True),
        ("or=(details.is.null,id.gte.14)", True),
        ("details=neq.x", False),
    ],
)
def test_a_filter_decides_by_the_columns_type(text: str, matched: bool) -> None:
    assert matches(INSERT, wants(filter=text)) is matched
    assert not matches(INSERT, wants("DELETE", filter=text))


def test_one_message_has_the_ids_of_all_bindings_that_match() -> None:
    bindings = [
        wants(),
        wants("UPDATE"),
        wants("INSERT"),
        wants(filter="id=eq.14"),
        wants(filter="id=eq.15"),
        wants(table="*"),
        wants(),
    ]
    ((ids, _),) = received(INSERT, *bindings)
    all_ids = ids_of(*bindings)
    assert sorted(ids) == sorted(all_ids[place] for place in (0, 2, 3, 5))


def test_what_shows_other_columns_is_a_message_of_its_own() -> None:
    bindings = [wants(), wants(select=["id"]), wants("INSERT", select=["id"])]
    hub = Hub()
    outbox = bound(hub, *bindings)
    hub.publish([INSERT])
    whole, some, some_inserts = ids_of(*bindings)
    shown = {
        tuple(sorted(frame["payload"]["ids"])): frame["payload"]["data"]["record"]
        for frame in outbox.frames
    }
    assert shown == {
        (whole,): {"id": 14, "details": "x"},
        tuple(sorted((some, some_inserts))): {"id": 14},
    }


def test_a_channel_without_bindings_gets_nothing_and_never_the_originals_events() -> None:
    hub = Hub()
    outbox = bound(hub, topic="realtime:public:todos")
    other = bound(hub, wants(), topic="realtime:public:todos")
    hub.publish([INSERT])
    assert outbox.frames == []
    assert [frame["event"] for frame in other.frames] == ["postgres_changes"]


def test_both_generations_share_a_topic() -> None:
    hub = Hub()
    first = RecordingOutbox()
    topic = "realtime:public:todos"
    hub.subscribe(Subscription(Topic.parse(topic), SERIALIZERS[None], first))
    later = bound(hub, wants(), topic=topic)
    hub.publish([INSERT])
    assert [frame["event"] for frame in first.frames] == ["INSERT"]
    assert [frame["event"] for frame in later.frames] == ["postgres_changes"]


def test_channels_that_ask_for_the_same_get_the_same_bytes() -> None:
    hub = Hub()
    one, two = bound(hub, wants(), wants("INSERT")), bound(hub, wants(), wants("INSERT"))
    hub.publish([INSERT])
    assert one.writes[0] is two.writes[0]


def test_a_payload_is_rendered_once_whoever_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[bytes] = []
    typed = RowPayload.typed

    def record(payload: RowPayload, *form: Any) -> bytes:
        rendered.append(typed(payload, *form))
        return rendered[-1]

    monkeypatch.setattr(RowPayload, "typed", record)
    hub = Hub()
    for vsn in ("1.0.0", "2.0.0"):
        bound(hub, wants(), vsn=vsn)  # type: ignore[arg-type]
        bound(hub, wants(filter="id=eq.14"), vsn=vsn, topic="realtime:x")  # type: ignore[arg-type]
    bound(hub, wants(filter="id=eq.15", select=["id"]))
    hub.publish([INSERT])
    assert len(rendered) == 4
    assert len({id(each) for each in rendered}) == 1


# Rows that leave a filter.


def leaving(change: Change, *bindings: Any) -> list[Any]:
    hub = Hub()
    outbox = bound(hub, *bindings)
    hub.publish([change])
    shown = [frame["payload"]["data"] for frame in outbox.frames]
    return [(each["type"], each.get("record"), each.get("old_record")) for each in shown]


BEFORE = Record(FULL.shape, ("1", "mine"))
GONE = update(FULL, ("1", "theirs"), BEFORE)
MINE = wants(filter="details=eq.mine", leaves=True)


def test_a_row_that_leaves_the_filter_is_told_as_deleted_to_those_who_asked() -> None:
    gone = ("DELETE", None, {"id": 1, "details": "mine"})
    assert leaving(GONE, MINE) == [gone]
    assert leaving(GONE, {**MINE, "event": "DELETE"}) == [gone]
    assert leaving(GONE, wants(filter="details=eq.mine")) == []


def test_a_row_that_stays_or_comes_is_an_update() -> None:
    stays = update(FULL, ("2", "mine"), BEFORE)
    comes = update(FULL, ("1", "mine"), Record(FULL.shape, ("1", "theirs")))
    assert [event for event, _, _ in leaving(stays, MINE)] == ["UPDATE"]
    assert [event for event, _, _ in leaving(comes, MINE)] == ["UPDATE"]
    assert leaving(stays, {**MINE, "event": "DELETE"}) == []


def test_a_changed_key_is_known_to_have_left_whatever_the_identity() -> None:
    change = update(TODOS, ("2", "x"), Record(TODOS.key_shape, ("1",)))
    binding = wants(filter="id=eq.1", leaves=True)
    assert leaving(change, binding) == [("DELETE", None, {"id": 1})]


def test_an_unknown_old_row_is_not_told_to_have_left() -> None:
    assert leaving(update(TODOS, ("1", "theirs")), MINE) == []


def test_both_who_asked_and_who_did_not_may_share_a_channel() -> None:
    bindings = [MINE, wants(), wants("UPDATE", filter="details=eq.theirs")]
    hub = Hub()
    outbox = bound(hub, *bindings)
    hub.publish([GONE])
    mine, whole, theirs = ids_of(*bindings)
    assert {
        frame["payload"]["data"]["type"]: sorted(frame["payload"]["ids"]) for frame in outbox.frames
    } == {"UPDATE": sorted((whole, theirs)), "DELETE": [mine]}


# Filters that do not fit.


def test_a_table_that_appears_later_tells_the_channel_what_does_not_fit() -> None:
    hub = Hub()
    outbox = bound(hub, wants(filter="nowhere=eq.1"), wants("INSERT"))
    same = bound(hub, wants(filter="nowhere=eq.1"), wants("INSERT"))
    hub.publish([INSERT, INSERT])
    events = [frame["event"] for frame in outbox.frames]
    assert events == ["system", "postgres_changes", "postgres_changes"]
    told = outbox.frames[0]["payload"]
    assert told.pop("message").startswith(
        "the filter on public.todos does not fit it: public.todos has no column 'nowhere'"
    )
    assert told == {"channel": "room", "extension": "postgres_changes", "status": "error"}
    assert same.frames == outbox.frames
    assert hub.stats().filter_misfits == 2


@pytest.mark.parametrize("leaves", [False, True])
def test_a_filter_that_did_not_fit_when_it_came_is_tried_again_with_other_columns(
    leaves: bool,
) -> None:
    hub = Hub()
    known = bound(hub, wants(filter="id=eq.1", leaves=leaves))
    hub.publish([INSERT])
    assert known.frames == []
    # Its join was held against the table as it is now, which no change has shown yet.
    outbox = bound(hub, wants(filter="extra=eq.x", leaves=leaves))
    hub.publish([INSERT])
    assert outbox.frames == []
    wider = make_relation(columns=[("id", "int8", True), ("extra", "text", False)])
    hub.publish([insert(wider, "14", "x")])
    assert [frame["event"] for frame in outbox.frames] == ["postgres_changes"]


@pytest.mark.slow
@pytest.mark.parametrize("leaves", [False, True])
def test_others_have_their_turn_while_very_many_filters_are_typed(leaves: bool) -> None:
    hub = Hub()
    wanted = [wants(filter=f"id=eq.{number}", leaves=leaves) for number in range(1000)]
    outboxes = [bound(hub, binding) for binding in wanted]
    topics = RecordingOutbox()
    for number in range(1000):
        topic = Topic.parse(f"realtime:public:todos:id=eq.{number}")
        hub.subscribe(Subscription(topic, SERIALIZERS["1.0.0"], topics))
    steps = hub.publishing([INSERT, INSERT])
    turns = [next(steps) for _ in range(10)]
    assert turns == [0.0] * 10
    assert len(list(steps)) >= 10
    assert [number for number, each in enumerate(outboxes) if each.frames] == [14]
    assert len(outboxes[14].frames) == len(topics.frames) == 2
    # Once is enough.
    hub.publish([INSERT])
    assert len(list(hub.publishing([INSERT]))) < 10


# Coming and going.


def test_after_unsubscribing_nothing_comes_and_nothing_is_kept() -> None:
    hub = Hub()
    bindings = [wants(), wants(filter="id=eq.14"), MINE, {"event": "*"}, wants()]
    gone, stays = RecordingOutbox(), RecordingOutbox()
    first = subscription(*bindings, outbox=gone)
    second = subscription(*bindings, outbox=stays)
    for one in (first, second):
        hub.subscribe(one)
    assert hub.stats().subscriptions == 2
    hub.unsubscribe(first)
    hub.unsubscribe(first)
    hub.publish([INSERT])
    assert (len(gone.frames), len(stays.frames)) == (0, 1)
    hub.unsubscribe(second)
    hub.unsubscribe(subscription(wants()))
    hub.publish([INSERT])
    assert len(stays.frames) == 1
    assert hub.is_empty


def test_a_gap_is_told_to_channels_with_and_without_bindings() -> None:
    hub = Hub()
    outboxes = [bound(hub), bound(hub, wants(), vsn="2.0.0", topic="realtime:other")]
    hub.publish([Gap(None, Position(LSN(2)), GapReason.SLOT_MISSING)])
    shown = [outbox.frames for outbox in outboxes]
    assert shown[0][0]["payload"]["channel"] == "room"
    assert shown[1][0][4]["channel"] == "other"
    assert shown[1][0][4]["status"] == "ok"


def test_one_batch_is_one_write() -> None:
    # However slow the machine is.
    hub = Hub(clock=lambda: 0.0)
    outbox = bound(hub, wants(), {"event": "*", "schema": "shop"})
    hub.publish([INSERT, insert(ORDERS, "1", "a"), UPDATE])
    assert len(outbox.writes) == 1
    tables = [frame["payload"]["data"]["table"] for frame in outbox.frames]
    assert tables == ["todos", "orders", "todos"]


# What the configuration file lets through.


@pytest.mark.parametrize(
    ("rule", "open_to"),
    [
        ("*", [{"event": "*", "schema": "*"}, wants(table="*")]),
        ("public", [wants(table="*")]),
        ("public:todos", [wants(), wants(schema="*")]),
        ("*:*", [wants(), wants(schema="*")]),
        ("public:todos:id", [wants(filter="id=eq.14")]),
        ("*:*:*", [wants(filter="id=eq.14"), wants(filter="details=eq.x,id=eq.14")]),
        ("shop", []),
    ],
)
def test_the_gate_opens_bindings_as_it_does_topics(rule: str, open_to: list[Any]) -> None:
    bindings = [
        {"event": "*", "schema": "*"},
        wants(table="*"),
        wants(),
        wants(schema="*"),
        wants(filter="id=eq.14"),
        wants(filter="details=eq.x,id=eq.14"),
    ]
    hub = Hub(TopicRules([(rule, ["INSERT"])]))
    outbox = bound(hub, *bindings)
    hub.publish([INSERT, UPDATE, DELETE, TRUNCATE])
    got = [sorted(frame["payload"]["ids"]) for frame in outbox.frames]
    assert got == [sorted(ids_of(*open_to))] * bool(open_to)
