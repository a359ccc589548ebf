r"""Regular expressions: RE2's syntax, with PostgreSQL's meaning or an error.

PostgreSQL's engine and Python's try again what did not fit, so a pattern can take for ever; RE2
reads a text once. RE2 is given a pattern as it stands, with two exceptions, so that it means what
PostgreSQL's ``~`` makes of it: the classes ``\w``, ``\s`` and ``[[:alpha:]]`` mean all of Unicode,
where RE2's own are ASCII's; and what both accept but understand differently, such as ``\b``, is
refused. ``docs/project/regular-expressions.md`` has the reasons.

Source: "POSIX Regular Expressions" in the PostgreSQL documentation; "Syntax" in RE2's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, Final

from ..types.base import UnreadableError

__all__ = ["has_regex", "regex"]

_MAX_MEMORY: Final = 1 << 20
"""The most bytes that RE2 uses for a pattern and its cache of states. They are enough for a pattern
of 6,000 instructions, and a pattern that is too large is refused within 5 ms."""
_LONGEST_SEARCHED: Final = 65_536
"""The most characters of a value that is searched."""
_MOST_STEPS: Final = 450_000
"""The most characters of a value, times the instructions of the pattern, where a class of Unicode's
counts as few. If RE2 cannot keep all states, it compares each character with all instructions
that the text may have led to. That takes 10 ns each, and cannot be stopped meanwhile."""
_ALWAYS: Final = 4
"""Instructions that every pattern has, in order to match anywhere."""

_LETTERS: Final = r"\p{L}\p{Nl}"
_BLANKS: Final = r"\t\n\v\f\r\x{85}\p{Z}"
_WORD: Final = rf"{_LETTERS}\p{{Nd}}_"
_GRAPHIC: Final = r"\p{L}\p{M}\p{N}\p{P}\p{S}\p{Cf}\p{Co}"
_CLASSES: Final = {
    "alpha": _LETTERS,
    "alnum": rf"{_LETTERS}\p{{Nd}}",
    "upper": r"\p{Lu}",
    "lower": r"\p{Ll}",
    "space": _BLANKS,
    "punct": r"\p{P}\p{S}",
    "cntrl": r"\p{Cc}",
    "graph": _GRAPHIC,
    "print": rf"{_GRAPHIC}\p{{Zs}}",
    "word": _WORD,
    # RE2's own are the same.
    **{name: f"[:{name}:]" for name in ("ascii", "blank", "digit", "xdigit")},
}
"""The replacements of named classes in bracket expressions."""
_SHORTHANDS: Final = {"s": _BLANKS, "w": _WORD}

_NO_BOUNDARY: Final = (
    "a word's boundary is not the same for RE2 beyond ASCII; write what may stand there, as in "
    r"(^|\W)word(\W|$)"
)
_REFUSED: Final = {
    **dict.fromkeys("bBmMyY", _NO_BOUNDARY),
    **dict.fromkeys("123456789", "RE2 has no back references"),
    "Q": r"\Q is not taken; write a backslash before each character that has a meaning",
    "x": r"PostgreSQL takes all digits behind \x; write four as \x{e9f1}",
}
"""Escapes that are refused: PostgreSQL and RE2 understand them differently, or RE2 does not say why
it refuses them."""

_IGNORES_CASE: Final = re.compile(r"\(\?[a-z]*i").match
# A bracket expression must end where RE2 finds its end: what stands in it counts as one.
_TOKEN: Final = re.compile(
    r"\\(?P<escape>[pP](?:\{[^}]*\}|.)|x[0-9a-fA-F]{3,}|[^x])"
    r"|(?P<bracket>\[\^?+\]?+(?:\\.|\[:\^?\w*+:\]|[^\]\\])*+\])"
    r"|(?P<lines>\(\?[a-zA-Z]*m)"
    r"|(?P<any>\.)",
    re.DOTALL,
)
_MEMBER: Final = re.compile(
    r"\\(?P<escape>x[0-9a-fA-F]{3,}|[^x])|\[:(?P<name>\^?\w*):\]|(?P<collating>\[[.=])", re.DOTALL
)
_MEMBER_OF_UNICODE: Final = re.compile(
    r"(?P<class>\\[pP](?:\{[^}]*\}|.)|\[:\^?\w*:\])|\\.", re.DOTALL
)


def has_regex() -> bool:
    """Say whether ``match`` and ``imatch`` can be used: whether google-re2 is installed."""
    try:
        _re2()
    except ValueError:
        return False
    return True


def regex(pattern: str, *, ignore_case: bool) -> tuple[Callable[[str], bool], int]:
    """Return the test of a pattern, and how many of RE2's instructions the pattern has.

    The test raises UnreadableError for a text that is too long to be searched for the pattern.

    Raises:
        ValueError: if the pattern is not RE2's, if PostgreSQL would understand it differently, or
            if google-re2 is not installed.
    """
    module = _re2()
    options = module.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = _MAX_MEMORY
    options.dot_nl = True
    options.case_sensitive = not ignore_case
    compiled = _compile(module, _widened(pattern, ignore_case=ignore_case), options)
    instructions = min(compiled.programsize, _narrow_size(module, pattern, options))
    longest = min(_LONGEST_SEARCHED, _MOST_STEPS // max(instructions - _ALWAYS, 1))
    search = compiled.search

    def test(text: str) -> bool:
        if len(text) > longest:
            raise UnreadableError(
                f"the regular expression is not looked for in more than {longest:,} characters"
            )
        return search(text.encode()) is not None

    return test, compiled.programsize


def _compile(module: Any, pattern: str, options: Any) -> Any:
    try:
        # The pattern is compiled as bytes. For a pattern of type str the module counts characters
        # in each text, which takes longer than the search.
        return module.compile(pattern.encode(), options)
    except module.error as exc:
        reason = exc.args[0].decode(errors="replace") if exc.args else "no reason given"
        raise ValueError(f"RE2 refuses it: {reason}") from None


def _re2() -> Any:
    try:
        import re2
    except ImportError:
        re2 = None
    # There is another package with this name.
    if not hasattr(re2, "Options"):
        raise ValueError("match and imatch need the package google-re2: pip install google-re2")
    return re2


def _widened(pattern: str, *, ignore_case: bool) -> str:
    """Return a pattern in which classes mean those of Unicode instead of those of ASCII.

    Raises:
        ValueError: if PostgreSQL would understand the pattern differently.
    """
    both_cases = ignore_case or _IGNORES_CASE(pattern) is not None

    def member(found: re.Match[str]) -> str:
        if found["collating"]:
            raise ValueError("[.x.] and [=x=] are not taken in brackets; write the character x")
        name = found["name"]
        if name is not None:
            if name not in _CLASSES:
                raise ValueError(f"there is no character class {name!r}")
            return _CLASSES["alpha" if both_cases and name in ("upper", "lower") else name]
        letter = found["escape"][0]
        if letter in "WS":
            raise ValueError(f"\\{letter} is not taken in brackets; write [^…] instead")
        if letter in "xQ":
            raise ValueError(_REFUSED[letter])
        return _SHORTHANDS.get(letter, found[0])

    def token(found: re.Match[str]) -> str:
        match found.lastgroup:
            case "bracket":
                return f"[{_MEMBER.sub(member, found[0][1:-1])}]"
            case "lines":
                raise ValueError("(?m) is not taken: PostgreSQL's . does not match a new line then")
            case "any":
                return "."
        letter = found["escape"][0]
        if letter in _REFUSED:
            raise ValueError(_REFUSED[letter])
        if letter in "ws":
            return f"[{_SHORTHANDS[letter]}]"
        return f"[^{_SHORTHANDS[letter.lower()]}]" if letter in "WS" else found[0]

    return _TOKEN.sub(token, pattern)


def _narrow_size(module: Any, pattern: str, options: Any) -> int:
    r"""Return how many instructions a pattern has if ASCII's ``\w`` stands for Unicode's classes.

    A class of Unicode's has up to 1,200, of which few are compared with one character. It takes up
    to 40 ns, so the 6 instructions of ``(\w)`` are enough. Classes that differ may become equal,
    and RE2 makes one of equal alternatives or of ``a*a*``, which it does not in the pattern that is
    searched. So each class is a group that captures: no two are equal.
    """
    options.never_capture = False
    try:
        size: int = _compile(module, _TOKEN.sub(_captured, pattern), options).programsize
    except ValueError:  # The groups can make it too large. The pattern itself is not.
        return sys.maxsize
    return size


def _captured(found: re.Match[str]) -> str:
    """Return a class as a group that captures, with ASCII's classes in place of Unicode's."""
    match found.lastgroup:
        case "bracket":
            return f"({_MEMBER_OF_UNICODE.sub(_ascii_member, found[0])})"
        case "escape" if found["escape"][0] not in "wWsSdDpP":
            return found[0]
        case "escape":
            return r"(\w)"
    return f"({found[0]})"


def _ascii_member(found: re.Match[str]) -> str:
    return r"\w" if found["class"] else found[0]
