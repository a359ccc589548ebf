"""Rows in the text format of COPY."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import DecodeError
from realtime_core.snapshot.copy_text import read_rows

# As PostgreSQL's CopyAttributeOutText() does.
ESCAPES = str.maketrans(
    {
        **{"\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"},
        "\\": r"\\",
    }
)
TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=6)
FIELDS = st.none() | TEXTS | st.sampled_from(["", "\\N", "\\", "N", "\t", "\\n"])


def written(rows: list[tuple[str | None, ...]]) -> bytes:
    lines = ("\t".join(r"\N" if f is None else f.translate(ESCAPES) for f in row) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[FIELDS] * width))))
def test_what_was_written_is_read(rows: list[tuple[str | None, ...]]) -> None:
    assert read_rows(written(rows), len(rows[0]) if rows else 1) == rows


def test_rows_without_columns_are_counted() -> None:
    assert read_rows(b"\n\n", 0) == [(), ()]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"1\t2\n1\n", "has 1 fields, its table 2 columns"),
        (b"1\t2\n1\t2", "has no end"),
        (b"1\t\xff\n", "not UTF-8"),
    ],
)
def test_what_no_server_writes_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(DecodeError, match=problem):
        read_rows(data, 2)
