"""Binary frames: broadcasts as binding clients push them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime_server.errors import FrameError
from realtime_server.phoenix.binary import decode_binary
from realtime_server.phoenix.messages import Message


def frame(
    join_ref: str = "1",
    ref: str = "2",
    topic: str = "realtime:room",
    event: str = "cursor",
    metadata: bytes = b"",
    encoding: int = 1,
    payload: bytes = b'{"x":1}',
    kind: int = 3,
) -> bytes:
    parts = [part.encode() for part in (join_ref, ref, topic, event)]
    parts.append(metadata)
    return bytes([kind, *map(len, parts), encoding]) + b"".join(parts) + payload


def broadcast(payload: Any, event: str = "cursor", **more: Any) -> dict[str, Any]:
    return {"type": "broadcast", "event": event, "payload": payload, **more}


def test_a_broadcast_is_what_its_text_frame_would_be() -> None:
    assert decode_binary(frame()) == Message(
        "realtime:room", "broadcast", broadcast({"x": 1}), "2", "1"
    )


def test_empty_refs_are_none() -> None:
    message = decode_binary(frame("", ""))
    assert (message.ref, message.join_ref) == (None, None)


def test_a_payload_that_is_not_json_stays_bytes() -> None:
    message = decode_binary(frame(encoding=0, payload=b"\xff\0"))
    assert message.payload == broadcast(b"\xff\0")
    assert decode_binary(frame(encoding=0, payload=b"")).payload == broadcast(b"")


def test_metadata_is_kept() -> None:
    message = decode_binary(frame(metadata=b'{"persist":true}'))
    assert message.payload == broadcast({"x": 1}, meta={"persist": True})


short = st.text(max_size=50)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(short, short, short, short, json_values)
def test_any_broadcast_comes_back(
    join_ref: str, ref: str, topic: str, event: str, payload: Any
) -> None:
    data = frame(join_ref, ref, topic, event, payload=orjson.dumps(payload))
    expected = Message(topic, "broadcast", broadcast(payload, event), ref or None, join_ref or None)
    assert decode_binary(data) == expected


WHOLE = frame(metadata=b"{}")


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (b"", 1003, "a binary frame with nothing in it; only broadcasts, kind 3, are binary"),
        (b"\0", 1003, "a binary frame with kind 0; only broadcasts, kind 3, are binary"),
        (frame(kind=4), 1003, "a binary frame with kind 4; only broadcasts, kind 3, are binary"),
        (b'["1","1"]', 1003, "a binary frame with kind 91; only broadcasts, kind 3, are binary"),
        (WHOLE[:6], 1008, "a binary frame that ends within its header"),
        (frame(encoding=2), 1008, "a binary frame with encoding 2; it is 0 or 1"),
        (WHOLE[:20], 1008, "a binary frame that is shorter than its lengths say"),
        (frame(payload=b"{"), 1007, "a binary frame whose payload is not JSON"),
        (frame(payload=b""), 1007, "a binary frame whose payload is not JSON"),
        (frame(metadata=b"{"), 1007, "a binary frame whose metadata is not JSON"),
        (b"\3\1\0\0\0\0\1\xff1", 1007, "a binary frame whose names are not UTF-8"),
    ],
)
def test_anything_else_is_refused_with_a_reason(data: bytes, code: int, reason: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_binary(data)
    assert (caught.value.code, caught.value.reason) == (code, reason)


def test_a_frame_that_is_cut_anywhere_is_refused() -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(FrameError):
            decode_binary(WHOLE[:length])


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: b"\3" + data))
def test_any_bytes_are_a_message_or_a_frame_error_that_fits_into_a_close_frame(
    data: bytes,
) -> None:
    try:
        decode_binary(data)
    except FrameError as caught:
        error = caught
    else:
        return
    assert error.code in (1003, 1007, 1008)
    assert len(error.reason.encode()) <= 123
