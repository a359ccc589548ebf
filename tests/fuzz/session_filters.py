"""Filters for sessions: usual ones, and those that look as if they took long."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Final

from realtime_core.filters import Operator
from tests.filter_oracle import REGEXES, TYPES, make_node, mutated
from tests.fuzz.fuzz_filters import HOSTILE, PIECES

__all__ = ["long_filter", "make_filter", "some_conditions"]

_USUAL: Final = 1000
_CONDITIONS: Final = [
    # {n} makes each another one.
    "c0=eq.{n}",
    "c1=in.({n},1,2,3,4,5,6,7,8,9,10,11,12,13)",
    "c1=isdistinct.{n}",
    "c6=gt.{n}e131000",
    "c6=lt." + "9" * 300 + "{n}",
    "c8=gte.{n}",
    "c11=is.unknown",
    "c12=eq.a{n}",
    "c12=gt.a{n}",
    "c12=like.%a{n}%",
    "c12=like.%b",
    "c12=like.%_{n}",
    "c12=like.%_a_a_a_b{n}%",
    "c12=like.%" + "a" * 50 + "_b{n}%",
    "c12=like.%" + "a" * 70 + "_b{n}%",
    "c12=like.%" + "_" * 60 + "b{n}%",
    "c12=like." + "%a" * 50 + "%{n}",
    "c12=like." + "%a_" * 30 + "%{n}",
    "c12=ilike.%A{n}%",
    "c12=ilike.%é{n}%",
    "c12=ilike.%_É{n}",
    "c12=ilike." + "%_A" * 30 + "{n}",
    "c12=match.a{n}",
    "c12=match.^a{n}",
    'c12=match."a.{{20}}b{n}"',
    'c12=match."[ab]*c{n}$"',
    'c12=match."(a|ab)*c{n}"',
    'c12=match."(a*)*b{n}"',
    'c12=match."(.*)(.*)(.*)(.*){n}"',
    'c12=match."(a{{1,20}}){{1,20}}b{n}"',
    'c12=match."[a-q][^u-z]{{13}}x{n}"',
    'c12=imatch."é.*a{n}"',
    'c12=match."\\\\w+{n}"',
    'c12=match."[[:alpha:]]+{n}$"',
    'c12=match."[^a]{{100}}{n}"',
    'c12=match."((a|b){{1,50}}[ab]{{1,50}}){{1,12}}x{n}"',
    'c12=match."(a?[ab]?){{1,250}}(a?[ab]?){{1,250}}(a?[ab]?){{1,250}}x{n}"',
    'c12=match."(a.{{1,50}}){{1,14}}x{n}"',
    'c12=match."a[ab]{{250}}x{n}"',
    'c12=match."(a[ab]{{1,3}}){{2}}[ab]{{4}}x{n}"',
    'c12=imatch."([a-z]|[[:alpha:]])*[ab]{{5}}é{n}"',
    "c13=ilike.%é{n}%",
    "c14=eq.É{n}",
    "c14=like.%É{n}%",
    'c14=match."É{n}"',
    "c16=like.%a_{n}%",
    "c19=eq.\\\\x{n}0",
    "c28=gt.{n} days 01:02:03.5",
    "c28=eq.P{n}Y2M3DT4H5M6S",
    "c29=sl.10.0.0.0/{n}",
    "c35=eq." + "[" * 20 + "{n}" + "]" * 20,
    "c35=cs.[{n}]",
    "c35=cs." + "[[],[[]],{n}]",
    'c35=cs."{{\\"a\\":{{\\"b\\":{n}}}}}"',
    "c35=cd.[{n},1,[],{{}}]",
    "c35=gt.[{n}]",
    "c35->a{n}=eq.1",
    "c35->a->{n}=eq.1",
    "c35->>a=like.%_{n}",
    "c35->>a=ilike.%É{n}%",
    "c35->>{n}=eq.1",
    'c35->>a=match."(a|b)*c{n}"',
    "c36->>a{n}=gt.1",
    "c35{d}=eq.1",
    "c35{d}=neq.{n}",
    "c35{d}->>a=like.%a_b{n}%",
    "c35->a{d}=cs.[{n}]",
    "c40=cs.{{{n}}}",
    "c40=cd.{{{n},1,2}}",
    "c40=ov.{{{n},3}}",
    "c40=gt.{{{n}}}",
    "c41=cs.{{a{n}}}",
    "c42=ov.{{A{n},b}}",
    "c43=cs.{{{n}.0,1}}",
    "c45=ov.[{n},)",
    "c45=adj.[1,{n})",
    "c50=cs.{{[{n},)}}",
    "old.c12=neq.a{n}",
    "new.c35->>a=like.%a_{n}%",
    "c12=not.ilike.%é_{n}%",
    "missing{n}=eq.1",
]
_WIDTHS: Final = [1, 1, 2, 10, 50, 100, 500]


def make_filter(random: Random) -> str:
    """Return a filter of usual length, now and then a mutated one."""
    text = random.choice(_usual())
    if random.random() < 0.85:
        return text
    at = random.randint(0, len(text))
    return text[:at] + random.choice(PIECES) + text[at + random.choice((0, 0, 1, 5)) :]


def some_conditions(random: Random, most: int) -> str:
    """Return as many conditions as ``most`` bytes have room for, or as one filter may have."""
    kinds = [_condition(random) for _ in range(random.choice((1, 1, 1, 2, 5)))]
    width = random.choice(_WIDTHS)
    parts: list[str] = []
    size = 0
    number = random.choice((0, 1, 1, 100))
    while size < most and len(parts) < width:
        part = kinds[len(parts) % len(kinds)].format(n=number, d="->0" * number)
        number += 1
        size += len(part.encode()) + 1
        parts.append(part)
    if len(parts) > 1:
        parts.pop()
    return _joined(random, parts)


def long_filter(random: Random, most: int) -> str:
    """Return a filter that fills as many bytes as it may."""
    kind = random.random()
    if kind < 0.15:
        return _cut(random.choice(HOSTILE), most)
    if kind < 0.3:
        return _cut("c12=eq." + random.choice(PIECES) * most, most)
    if kind < 0.4:
        # A literal that goes on, of any type that there is.
        place = random.randrange(len(TYPES))
        each = TYPES[place]
        operators = each.operators or (Operator.EQ,)
        value = random.choice(each.values)
        letter = random.choice([*value, "9", "[", "{", "(", ",", " ", "-", "1,", "é", '\\"'])
        return _cut(f"c{place}={random.choice(operators).value}.{value}{letter * most}", most)
    if kind < 0.5:
        values = ",".join(random.choice(TYPES[12].values[:12]) or "a" for _ in range(100))
        return _cut(",".join([f"c12=in.({values})"] * (most // len(values) + 1)), most)
    return some_conditions(random, most)


def _condition(random: Random) -> str:
    if random.random() < 0.75:
        return random.choice(_CONDITIONS)
    return str(make_node(random, TYPES, depth=3)).replace("{", "{{").replace("}", "}}")


def _joined(random: Random, parts: list[str]) -> str:
    kind = random.random()
    if kind < 0.5 or len(parts) == 1:
        return ",".join(parts)
    nested = [_nested(part) for part in parts]
    if kind < 0.85:
        return f"{random.choice(('or', 'and', 'not.or', 'not.and'))}({','.join(nested)})"
    depth = random.choice((2, 10, 31))
    return "or(" * depth + ",".join(nested) + ")" * depth


def _nested(condition: str) -> str:
    """Return a condition as it is written inside of parentheses."""
    return condition.replace("=", ".", 1)


def _cut(text: str, most: int) -> str:
    return text.encode("utf-8", "surrogatepass")[:most].decode("utf-8", "ignore")


@cache
def _usual() -> tuple[str, ...]:
    random = Random("filters")
    found = ["", "id=eq.1", "details=ilike.%a%", "data->>a=eq.1", "id=in.(1,2,3)"]
    for _ in range(_USUAL):
        kind = random.random()
        if kind < 0.75:
            found.append(str(make_node(random, TYPES)))
        elif kind < 0.9:
            pattern = mutated(random, random.choice(REGEXES), random.choice(REGEXES))
            escaped = pattern.replace("\\", "\\\\").replace('"', '\\"')
            found.append(f'c12={random.choice(("match", "imatch"))}."{escaped}"')
        else:
            found.append(random.choice(_CONDITIONS).format(n=random.randrange(9), d="->0"))
    return tuple(found)
