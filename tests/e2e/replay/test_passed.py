"""The reasons of repetitions, as the network tells them apart."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable

import pytest

from tests.e2e.replay.passed import REPEATED_FOR_NOTHING, Passed, Repetition, repetitions

HEAD = b"GET / HTTP/1.1\r\n\r\n"
NORMAL = b"\x88\x02\x03\xe8"
RESTARTS = b"\x88\x02" + struct.pack("!H", 1012)
"""Close frames, of which a client's may be unmasked here."""


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def frame(opcode: int, payload: bytes, *, mask: bytes = b"", rsv: int = 0) -> bytes:
    length = len(payload)
    masked = 0x80 if mask else 0
    head = struct.pack("!BB", 0x80 | rsv | opcode, masked | min(length, 126))
    if length > 125:
        head += struct.pack("!H", length)
    if mask:
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return head + mask + payload


def row(number: int) -> bytes:
    text = b'{"data":{"record":{"id":%d,"note":"%s"}}}' % (number, b"x" * number)
    return frame(1, text)


def ping(number: int) -> bytes:
    return frame(9, struct.pack("!Q", number))


def pong(number: int) -> bytes:
    return frame(10, struct.pack("!Q", number), mask=b"mask")


ANSWER = frame(8, struct.pack("!H", 1012), mask=b"mask")


def passed(clock: Clock, *rows: int) -> Passed:
    """Return a connection on which rows were passed, a ping, and half a row that is the next."""
    connection = Passed(clock)
    connection.to_server(HEAD)
    connection.to_client(HEAD + b"".join(map(row, rows)) + ping(1) + row(99)[:20])
    return connection


def again(connection: Passed, clock: Clock, kills: tuple[float, ...] = ()) -> dict[str, int]:
    connection.end()
    rows = repetitions([connection, passed(clock, 1, 2)], kills)
    return dict(Counter(one.reason for one in rows))


def test_rows_that_no_pong_has_proven_come_again_with_a_reason(clock: Clock) -> None:
    connection = passed(clock, 1)
    connection.to_client(row(99)[20:] + row(2))
    assert again(connection, clock) == {"not answered": 1, "passed just before": 1}


def test_rows_that_the_server_does_not_ask_for_come_again_for_another_reason(
    clock: Clock,
) -> None:
    connection = passed(clock, 1)
    connection.to_client(row(99)[20:] + row(2))
    clock.now = 3
    assert again(connection, clock) == {"not answered": 1, "not asked": 1}


def test_rows_that_a_pong_has_proven_come_again_for_nothing(clock: Clock) -> None:
    connection = passed(clock, 1)
    connection.to_client(row(99)[20:] + row(2))
    connection.to_server(pong(7) + pong(1))
    clock.now = 10
    assert again(connection, clock) == {REPEATED_FOR_NOTHING: 1, "not asked": 1}


def test_a_pong_right_before_the_end_may_not_have_been_read(clock: Clock) -> None:
    connection = passed(clock, 1, 2)
    connection.to_server(pong(1))
    clock.now = 0.5
    assert again(connection, clock) == {"not answered": 2}


def close_without_a_code(connection: Passed) -> None:
    connection.to_server(frame(8, b"", mask=b"mask"))


def close(connection: Passed) -> None:
    connection.to_server(NORMAL)


def answer_a_close(connection: Passed) -> None:
    connection.to_client(row(99)[20:] + RESTARTS)
    connection.to_server(ANSWER)


def cross_a_close(connection: Passed) -> None:
    connection.to_client(row(99)[20:] + RESTARTS)
    connection.to_server(NORMAL)


def nothing(connection: Passed) -> None:
    pass


@pytest.mark.parametrize(
    ("end", "kills", "reason"),
    [
        (nothing, (), REPEATED_FOR_NOTHING),
        (close, (), "closed by the client"),
        (close_without_a_code, (), "closed by the client"),
        (answer_a_close, (), REPEATED_FOR_NOTHING),
        (cross_a_close, (), "closed by the client"),
        (nothing, (3.0,), "killed server"),
        (nothing, (9.0,), REPEATED_FOR_NOTHING),
        # It was killed before.
        (nothing, (-1.0,), REPEATED_FOR_NOTHING),
    ],
)
def test_what_was_proven_comes_again_with_some_reasons(
    end: Callable[[Passed], None], kills: tuple[float, ...], reason: str, clock: Clock
) -> None:
    connection = passed(clock, 1, 2)
    clock.now = 1
    connection.to_server(pong(1))
    clock.now = 10
    end(connection)
    assert again(connection, clock, kills) == {reason: 2}


def test_an_answer_with_another_code_counts_if_everything_was_proven_before(clock: Clock) -> None:
    connection = passed(clock, 1, 2)
    connection.to_client(row(99)[20:] + row(3) + ping(2) + RESTARTS)
    connection.to_server(pong(2) + NORMAL)
    assert again(connection, clock) == {REPEATED_FOR_NOTHING: 2}


def test_who_answers_a_close_has_everything_that_came_before_whatever_pings_say(
    clock: Clock,
) -> None:
    connection = passed(clock, 1)
    connection.to_client(row(99)[20:] + row(2) + RESTARTS)
    clock.now = 10
    connection.to_server(ANSWER)
    assert again(connection, clock) == {REPEATED_FOR_NOTHING: 2}


@pytest.mark.parametrize(("seconds", "reason"), [(4, REPEATED_FOR_NOTHING), (5, "late answer")])
def test_a_join_that_is_answered_late_is_a_reason(seconds: int, reason: str, clock: Clock) -> None:
    connection = Passed(clock)
    connection.to_client(HEAD)
    connection.to_server(HEAD + frame(1, b'["1","1","realtime:room","phx_join",{}]', mask=b"mask"))
    connection.to_client(row(1) + ping(1))
    clock.now = seconds
    connection.to_server(pong(1))
    clock.now = 10
    assert again(connection, clock) == {reason: 1}


def test_a_row_that_comes_twice_on_one_connection_is_counted_apart(clock: Clock) -> None:
    connection = passed(clock, 1, 2, 1)
    assert repetitions([connection], ()) == [Repetition(1, "on one connection", connection)]


def test_rows_are_found_in_compressed_frames(clock: Clock) -> None:
    deflate = zlib.compressobj(wbits=-15)

    def compressed(number: int) -> bytes:
        text = b'{"record":{"id":%d}}' % number
        data = deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH)
        return frame(1, data.removesuffix(b"\x00\x00\xff\xff"), rsv=0x40)

    connection = Passed(clock)
    connection.to_client(HEAD + compressed(1) + compressed(2))
    assert connection.rows == [1, 2]
