"""Text frames of both protocol versions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from realtime_server.errors import FrameError
from realtime_server.phoenix.broadcasts import BinaryPush, Broadcast, read_text_push
from realtime_server.phoenix.messages import Message
from realtime_server.phoenix.serializers import SERIALIZERS, Serializer, V1Serializer, V2Serializer

V1 = V1Serializer()
V2 = V2Serializer()
REFS = ["1", "", "été", 1, 0, -7, 1.5, 2**53, None]


def test_the_version_is_the_query_parameter_vsn() -> None:
    assert {vsn: type(serializer) for vsn, serializer in SERIALIZERS.items()} == {
        None: V1Serializer,
        "1.0.0": V1Serializer,
        "2.0.0": V2Serializer,
    }


@pytest.mark.parametrize("ref", REFS)
@pytest.mark.parametrize("join_ref", ["1", 1, None])
def test_v1_reads_an_object_and_keeps_the_refs_types(ref: Any, join_ref: Any) -> None:
    frame = {"topic": "t", "event": "e", "payload": {"a": [1]}, "ref": ref, "join_ref": join_ref}
    message = V1.decode(json.dumps(frame))
    assert message == Message("t", "e", {"a": [1]}, ref, join_ref)
    assert (type(message.ref), type(message.join_ref)) == (type(ref), type(join_ref))


def test_v1_takes_a_frame_without_refs_and_one_with_more_keys() -> None:
    assert V1.decode('{"topic":"t","event":"e","payload":null}') == Message("t", "e", None)
    text = '{"topic":"t","event":"e","payload":null,"ref":"1","more":{}}'
    assert V1.decode(text) == Message("t", "e", None, "1", None)


@pytest.mark.parametrize("ref", REFS)
@pytest.mark.parametrize("join_ref", ["1", 1, None])
def test_v2_reads_an_array_and_keeps_the_refs_types(ref: Any, join_ref: Any) -> None:
    message = V2.decode(json.dumps([join_ref, ref, "t", "e", []]))
    assert message == Message("t", "e", [], ref, join_ref)
    assert (type(message.ref), type(message.join_ref)) == (type(ref), type(join_ref))


def test_v1_writes_an_object_without_join_ref() -> None:
    message = Message("realtime:*", "phx_reply", {"status": "ok", "response": {}}, "1", "9")
    assert V1.encode(message) == (
        b'{"topic":"realtime:*","event":"phx_reply","ref":"1",'
        b'"payload":{"status":"ok","response":{}}}'
    )


def test_v2_writes_an_array() -> None:
    message = Message("realtime:*", "phx_reply", {"status": "ok", "response": {}}, 2, "9")
    assert V2.encode(message) == (b'["9",2,"realtime:*","phx_reply",{"status":"ok","response":{}}]')


@pytest.mark.parametrize("topic", ["realtime:public:todos", 'realtime:a"b\\c\n:漢'])
def test_an_envelope_around_a_payload_is_the_whole_frame(topic: str) -> None:
    for serializer in (V1, V2):
        before, behind = serializer.envelope(topic, "INSERT")
        whole = serializer.encode(Message(topic, "INSERT", {"a": 1}))
        assert before + b'{"a":1}' + behind == whole


NOT_JSON = (1007, "the message is not JSON")
BINARY = (1003, "a binary frame; with vsn=1.0.0 all are text")
BEYOND_64_BITS = [2**53 + 1, 2**64 - 1, 2**64, 2**64 + 1, -(2**63) - 1, 10**100]


@pytest.mark.parametrize("ref", BEYOND_64_BITS)
@pytest.mark.parametrize("join_ref", [None, "1", 2**64 + 1])
def test_no_digit_of_a_ref_is_lost(ref: int, join_ref: Any) -> None:
    frame = {"topic": "t", "event": "e", "payload": 1.5, "ref": ref, "join_ref": join_ref}
    v1 = V1.decode(json.dumps(frame))
    v2 = V2.decode(json.dumps([join_ref, ref, "t", "e", 1.5]))
    assert (v1.ref, v1.join_ref, v2.ref, v2.join_ref) == (ref, join_ref, ref, join_ref)
    assert json.loads(V1.encode(v1))["ref"] == ref
    assert json.loads(V2.encode(v2))[:2] == [join_ref, ref]


@pytest.mark.parametrize("ref", ["9" * 5000, "1e999"])
def test_a_ref_that_is_too_large_a_number_is_refused(ref: str) -> None:
    for serializer, text in [
        (V1, '{"topic":"t","event":"e","payload":{},"ref":%s}'),
        (V2, '[null,%s,"t","e",{}]'),
    ]:
        with pytest.raises(FrameError) as caught:
            serializer.decode(text % ref)
        assert caught.value.code in (1007, 1008)


NO_OBJECT = (1008, "a message is an object with topic, event, payload and ref")
NO_ARRAY = (1008, "a message is an array [join_ref, ref, topic, event, payload]")
NO_NAMES = (1008, "topic and event must be strings")
NO_REF = (1008, "ref must be a string, a number or null")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b'{"topic":"t","event":"e","payload":{}}', BINARY),
        ("", NOT_JSON),
        ("{", NOT_JSON),
        ("{'topic':'t'}", NOT_JSON),
        ("NaN", NOT_JSON),
        ('{"topic":"\ud800"}', NO_OBJECT),
        ("[" * 100_000, NOT_JSON),
        ("null", NO_OBJECT),
        ("1", NO_OBJECT),
        ('"text"', NO_OBJECT),
        ("[]", NO_OBJECT),
        ('["1","1","t","e",{}]', NO_OBJECT),
        ("{}", NO_OBJECT),
        ('{"event":"e","payload":{},"ref":"1"}', NO_OBJECT),
        ('{"topic":"t","payload":{},"ref":"1"}', NO_OBJECT),
        ('{"topic":"t","event":"e","ref":"1"}', NO_OBJECT),
        ('{"topic":1,"event":"e","payload":{}}', NO_NAMES),
        ('{"topic":"t","event":null,"payload":{}}', NO_NAMES),
        ('{"topic":"t","event":"e","payload":{},"ref":{}}', NO_REF),
        ('{"topic":"t","event":"e","payload":{},"ref":[1]}', NO_REF),
        ('{"topic":"t","event":"e","payload":{},"ref":true}', NO_REF),
        ('{"topic":"t","event":"e","payload":{},"ref":"1","join_ref":[1]}', NO_REF),
    ],
)
def test_v1_refuses_with_a_close_code_and_reason(data: str | bytes, error: tuple[int, str]) -> None:
    with pytest.raises(FrameError) as caught:
        V1.decode(data)
    assert (caught.value.code, caught.value.reason) == error


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("[", NOT_JSON),
        ("[]", NO_ARRAY),
        ('{"topic":"t","event":"e","payload":{},"ref":"1"}', NO_ARRAY),
        ('["1","t","e",{}]', NO_ARRAY),
        ('["1","1","t","e",{},null]', NO_ARRAY),
        ("null", NO_ARRAY),
        ('[null,null,null,"e",{}]', NO_NAMES),
        ('[null,null,"t",{},{}]', NO_NAMES),
        ('[null,{},"t","e",{}]', NO_REF),
        ('[[],"1","t","e",{}]', NO_REF),
        ('[false,"1","t","e",{}]', NO_REF),
    ],
)
def test_v2_refuses_with_a_close_code_and_reason(data: str | bytes, error: tuple[int, str]) -> None:
    with pytest.raises(FrameError) as caught:
        V2.decode(data)
    assert (caught.value.code, caught.value.reason) == error


def test_v2_reads_binary_frames_too() -> None:
    push = BinaryPush("e", b"", b"1", is_json=True)
    assert V2.decode(b"\x03\0\0\1\1\0\1te1") == Message("t", "broadcast", push)


# As stock clients write them, and otherwise.
PUSHES = [
    (V1, '{"topic":"t","event":"broadcast","payload":%s,"ref":"7","join_ref":"6"}'),
    (V1, '{"event":"broadcast","payload":%s,"topic":"t","ref":"2","join_ref":null}'),
    (V1, ' { "topic":"t", "payload" : 0, "event":"broadcast","payload" :%s,"ref":null } '),
    (V1, '{"x":{"event":"broadcast","payload":{"type":"broadcast","event":"no","payload":0}},'
         '"topic":"t","event":"broadcast","payload":%s}'),
    (V1, '{"event":"broadcast","payload":{"type":"broadcast","event":"no","payload":0},"topic":"t",'
         '"payload":%s}'),
    (V2, '["1","2","t","broadcast",%s]'),
    (V2, '[null,null,"t","broadcast",%s]'),
    (V2, ' [ null, 2 ,"t\\u00e9", "broadcast" ,%s ] '),
]  # fmt: skip


@pytest.mark.parametrize(("serializer", "frame"), PUSHES)
@pytest.mark.parametrize(
    "payload", ['{"a":[1,{}]}', "[]", "7", r'"\ud800 \" }]"', "1e999", "null", '{"b":2, "a":1}']
)
@pytest.mark.parametrize(
    "push",
    [
        '{"type":"broadcast","event":"é","payload":%s}',
        '{"type":"broadcast","event":"no","payload":0,"event":"é","payload":%s}',
        '{"type":"broadcast","event":"no","payload":%s,"event":"é"}',
        '{"payload":%s,"event":"\\u00e9","ids":1}',
        '{"type":"broadcast","event":"é","payload": %s}',
    ],
)
def test_a_broadcasts_payload_is_found_in_its_frame(
    serializer: Serializer, frame: str, push: str, payload: str
) -> None:
    text = frame % (push % payload)
    message = serializer.decode(text)
    assert (message.event, message.topic[0]) == ("broadcast", "t")
    broadcast = message.payload
    if not isinstance(broadcast, Broadcast):
        broadcast = read_text_push(text, serializer.payload_at(text))
    assert broadcast == Broadcast("é", payload.encode())


@pytest.mark.parametrize(
    "frame",
    [
        r'[null,"1","t","phx_join",{"config":"\ud800"}]',
        r'[null,"1","\ud800","broadcast",{}]',
        r'[null,"\ud800","t","broadcast",{}]',
        r'["\ud800","1","t","broadcast",{}]',
        '[null,"1","t","broadcast",NaN]',
        '[null,"1","t","broadcast",' + "[" * 3000 + "]" * 3001,
    ],
)
def test_half_a_character_is_taken_in_a_broadcasts_payload_only(frame: str) -> None:
    with pytest.raises(FrameError) as caught:
        V2.decode(frame)
    assert (caught.value.code, caught.value.reason) == NOT_JSON
