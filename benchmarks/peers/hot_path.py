"""Where the time of the hot path goes: its stages, each a pass over the same capture.

    python hot_path.py CAPTURE

A stage that cannot run alone is measured with what comes before it; the benchmark subtracts.
What a row costs besides its fields is that of a row with a single null.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from worker import read_capture, serve

from realtime_core.pgoutput import ChangeDecoder, Decoder, InsertMessage
from realtime_core.replication.protocol import TAG_XLOG_DATA, XLOG_DATA_HEADER

capture = Path(sys.argv[1])
payloads = read_capture(capture)
copy_data = [
    memoryview(data) for data in read_capture(capture.with_name("mixed_v1_copydata.bin.gz"))
]
ends = [payload for payload in payloads if payload[:1] in (b"B", b"C")]
rows = [payload for payload in payloads if payload[:1] in (b"I", b"U", b"D")]

# A table of one column, and a row of it that is null.
TABLE = b"R\0\0\x40\0public\0t\0d\0\1\0c\0\0\0\0\x17\xff\xff\xff\xff"
ROW = b"I\0\0\x40\0N\0\1n"


def loop() -> None:
    for _ in payloads:
        pass


def unpack_copy_data() -> None:
    for data in copy_data:
        if data[0] == TAG_XLOG_DATA:
            bytes(data[XLOG_DATA_HEADER:])


# Messages


def decode(batch: list[bytes]) -> None:
    decode = Decoder().decode
    for payload in batch:
        decode(payload)


def decode_bare_rows() -> None:
    decode = Decoder().decode
    decode(TABLE)
    for _ in rows:
        decode(ROW)


def make_messages() -> None:
    for _ in rows:
        InsertMessage(16384, (None,), None)


# Changes


def begin_and_commit() -> None:
    for _ in ChangeDecoder().decode(ends):
        pass


cases: dict[str, Callable[[], object]] = {
    "loop": loop,
    "copydata": unpack_copy_data,
    "decode": lambda: decode(payloads),
    "decode begin and commit": lambda: decode(ends),
    "decode bare rows": decode_bare_rows,
    "make messages": make_messages,
    "begin and commit": begin_and_commit,
}

serve(cases)
