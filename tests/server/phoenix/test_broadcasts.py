"""Broadcasts as they come, and as they go on."""

from __future__ import annotations

import pytest

from realtime_server.errors import BroadcastError
from realtime_server.phoenix.broadcasts import (
    BinaryPush,
    Broadcast,
    broadcast_json,
    read_binary_push,
    read_text_push,
)
from realtime_server.phoenix.reasons import BroadcastReason


@pytest.mark.parametrize(
    ("text", "event", "payload"),
    [
        ('{"type":"broadcast","event":"m","payload":{"a":1}}', "m", '{"a":1}'),
        ('{"event":"m"}', "m", "{}"),
        ('{"payload":null,"event":""}', "", "null"),
        # Nothing else of it goes on, whatever stock clients would make of it.
        ('{"ids":1,"event":"m","payload":1,"meta":{"id":1},"type":7}', "m", "1"),
        # As it was written.
        (
            '{"event":"\\u00e9","payload":{ "b":12345678901234567890.10, "a":"\\ud800" }}',
            "é",
            '{ "b":12345678901234567890.10, "a":"\\ud800" }',
        ),
        # The last one counts.
        ('{"event":"a","payload":1,"event":"b","payload":2}', "b", "2"),
    ],
)
def test_event_and_payload_go_on_as_they_came(text: str, event: str, payload: str) -> None:
    broadcast = read_text_push(f"[0,{text}]", 3)
    assert broadcast == Broadcast(event, payload.encode())
    expected = f'{{"type":"broadcast","event":"{event}","payload":{payload}}}'
    assert broadcast_json(broadcast) == expected.encode()


def test_what_is_known_of_a_message_stands_beside_its_payload() -> None:
    broadcast = Broadcast("m", b"[1]", meta=b'{"id":"x"}')
    expected = b'{"type":"broadcast","event":"m","payload":[1],"meta":{"id":"x"}}'
    assert broadcast_json(broadcast) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("null", "[]", "7", '"x"', "{}", '{"anything":true}', '{"event":1}', '{"event":null}'),
        *('{"event":["m"]}', '{"event":"\\ud800"}', '{"event":"m","event":{}}'),
    ],
)
def test_a_broadcast_has_an_event(text: str) -> None:
    with pytest.raises(BroadcastError) as caught:
        read_text_push(text, 0)
    assert caught.value.reason is BroadcastReason.NO_EVENT
    assert BroadcastReason.NO_EVENT.code == "invalid_payload"


def test_a_payload_that_is_nested_too_deeply_does_not_go_on() -> None:
    text = '{"event":"m","payload":' + "[" * 5000 + "]" * 5000 + "}"
    with pytest.raises(BroadcastError) as caught:
        read_text_push(text, 0)
    assert caught.value.reason is BroadcastReason.NO_JSON


def push(payload: bytes, metadata: bytes = b"", *, is_json: bool = True) -> BinaryPush:
    return BinaryPush("m", metadata, payload, is_json)


@pytest.mark.parametrize("payload", [b'{"n":9007199254740993}', b" 7\n", b'"\\ud800"', b"null"])
@pytest.mark.parametrize("metadata", [b"", b"{}", b'{"persist":false}', b'{"other":1}'])
def test_a_binary_push_goes_on_as_it_came(payload: bytes, metadata: bytes) -> None:
    assert read_binary_push(push(payload, metadata)) == Broadcast("m", payload)
    raw = read_binary_push(push(b"\xff", metadata, is_json=False))
    assert raw == Broadcast("m", b"\xff", is_json=False)


@pytest.mark.parametrize(
    ("pushed", "reason"),
    [
        *((push(data), BroadcastReason.NO_JSON) for data in (b"", b"{", b"NaN", b"\xff", b"1 2")),
        (push(b"[" * 9999 + b"]" * 9999), BroadcastReason.NO_JSON),
        *((push(b"1", data), BroadcastReason.METADATA) for data in (b"{", b"[]", b"NaN", b"\xff")),
        (push(b"1", b'{"persist":true}'), BroadcastReason.PERSIST),
        (push(b"1", b'{"persist":{"ttl":60}}', is_json=False), BroadcastReason.PERSIST),
    ],
)
def test_what_would_harm_its_receivers_does_not_go_on(
    pushed: BinaryPush, reason: BroadcastReason
) -> None:
    with pytest.raises(BroadcastError) as caught:
        read_binary_push(pushed)
    assert caught.value.reason is reason
