"""Broadcasts by HTTP, as they are read."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest

from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from realtime_server.phoenix.http_broadcasts import (
    HttpRefusal,
    read_names,
    read_single,
    reading_batch,
)

FINE = '{"topic":"a","event":"e","payload":{}}'


def batch(body: str | bytes, *, max_bytes: int = 1000) -> Any:
    data = body.encode() if isinstance(body, str) else body
    steps = reading_batch(data, max_bytes=max_bytes)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def refused(body: str | bytes, **options: int) -> tuple[int, Any]:
    with pytest.raises(HttpRefusal) as caught:
        batch(body, **options)
    return caught.value.status.value, json.loads(caught.value.body)


def test_a_batch_is_read_in_its_order_and_its_payloads_as_they_came() -> None:
    text = (
        ' {"messages": [{"topic":"room:1","event":"é","payload":{"n": 9007199254740993}},'
        '{"payload":{"b":1,"a":2},"private":false,"event":"m","topic":"realtime:x","ids":1}]} '
    )
    assert batch(text) == [
        (RoomName("realtime:room:1"), Broadcast("é", b'{"n": 9007199254740993}')),
        (RoomName("realtime:realtime:x"), Broadcast("m", b'{"b":1,"a":2}')),
    ]
    assert batch('{"messages":[]}') == []


def test_a_long_batch_is_read_in_steps() -> None:
    text = f'{{"a":1,"messages":[{",".join([FINE] * 300)}],"b":[]}}'
    steps = reading_batch(text.encode(), max_bytes=1000)
    assert sum(1 for _ in steps) > 300


def test_of_two_lists_the_last_counts() -> None:
    other = FINE.replace('"a"', '"b"')
    text = f'{{"messages":[{FINE}, {FINE} ] , "messages" : [ {other} ] }}'
    assert batch(text) == [(RoomName("realtime:b"), Broadcast("e", b"{}"))]


BLANK, INVALID = ["can't be blank"], ["is invalid"]


def test_what_is_wrong_with_each_message_is_told() -> None:
    wrong = [
        ("{}", {"topic": BLANK, "event": BLANK, "payload": BLANK}),
        ('{"topic":"","event":null,"payload":{}}', {"topic": BLANK, "event": BLANK}),
        (
            '{"topic":1,"event":[],"payload":[]}',
            dict.fromkeys(("topic", "event", "payload"), INVALID),
        ),
        ('{"topic":"a","event":"\\ud800","payload":{}}', {"event": INVALID}),
        ('{"topic":"a","event":"e","payload":null}', {"payload": BLANK}),
        ('{"topic":"a","event":"e","payload":{},"private":1}', {"private": INVALID}),
        ("7", {"topic": BLANK, "event": BLANK, "payload": BLANK}),
        (FINE, {}),
    ]
    status, body = refused('{"messages":[' + ",".join(text for text, _ in wrong) + "]}")
    assert status == HTTPStatus.UNPROCESSABLE_ENTITY
    assert body["errors"] == {"messages": [errors for _, errors in wrong]}
    assert body["message"].startswith("messages[0].topic can't be blank; ")
    assert body["message"].count(";") == 2


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("[]", BLANK),
        ("{}", BLANK),
        ('{"messages":7}', INVALID),
        ('{"messages":null}', INVALID),
        (
            '{"messages":[' + ",".join([FINE] * 1001) + "]}",
            ["should have at most 1000 item(s)"],
        ),
    ],
)
def test_a_batch_has_messages_and_not_too_many(text: str, errors: list[str]) -> None:
    status, body = refused(text)
    assert (status, body["errors"]) == (422, {"messages": errors})


def test_a_thousand_messages_are_not_too_many() -> None:
    assert len(batch('{"messages":[' + ",".join([FINE] * 1000) + "]}")) == 1000


def test_a_message_that_is_too_large_refuses_the_batch() -> None:
    large = '{"topic":"a","event":"e","payload":{"x":"%s"}}' % ("x" * 100)
    status, body = refused(f'{{"messages":[{FINE},{large}]}}', max_bytes=100)
    assert status == 422
    assert body["errors"]["messages"] == [{}, {"payload": ["Payload size exceeds tenant limit"]}]


@pytest.mark.parametrize("private", ["true", '"true"', '"TRUE"'])
def test_a_private_message_is_for_the_private_room(private: str) -> None:
    text = f'{{"topic":"a","event":"e","payload":{{}},"private":{private}}}'
    found = batch(f'{{"messages":[{FINE},{text}]}}')
    assert [room for room, _ in found] == [
        RoomName("realtime:a"),
        RoomName("realtime:a", is_private=True),
    ]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"NaN", b'{"messages":[NaN]}', b"[" * 9999 + b"]" * 9999]
)
def test_what_is_no_json_is_a_bad_request(body: bytes) -> None:
    assert refused(body) == (400, {"message": "The body is not JSON"})


# Single ones.


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/room%3Ar/events/ev%2F1%20%C3%A9", ("room:r", "ev/1 é")),
        ("/a/events/events", ("a", "events")),
        ("/events/events/e", ("events", "e")),
        ("/a%00b/events/%25zz", ("a\0b", "%zz")),
        ("/a%zz/events/%", ("a%zz", "%")),
        *((path, None) for path in ("", "/", "/a", "/a/events", "/a/event/e", "/a/events/e/f")),
    ],
)
def test_a_path_is_split_and_then_decoded(path: str, names: Any) -> None:
    assert read_names(path) == names


@pytest.mark.parametrize(
    ("path", "status"), [("//events/e", 422), ("/a/events/", 422), ("/%ff/events/e", 400)]
)
def test_a_name_is_not_empty_and_is_utf_8(path: str, status: int) -> None:
    with pytest.raises(HttpRefusal) as caught:
        read_names(path)
    assert caught.value.status == status


def single(
    body: bytes = b"{}",
    kind: str = "application/json",
    query: dict[str, str] | None = None,
    names: tuple[str, str] = ("a", "e"),
) -> Any:
    return read_single(names, kind, query or {}, body, max_bytes=1000)


@pytest.mark.parametrize("body", [b'{"a":1}', b"[1,2]", b"7", b'"x"', b"null", b" 1 "])
@pytest.mark.parametrize("kind", ["", "application/json", "Application/JSON; charset=utf-8"])
def test_json_of_any_kind_is_the_payload(body: bytes, kind: str) -> None:
    assert single(body, kind) == [(RoomName("realtime:a"), Broadcast("e", body))]


@pytest.mark.parametrize(("private", "is_private"), [("true", True), ("False", False)])
def test_a_single_one_may_be_private(private: str, is_private: bool) -> None:
    [(room, _)] = single(query={"private": private})
    assert room == RoomName("realtime:a", is_private)


def test_bytes_are_the_payload() -> None:
    expected = [(RoomName("realtime:a"), Broadcast("e", b"\0\1\xff", is_json=False))]
    assert single(b"\0\1\xff", "application/octet-stream") == expected
    assert single(b"", "application/octet-stream")[0][1].payload == b""


OCTETS = "application/octet-stream"


@pytest.mark.parametrize(
    ("options", "status", "part"),
    [
        ({"kind": "text/plain"}, 415, "Unsupported Media Type. Use application/json or"),
        ({"body": b""}, 400, "not JSON"),
        ({"body": b"{"}, 400, "not JSON"),
        ({"body": b'"%s"' % (b"x" * 1000)}, 422, "Payload size exceeds tenant limit"),
        ({"body": b"x" * 1000, "kind": OCTETS}, 422, "Payload size exceeds tenant limit"),
        ({"query": {"private": ""}}, 422, "private is invalid"),
        ({"query": {"private": "true", "persist": "true"}}, 422, "does not store broadcasts"),
        ({"query": {"persist": "true"}}, 422, "can only be used on private channels"),
        ({"query": {"persist[ttl]": "60"}}, 422, "can only be used on private channels"),
        ({"kind": OCTETS, "names": ("a" * 247, "e")}, 422, "at most 255 bytes"),
        ({"kind": OCTETS, "names": ("a", "é" * 128)}, 422, "at most 255 bytes"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_words(options: Any, status: int, part: str) -> None:
    with pytest.raises(HttpRefusal) as caught:
        single(**options)
    body = json.loads(caught.value.body)
    assert caught.value.status == status
    # What stock clients show.
    assert part in (body.get("error") or body["message"])


def test_names_of_255_bytes_fit_before_bytes() -> None:
    assert single(b"x", OCTETS, names=("a" * 246, "e" * 255))
    assert single(b"1", names=("a" * 300, "e" * 300))
