"""Files of every form give the same events."""

from __future__ import annotations

import gzip
import io
import os
import struct
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import DecodeError, Event, Insert, TruncatedMessageError
from realtime_core._cli.captures import Capture
from realtime_core.lsn import LSN
from realtime_core.pgoutput import (
    BeginMessage,
    CommitMessage,
    InsertMessage,
    Message,
    RelationColumn,
    RelationMessage,
)
from tests.core import captures
from tests.core.wal2json import captures as wal2json_captures
from tests.pgoutput_encoder import encode
from tests.pgoutput_streams import Server, seen
from tests.property.examples import examples

pytestmark = pytest.mark.slow


def framed(payloads: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack("!I", len(payload)) + payload for payload in payloads)


def copy_data(payloads: Iterable[bytes]) -> bytes:
    """With a keepalive behind each message."""
    header = struct.pack("!QQq", 1, 2, 3)
    keepalive = b"k" + struct.pack("!QqB", 1, 2, 0)
    return framed(part for payload in payloads for part in (b"w" + header + payload, keepalive))


def recvlogical(payloads: Iterable[bytes]) -> bytes:
    return b"".join(payload + b"\n" for payload in payloads)


def hexadecimal(payloads: Iterable[bytes]) -> bytes:
    return b"".join(b"\\x" + payload.hex().encode() + b"\n" for payload in payloads)


FORMS: dict[str, Callable[[Iterable[bytes]], bytes]] = {
    "framed": framed,
    "copy_data": copy_data,
    "recvlogical": recvlogical,
    "hexadecimal": hexadecimal,
    "framed_gzip": lambda payloads: gzip.compress(framed(payloads)),
    "recvlogical_gzip": lambda payloads: gzip.compress(recvlogical(payloads)),
}

PGOUTPUT = (
    *("truncate_message_origin.bin", "types_binary.bin", "stream_v4_on.bin.gz"),
    *("stream_v2_binary.bin.gz", "twophase_v4_stream_parallel.bin.gz", "replica_identity.bin"),
)
WAL2JSON = (
    *("wal2json_v1_types.bin", "wal2json_v2_types.bin", "wal2json_v1_chunks.bin"),
    *("wal2json_v1_truncate_message.bin", "wal2json_v2_truncate_message.bin"),
)


def decode(data: bytes) -> list[Any]:
    return list(Capture(io.BytesIO(data)))


def seen_all(events: Iterable[Event]) -> list[Any]:
    return [seen(event) for event in events]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PGOUTPUT)
def test_a_pgoutput_capture_in_every_form(name: str, form: str) -> None:
    data = FORMS[form](captures.payloads(name))
    assert seen_all(decode(data)) == seen_all(captures.events(name))


@pytest.mark.parametrize("form", [form for form in FORMS if "recvlogical" not in form])
@pytest.mark.parametrize("name", WAL2JSON)
def test_a_wal2json_capture_in_every_form(name: str, form: str) -> None:
    data = FORMS[form](wal2json_captures.texts(name))
    assert seen_all(decode(data)) == seen_all(wal2json_captures.events(name))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("name", WAL2JSON)
def test_wal2json_as_pg_recvlogical_writes_it(name: str, pack: Callable[[bytes], bytes]) -> None:
    data = recvlogical(wal2json_captures.texts(name))
    assert seen_all(decode(pack(data))) == seen_all(wal2json_captures.events(name))


@examples(30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.booleans())
def test_any_stream_is_cut_where_its_messages_end(seed: int, steps: int, parallel: bool) -> None:
    server = Server(Random(seed), parallel=parallel)
    for _ in range(steps):
        server.step()
    payloads = [encode(message) for message in server.messages]
    assert seen_all(decode(recvlogical(payloads))) == server.expected


def transaction(*texts: str) -> list[bytes]:
    """Return a transaction that inserts rows of one column."""
    columns = (RelationColumn(1, "v", 25, -1),)
    messages: list[Message] = [
        BeginMessage(LSN(0x0A0A0A), 0x0A0A, 0x0A0A0A0A),
        RelationMessage(0x0A0A, "line\nfeed", "\n", "d", columns, None),
        *(InsertMessage(0x0A0A, (text,), None) for text in texts),
        CommitMessage(0, LSN(0x0A0A0A), LSN(0x0A0A0A0A0A), 0x0A0A),
    ]
    return [encode(message) for message in messages]


@pytest.mark.parametrize(
    "texts",
    [
        ("\n",),
        ("\n" * 1000, "x", "\n"),
        ("a\nB" * 40_000, "C\n" * 300_000, ""),
        ("x" * 300_000 + "\n" + "x" * 300_000,),
        ("\n" + "x" * 300_000, "\n", "x" * 300_000 + "\n"),
    ],
    ids=["one", "only", "many", "middle", "ends"],
)
def test_line_feeds_within_messages(texts: tuple[str, ...]) -> None:
    events = decode(recvlogical(transaction(*texts) * 3))
    inserted = [event.record["v"] for event in events if isinstance(event, Insert)]
    assert inserted == list(texts) * 3


def test_a_message_full_of_line_feeds_takes_few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = 0
    original = captures.Decoder.decode

    def counting(self: Any, data: bytes) -> Message:
        nonlocal attempts
        attempts += 1
        return original(self, data)

    monkeypatch.setattr("realtime_core.pgoutput.decoder.Decoder.decode", counting)
    assert len(decode(recvlogical(transaction("\n" * 1_000_000)))) == 3
    assert attempts < 100


@pytest.mark.parametrize("form", ["recvlogical", "framed", "hexadecimal"])
def test_a_pipe_is_decoded_as_it_fills(form: str) -> None:
    """A message's events are there before the next one is written, whatever is in it."""
    begin, relation, *others = transaction("one\n", "two")
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as file, os.fdopen(writing, "wb", buffering=0) as pipe:
        events = iter(Capture(file))
        for _ in range(2):
            pipe.write(FORMS[form]([begin, relation]))
            found = [next(events)]
            for payload in others:
                pipe.write(FORMS[form]([payload]))
                # This hangs if it waits for more.
                found.append(next(events))
            names = [type(event).__name__ for event in found]
            assert names == ["Begin", "Insert", "Insert", "Commit"]


@pytest.mark.parametrize("data", [b"", gzip.compress(b"")], ids=["plain", "gzip"])
def test_an_empty_file_has_no_events(data: bytes) -> None:
    assert decode(data) == []


@pytest.mark.parametrize(
    "data",
    [
        b"CC = gcc\n",  # its first letter is a pgoutput tag
        b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x00\x00\x00\x04abcd",
        b"\x00\x00",
        b"\x00\x00\x00\x00",
        b"\\xzz\n",
        b'{"id": 1}\n',
        b"\xff\xfe\x00\x01 some text in UTF-16",
        framed([b"w" + bytes(24) + b"?"]),
    ],
)
def test_what_is_no_capture_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data)


@pytest.mark.parametrize("form", [form for form in FORMS if "gzip" not in form])
def test_a_file_that_ends_within_a_transaction(form: str) -> None:
    payloads = transaction("one", "two")[:-1]
    events = iter(Capture(io.BytesIO(FORMS[form](payloads))))
    assert [type(next(events)).__name__ for _ in range(3)] == ["Begin", "Insert", "Insert"]
    with pytest.raises(TruncatedMessageError, match="within a transaction"):
        next(events)


@pytest.mark.parametrize("form", ["framed", "recvlogical"])
def test_a_file_that_ends_anywhere(form: str) -> None:
    payloads = transaction("one\n", "two")
    data = FORMS[form](payloads)
    ends = {len(FORMS[form](payloads[:count])) for count in range(len(payloads) + 1)}
    for size in range(1, len(data)):
        capture = Capture(io.BytesIO(data[:size]))
        # Cut within its first message, it may be anything.
        expected = "within a transaction" if size in ends else "within a message|not a capture"
        with pytest.raises(DecodeError, match=expected):
            list(capture)


def test_the_number_of_the_message_that_is_wrong() -> None:
    payloads = transaction("one", "two")
    capture = Capture(io.BytesIO(framed([*payloads[:3], b"?"])))
    with pytest.raises(DecodeError, match="unknown pgoutput message"):
        list(capture)
    assert capture.messages == 4
