"""Random filters, each as a client writes it and as SQL, and the types that they are about.

Written from the documentation of the language, without a look at what reads it. PostgreSQL reads
the SQL. Where filters are documented to differ from it, as in regular expressions of their own
kind, nothing is made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from random import Random
from typing import Final, TypeAlias

import attrs

__all__ = [
    "KINDS",
    "Condition",
    "Filter",
    "Group",
    "Kind",
    "columns_of",
    "make_filter",
    "name_of",
    "quoted",
]

_ORDER: Final = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_OTHERS: Final = {
    "isdistinct": "IS DISTINCT FROM",
    "match": "~",
    "imatch": "~*",
    "cs": "@>",
    "cd": "<@",
    "ov": "&&",
    "sl": "<<",
    "sr": ">>",
    "nxr": "&<",
    "nxl": "&>",
    "adj": "-|-",
}
_SQL: Final = _ORDER | _OTHERS
_COMPARE: Final = (*_ORDER, "in", "isdistinct")
_TEXT: Final = (*_COMPARE, "like", "ilike", "match", "imatch")
_ARRAY: Final = (*_ORDER, "isdistinct", "cs", "cd", "ov")
_RANGE: Final = (*_COMPARE, "cs", "cd", "ov", "sl", "sr", "nxr", "nxl", "adj")
_LIKES: Final = ("a%", "%b%", "*a*", "_", "%", "a_b", "\\%", "ann", "A*", "%ä", "", "b\\_")
_REGEXES: Final = ("^a", "b$", "^[a-c]+$", "a|b", "^.$", "n{2}", "\\.", "^$", "[[:digit:]]", "(x)")
_WORDS: Final = (
    *("", "a", "A", "ab", "b", "ann", "bob", "a%b", "a_b", "a\\b", "a,b", 'say "hi"', "(x)", "ä"),
    *("Ä", "o'neil", "null", "1", "10", "{a}", " a ", "x.y", "漢", "a=b", "in.(a)"),
)
_INTEGERS: Final = ("0", "1", "-1", "2", "3", "7", "10", "42")


@attrs.frozen
class Kind:
    """A type of columns, and literals of it."""

    sql: str
    values: Sequence[str]
    operators: Sequence[str] = _COMPARE


KINDS: Final = {
    kind.sql: kind
    for kind in (
        Kind("int2", _INTEGERS),
        Kind("int4", _INTEGERS),
        Kind("int8", (*_INTEGERS, "9007199254740993", "9007199254740992")),
        Kind("numeric", (*_INTEGERS, "1.50", "1.5", "0.1", "NaN", "-2.25", "1e20")),
        Kind("float8", (*_INTEGERS, "0.1", "1e300", "Infinity", "-0.5", "NaN")),
        Kind("bool", ("t", "false", "true", "f")),
        Kind("text", _WORDS, _TEXT),
        Kind("varchar(20)", _WORDS, _TEXT),
        Kind("char(4)", ("ab", "a", "", "abcd", "b"), _COMPARE),
        Kind(
            "uuid",
            (
                "11111111-2222-3333-4444-555555555555",
                "{AAAAAAAA-2222-3333-4444-555555555555}",
                "aaaaaaaa-2222-3333-4444-555555555555",
            ),
        ),
        Kind("bytea", ("\\x00ff", "\\x", "\\x00fe")),
        Kind("date", ("2026-11-24", "2026-11-25", "infinity", "1999-12-31")),
        Kind("timestamp", ("2026-11-24 05:36:00", "2026-11-24T05:36:00.5", "-infinity")),
        Kind("timestamptz", ("2026-11-24 05:36:00+00", "2026-11-24T07:36:00+02:00", "infinity")),
        Kind("time", ("05:36", "24:00:00", "05:36:00.5")),
        Kind("interval", ("1 day", "24:00:00", "1 mon", "30 days", "-1 day")),
        Kind("inet", ("10.0.0.1", "10.0.0.0/8", "::1"), (*_COMPARE, "ov", "sl", "sr")),
        Kind(
            "jsonb",
            ('{"a": 1}', '{"a":1.0,"b":[1,2]}', "[1,2]", '"a"', "null", '{"a":{"b":"x"}}', "{}"),
            (*_COMPARE, "cs", "cd"),
        ),
        Kind("int4[]", ("{}", "{1,2}", "{2}", "{1,NULL}", "{1,2,3}"), _ARRAY),
        Kind("text[]", ("{}", '{a,"b c"}', "{b}", '{"a,b"}'), _ARRAY),
        Kind("int4range", ("empty", "[1,5)", "(,3]", "[5,9]", "[3,)"), _RANGE),
        Kind("mood", ("sad", "ok", "happy")),
        Kind("positive", ("1", "2", "7")),
    )
}
"""By their names in SQL. ``mood`` is an enum in this order, ``positive`` a domain over int4."""


@attrs.frozen(eq=False)
class Condition:
    """A comparison of one column."""

    column: str
    reference: str
    """The column as a client writes it, with a path if it is JSON."""
    condition: str
    """What follows it: ``eq.42``."""
    sql: str

    def text(self, *, in_group: bool) -> str:
        return f"{self.reference}{'.' if in_group else '='}{self.condition}"

    def to_sql(self, unknown: Collection[str]) -> str:
        return "NULL::bool" if self.column in unknown else self.sql


@attrs.frozen(eq=False)
class Group:
    """Several of them, all or one of which must be true, or not."""

    word: str
    negated: bool
    items: Sequence[Filter]

    def text(self, *, in_group: bool = True) -> str:
        items = ",".join(item.text(in_group=True) for item in self.items)
        return f"{'not.' if self.negated else ''}{self.word}({items})"

    def to_sql(self, unknown: Collection[str]) -> str:
        joined = f" {self.word} ".join(item.to_sql(unknown) for item in self.items)
        return f"(NOT ({joined}))" if self.negated else f"({joined})"


Filter: TypeAlias = Condition | Group


def columns_of(filter: Filter) -> Iterator[str]:
    """Yield the columns that a filter looks at."""
    if isinstance(filter, Condition):
        yield filter.column
    else:
        for item in filter.items:
            yield from columns_of(item)


def make_filter(random: Random, columns: Sequence[tuple[str, str]], depth: int = 0) -> Filter:
    """Return a random filter over columns, each a name and a type."""
    if depth >= 3 or random.random() < (0.65 if depth == 0 else 0.75):
        return _make_condition(random, columns)
    items = [make_filter(random, columns, depth + 1) for _ in range(random.randint(2, 3))]
    return Group(random.choice(("and", "or", "or")), random.random() < 0.3, items)


def _make_condition(random: Random, columns: Sequence[tuple[str, str]]) -> Condition:
    column, type_name = random.choice(columns)
    kind = KINDS[type_name]
    name = name_of(column)
    written = column if column.isidentifier() and random.random() < 0.9 else _written(column)
    place, operators, values = name, kind.operators, kind.values
    if type_name == "jsonb" and random.random() < 0.5:
        written += "->a" + random.choice(("", "->b"))
        place += "->'a'" + ("->'b'" if written.endswith("b") else "")
        if random.random() < 0.5:
            head, _, last = written.rpartition("->")
            written = f"{head}->>{last}"
            head, _, last = place.rpartition("->")
            place = f"{head}->>{last}"
            operators, values = _TEXT, ("1", "x", "1.0", '{"b": "x"}')
    condition, sql = _compared(random, f"({place})", operators, values, type_name)
    if random.random() < 0.2:
        condition, sql = f"not.{condition}", f"(NOT {sql})"
    return Condition(column, written, condition, sql)


def _compared(
    random: Random, place: str, operators: Sequence[str], values: Sequence[str], type_name: str
) -> tuple[str, str]:
    """Return a condition on a place as a client writes it, and as SQL."""
    if random.random() < 0.1:
        null = random.choice(("null", "not_null"))
        return f"is.{null}", f"({place} IS {null.replace('_', ' ')})"
    if type_name == "bool" and random.random() < 0.4:
        truth = random.choice(("true", "false", "unknown"))
        return f"is.{truth}", f"({place} IS {truth})"
    operator = random.choice(operators)
    value = random.choice(values)
    if operator == "in":
        chosen = [random.choice(values) for _ in range(random.randint(1, 3))]
        literals = ", ".join(map(quoted, chosen))
        return f"in.({','.join(map(_written, chosen))})", f"({place} IN ({literals}))"
    if operator in ("like", "ilike"):
        value = random.choice(_LIKES)
        return f"{operator}.{_written(value)}", (
            f"({place} {operator} {quoted(value.replace('*', '%'))})"
        )
    if operator in ("match", "imatch"):
        value = random.choice(_REGEXES)
    return f"{operator}.{_written(value)}", f"({place} {_SQL[operator]} {quoted(value)})"


def _written(value: str) -> str:
    """Return a value in double quotes, as any may be."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def quoted(text: str) -> str:
    """Return a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def name_of(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
