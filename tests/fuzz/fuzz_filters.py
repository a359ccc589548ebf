"""Does any input break the promise: an answer or a FilterError, soon?

    python -m tests.fuzz.fuzz_filters COUNT [SEED]

tries COUNT inputs, says what became of them and how long the slowest took, and fails with the
first one that broke the promise. Plain Python on one core; the same inputs for the same seed.

An input is a filter and a row. The filter is a random expression over a table that has a column
of each type, or one of a list of hostile ones, mostly with some mutations (letters replaced,
stretches cut, doubled, repeated many times, or taken from another filter). It must be read or
refused with a FilterError that names a place in it; what is read must be read again from its own
canonical text; typed for the table, or refused likewise; and answer for a row of that table, which
has mutated values sometimes, with a boolean or a FilterMatchError. No input may take longer than
five seconds of the processor's; on a quiet machine none takes one.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from functools import cache
from random import Random

from realtime_core import FilterError, FilterMatchError, Record, Relation, ReplicaIdentity
from realtime_core.filters import parse_filter
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.records import Column, Field
from tests.filter_oracle import ENUM_LABELS, REGEXES, TYPES, make_node, mutated

__all__ = ["BrokenPromiseError", "run"]

CHUNK = 1_000
SECONDS = 5.0
OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}
ENUMS = {("public", "mood"): ENUM_LABELS}
HOSTILE = [
    "(" * 5000,
    "or(" * 5000,
    "not.and(" * 40 + "c0.eq.1" + ")" * 40,
    "," * 60_000,
    "c0=eq.1," * 8000,
    "c0=in.(" + "1," * 30_000 + "1)",
    'c0=eq."' + "\\" * 60_000,
    "c0=eq." + "9" * 60_000,
    "c6=eq." + "9" * 60_000 + "e" + "9" * 5000,
    "c0" + "->x" * 15_000 + "=eq.1",
    "c35=eq." + "[" * 60_000,
    "c35=eq." + "[" * 900 + "]" * 900,
    "c35=cs." + '{"a":' * 500 + "1" + "}" * 500,
    "c40=eq." + "{" * 60_000,
    "c40=cs.{" + "1," * 30_000 + "1}",
    "c28=eq." + "1 day " * 9000,
    "c28=eq.P" + "1D" * 9000,
    "c12=like." + "%a" * 20_000,
    "c12=like." + "%_" * 20_000,
    "c12=like.%" + "a_" * 10_000 + "b%",
    "c12=like.%" + "a" * 9_000 + "_b%",
    "c12=ilike." + "_%a" * 2000 + "\\",
    'c12=match."(a*)*b"',
    'c12=match."(a|a)*$"',
    'c12=match."' + "(" * 2000 + "a" + ")*" * 2000 + '"',
    'c12=match."((((a{200}){200}){200}){200})"',
    'c12=match."' + "[[:alpha:]]" * 4000 + '"',
    'c12=match."(.*)(.*)(.*)(.*)(.*)(.*)x"',
    'c12=imatch."' + "\\\\w+" * 3000 + '"',
    'c12=match."' + "a?" * 250 + "a" * 250 + '"',
    "c12=eq.\0",
    "c12=eq.\ud800",
    '"\U0010ffff"=eq.\U0010ffff',
]
# What the columns are that are named above.
TOUGH = {0: "int2", 6: "numeric", 12: "text", 28: "interval", 35: "jsonb", 40: "int4[]"}
assert all(TYPES[place].sql == name for place, name in TOUGH.items())
LONG = "a" * 20_000
PIECES = [
    *("c0", "c12", "c35", "c40", "=", ".", ",", "(", ")", "->", "->>", '"', "\\", "{", "}"),
    *("eq.", "not.", "in.(", "and(", "or=(", "is.null", "old.", "new.", "like.", "match.", "cs."),
    *("[", "]", "*"),
    *(" ", "%", "_", "1", "-1", "NaN", "null", "é", "\u0130", "\n", "\x7f", "\U0001f642"),
]  # fmt: skip


class BrokenPromiseError(Exception):
    """An input that got no answer, or not in time."""

    def __init__(self, text: str, what: object = "") -> None:
        self.text = text
        super().__init__(f"{text[:2000]!r} {what}")


def run(count: int, seed: int = 0) -> tuple[Counter[str], float]:
    """Try ``count`` inputs; return how many became what, and the seconds of the slowest.

    Raises:
        BrokenPromiseError: with the input, and the seed and chunk that make it again.
    """
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for chunk, start in enumerate(range(0, count, CHUNK)):
        random = Random(f"{seed} {chunk}")
        for _ in range(min(CHUNK, count - start)):
            text, record = _filter(random), _row(random)
            begin = time.process_time()
            try:
                outcome = _try(text, record)
            except BrokenPromiseError as error:
                error.add_note(f"seed {seed}, chunk {chunk}")
                raise
            taken = time.process_time() - begin
            if taken > SECONDS:
                raise BrokenPromiseError(text, f"took {taken:.1f} s")
            slowest = max(slowest, taken)
            outcomes[outcome] += 1
    return outcomes, slowest


@cache
def table() -> Relation:
    """Return a table with a column of each type, c0 and so on."""
    columns = []
    for place, each in enumerate(TYPES):
        name = each.sql.partition("(")[0].strip('"').replace("positive", "int4")
        if name.endswith("[]"):
            name = f"_{name[:-2]}"
        oid = OIDS.get(name, 99999)
        schema = "pg_catalog" if name in OIDS else "public"
        columns.append(Column(f"c{place}", oid, name, schema, -1, place == 0))
    return Relation(1, "public", "t", ReplicaIdentity.DEFAULT, tuple(columns))


def _filter(random: Random) -> str:
    kind = random.random()
    if kind < 0.02:
        return random.choice(HOSTILE)
    if kind < 0.12:
        return "".join(random.choice(PIECES) for _ in range(random.randint(0, 40)))
    if kind < 0.2:
        pattern = mutated(random, random.choice(REGEXES), random.choice(REGEXES))
        escaped = pattern.replace("\\", "\\\\").replace('"', '\\"')
        return f'c12={random.choice(("match", "imatch"))}."{escaped}"'
    text = str(make_node(random, TYPES))
    for _ in range(random.choice((0, 0, 1, 1, 2, 4))):
        text = _mutated(random, text)
    return text


def _mutated(random: Random, text: str) -> str:
    at = random.randint(0, len(text))
    match random.randrange(6):
        case 0:
            return text[:at] + random.choice(PIECES) + text[at + 1 :]
        case 1:
            return text[:at] + text[at + random.randint(1, 6) :]
        case 2:
            return text[:at] + text[at : at + 9] * random.choice((2, 2, 3, 500)) + text[at:]
        case 3:
            return text[:at]
        case 4:
            return text[:at] + random.choice(PIECES) + text[at:]
        case _:
            other = str(make_node(random, TYPES))
            return text[:at] + other[random.randint(0, len(other)) :]


def _row(random: Random) -> Record:
    fields: list[Field] = []
    wild = random.random() < 0.2
    for each in TYPES:
        value = random.choice(each.values)
        if wild:
            value = mutated(random, value, random.choice(each.values))
        fields.append(None if random.random() < 0.1 else value)
    if random.random() < 0.2:
        fields[12] = LONG
    return Record(table().shape, tuple(fields))


def _try(text: str, record: Record) -> str:
    try:
        try:
            parsed = parse_filter(text)
            if parse_filter(str(parsed)) != parsed:
                raise BrokenPromiseError(text, f"is read differently from {parsed}")
            compiled = parsed.compile(table(), enums=ENUMS)
        except FilterError as error:
            if error.text not in (text,) or not 0 <= error.position <= len(text):
                raise BrokenPromiseError(text, error) from error
            if len(str(error)) > 1000:
                raise BrokenPromiseError(text, "has an error without end") from error
            return "refused"
        try:
            answer = compiled(record)
        except FilterMatchError:
            return "not judged"
        if not isinstance(answer, bool):
            raise BrokenPromiseError(text, answer)
        return "passes" if answer else "does not pass"
    except BrokenPromiseError:
        raise
    except Exception as error:
        raise BrokenPromiseError(text, repr(error)) from error


def main() -> None:
    count = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    begin = time.perf_counter()
    outcomes, slowest = run(count, seed)
    for outcome, number in outcomes.most_common():
        print(f"{number:>12,}  {outcome}")
    print(f"{time.perf_counter() - begin:,.0f} s in all, the slowest took {1000 * slowest:.0f} ms")


if __name__ == "__main__":
    main()
