"""Broadcasts as stock clients write them, and what only looks like one."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from realtime_server.errors import FrameError
from realtime_server.phoenix import serializers
from realtime_server.phoenix.broadcasts import Broadcast, read_text_push
from realtime_server.phoenix.messages import Message
from realtime_server.phoenix.serializers import SERIALIZERS, Serializer
from realtime_server.phoenix.usual_pushes import usual_v1, usual_v2

V1, V2 = SERIALIZERS["1.0.0"], SERIALIZERS["2.0.0"]
PUSH = '{"type":"broadcast","event":"cursor-pos","payload":%s}'


@pytest.mark.parametrize("payload", ['{"x":0.5,"text":"\\n},\\""}', "{}", "[1,{}]", "7", '"é"'])
def test_stock_clients_broadcasts_are_read(payload: str) -> None:
    broadcast = Broadcast("cursor-pos", payload.encode())
    push = PUSH % payload
    for frame, ref, join_ref in (
        (
            f'{{"topic":"t","event":"broadcast","payload":{push},"ref":"7","join_ref":"6"}}',
            "7",
            "6",
        ),
        (f'{{"topic":"t","event":"broadcast","payload":{push},"ref":null}}', None, None),
        (f'{{"event":"broadcast","payload":{push},"join_ref":"6","topic":"t"}}', None, "6"),
    ):
        assert usual_v1(frame) == Message("t", "broadcast", broadcast, ref, join_ref)
    assert usual_v2(f'["1","2","t","broadcast",{push}]') == Message(
        "t", "broadcast", broadcast, "2", "1"
    )
    assert usual_v2(f'[null,null,"t","broadcast",{push}]') == Message("t", "broadcast", broadcast)


@pytest.mark.parametrize(
    "behind",
    ['"}"}', "1}", "1", "1}}}", '1},"ref":1}', '1},"ref":"1"', '1},"x":"1"}', "1 }}", "NaN}}"],
)
def test_what_is_written_otherwise_is_not(behind: str) -> None:
    push = '{"type":"broadcast","event":"m","payload":'
    assert usual_v1(f'{{"topic":"t","event":"broadcast","payload":{push}{behind}') is None
    assert usual_v2(f'["1","2","t","broadcast",{push}{behind}') is None


def read(serializer: Serializer, frame: str) -> Any:
    """What a frame says: topic, broadcast and refs, or with which code it closes the socket."""
    try:
        message = serializer.decode(frame)
    except FrameError as exc:
        return exc.code
    broadcast = message.payload
    if not isinstance(broadcast, Broadcast):
        try:
            broadcast = read_text_push(frame, serializer.payload_at(frame))
        except Exception as exc:
            broadcast = type(exc)
    return message.topic, message.event, broadcast, message.ref, message.join_ref


# Where JSON may be cut and put together, and what is not JSON.
SCRAPS = [
    *("{", "}", "[", "]", ",", ":", '"', "},", '},"', "}}", "}]", " ", "\n", "\t", "\\", "{}"),
    *('"ref":"1"', '"join_ref":2', '"topic":"u"', '"payload":1', '"event":"e"', '"x":', '"},"'),
    *("1", "-", "NaN", "null", "true", "1e999", "\x01", "é", '"\\ud800"', '{"a":{},"b":[]}'),
]
VALUES = ["7", "{}", '{"a":{},"b":[]}', '"},"', "null", '"\\ud800"', "1e999", '{"x":"}}"}']
REFS = ['"1"', "null", "1", "true", '"a},"', '"\x01"', '"\\u00e9"']
BEHIND = ["", "", "", ',"join_ref":"1"', ',"payload":1', ',"ref":"2","topic":"u"']
TOPICS = ["t", "a},", "é", "\x02", '"', "\\n"]


@pytest.mark.slow
def test_what_is_read_so_is_what_the_whole_frame_says(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(20)

    def some(values: list[str]) -> str:
        value = random.choice(values)
        return value + "".join(random.choices(SCRAPS, k=max(0, random.randrange(-6, 4))))

    frames = []
    for _ in range(500):
        push, behind, topic = PUSH % some(VALUES), some(BEHIND), random.choice(TOPICS)
        ref, join_ref = random.choices(REFS, k=2)
        head = f'{{"topic":"{topic}","event":"broadcast","payload":{push}'
        frames += [
            (V1, f'{head},"ref":{ref}{behind}}}'),
            (V1, f"{head}{behind}}}"),
            (V1, f'{{"event":"broadcast","payload":{push}{behind},"topic":"{topic}"}}'),
            (V2, f'[{join_ref},{ref},"{topic}","broadcast",{push}{behind}]'),
            (V2, f'[{join_ref},{ref},"{topic}","broadcast",{push}]'),
        ]
    found = [read(serializer, frame) for serializer, frame in frames]
    assert sum(isinstance(one, tuple) for one in found) > 500
    for name in ("usual_v1", "usual_v2"):
        monkeypatch.setattr(serializers, name, lambda _: None)
    for (serializer, frame), one in zip(frames, found, strict=True):
        assert read(serializer, frame) == one, frame
