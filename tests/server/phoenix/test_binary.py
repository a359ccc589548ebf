"""Binary frames: broadcasts as binding clients push them, and as they get them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime_server.errors import FrameError
from realtime_server.phoenix.binary import decode_binary, encode_binary
from realtime_server.phoenix.broadcasts import BinaryPush
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


def push(
    event: str = "cursor",
    metadata: bytes = b"",
    payload: bytes = b'{"x":1}',
    *,
    is_json: bool = True,
) -> BinaryPush:
    return BinaryPush(event, metadata, payload, is_json)


def test_a_broadcast_keeps_the_bytes_of_its_payload() -> None:
    assert decode_binary(frame()) == Message("realtime:room", "broadcast", push(), "2", "1")
    message = decode_binary(frame(encoding=0, payload=b"\xff\0"))
    assert message.payload == push(payload=b"\xff\0", is_json=False)


def test_empty_refs_are_none() -> None:
    message = decode_binary(frame("", ""))
    assert (message.ref, message.join_ref) == (None, None)


def test_metadata_is_kept() -> None:
    assert decode_binary(frame(metadata=b"{}")).payload == push(metadata=b"{}")


def test_a_push_of_phoenix_has_nothing_but_bytes() -> None:
    data = b"\0\1\1\x0f\x0936realtime:room:xbroadcast\x09\x08\x07"
    expected = Message("realtime:room:x", "broadcast", b"\x09\x08\x07", "6", "3")
    assert decode_binary(data) == expected
    for length in range(1, 5):
        with pytest.raises(FrameError):
            decode_binary(data[:length])


def test_bytes_go_out_with_the_names_before_them() -> None:
    expected = "040f0300007265616c74696d653a726f6f6d3a6162696e0102ff"
    assert encode_binary("realtime:room:a", "bin", b"\1\2\xff") == bytes.fromhex(expected)
    assert encode_binary("t" * 255, "e" * 255, b"")[:5] == b"\4\xff\xff\0\0"
    with pytest.raises(ValueError, match="256"):
        encode_binary("t" * 256, "e", b"")


def test_bytes_from_the_database_have_their_metadata() -> None:
    # As v2 sends what `realtime.send_binary` has stored.
    expected = (
        "0412032d007265616c74696d653a636861742d726f6f6d62696e"
        "7b226964223a2230303635353463652d643232642d343639632d383737612d383862656634373231346133227d"
        "deadbeef00ff0102"
    )
    metadata = b'{"id":"006554ce-d22d-469c-877a-88bef47214a3"}'
    data = bytes.fromhex("deadbeef00ff0102")
    assert encode_binary("realtime:chat-room", "bin", data, metadata) == bytes.fromhex(expected)


short = st.text(max_size=50)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(short, short, short, short, st.binary(max_size=50))
def test_any_broadcast_comes_back(
    join_ref: str, ref: str, topic: str, event: str, payload: bytes
) -> None:
    data = frame(join_ref, ref, topic, event, payload=payload)
    expected = Message(
        topic, "broadcast", push(event, payload=payload), ref or None, join_ref or None
    )
    assert decode_binary(data) == expected


WHOLE = frame(metadata=b"{}")


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (b"", 1003, "a binary frame with nothing in it; clients push in kinds 3 and 0"),
        (b"\0", 1008, "a binary frame that ends within its header"),
        (frame(kind=4), 1003, "a binary frame with kind 4; clients push in kinds 3 and 0"),
        (b'["1","1"]', 1003, "a binary frame with kind 91; clients push in kinds 3 and 0"),
        (WHOLE[:6], 1008, "a binary frame that ends within its header"),
        (frame(encoding=2), 1008, "a binary frame with encoding 2; it is 0 or 1"),
        (WHOLE[:20], 1008, "a binary frame that is shorter than its lengths say"),
        (b"\3\1\0\0\0\0\1\xff1", 1007, "a binary frame whose names are not UTF-8"),
    ],
)
def test_anything_else_is_refused_with_a_reason(data: bytes, code: int, reason: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_binary(data)
    assert (caught.value.code, caught.value.reason) == (code, reason)


def test_a_frame_that_is_cut_anywhere_is_refused() -> None:
    for length in range(len(WHOLE) - len(b'{"x":1}')):
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
