"""What processes tell each other of rooms: it is read as it was written, and nothing else is."""

from __future__ import annotations

import pytest

from realtime_server.cluster.room_messages import (
    broadcast_subject,
    decode_broadcast,
    encode_broadcast,
    encoded_size,
)
from realtime_server.phoenix.broadcasts import Broadcast, RoomName

NODE = b"\0one\xff\0\n "
ROOM = RoomName("realtime:küche.> *")
PRIVATE = RoomName(ROOM.topic, is_private=True)


@pytest.mark.parametrize("room", [ROOM, PRIVATE, RoomName("realtime:" + "x" * 70_000)])
@pytest.mark.parametrize(
    "broadcast",
    [
        Broadcast("é", b' {"x": 12345678901234567890, "y": "\\ud800"}'),
        Broadcast("", b"null"),
        Broadcast("m" * 70_000, b"{}"),
    ],
)
def test_what_is_written_is_read(room: RoomName, broadcast: Broadcast) -> None:
    data = encode_broadcast(NODE, room, broadcast)
    message = decode_broadcast(broadcast_subject(room), data)
    assert (message.node, message.room, message.broadcast) == (NODE, room, broadcast)
    assert len(data) == encoded_size(room, broadcast)


def test_bytes_are_read_where_a_binary_frame_can_have_their_names() -> None:
    for event, fits in (("e" * 255, True), ("e" * 256, False)):
        broadcast = Broadcast(event, b"\xff\0", is_json=False)
        data = encode_broadcast(NODE, ROOM, broadcast)
        if fits:
            assert decode_broadcast(broadcast_subject(ROOM), data).broadcast == broadcast
        else:
            with pytest.raises(ValueError, match="too long"):
                decode_broadcast(broadcast_subject(ROOM), data)


def test_a_subject_says_nothing_of_its_room_and_differs_for_private_ones() -> None:
    subjects = {broadcast_subject(room) for room in (ROOM, PRIVATE, RoomName("realtime:KÜCHE.> *"))}
    assert len(subjects) == 3
    for subject in subjects:
        prefix, _, name = subject.partition(".")
        assert prefix == "b"
        assert len(bytes.fromhex(name)) == 16


GOOD = encode_broadcast(NODE, ROOM, Broadcast("m", b"{}"))


STRANGE = [
    b"",
    b"{}",
    *(GOOD[:size] for size in range(len(GOOD) - 2)),
    GOOD[:-1],
    GOOD + b",",
    b"B2" + GOOD[2:],
    b"P1" + GOOD[2:],
    GOOD[:2] + b"\x06" + GOOD[3:],
    GOOD[:2] + b"\x03" + GOOD[3:],
    encode_broadcast(NODE, PRIVATE, Broadcast("m", b"{}")),
    encode_broadcast(NODE, RoomName("realtime:other"), Broadcast("m", b"{}")),
    *(
        encode_broadcast(NODE, ROOM, Broadcast("m", payload))
        for payload in (b"", b"NaN", b"{}}", b'{"a":1},"ids":[1]', b"[" * 100_000, b"\xff")
    ),
    GOOD.replace(b"\xc3\xbc", b"\xff\xff"),
    b"\xff" * 1000,
]


@pytest.mark.parametrize("data", STRANGE, ids=map(str, range(len(STRANGE))))
def test_nothing_else_is_read(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_broadcast(broadcast_subject(ROOM), data)
