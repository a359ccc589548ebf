from collections.abc import Callable

import pytest

from realtime_core import LSN, DecodeError, TruncatedMessageError
from realtime_core.pgoutput._reader import FieldReader

READS: list[tuple[Callable[[FieldReader], object], bytes, object]] = [
    (FieldReader.u8, b"\xff", 255),
    (FieldReader.letter, b"d", "d"),
    (FieldReader.i32, b"\xff\xff\xff\xff", -1),
    (FieldReader.u32, b"\xff\xff\xff\xff", 2**32 - 1),
    (FieldReader.i64, b"\xff\xff\xff\xff\xff\xff\xff\xff", -1),
    (FieldReader.lsn, b"\xff\xff\xff\xff\xff\xff\xff\xff", LSN(2**64 - 1)),
    (FieldReader.count16, b"\x7f\xff", 32767),
    (FieldReader.count32, b"\x7f\xff\xff\xff", 2**31 - 1),
    (FieldReader.sized, b"\x00\x00\x00\x02\x00\xff", b"\x00\xff"),
    (FieldReader.sized, b"\x00\x00\x00\x00", b""),
    (FieldReader.string, "ünï\0".encode(), "ünï"),
    (FieldReader.string, b"\x00", ""),
]

each_read = pytest.mark.parametrize(("read", "data", "value"), READS)


@each_read
def test_a_field_is_read_and_stepped_over(
    read: Callable[[FieldReader], object], data: bytes, value: object
) -> None:
    reader = FieldReader(b"_" + data + b"behind", 1)
    result = read(reader)
    assert (type(result), result) == (type(value), value)
    assert reader.offset == 1 + len(data)


@each_read
def test_a_field_that_is_cut_is_truncated(
    read: Callable[[FieldReader], object], data: bytes, value: object
) -> None:
    for length in range(len(data)):
        with pytest.raises(TruncatedMessageError):
            read(FieldReader(b"_" + data[:length], 1))


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (FieldReader.count16, b"\xff\xff"),
        (FieldReader.count32, b"\xff\xff\xff\xff"),
        (FieldReader.sized, b"\xff\xff\xff\xff"),
    ],
)
def test_a_negative_count_is_an_error(read: Callable[[FieldReader], object], data: bytes) -> None:
    with pytest.raises(DecodeError, match="negative count -1"):
        read(FieldReader(data))


def test_a_string_that_is_not_utf8_is_an_error() -> None:
    with pytest.raises(DecodeError, match="not UTF-8"):
        FieldReader(b"\xe4\x00").string()


def test_the_end_is_where_no_bytes_are_left() -> None:
    reader = FieldReader(b"\x01")
    with pytest.raises(DecodeError, match="1 bytes left over"):
        reader.end()
    reader.u8()
    reader.end()
