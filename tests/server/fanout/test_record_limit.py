"""What is told of changes that are too large: to whom, where the limit is, and how it looks."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from realtime_core import UNCHANGED, Record, ReplicaIdentity, RowChange
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.payloads.oversize import is_larger, shortened, size_of
from realtime_server.fanout.payloads.row_payload import RelationPlan
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.joins import parse_join
from realtime_server.phoenix.serializers import SERIALIZERS
from tests.server_helpers import (
    RecordingOutbox,
    delete,
    insert,
    make_relation,
    truncate,
    update,
)

MIB = 1024 * 1024
COLUMNS = [("id", "int8", True), ("title", "text", False), ("body", "text", False)]
DOCS = make_relation(table="docs", columns=COLUMNS)
FULL = make_relation(
    table="docs",
    columns=[(name, kind, True) for name, kind, _ in COLUMNS],
    identity=ReplicaIdentity.FULL,
)
TOO_LARGE = ["Error 413: Payload Too Large"]
LONG = "x" * 2000


def bound(hub: Hub, *bindings: dict[str, Any], vsn: str = "2.0.0") -> RecordingOutbox:
    """Subscribe a socket as binding clients do."""
    full = [{"event": "*", "schema": "public", "table": "docs", **one} for one in bindings]
    config = parse_join({"config": {"postgres_changes": full}})
    assert config is not None
    outbox = RecordingOutbox()
    serializer = SERIALIZERS[vsn]
    hub.subscribe(Subscription(Topic("realtime:room", ()), serializer, outbox, config.bindings))
    return outbox


def plain(hub: Hub, topic: str = "realtime:public:docs", vsn: str = "1.0.0") -> RecordingOutbox:
    """Subscribe a socket as topic clients do."""
    outbox = RecordingOutbox()
    hub.subscribe(Subscription(Topic.parse(topic), SERIALIZERS[vsn], outbox))
    return outbox


def shown(outbox: RecordingOutbox) -> list[Any]:
    """Return of each change what is wrong with it, and its rows."""
    found = []
    for frame in outbox.frames:
        payload = frame["payload"] if isinstance(frame, dict) else frame[-1]
        data = payload.get("data", payload)
        rows = {name: data[name] for name in ("record", "old_record") if name in data}
        found.append((data["errors"], rows))
    return found


def told(change: RowChange, limit: int = 1000) -> tuple[Any, Any]:
    """Return what topic clients and binding clients are told of a change."""
    hub = Hub(max_record_bytes=limit)
    old, new = plain(hub), bound(hub, {})
    hub.publish([change])
    (first,), (second,) = shown(old), shown(new)
    return first, second


# Which values count.


def test_a_changes_size_is_that_of_its_values_as_text_in_bytes() -> None:
    row = Record(DOCS.shape, ("1", "ä漢", None))
    assert size_of(insert(DOCS, "1", "ä漢", None)) == 1 + 5
    assert size_of(update(DOCS, ("1", "ab", UNCHANGED), row)) == 3 + 6
    assert size_of(delete(DOCS, row)) == 6
    assert is_larger(delete(DOCS, row), 0, {"id"})
    assert not is_larger(delete(DOCS, row), 1, {"id"})


def test_what_is_larger_is_found_by_bytes_also_where_characters_are_fewer() -> None:
    change = insert(DOCS, "1", "ä" * 100, None)
    assert [is_larger(change, most) for most in (100, 101, 200, 201, 804)] == [
        *(True, True, True, False, False)
    ]


@pytest.mark.parametrize(
    ("body", "is_too_large"),
    [
        ("x" * 999, False),
        ("x" * 1000, True),
        # Bytes count, not characters.
        ("ä" * 499, False),
        ("ä" * 500, True),
        # What JSON adds to them does not.
        ('"' * 999, False),
    ],
)
def test_the_limit_is_on_the_bytes_of_the_values(body: str, is_too_large: bool) -> None:
    for errors, rows in told(insert(DOCS, "1", None, body)):
        assert errors == (TOO_LARGE if is_too_large else None)
        assert ("body" in rows["record"]) is not is_too_large


def test_both_rows_count() -> None:
    half = "x" * 600
    old = Record(FULL.shape, ("1", "a", half))
    assert [errors for errors, _ in told(insert(FULL, "1", "a", half))] == [None, None]
    assert [errors for errors, _ in told(update(FULL, ("1", "a", half), old))] == [TOO_LARGE] * 2


# What is left.


def test_the_key_and_short_values_are_left_of_an_insert() -> None:
    assert told(insert(DOCS, "1", "short", LONG)) == (
        (TOO_LARGE, {"record": {"id": "1", "title": "short"}}),
        (TOO_LARGE, {"record": {"id": 1, "title": "short"}}),
    )


def test_short_is_what_has_64_bytes_and_no_null() -> None:
    for title, is_left in (("x" * 64, True), ("x" * 65, False), ("ä" * 33, False), (None, False)):
        record = {"id": "1", "title": title} if is_left else {"id": "1"}
        (errors, rows), _ = told(insert(DOCS, "1", title, LONG))
        assert (errors, rows) == (TOO_LARGE, {"record": record})


def test_an_update_and_a_delete_keep_their_old_key() -> None:
    key = Record(DOCS.key_shape, ("7",))
    assert told(update(DOCS, ("1", "a", LONG))) == (
        (TOO_LARGE, {"record": {"id": "1", "title": "a"}, "old_record": {}}),
        (TOO_LARGE, {"record": {"id": 1, "title": "a"}, "old_record": {"id": 1}}),
    )
    assert told(update(DOCS, ("1", "a", LONG), key)) == (
        (TOO_LARGE, {"record": {"id": "1", "title": "a"}, "old_record": {"id": "7"}}),
        (TOO_LARGE, {"record": {"id": 1, "title": "a"}, "old_record": {"id": 7}}),
    )
    assert told(delete(FULL, Record(FULL.shape, ("7", "a", LONG)))) == (
        (TOO_LARGE, {"old_record": {"id": "7", "title": "a"}}),
        (TOO_LARGE, {"old_record": {"id": 7, "title": "a"}}),
    )


def test_a_long_key_stays() -> None:
    url = "https://example.org/" + "a" * 100
    pages = make_relation(table="docs", columns=[("url", "text", True), ("body", "text", False)])
    for errors, rows in told(insert(pages, url, LONG)):
        assert (errors, rows) == (TOO_LARGE, {"record": {"url": url}})


def test_under_full_every_column_is_key_and_long_ones_go() -> None:
    assert shortened(insert(FULL, "1", "a", LONG)) == insert(FULL, "1", "a", UNCHANGED)


def test_all_else_is_as_ever() -> None:
    hub = Hub(max_record_bytes=1000)
    old, new = plain(hub), bound(hub, {})
    whole, large = insert(DOCS, "1", "a", "x"), insert(DOCS, "1", "a", LONG)
    hub.publish([whole, large])
    for outbox in (old, new):
        first, second = (
            frame["payload"] if isinstance(frame, dict) else frame[-1]["data"]
            for frame in outbox.frames
        )
        assert list(first) == list(second)
        for name in first.keys() - {"errors", "record"}:
            assert first[name] == second[name]


# Who is told.


def test_a_binding_that_selects_short_columns_gets_them_whole() -> None:
    hub = Hub(max_record_bytes=1000)
    outbox = bound(hub, {"select": ["title"]}, {"select": ["body"]})
    hub.publish([insert(DOCS, "1", "y" * 100, LONG)])
    assert shown(outbox) == [
        (None, {"record": {"id": 1, "title": "y" * 100}}),
        (TOO_LARGE, {"record": {"id": 1}}),
    ]


def test_filters_look_at_the_whole_row() -> None:
    hub = Hub(max_record_bytes=1000)
    outbox = bound(hub, {"filter": "body=like.xxx*"}, {"filter": "body=like.y*"})
    hub.publish([insert(DOCS, "1", "a", LONG)])
    assert shown(outbox) == [(TOO_LARGE, {"record": {"id": 1, "title": "a"}})]


def test_a_row_that_leaves_a_filter_is_told_short() -> None:
    hub = Hub(max_record_bytes=1000)
    outbox = bound(hub, {"event": "DELETE", "filter": "title=eq.mine", "leaves": True})
    old = Record(FULL.shape, ("1", "mine", LONG))
    hub.publish([update(FULL, ("1", "theirs", LONG), old)])
    assert shown(outbox) == [(TOO_LARGE, {"old_record": {"id": 1, "title": "mine"}})]


def test_a_truncate_is_never_too_large() -> None:
    hub = Hub(max_record_bytes=1)
    old, new = plain(hub), bound(hub, {"event": "TRUNCATE"})
    hub.publish([truncate(DOCS)])
    assert [frame["event"] for frame in old.frames] == ["TRUNCATE"]
    assert shown(new) == [(None, {})]


# Messages that clients do not take.


def message_size(outbox: RecordingOutbox) -> int:
    (frame,) = outbox.frames
    return len(json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode())


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
@pytest.mark.parametrize("letter", ["x", "漢", '"', "\x01"])
def test_no_message_is_larger_than_all_stock_clients_take(vsn: str, letter: str) -> None:
    size = len(json.dumps(letter, ensure_ascii=False).encode()) - 2
    for subscribe in (lambda hub: plain(hub, vsn=vsn), lambda hub: bound(hub, {}, vsn=vsn)):
        hub = Hub(max_record_bytes=MIB)
        empty = subscribe(hub)
        hub.publish([insert(DOCS, "1", "", "")])
        room = MIB - message_size(empty)
        for more, is_too_large in ((0, False), (1, True)):
            hub = Hub(max_record_bytes=MIB)
            outbox = subscribe(hub)
            title = "x" * (room % size + more)
            hub.publish([insert(DOCS, "1", title, letter * (room // size))])
            [(errors, _)] = shown(outbox)
            assert errors == (TOO_LARGE if is_too_large else None)
            assert is_too_large or message_size(outbox) == MIB


def test_a_higher_limit_is_for_clients_that_take_more() -> None:
    hub = Hub(max_record_bytes=4 * MIB)
    outbox = plain(hub)
    hub.publish([insert(DOCS, "1", "a", "x" * 3 * MIB)])
    hub.publish([insert(DOCS, "1", "a", '"' * 3 * MIB)])
    assert [errors for errors, _ in shown(outbox)] == [None, TOO_LARGE]


# Rendered once, counted once.


def test_a_large_change_is_rendered_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(max_record_bytes=1000)
    outboxes = [plain(hub, topic) for topic in ("realtime:*", "realtime:public")]
    outboxes += [bound(hub, {}), bound(hub, {}), bound(hub, {"event": "INSERT"})]
    calls = []
    monkeypatch.setattr(
        "realtime_server.fanout.payloads.row_payload.shortened",
        lambda change: calls.append(change) or shortened(change),
    )
    hub.publish([insert(DOCS, "1", "a", LONG)])
    assert len(calls) == 1
    assert [errors for outbox in outboxes for errors, _ in shown(outbox)] == [TOO_LARGE] * 5


def test_large_changes_are_counted_and_the_first_of_a_table_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = Hub(max_record_bytes=1000)
    plain(hub)
    plain(hub, "realtime:*")
    bound(hub, {})
    other = make_relation(table="other", columns=COLUMNS)
    with caplog.at_level(logging.WARNING):
        hub.publish([insert(DOCS, "1", "a", LONG)] * 3 + [insert(other, "1", "a", LONG)])
        hub.publish([insert(DOCS, "1", "a", "short")])
    assert hub.stats().too_large == 4
    assert caplog.messages == [
        f"a change of public.{table} is too large and is sent without its long values "
        "(MAX_RECORD_BYTES is 1000); further ones of this table are only counted"
        for table in ("docs", "other")
    ]


# What it costs.


def test_a_table_that_has_had_a_large_change_renders_no_other_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = Hub(max_record_bytes=1000)
    old, new = plain(hub), bound(hub, {}, {"select": ["title"]})
    hub.publish([insert(DOCS, "1", "a", LONG)])
    rendered = 0
    render = RelationPlan.render

    def counted(plan: RelationPlan, record: Record) -> Any:
        nonlocal rendered
        rendered += sum(len(field) for field in record.fields if isinstance(field, str))
        return render(plan, record)

    monkeypatch.setattr(RelationPlan, "render", counted)
    whole = {"id": "3", "title": "c", "body": "short"}
    hub.publish([insert(DOCS, "2", "b", LONG), insert(DOCS, "3", "c", "short")])
    assert rendered < 100
    assert shown(old)[1:] == [
        (TOO_LARGE, {"record": {"id": "2", "title": "b"}}),
        (None, {"record": whole}),
    ]
    told = [errors for errors, _ in shown(new)]
    assert (len(told), told.count(TOO_LARGE)) == (6, 2)
    assert hub.stats().too_large == 2
