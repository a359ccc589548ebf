"""Streams of text to pieces that are JSON."""

from __future__ import annotations

import time

import pytest

from realtime_core import DecodeError, TruncatedMessageError
from realtime_core.wal2json._splitter import Piece, Splitter


def split(*chunks: str) -> list[tuple[Piece, str]]:
    splitter = Splitter()
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk)]
    splitter.end()
    return pieces


FORMAT_2 = '{"action":"I","columns":[{"name":"]}\\"{","value":null}],"pk":[]}'


def test_objects_one_after_the_other() -> None:
    assert split(f' {FORMAT_2}\n{{"action":"C"}}{FORMAT_2} ') == [
        (Piece.OBJECT, FORMAT_2),
        (Piece.OBJECT, '{"action":"C"}'),
        (Piece.OBJECT, FORMAT_2),
    ]


def test_a_transaction_comes_in_parts() -> None:
    first, second = '{"kind":"insert","columnnames":["]"]}', '{"kind":"message"}'
    assert split(f'{{"xid":1,"change" : [\n{first} ,\t{second}]\n}}') == [
        (Piece.HEAD, '{"xid":1,"change" : ['),
        (Piece.CHANGE, first),
        (Piece.CHANGE, second),
        (Piece.TAIL, "]\n}"),
    ]


def test_a_transaction_without_changes_that_comes_at_once_is_an_object() -> None:
    assert split('{"change":[]}') == [(Piece.OBJECT, '{"change":[]}')]
    assert split('{"change":[', "]}") == [(Piece.HEAD, '{"change":['), (Piece.TAIL, "]}")]


@pytest.mark.parametrize(
    "text", [f"{FORMAT_2}\n{FORMAT_2}", '{"change":[{"a":["\\\\","\\""]},{}]}']
)
def test_the_pieces_are_the_same_wherever_it_is_cut(text: str) -> None:
    whole = split(text)
    for place in range(len(text)):
        assert split(text[:place], text[place:]) == whole
    assert split(*text) == whole


def test_only_a_list_of_changes_is_taken_apart() -> None:
    for text in ('{"other":["change"],"change":1}', '{"a":{"change":[{}]}}', '{"changes":[{}]}'):
        assert split(text) == [(Piece.OBJECT, text)]


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("x", 0, "an object"),
        ("[", 0, "an object"),
        ("{}}", 2, "an object"),
        ("{},{}", 2, "an object"),
        ('{"change":[ ,', 12, "a change or ']'"),
        ('{"change":[{"a":[{}]} {', 22, "',' or ']'"),
        ('{"change":[{"a":[{}]},]', 22, "a change"),
        ('{"change":[[{}]]}', 11, "a change or ']'"),
    ],
)
def test_what_cannot_come_is_an_error_that_says_where(text: str, place: int, expected: str) -> None:
    for chunks in ([text], list(text)):
        with pytest.raises(DecodeError) as caught:
            split(*chunks)
        assert f"at character {place} of the stream, where {expected} must" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["{", '{"change":[', '{"change":[{"a":[{}]}', '{"a":"', '{"a":"\\']
)
def test_a_stream_that_ends_within_an_object_is_truncated(text: str) -> None:
    with pytest.raises(TruncatedMessageError, match=f"after {len(text)} characters"):
        split(text)


def test_each_character_is_looked_at_once_however_small_the_chunks() -> None:
    """A value of 2 MB in chunks of 64 bytes: quadratic, it would take minutes."""
    chunk = "x" * 64
    splitter = Splitter()
    start = time.process_time()
    pieces = list(splitter.feed('{"a":"'))
    for _ in range(32_000):
        pieces += splitter.feed(chunk)
    pieces += splitter.feed('"}')
    assert len(pieces) == 1
    assert time.process_time() - start < 10
