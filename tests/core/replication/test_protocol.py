import struct

import pytest

from realtime_core.errors import DecodeError, TruncatedMessageError
from realtime_core.lsn import LSN
from realtime_core.replication.protocol import (
    Keepalive,
    XLogData,
    format_status_update,
    parse_copy_data,
    sent,
)

XLOG = b"w" + struct.pack("!QQq", 0xA8_FF4A_F350, 0xA9_0000_0000, 7) + b"payload"
KEEPALIVE = b"k" + struct.pack("!QqB", 0xA8_FF4A_F350, -1, 1)


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_xlog_data_has_its_header_and_payload(kind: type) -> None:
    message = parse_copy_data(kind(XLOG))
    assert message == XLogData(0xA8_FF4A_F350, 0xA9_0000_0000, 7, b"payload")
    assert isinstance(message, XLogData)
    assert type(message.payload) is bytes


def test_a_keepalive_says_whether_it_wants_an_answer() -> None:
    assert parse_copy_data(KEEPALIVE) == Keepalive(LSN(0xA8_FF4A_F350), -1, True)
    assert parse_copy_data(KEEPALIVE[:-1] + b"\0") == Keepalive(LSN(0xA8_FF4A_F350), -1, False)


@pytest.mark.parametrize("size", range(25))
def test_a_truncated_header_is_an_error(size: int) -> None:
    with pytest.raises(TruncatedMessageError):
        parse_copy_data(XLOG[:size])


def test_a_keepalive_has_an_exact_length() -> None:
    for wrong in (KEEPALIVE[:-1], KEEPALIVE + b"\0"):
        with pytest.raises(DecodeError):
            parse_copy_data(wrong)


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(DecodeError, match="unknown CopyData 'z'"):
        parse_copy_data(b"z" + bytes(24))


def test_a_status_update_has_three_positions_and_a_time() -> None:
    update = format_status_update(written=LSN(3), flushed=LSN(2), applied=LSN(1), time=9)
    assert update == b"r" + struct.pack("!QQQqB", 3, 2, 1, 9, 0)
    asking = format_status_update(
        written=LSN(3), flushed=LSN(2), applied=LSN(1), time=9, reply_requested=True
    )
    assert asking == update[:-1] + b"\1"


def test_where_the_server_stood_is_read_without_the_payload() -> None:
    assert sent(XLOG) == (0xA8_FF4A_F350, 7)
    assert sent(memoryview(KEEPALIVE)) == (0xA8_FF4A_F350, -1)
    for other in (b"", b"w", b"k\0", b"z" + bytes(24)):
        assert sent(other) == (0, 0)
