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

from realtime_core.pgoutput import Assembler, BeginMessage, CommitMessage, Decoder, InsertMessage
from realtime_core.pgoutput.messages import Message
from realtime_core.replication.protocol import parse_copy_data

capture = Path(sys.argv[1])
payloads = read_capture(capture)
copy_data = [
    memoryview(data) for data in read_capture(capture.with_name("mixed_v1_copydata.bin.gz"))
]
messages = list(map(Decoder().decode, payloads))
ends = [payload for payload in payloads if payload[:1] in (b"B", b"C")]
end_messages = [
    message for message in messages if isinstance(message, BeginMessage | CommitMessage)
]
rows = sum(payload[:1] in (b"I", b"U", b"D") for payload in payloads)

# A table of one column, and a row of it that is null.
TABLE = b"R\0\0\x40\0public\0t\0d\0\1\0c\0\0\0\0\x17\xff\xff\xff\xff"
ROW = b"I\0\0\x40\0N\0\1n"


def loop() -> None:
    for _ in payloads:
        pass


def unpack_copy_data() -> None:
    for data in copy_data:
        parse_copy_data(data)


def decode(batch: list[bytes]) -> None:
    decode = Decoder().decode
    for payload in batch:
        decode(payload)


def decode_bare_rows() -> None:
    decode = Decoder().decode
    decode(TABLE)
    for _ in range(rows):
        decode(ROW)


def make_messages() -> None:
    for _ in range(rows):
        InsertMessage(16384, (None,), None)


def assemble(batch: list[Message]) -> None:
    feed = Assembler().feed
    for message in batch:
        for _ in feed(message):
            pass


def assemble_bare_rows() -> None:
    decode, feed = Decoder().decode, Assembler().feed
    feed(messages[0])
    feed(decode(TABLE))
    message = decode(ROW)
    for _ in range(rows):
        for _ in feed(message):
            pass


cases: dict[str, Callable[[], object]] = {
    "loop": loop,
    "copydata": unpack_copy_data,
    "decode": lambda: decode(payloads),
    "decode begin and commit": lambda: decode(ends),
    "decode bare rows": decode_bare_rows,
    "make messages": make_messages,
    "assemble": lambda: assemble(messages),
    "assemble begin and commit": lambda: assemble(end_messages),
    "assemble bare rows": assemble_bare_rows,
}

serve(cases)
