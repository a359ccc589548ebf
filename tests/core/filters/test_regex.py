"""RE2's regular expressions, with the meaning that PostgreSQL gives them."""

from __future__ import annotations

import sys
import time
from types import ModuleType

import pytest

from realtime_core import FilterError, FilterMatchError
from realtime_core.filters import has_regex, parse_filter
from realtime_core.filters._regex import regex
from realtime_core.types.base import UnreadableError
from tests.core.filters.helpers import relation, row


def matches(pattern: str, text: str, *, ignore_case: bool = False) -> bool:
    test, _ = regex(pattern, ignore_case=ignore_case)
    return test(text)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("b", "abc", True),
        ("^b", "abc", False),
        ("a.c", "a\nc", True),
        ("^b", "a\nb", False),
        ("a$", "a\n", False),
        (r"\w", "é", True),
        (r"^\w+$", "größe_1", True),
        (r"\W", "é", False),
        (r"^[[:alpha:]]+$", "漢字", True),
        (r"\s", "\u00a0", True),
        (r"^\d$", "٣", False),
        (r"[\s]", "\u2028", True),
        (r"[^\w]", "é", False),
        (r"\S", "\v", False),
        (r"^\x41$", "A", True),
        (r"^\x41G", "AG", True),
        (r"^\x{e9}$", "é", True),
        (r"^\012$", "\n", True),
        (r"\A(a|b)$", "b", True),
        (r"\\w", "\\w", True),
        (r"\[\w\]", "[é]", True),
        ("^[]a]+$", "]a", True),
        ("^[^]a]$", "]", False),
        ("^[a-c]+$", "abc", True),
        ("^[a-]+$", "-a", True),
        (r"^[\]\\]+$", "]\\", True),
        ("^[[a]+$", "[a", True),
        ("^[x[:digit:]y]+$", "x1y", True),
        ("[[:cntrl:]]", "\u0085", True),
        ("^[[:ascii:]]$", "a", True),
        ("a{", "a{", True),
        ("a{,2}", "a{,2}", True),
        ("^a{2,3}$", "aaa", True),
        ("^a*?$", "aa", True),
        ("a|", "x", True),
        ("()", "", True),
        ("(?i)ABC", "abc", True),
        ("(?:ab)+", "xabab", True),
        ("(?si)É", "é", True),
        # What PostgreSQL does not have.
        (r"^\p{Greek}\PN$", "\u03c9x", True),
        ("a(?i:B)", "ab", True),
        ("(?P<year>[0-9]{4})", "2026", True),
        ("a.b", "aéb", True),
        ("^.$", "🙂", True),
        ("[[:punct:]]", "🙂", True),
    ],
)
def test_a_pattern_matches_as_in_postgresql(pattern: str, text: str, expected: bool) -> None:
    assert matches(pattern, text) is expected


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("É", "é", True),
        ("[A-C]", "b", True),
        ("^[[:upper:]]$", "é", True),
        ("[[:lower:]]", "漢", True),
    ],
)
def test_imatch_ignores_case(pattern: str, text: str, expected: bool) -> None:
    assert matches(pattern, text, ignore_case=True) is expected


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        # RE2 understands them, and PostgreSQL understands something else.
        (r"\bword\b", "a word's boundary"),
        (r"\B", "a word's boundary"),
        (r"\x41B", r"write four as \\x\{e9f1\}"),
        (r"[\x41B]", r"write four as \\x\{e9f1\}"),
        (r"(.)(.)(.)(.)(.)(.)(.)(.)(.)(.)\10", "no back references"),
        ("[[.a.]]", r"\[.x.\] and \[=x=\] are not taken"),
        ("[b[=a=]]", r"\[.x.\] and \[=x=\] are not taken"),
        ("(?m)^a", r"\(\?m\) is not taken"),
        ("(?im)^a", r"\(\?m\) is not taken"),
        ("[[:^alpha:]]", "no character class '\\^alpha'"),
        (r"[\W]", r"\\W is not taken in brackets"),
        (r"\Q[\E", r"\\Q is not taken"),
        # PostgreSQL has them, and RE2 does not.
        (r"(a)\1", "no back references"),
        ("a(?=b)", r"RE2 refuses it: invalid perl operator: \(\?="),
        ("(?<!a)b", r"RE2 refuses it: invalid perl operator: \(\?<!"),
        (r"\yword\y", "a word's boundary"),
        (r"\mword\M", "a word's boundary"),
        ("[[:<:]]word", "RE2 refuses it: invalid character class range"),
        (r"a\Z", r"RE2 refuses it: invalid escape sequence: \\Z"),
        (r"\u00e9", r"RE2 refuses it: invalid escape sequence: \\u"),
        ("***=a.b", "RE2 refuses it: no argument for repetition operator"),
        ("(?x)a b", r"RE2 refuses it: invalid perl operator: \(\?x"),
        # Nobody has them.
        ("a**", r"RE2 refuses it: bad repetition operator: \*\*"),
        ("*a", "RE2 refuses it: no argument for repetition operator"),
        ("(a", r"RE2 refuses it: missing \)"),
        ("a)", r"RE2 refuses it: unexpected \)"),
        ("[a", r"RE2 refuses it: missing \]"),
        ("[", r"RE2 refuses it: missing \]"),
        ("[\\", "RE2 refuses it"),
        ("[b-a]", "RE2 refuses it: invalid character class range: b-a"),
        ("[[:nope:]]", "no character class 'nope'"),
        ("a{1001}", "RE2 refuses it: invalid repetition size"),
        ("a{3,2}", "RE2 refuses it: invalid repetition size"),
        ("a\\", "RE2 refuses it: trailing"),
        (r"\q", r"RE2 refuses it: invalid escape sequence: \\q"),
        ("((((a{200}){200}){200}){200})", "RE2 refuses it"),
    ],
)
def test_what_cannot_be_done_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        regex(pattern, ignore_case=False)


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|a)*b", "(a|aa)+$", "(?:a?){7}[ab]{2}x*b?c"])
def test_no_pattern_takes_long(pattern: str) -> None:
    begin = time.process_time()
    matches(pattern, "a" * 20_000 + "c")
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("pattern", "longest"),
    [
        *(("a", 65_536), ("", 65_536), ("^$", 65_536), (r"^[a-z]+@[a-z]+$", 65_536)),
        ("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", 6_617),
        *(("milk.*bread$", 28_125), ("a{100}", 4_500), (r"\w{4}\pN{96}", 900)),
        *(("((a{2}b){3}c){4}", 11_250), ("(?:a?[ab]?){250}", 450)),
    ],
)
def test_a_pattern_with_many_instructions_is_looked_for_in_fewer_characters(
    pattern: str, longest: int
) -> None:
    # RE2 takes 1 s for some with 3,000 of them, in 64 KB.
    matches(pattern, "c" * longest)
    with pytest.raises(UnreadableError, match=f"in more than {longest:,} characters"):
        matches(pattern, "c" * (longest + 1))


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            ("[" * 1000),
            ("[[:" * 333),
            ("[a" * 500),
            ("[[:a:]" * 166),
            ("(?" * 500),
            ("\\p{" * 333),
        ),
        *(("[^]" * 333), ("[\\]" * 333)),
    ],
    ids=lambda pattern: pattern[:6],
)
def test_no_pattern_takes_long_to_read(pattern: str) -> None:
    # The quickest of three: a garbage collection of all tests' objects takes long, too.
    taken = []
    for _ in range(3):
        begin = time.process_time()
        with pytest.raises(ValueError, match=r"RE2 refuses|no character class"):
            regex(pattern, ignore_case=False)
        taken.append(time.process_time() - begin)
    assert min(taken) < 0.1


@pytest.mark.parametrize(
    "pattern",
    ["(a?[ab]?){1,250}(a?[ab]?){1,250}(a?[ab]?){1,250}x", "((a|b){1,50}[ab]{1,50}){1,12}x"],
)
def test_a_pattern_that_re2_is_slow_with_takes_no_long_value(pattern: str) -> None:
    with pytest.raises(UnreadableError):
        matches(pattern, "ab" * 32_768)


_OTHERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.mark.parametrize(
    "pattern",
    [
        f"{start}(?:{'|'.join(alternative % other for other in _OTHERS)})~"
        for start, alternative in (
            ("[aeio ]", "[a-z %s]{9}"),
            ("a", "[ab%s]{9}"),
            ("a", r"[\w%s-]{9}"),
            ("a", r"[\p{Greek}ab%s]{9}"),
        )
    ],
)
def test_alternatives_with_different_classes_count_each(pattern: str) -> None:
    # 36 times 9 classes. If they counted as nine, a search took 160 ms.
    with pytest.raises(UnreadableError):
        matches(pattern, "a" * (450_000 // (36 * 9) + 1))


def test_patterns_that_are_too_large_together_are_refused() -> None:
    large = ",".join(f'v=match."{number}\\\\w"' for number in range(500))
    with pytest.raises(FilterError, match="the filter's patterns are too large: RE2 has 6,"):
        parse_filter(large).compile(relation(v="text"))
    usual = ",".join(f"v=match.^{number}[a-z0-9._-]+@[a-z0-9.-]+$" for number in range(100))
    parse_filter(usual).compile(relation(v="text"))
    parse_filter(r'v=match."\\w+@\\w+\\.\\w+"').compile(relation(v="text"))


@pytest.mark.parametrize("pattern", [r"\w{255}", r"\w{90}", r"(\w{20}){20}", "[[:punct:]]{255}"])
def test_a_pattern_that_is_too_large_is_refused_soon(pattern: str) -> None:
    quoted = pattern.replace("\\", "\\\\")
    begin = time.process_time()
    with pytest.raises(FilterError, match="too large"):
        parse_filter(f'v=match."{quoted}"').compile(relation(v="text"))
    # Compiled without a bound the largest takes seconds.
    assert time.process_time() - begin < 0.5


@pytest.mark.parametrize("test", ["like.*a*", "ilike.*A*", "match.a", "not.like.*b*"])
def test_a_value_that_is_too_long_to_be_searched_passes_nothing(test: str) -> None:
    table = relation(v="text")
    compiled = parse_filter(f"v={test}").compile(table)
    assert compiled(row(table, "a" * 65_536))
    with pytest.raises(FilterMatchError, match="not looked for in more than 65,536 characters"):
        compiled(row(table, "a" * 65_537))


def test_a_filter_tells_what_it_costs() -> None:
    values = ",".join(map(str, range(25)))
    written = parse_filter(rf'or=(id.eq.1,id.in.({values}),v.match."^\\w$",v.like.a)')
    assert written.conditions == 1 + 3 + 1 + 1
    assert 1000 < written.regex_size() < 1500
    assert written.weight == 1 + 3 + 50 + 1
    assert (parse_filter("").conditions, parse_filter("").regex_size()) == (0, 0)
    with pytest.raises(FilterError, match=r"RE2 refuses it: missing \)") as caught:
        parse_filter('id=eq.1,v=match."a("').regex_size()
    assert caught.value.position == 16


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        *(
            ("", 0),
            ("a=eq.1", 1),
            ("a=like.%b%,c=ilike.*_,d=like.%b", 4),
            ("a=match.b,a=not.imatch.c", 100),
        ),
        *(("a=like.%b_c%", 5), ("a=like." + "%a_b" * 10, 34), ("a=like.%" + "a_" * 300 + "b", 101)),
        *(("a=eq." + "b" * 1000, 1), ("a=cs.{" + "1," * 50 + "1}", 6), ("a=in.(1,2)", 1)),
        *((f"a=in.({','.join(['x' * 36] * 100)})", 10), ('a=in.("[1,2,3,4,5,6,7,8,9]")', 1)),
        ("or=(a.eq.1,and(b.gt.2,c.is.null))", 3),
        *(("a=cs.[1,2]", 1), ("a=cs.[[],1]", 51), ('a=cd."{\\"b\\":[1]}"', 51), ("a=eq.[[],1]", 1)),
    ],
)
def test_a_filter_weighs_as_many_conditions_as_take_as_long(text: str, weight: int) -> None:
    assert parse_filter(text).weight == weight


def test_without_re2_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    parsed = parse_filter("v=match.a")
    with pytest.raises(FilterError, match="pip install google-re2") as caught:
        parsed.compile(relation(v="text"))
    assert caught.value.position == 8
    assert not has_regex()
    assert parsed.uses_regex
    # Nothing else needs it.
    assert not parse_filter("v=like.a*,or(v.eq.match,not.and(v.is.null))").uses_regex
    parse_filter("v=like.a*").compile(relation(v="text"))


def test_another_package_of_the_same_name_will_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_regex()
    monkeypatch.setitem(sys.modules, "re2", ModuleType("re2"))
    assert not has_regex()
    with pytest.raises(FilterError, match="google-re2"):
        parse_filter("v=match.a").compile(relation(v="text"))


@pytest.mark.parametrize("text", ["v=match.a", "not.or(v.eq.1,v.imatch.b)", "a=eq.1,v=not.match.a"])
def test_a_filter_knows_whether_it_has_regular_expressions(text: str) -> None:
    assert parse_filter(text).uses_regex
