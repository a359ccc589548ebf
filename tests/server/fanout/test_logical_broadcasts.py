"""Logical messages: which are broadcast, and to which room."""

from __future__ import annotations

import pytest

from realtime_core import LSN, LogicalMessage
from realtime_server.fanout.database_broadcasts import DatabaseBroadcasts
from realtime_server.fanout.logical_broadcasts import LOGICAL_PREFIX, read_logical_broadcast
from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from tests.server.fanout.test_rooms import PRIVATE, Loop, inbox


@pytest.mark.parametrize(
    ("content", "topic", "expected"),
    [
        ('{"topic":"room","event":"m"}', "room", Broadcast("m", b"{}")),
        (
            ' {"payload":{"a": 12345678901234567890.10, "b":"\\ud800"},"topic":"a:b","event":"é"}',
            "a:b",
            Broadcast("é", b'{"a": 12345678901234567890.10, "b":"\\ud800"}'),
        ),
        (
            '{"topic":"room","event":"m","payload":null,"id":"x\\"y"}',
            "room",
            Broadcast("m", b"null", meta=b'{"id":"x\\"y"}'),
        ),
        # The last one counts.
        (
            '{"topic":"a","topic":"b","event":"m","payload":1,"payload":2}',
            "b",
            Broadcast("m", b"2"),
        ),
    ],
)
def test_what_is_broadcast(content: str, topic: str, expected: Broadcast) -> None:
    found = read_logical_broadcast(content.encode())
    assert found == (RoomName(f"realtime:{topic}"), expected)


MALFORMED = (
    b"",
    b"{",
    b"\xff",
    b"[]",
    b'"text"',
    b"null",
    b"{}",
    b'{"topic":"room"}',
    b'{"event":"m"}',
    b'{"topic":1,"event":"m"}',
    b'{"topic":"room","event":null}',
    b'{"topic":"room","event":"\\ud800"}',
    b'{"topic":"room","event":"m","id":5}',
    b'{"topic":"room","event":"m","private":true}',
    b'{"topic":"room","event":"m","payload":NaN}',
    b'{"topic":"room","event":"m","payload":1} 2',
    b'{"topic":"room","event":"m","payload":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
)


@pytest.mark.parametrize("content", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_not(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (whatever it says)
        read_logical_broadcast(content)


def message(content: bytes, prefix: str = LOGICAL_PREFIX) -> LogicalMessage:
    return LogicalMessage(LSN(1), prefix, content, None, 0)


async def test_members_of_the_public_room_get_what_is_understood() -> None:
    loop = Loop()
    broadcasts = DatabaseBroadcasts(
        loop.rooms, max_payload_bytes=1000, clock=lambda: 0.0, sends_logical=True
    )
    member, private = loop.join(), loop.join(PRIVATE)
    events = [
        message(b'{"topic":"room","event":"m","payload":1}'),
        message(b'{"topic":"room","event":"m","payload":2}', "another's"),
        message(b'{"topic":"room","event":"m","payload":3,"private":true}'),
        message(b'{"topic":"room","event":"m","payload":"' + b"x" * 1000 + b'"}'),
    ]
    assert list(broadcasts.sending(events)) == []
    assert inbox(member).payloads() == [1]
    assert inbox(private).payloads() == []
    stats = broadcasts.stats()
    assert stats.broadcasts == 1
    assert dict(stats.refused)["malformed"] == dict(stats.refused)["too_large"] == 1


async def test_what_is_far_too_long_is_not_even_read() -> None:
    loop = Loop()
    broadcasts = DatabaseBroadcasts(
        loop.rooms, max_payload_bytes=1000, clock=lambda: 0.0, sends_logical=True
    )
    head = b'{"topic":"room","event":"m","payload":'
    # No JSON, which nobody finds out.
    list(broadcasts.sending([message(head.ljust(70_000)), message(head.ljust(60_000))]))
    refused = dict(broadcasts.stats().refused)
    assert refused["too_large"] == refused["malformed"] == 1


def test_nothing_is_read_where_it_is_off() -> None:
    loop = Loop()
    broadcasts = DatabaseBroadcasts(loop.rooms, max_payload_bytes=1000, clock=lambda: 0.0)
    member = loop.join()
    list(broadcasts.sending([message(b'{"topic":"room","event":"m"}'), message(b"{")]))
    assert inbox(member).frames == []
    assert {count for _, count in broadcasts.stats().refused} == {0}
