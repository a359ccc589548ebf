"""Parser: the text of a filter to its tree.

One grammar takes the three dialects there are::

    filter      = [ condition { "," condition } ]                 comma means AND
    condition   = reference "=" test | group
    nested      = reference "." test | group                      inside of parentheses
    group       = [ "not." ] ( "and" | "or" ) [ "=" ] "(" nested { "," nested } ")"
    reference   = [ "old." | "new." ] name { "->" key } [ "->>" key ]
    test        = [ "not." ] operator "." value
    value       = quoted | text | "(" item { "," item } ")"       the last for "in" only
    quoted      = '"' { any | "\\" any } '"'

A text ends at a comma, and inside of a group at a closing parenthesis, that is not itself
within quotes or parentheses; where it begins with a bracket or a brace, as JSON, arrays and
ranges do, those count too; an item of "in" ends in the same way. White space is skipped behind
commas and around parentheses, and belongs to a name or a value elsewhere. The tree is in its
simplest form: groups of one and doubled negations are gone, an AND within an AND is one AND.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

from ..errors import FilterError
from .nodes import And, Comparison, Node, Not, Operator, Or, Reference, Side

__all__ = ["MAX_CONDITIONS", "MAX_DEPTH", "MAX_IN_VALUES", "MAX_LENGTH", "parse_node"]

MAX_LENGTH: Final = 65_536
"""The most characters of a filter."""
MAX_CONDITIONS: Final = 500
"""The most comparisons in a filter."""
MAX_DEPTH: Final = 32
"""The most groups within each other."""
MAX_IN_VALUES: Final = 100
"""The most values of an ``in``."""
_MOST_RESCANNED: Final = 1024
"""Characters, besides the length of the filter, that may be read again because of brackets that are
never closed."""

_OPERATORS: Final = {operator.value: operator for operator in Operator}
_OPERATOR_LIST: Final = ", ".join(_OPERATORS)
_IS_VALUES: Final = ("null", "not_null", "true", "false", "unknown")

_GROUP: Final = re.compile(r"(not\.)?(and|or)=?\(")
_SPACE: Final = re.compile(r"\s*")
# The name of a column without quotes: before "=", and before "." within a group.
_TOP_NAME: Final = re.compile(r'(?:(?!->)[^=,()"])*')
_NESTED_NAME: Final = re.compile(r'(?:(?!->)[^.=,()"])*')
_SIDE: Final = re.compile(r"(old|new)\.(?=[^=,()])")
_TEST: Final = re.compile(rf"(?:not\.)?(?:{'|'.join(_OPERATORS)})\.")
_NEGATION: Final = re.compile(r"not\.")
_WORD: Final = re.compile(r"[^.,()=]*")
_INTEGER: Final = re.compile(r"-?[0-9]{1,9}", re.ASCII)
# The quantifiers are possessive. Others would keep some memory for each character.
_QUOTED: Final = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
# The characters that may end a value, or that it may have in pairs. Others are skipped.
_STOPS: Final = re.compile(r'[,()\[\]{}"]')
_ITEM: Final = re.compile(r'[^,()"]*')
_CLOSERS: Final = {"{": "}", "[": "])", "(": "])"}
_IMPOSSIBLE: Final = re.compile("[\0\ud800-\udfff]")

_HOW_TO_QUOTE: Final = '; put the whole value in double quotes, as in name=eq."Smith, John (jr.)"'


def parse_node(text: str) -> Node | None:
    """Parse a filter expression.

    Returns:
        The tree; None for an empty text, which every row passes.

    Raises:
        FilterError: if the text is not in the grammar, or exceeds a bound. It has the position.
    """
    if not text:
        return None
    return _Parser(text).filter()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._conditions = 0
        self._rescanned = 0
        if len(text) > MAX_LENGTH:
            self._fail(f"the filter has {len(text):,} characters, at most {MAX_LENGTH:,} are taken")
        impossible = _IMPOSSIBLE.search(text)
        if impossible is not None:
            self._at = impossible.start()
            self._fail(f"{impossible[0]!a} is not a character that a text in PostgreSQL can have")

    def filter(self) -> Node:
        items = [self._condition(0)]
        while self._at < len(self._text):
            if not self._take(","):
                self._fail(f"unexpected {self._here()}", "a comma or the end")
            self._skip_space()
            items.append(self._condition(0))
        return _join(And, items)

    def _condition(self, depth: int) -> Node:
        """Read a condition or a group.

        Behind the column stands ``=`` at depth 0, and a dot within groups.
        """
        group = _GROUP.match(self._text, self._at)
        if group is not None:
            return self._group(group, depth)
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            self._fail(f"the filter has more than {MAX_CONDITIONS} conditions")
        nested = depth > 0
        reference = self._reference(nested)
        between = "." if nested else "="
        if not self._take(between):
            example = "age.gte.18" if nested else "age=gte.18"
            self._fail(
                f"unexpected {self._here()}", f"{between!r} after the column, as in {example}"
            )
        return self._test(reference, nested)

    def _group(self, group: re.Match[str], depth: int) -> Node:
        if depth == MAX_DEPTH:
            self._fail(f"the filter has groups nested more than {MAX_DEPTH} deep")
        opened = self._at
        self._at = group.end()
        self._skip_space()
        items = [self._condition(depth + 1)]
        while not self._take(")"):
            if not self._take(","):
                if self._at == len(self._text):
                    self._fail(f"the parenthesis of {group[2]}( is never closed", at=opened)
                self._fail(f"unexpected {self._here()}", "',' or ')'")
            self._skip_space()
            items.append(self._condition(depth + 1))
        self._skip_space()
        node = _join(And if group[2] == "and" else Or, items)
        return _negate(node) if group[1] else node

    def _reference(self, nested: bool) -> Reference:
        start = self._at
        side = Side.ROW
        prefix = _SIDE.match(self._text, self._at)
        # old.eq.1 compares a column named "old". The old value of a column "eq" is old."eq".eq.1
        if prefix is not None and not (nested and _TEST.match(self._text, prefix.end())):
            side = Side(prefix[1])
            self._at = prefix.end()
        column, _ = self._name(nested)
        if not column:
            example = "and(age.gte.18,name.like.A*)" if nested else "age=gte.18"
            self._fail(f"unexpected {self._here()}", f"a column's name, as in {example}")
        path: list[str | int] = []
        as_text = False
        while self._text.startswith("->", self._at):
            if as_text:
                self._fail("->> gives text, which has no parts", "-> before the last step")
            as_text = self._text.startswith("->>", self._at)
            self._at += 3 if as_text else 2
            key, quoted = self._name(nested)
            if not key and not quoted:
                self._fail(f"unexpected {self._here()}", "a JSON key, as in data->address->>city")
            path.append(int(key) if not quoted and _INTEGER.fullmatch(key) else key)
        return Reference(column, tuple(path), as_text, side, start)

    def _name(self, nested: bool) -> tuple[str, bool]:
        """Return a name, and whether it was in quotes."""
        if self._text.startswith('"', self._at):
            return self._quoted(), True
        start = self._at
        self._at = _end(_NESTED_NAME if nested else _TOP_NAME, self._text, start)
        return self._text[start : self._at], False

    def _test(self, reference: Reference, nested: bool) -> Node:
        negated = _NEGATION.match(self._text, self._at)
        if negated is not None:
            self._at = negated.end()
        position = self._at
        word = self._text[position : _end(_WORD, self._text, position)]
        operator = _OPERATORS.get(word)
        if operator is None:
            self._fail(
                f"unknown operator {_shown(word)}" if word else f"unexpected {self._here()}",
                f"one of {_OPERATOR_LIST}, as in {'age.gte.18' if nested else 'age=gte.18'}",
            )
        self._at += len(word)
        if not self._take("."):
            hint = "'.' and a value after the operator"
            if self._text.startswith("(", self._at):
                hint += "; for any of several values: in.(1,2,3)"
            self._fail(f"unexpected {self._here()}", hint)
        start = self._at
        node: Node
        if operator is Operator.IN:
            values, positions = self._list()
            node = Comparison(reference, operator, values, position, positions)
        else:
            value = self._value(nested)
            if operator is Operator.IS:
                value = value.lower()
                if value not in _IS_VALUES:
                    self._fail(
                        f"{_shown(value)} cannot follow is",
                        f"one of {', '.join(_IS_VALUES)}",
                        at=start,
                    )
            node = Comparison(reference, operator, value, position, (start,))
        return Not(node) if negated else node

    def _value(self, nested: bool) -> str:
        if self._text.startswith('"', self._at):
            value = self._quoted()
            if not self._ends(nested):
                self._fail(f"unexpected {self._here()} behind a quoted value{_HOW_TO_QUOTE}")
            return value
        start = self._at
        # In JSON, arrays and ranges all brackets must be in pairs, elsewhere only parentheses.
        if (
            self._text.startswith(("(", "[", "{"), start)
            and self._scan(nested, "([{", ")]}") is None
        ):
            return self._text[start : self._at]
        self._rescan(start)
        unclosed = self._scan(nested, "(", ")")
        if unclosed is not None:
            self._at = unclosed
            self._fail(f"{self._here()} is never closed{_HOW_TO_QUOTE}")
        return self._text[start : self._at]

    def _scan(self, nested: bool, openers: str, closers: str) -> int | None:
        """Go to the end of a value.

        Returns:
            The place of an opening bracket that is never closed; None if there is none.
        """
        opened: list[int] = []
        text, at = self._text, self._at
        while True:
            for found in _STOPS.finditer(text, at):
                letter = found[0]
                if letter == '"':
                    break
                if not opened and (letter == "," or (letter == ")" and nested)):
                    self._at = found.start()
                    return None
                if letter in openers:
                    opened.append(found.start())
                elif letter in closers and opened:
                    opened.pop()
            else:
                self._at = len(text)
                return opened[-1] if opened else None
            self._at = found.start()
            self._quoted()
            at = self._at

    def _list(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        opened = self._at
        if not self._take("("):
            self._fail(f"unexpected {self._here()}", 'a list, as in in.(1,2,3) or in.("a,b","c")')
        values: list[str] = []
        positions: list[int] = []
        while True:
            self._skip_space()
            start = self._at
            positions.append(start)
            if self._text.startswith('"', start):
                values.append(self._quoted())
                self._skip_space()
            elif self._bracketed():
                values.append(self._text[start : self._at].rstrip())
            else:
                self._at = _end(_ITEM, self._text, start)
                values.append(self._text[start : self._at].strip())
                if not values[-1]:
                    self._fail("an empty value of in", 'a value; the empty text is ""', at=start)
            if len(values) > MAX_IN_VALUES:
                self._fail(f"too many values for in: at most {MAX_IN_VALUES}", at=opened)
            if self._take(")"):
                break
            if not self._take(","):
                if self._at == len(self._text):
                    self._fail("the parenthesis of in.( is never closed", at=opened)
                self._fail(f"unexpected {self._here()}", "',' or ')' behind a value of in")
        return tuple(values), tuple(positions)

    def _bracketed(self) -> bool:
        """Read an item of ``in`` that begins with a bracket, up to the bracket that closes it.

        A range may end with another kind of bracket than it begins with.

        Returns:
            False if the item does not begin with a bracket, or it is never closed.
        """
        start = self._at
        opener = self._text[start : start + 1]
        closers = _CLOSERS.get(opener)
        if closers is None:
            return False
        openers = "{" if opener == "{" else "(["
        is_closed = self._scan(True, openers, closers) is None and self._at < len(self._text)
        # (1,5] is a range. (1) has a parenthesis too many.
        if is_closed and (opener != "(" or "," in self._text[start : self._at]):
            return True
        self._rescan(start)
        return False

    def _rescan(self, start: int) -> None:
        """Go back to the beginning of a value.

        Such a value was read to the end of the filter, so this is not done too often.
        """
        self._rescanned += self._at - start
        self._at = start
        if self._rescanned > _MOST_RESCANNED + len(self._text):
            self._fail(f"too many brackets are never closed{_HOW_TO_QUOTE}")

    def _quoted(self) -> str:
        found = _QUOTED.match(self._text, self._at)
        if found is None:
            self._fail(
                f'a double quote is never closed{_HOW_TO_QUOTE}, and write \\" for one of its own'
            )
        self._at = found.end()
        return _ESCAPE.sub(r"\1", found[1])

    def _ends(self, nested: bool) -> bool:
        following = self._text[self._at : self._at + 1]
        return following in ("", ",") or (nested and following == ")")

    def _skip_space(self) -> None:
        self._at = _end(_SPACE, self._text, self._at)

    def _take(self, expected: str) -> bool:
        if not self._text.startswith(expected, self._at):
            return False
        self._at += len(expected)
        return True

    def _here(self) -> str:
        if self._at >= len(self._text):
            return "end"
        return repr(self._text[self._at])

    def _fail(self, problem: str, expected: str = "", *, at: int | None = None) -> NoReturn:
        if expected:
            problem = f"{problem}; expected {expected}"
        raise FilterError(problem, text=self._text, position=self._at if at is None else at)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Return where the match of a pattern ends, or the place itself if there is none."""
    found = pattern.match(text, at)
    return at if found is None else found.end()


def _join(kind: type[And] | type[Or], items: list[Node]) -> Node:
    flat: list[Node] = []
    for item in items:
        if isinstance(item, kind):
            flat += item.items
        else:
            flat.append(item)
    return flat[0] if len(flat) == 1 else kind(tuple(flat))


def _negate(node: Node) -> Node:
    return node.item if isinstance(node, Not) else Not(node)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
