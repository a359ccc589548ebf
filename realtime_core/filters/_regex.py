"""Regular expressions: PostgreSQL's, run by RE2.

PostgreSQL's engine and Python's try again what did not fit, so that a pattern can take
for ever; RE2 reads a text once. A pattern is taken apart as PostgreSQL does it and written
anew for RE2. What RE2 cannot do, back references and looking around, is refused, and so is
what would mean something else there.

Source: "POSIX Regular Expressions" in the PostgreSQL documentation; "Syntax" in RE2's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from ..types.base import UnreadableError

__all__ = ["has_regex", "regex", "to_re2"]

_MAX_MEMORY: Final = 1 << 20
"""Bytes that RE2 may use for one pattern and its cache of states: enough for both where the pattern
has 6,000 instructions, and what is too large is refused within 5 ms."""
_MOST_REPEATS: Final = 255
_LONGEST_SEARCHED: Final = 65_536
"""Characters of a row's value."""
_MOST_STEPS: Final = 350_000
"""Characters of a value times places in the pattern: where RE2 has too many states to keep, it
holds each character against all places that the text may have come to, 10 ns each, and cannot be
stopped meanwhile."""

_LETTERS: Final = r"\p{L}\p{Nl}"
_DIGITS: Final = "0-9"
_BLANKS: Final = r"\t\n\v\f\r\x{85}\p{Z}"
_WORD: Final = rf"{_LETTERS}\p{{Nd}}_"
_GRAPHIC: Final = r"\p{L}\p{M}\p{N}\p{P}\p{S}\p{Cf}\p{Co}"
_CLASSES: Final = {
    "alpha": _LETTERS,
    "digit": _DIGITS,
    "alnum": rf"{_LETTERS}\p{{Nd}}",
    "upper": r"\p{Lu}",
    "lower": r"\p{Ll}",
    "space": _BLANKS,
    "blank": r"\t\p{Zs}",
    "punct": r"\p{P}\p{S}",
    "cntrl": r"\p{Cc}",
    "graph": _GRAPHIC,
    "print": rf"{_GRAPHIC}\p{{Zs}}",
    "xdigit": "0-9A-Fa-f",
    "word": _WORD,
}
"""What RE2's own classes are, beyond ASCII."""
_SHORTHANDS: Final = {"d": _DIGITS, "s": _BLANKS, "w": _WORD}
_CONTROLS: Final = {
    **{"a": 7, "b": 8, "e": 27, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "B": 92},
}
_OPTIONS: Final = re.compile(r"\(\?([a-z]+)\)")
_BOUND: Final = re.compile(r"\{(\d{1,4})(?:(,)(\d{1,4})?)?\}", re.ASCII)
_HEX: Final = {"u": re.compile("[0-9a-fA-F]{4}"), "U": re.compile("[0-9a-fA-F]{8}")}
_HEX_RUN: Final = re.compile("[0-9a-fA-F]+")
_OCTAL: Final = re.compile("[0-7]{1,3}")
_NAMED: Final = re.compile(r"\[([:.=])(.*?)\1\]", re.DOTALL)

_NO_BOUNDARY: Final = (
    "a word's boundary is not the same for RE2 beyond ASCII; write what may stand there, as in "
    r"(^|\W)word(\W|$)"
)


def has_regex() -> bool:
    """Say whether ``match`` and ``imatch`` can be used: whether google-re2 is installed."""
    try:
        _re2()
    except ValueError:
        return False
    return True


def regex(pattern: str, *, ignore_case: bool) -> tuple[Callable[[str], bool], int]:
    """Return the test of a pattern, and how many of RE2's instructions it takes.

    The test raises UnreadableError for a text that is too long to be searched for this pattern.

    Raises:
        ValueError: if it is no pattern, if RE2 cannot do it, or if google-re2 is not installed.
    """
    translator = _Translator(pattern, ignore_case)
    translated = translator.translate()
    longest = min(_LONGEST_SEARCHED, _MOST_STEPS // max(translator.places, 1))
    module = _re2()
    options = module.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = _MAX_MEMORY
    try:
        # Patterns of bytes: for those of str the module counts characters, which takes
        # longer than the search.
        compiled = module.compile(translated.encode(), options)
    except module.error as exc:
        reason = exc.args[0].decode(errors="replace") if exc.args else "no reason given"
        raise ValueError(f"RE2 refuses it: {reason}") from None

    search = compiled.search

    def test(text: str) -> bool:
        if len(text) > longest:
            raise UnreadableError(
                f"the regular expression is not looked for in more than {longest:,} characters"
            )
        return search(text.encode()) is not None

    return test, compiled.programsize


def _re2() -> Any:
    try:
        import re2
    except ImportError:
        re2 = None
    # Another package has the same name.
    if not hasattr(re2, "Options"):
        raise ValueError("match and imatch need the package google-re2: pip install google-re2")
    return re2


def to_re2(pattern: str, *, ignore_case: bool = False) -> str:
    """Return RE2's spelling of a pattern.

    Raises:
        ValueError: if it is no pattern, or RE2 cannot do it.
    """
    return _Translator(pattern, ignore_case).translate()


class _Translator:
    def __init__(self, pattern: str, ignore_case: bool) -> None:
        self._pattern = pattern
        self._at = 0
        self._ignore_case = ignore_case
        self._out: list[str] = []
        # Places in each open group, the outermost first; and in what a quantifier would repeat.
        self._places = [0]
        self._repeated = 0

    @property
    def places(self) -> int:
        """Characters and classes of the pattern, as often as they are repeated by a bound."""
        return self._places[0]

    def translate(self) -> str:
        if self._pattern.startswith("***"):
            raise ValueError("*** is not taken here; write the pattern itself")
        options = _OPTIONS.match(self._pattern)
        if options is not None:
            self._set_options(options[1])
            self._at = options.end()
        depth = 0
        # Whether a quantifier may follow.
        atom = False
        while self._at < len(self._pattern):
            letter = self._pattern[self._at]
            if letter == "(":
                self._open()
                self._places.append(0)
                depth += 1
                atom = False
            elif letter == ")" and depth:
                self._put(")")
                depth -= 1
                self._count(self._places.pop())
                atom = True
            elif letter == ")":
                raise ValueError("parentheses do not match")
            elif letter in "|^$":
                self._put({"|": "|", "^": r"\A", "$": r"\z"}[letter])
                atom = False
            elif letter in "*+?" or (letter == "{" and self._is_bound()):
                if not atom:
                    raise ValueError(f"{letter!r} has nothing to repeat")
                self._quantifier()
                atom = False
            elif letter == "[":
                self._bracket()
                self._count(1)
                atom = True
            elif letter == "\\":
                atom = self._escape()
                self._count(1)
            elif letter == ".":
                self._put("(?s:.)")
                self._count(1)
                atom = True
            else:
                self._put(_literal(ord(letter)))
                self._count(1)
                atom = True
        if depth:
            raise ValueError("parentheses do not match")
        flags = "(?i)" if self._ignore_case else ""
        return flags + "".join(self._out)

    def _count(self, places: int) -> None:
        self._repeated = places
        self._places[-1] += places

    def _put(self, text: str, length: int = 1) -> None:
        self._out.append(text)
        self._at += length

    def _set_options(self, letters: str) -> None:
        for letter in letters:
            if letter == "i":
                self._ignore_case = True
            elif letter == "c":
                self._ignore_case = False
            elif letter not in "st":
                raise ValueError(f"the option (?{letter}) is not taken here; (?i) and (?c) are")

    def _open(self) -> None:
        if self._pattern.startswith("(?:", self._at):
            self._put("(?:", 3)
        elif self._pattern.startswith("(?", self._at):
            raise ValueError("looking ahead or behind, (?=…) and the like, cannot be done by RE2")
        else:
            self._put("(?:")

    def _is_bound(self) -> bool:
        return self._pattern[self._at + 1 : self._at + 2].isdecimal()

    def _quantifier(self) -> None:
        letter = self._pattern[self._at]
        if letter == "{":
            found = _BOUND.match(self._pattern, self._at)
            if found is None:
                raise ValueError("a bound is written {2}, {2,} or {2,5}")
            low, high = int(found[1]), int(found[3] or found[1])
            if max(low, high) > _MOST_REPEATS or low > high:
                raise ValueError(f"a bound goes from 0 to {_MOST_REPEATS}, the lower one first")
            self._places[-1] += self._repeated * max(high - 1, 0)
            self._put(found[0], len(found[0]))
        else:
            self._put(letter)
        # Not greedy: no matter for whether it matches.
        if self._pattern.startswith("?", self._at):
            self._at += 1

    def _escape(self) -> bool:
        letter = self._pattern[self._at + 1 : self._at + 2]
        if not letter:
            raise ValueError("a pattern must not end with a backslash")
        if letter == "A":
            self._put(r"\A", 2)
            return False
        if letter == "Z":
            self._put(r"\z", 2)
            return False
        if letter in "mMyY":
            raise ValueError(_NO_BOUNDARY)
        if letter in "dsw":
            self._put(f"[{_SHORTHANDS[letter]}]", 2)
        elif letter in "DSW":
            self._put(f"[^{_SHORTHANDS[letter.lower()]}]", 2)
        else:
            self._out.append(_literal(self._escaped_character()))
        return True

    def _escaped_character(self) -> int:
        r"""Read a backslash and what it means; in brackets and outside of them."""
        letter = self._pattern[self._at + 1 : self._at + 2]
        self._at += 2
        if not letter.isascii() or not letter.isalnum():
            return ord(letter)
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter == "c" and self._at < len(self._pattern):
            self._at += 1
            return ord(self._pattern[self._at - 1]) & 0x1F
        digits = _HEX.get(letter, _HEX_RUN if letter == "x" else None)
        if digits is not None:
            return self._code(digits, 16)
        if letter == "0":
            self._at -= 1
            return self._code(_OCTAL, 8)
        if letter.isdecimal():
            raise ValueError("a back reference cannot be done by RE2")
        raise ValueError(f"\\{letter} is not an escape")

    def _code(self, digits: re.Pattern[str], base: int) -> int:
        found = digits.match(self._pattern, self._at)
        if found is None:
            raise ValueError("digits are missing behind an escape")
        self._at = found.end()
        code = int(found[0], base) if len(found[0]) <= 16 else -1
        if not 0 < code <= 0x10FFFF or 0xD800 <= code < 0xE000:
            raise ValueError("there is no such character")
        return code

    def _bracket(self) -> None:
        if self._pattern.startswith(("[[:<:]]", "[[:>:]]"), self._at):
            raise ValueError(_NO_BOUNDARY)
        self._at += 1
        parts = ["["]
        if self._pattern.startswith("^", self._at):
            parts.append("^")
            self._at += 1
        first = True
        while first or not self._pattern.startswith("]", self._at):
            parts.append(self._member(first))
            first = False
        self._at += 1
        self._out.append(f"{''.join(parts)}]")

    def _member(self, first: bool) -> str:
        """Read one member of a bracket expression: a class, a character or a range."""
        low = self._end_point(first)
        if isinstance(low, str):
            if self._is_range():
                raise ValueError("a class cannot begin a range")
            return low
        if not self._is_range():
            return _literal(low)
        self._at += 1
        high = self._end_point(True)
        if isinstance(high, str) or high < low:
            raise ValueError("a range goes from a character up to another")
        if self._is_range():
            raise ValueError("two ranges cannot share an end")
        return f"{_literal(low)}-{_literal(high)}"

    def _is_range(self) -> bool:
        at = self._at
        return self._pattern.startswith("-", at) and not self._pattern.startswith("-]", at)

    def _end_point(self, first: bool) -> int | str:
        """Read a character's code, or a class, which is RE2's spelling of it."""
        named = _NAMED.match(self._pattern, self._at)
        if named is not None:
            return self._named(named)
        letter = self._pattern[self._at : self._at + 1]
        if not letter:
            raise ValueError("brackets do not match")
        if letter == "\\":
            shorthand = self._pattern[self._at + 1 : self._at + 2]
            if not shorthand:
                raise ValueError("brackets do not match")
            if shorthand in "dsw":
                self._at += 2
                return _SHORTHANDS[shorthand]
            if shorthand in "DSW":
                raise ValueError(f"\\{shorthand} is not taken in brackets; write [^…] instead")
            return self._escaped_character()
        if letter == "-" and not first and not self._pattern.startswith("-]", self._at):
            raise ValueError("a hyphen in brackets comes first or last, or behind a backslash")
        self._at += 1
        return ord(letter)

    def _named(self, found: re.Match[str]) -> int | str:
        kind, name = found.groups()
        self._at = found.end()
        if kind == ":":
            if name not in _CLASSES:
                raise ValueError(f"there is no character class {name!r}")
            # Both cases are either case.
            if self._ignore_case and name in ("upper", "lower"):
                name = "alpha"
            return _CLASSES[name]
        if len(name) != 1:
            raise ValueError(f"{found[0]} is more than a character")
        return ord(name)


def _literal(code: int) -> str:
    letter = chr(code)
    return letter if letter.isascii() and letter.isalnum() else f"\\x{{{code:x}}}"
