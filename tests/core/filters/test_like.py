"""LIKE, held against the plainest way to say what it means."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import pytest

from realtime_core import FilterError
from realtime_core.filters import _like, parse_filter
from realtime_core.filters._long_text import searchable
from realtime_core.types.texts import fold
from tests.core.filters.helpers import relation

PARTS = ["a", "b", "%", "_", "*", "\\%", "\\_", "\\\\"]


def like(pattern: str) -> Callable[[str], bool]:
    test, _ = _like.like(pattern)
    return test


def plain(pattern: str, text: str) -> bool:
    """Match as the definition says, trying everything."""
    if not pattern:
        return not text
    head, rest = pattern[0], pattern[1:]
    if head in "%*":
        return any(plain(rest, text[place:]) for place in range(len(text) + 1))
    if head == "\\":
        head, rest = rest[0], rest[1:]
        return text.startswith(head) and plain(rest, text[1:])
    return bool(text) and head in ("_", text[0]) and plain(rest, text[1:])


@pytest.mark.slow
def test_random_patterns_match_as_the_definition_says() -> None:
    random = Random(1)
    matches = 0
    for _ in range(20_000):
        pattern = "".join(random.choices(PARTS, k=random.randint(0, 7)))
        text = "".join(random.choice("ab%_\\") for _ in range(random.randint(0, 8)))
        expected = plain(pattern, text)
        assert like(pattern)(text) is expected, (pattern, text)
        matches += expected
    assert matches > 2_000


@pytest.mark.slow
def test_long_pieces_are_found_as_short_ones_are() -> None:
    random = Random(2)
    for _ in range(300):
        text = "".join(random.choice("ab") for _ in range(400))
        at = random.randint(0, 250)
        piece = [random.choice((letter, "_")) for letter in text[at : at + 100]]
        if random.random() < 0.3:
            piece[50] = "c"
        pattern = f"%{''.join(piece)}%b"
        found = any(
            all(one in ("_", other) for one, other in zip(piece, text[start:-1], strict=False))
            for start in range(len(text) - len(piece))
        )
        assert like(pattern)(text) is (found and text.endswith("b"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern",
    [
        *("%a" * 2_000 + "%b", "%_" * 2_000 + "%b", "%" + "a_" * 2_000 + "b%", "_" * 4_000 + "%b"),
        *("%" + "a" * 4_000 + "_b%", "%" + "a" * 4_000 + "b%", "%a_" * 1_000 + "b%"),
    ],
)
def test_no_pattern_takes_long(pattern: str) -> None:
    text = "a" * 200_000
    begin = time.process_time()
    assert not like(pattern)(text)
    # Tried at each place, some of these would take minutes.
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("ä%", "ÄB", True),
        ("%É_", "xéy", True),
        ("i", "İ", True),
        ("\u0391\u03a3", "\u03b1\u03c2", False),
        ("\u0391\u03a3", "\u03b1\u03c3", True),
        ("straße", "STRASSE", False),
    ],
)
def test_ilike_folds_letter_by_letter(pattern: str, text: str, expected: bool) -> None:
    assert like(fold(pattern))(fold(text)) is expected


@pytest.mark.slow
def test_folding_keeps_the_length() -> None:
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    assert len(fold(every)) == len(every)


@pytest.mark.parametrize("pattern", ["\\", "a\\", "%\\"])
def test_a_backslash_at_the_end_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="must not end with a backslash"):
        like(pattern)
    assert like(pattern + "\\")(pattern.replace("%", "x"))


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["like", "ilike"])
def test_patterns_with_very_many_parts_are_refused(operator: str) -> None:
    # Compiling what a filter has room for takes 0.4 s.
    of = relation(v="text")
    part = "%a_%b"

    def text(*counts: int) -> str:
        return ",".join(f"v={operator}.{part * count}" for count in counts)

    parse_filter(text(200, 200, 200, 200, 199, 1)).compile(of)
    parse_filter(text(*[200] * 50).replace("_", "c")).compile(of)
    with pytest.raises(FilterError, match="more than 1,000 parts with _") as caught:
        parse_filter(text(200, 200, 200, 200, 200, 1)).compile(of)
    assert caught.value.problem.startswith("'%a_%b': with those before it")


@pytest.mark.slow
def test_short_texts_match_as_the_definition_says() -> None:
    # A piece of a pattern may be longer than what is left of the text.
    random = Random(1)
    for _ in range(20_000):
        pattern = "".join(random.choice("ab_%") for _ in range(random.randrange(9)))
        text = "".join(random.choice("ab") for _ in range(random.randrange(6)))
        assert like(pattern)(text) is plain(pattern, text), (pattern, text)


@pytest.mark.slow
def test_in_a_long_text_patterns_are_found_as_in_a_short_one() -> None:
    random = Random(4)
    letters = "abcé"
    matches = 0
    for _ in range(20):
        text = "".join(random.choices(letters, k=5000))
        long_text = searchable(text)
        for _ in range(500):
            parts = [
                "".join(
                    random.choices([*letters, "_", "d"], [8, 8, 8, 8, 2, 1], k=random.randint(0, 6))
                )
                for _ in range(random.randint(1, 3))
            ]
            pattern = "%".join(["", *parts, ""])
            found = like(pattern)(text)
            assert like(pattern)(long_text) is found, pattern
            matches += found
    assert 1000 < matches < 9000


@pytest.mark.slow
def test_thousands_of_patterns_that_a_long_text_cannot_have_are_not_looked_for() -> None:
    """Each search goes through all of it."""
    patterns = [like(f"*x*{number}x{number}*") for number in range(3000)]
    text = "xyab" * 12_500

    def seconds(text: str) -> float:
        begin = time.thread_time()
        assert not any(test(text) for test in patterns)
        return time.thread_time() - begin

    assert seconds(searchable(text)) < seconds(text) / 3
