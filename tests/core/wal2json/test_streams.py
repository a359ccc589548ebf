"""Streams and files, as pg_recvlogical writes them."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime_core import Begin, Commit, Insert, TruncatedMessageError
from realtime_core.wal2json import iter_changes, parse_file

ROW = '{"kind":"insert","table":"ü","columnnames":["a"],"columnvalues":[1.50]}'
FORMAT_1 = f'{{"change":[{ROW},{ROW}]}}'
FRAGMENTS = ['{"change":[', ROW, f",{ROW}", "]}"]
PRETTY = f'{{\n\t"xid": 7,\n\t"change": [\n\t\t{ROW}\n\t\t,{ROW}\n\t]\n}}'
ROW_2 = '{"action":"I","table":"ü","columns":[{"name":"a","value":1.50}]}'
FORMAT_2 = ['{"action":"B"}', ROW_2, ROW_2, '{"action":"C"}']

FILES = {
    "format 1, a text on each line": f"{FORMAT_1}\n",
    "format 1, without a line end": FORMAT_1,
    "format 1, pretty-print": f"{PRETTY}\n",
    "format 1, write-in-chunks": "".join(f"{part}\n" for part in FRAGMENTS),
    "format 2": "".join(f"{line}\n" for line in FORMAT_2),
    "format 2, without the last line end": "\n".join(FORMAT_2),
    "format 2, with empty lines": "\n\n".join(FORMAT_2),
    "format 2, without line ends": "".join(FORMAT_2),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_file_of_each_format(content: str, as_bytes: bool) -> None:
    file: Any = io.BytesIO(content.encode()) if as_bytes else io.StringIO(content)
    changes = list(parse_file(file))
    assert [type(change) for change in changes] == [Insert, Insert]
    assert {change.record.text("a") for change in changes} == {"1.50"}  # type: ignore[union-attr]
    assert not file.closed


def test_two_transactions_on_one_line() -> None:
    assert len(list(parse_file(io.StringIO(FORMAT_1 * 2)))) == 4


def test_boundaries() -> None:
    for content in (FORMAT_1, "\n".join(FORMAT_2)):
        events = list(parse_file(io.StringIO(content), boundaries=True))
        assert [type(event) for event in events] == [Begin, Insert, Insert, Commit]
        events = list(iter_changes([content], boundaries=True))
        assert [type(event) for event in events] == [Begin, Insert, Insert, Commit]


def test_a_file_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "changes.json"
    path.write_text(f"{FORMAT_1}\n", encoding="utf-8")
    with path.open("rb") as binary, path.open(encoding="utf-8") as text:
        assert len(list(parse_file(binary))) == len(list(parse_file(text))) == 2


@pytest.mark.parametrize(
    "content", [FORMAT_1[:-1], "\n".join(FORMAT_2)[:-1], "\n".join(FORMAT_2[:2])]
)
def test_a_file_that_is_cut_short_is_an_error(content: str) -> None:
    with pytest.raises(TruncatedMessageError):
        list(parse_file(io.BytesIO(content.encode())))
    with pytest.raises(TruncatedMessageError):
        list(iter_changes([content.encode()]))


@pytest.mark.parametrize("content", [b"", b"\n".join(line.encode() for line in FORMAT_2)])
def test_a_stream_that_ends_within_a_character_is_an_error(content: bytes) -> None:
    cut = content + "ü".encode()[:1]
    with pytest.raises(TruncatedMessageError, match="within a character"):
        list(iter_changes([cut]))
    # A byte alone is a chunk, too.
    with pytest.raises(TruncatedMessageError, match="within a character"):
        list(iter_changes([cut[i : i + 1] for i in range(len(cut))]))


def test_an_empty_stream_has_no_changes() -> None:
    assert list(parse_file(io.BytesIO())) == []
    assert list(iter_changes([])) == []


def test_chunks_of_any_kind() -> None:
    assert len(list(iter_changes(FRAGMENTS))) == 2
    assert len(list(iter_changes(part.encode() for part in FRAGMENTS))) == 2
    assert len(list(iter_changes(FORMAT_1))) == 2


def test_a_line_longer_than_a_block() -> None:
    value = "x" * 200_000
    line = ROW_2.replace("1.50", f'"{value}"')
    (change,) = parse_file(io.BytesIO(f"{line}\n".encode()))
    assert isinstance(change, Insert)
    assert change.record.text("a") == value


@pytest.mark.parametrize("as_bytes", [True, False])
def test_messages_longer_than_a_block_without_line_ends(as_bytes: bool) -> None:
    content = 3 * ROW_2.replace("1.50", f'"{"x" * 70_000}"')
    file: Any = io.BytesIO(content.encode()) if as_bytes else io.StringIO(content)
    assert [type(change) for change in parse_file(file)] == [Insert, Insert, Insert]


@pytest.mark.slow
def test_a_transaction_in_chunks_passes_in_constant_memory() -> None:
    row = ROW.replace("1.50", f'"{"x" * 1000}"')

    def chunks() -> Iterator[str]:
        yield FRAGMENTS[0]
        yield row
        for _ in range(5000):
            yield f",{row}"
        yield FRAGMENTS[-1]

    class File:
        """The same as one line of 5 MB that is never in memory as a whole."""

        def __init__(self) -> None:
            self.chunks = chunks()

        def readline(self, size: int = -1, /) -> str:
            return next(self.chunks, "")

    for stream in (iter_changes(chunks()), parse_file(File())):
        tracemalloc.start()
        assert sum(1 for _ in stream) == 5001
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 500_000
