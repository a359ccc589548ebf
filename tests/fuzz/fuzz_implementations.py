"""Do the implementations in Python and in C make the same of any input?

    PYTHONPATH=build/accelerator python -m tests.fuzz.fuzz_implementations COUNT [SEED]

tries COUNT inputs with both, and fails with the first one of which they make different things:
events, values, or errors, whose class and text have to be the same. `make accelerator` compiles
what this compares.

An input is one of these: a stream as fuzz_pgoutput makes them; a captured row's message between
its Begin and its Commit, mutated, behind one that was not; the fields of such a row alone; texts of
some types, mutated, as one row that becomes Python values, once by itself and once out of its
message; rows in the text format of COPY, mutated, as events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any
from unittest.mock import patch

from realtime_core import (
    LSN,
    UNCHANGED,
    Column,
    Record,
    Relation,
    ReplicaIdentity,
    Shape,
    SnapshotProgress,
    Update,
    _row_loader,
)
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.pgoutput import (
    BeginMessage,
    ChangeDecoder,
    CommitMessage,
    Decoder,
    DeleteMessage,
    InsertMessage,
    RelationColumn,
    RelationMessage,
    TypeMessage,
    UpdateMessage,
    _tuples,
    change_decoder,
    decoder,
)
from realtime_core.snapshot import row_events
from realtime_core.types import python_values
from tests.core.captures import decoder_for, payloads
from tests.fuzz.command_line import main
from tests.fuzz.fuzz_pgoutput import CAPTURES, mutated, mutated_stream
from tests.pgoutput_encoder import encode
from tests.pgoutput_streams import seen

__all__ = ["DifferenceError", "run"]

ROWS = (*CAPTURES, "replica_identity_binary.bin.gz")
# Where a row's fields begin, if it has one tuple.
HEAD = 8
# Each implementation's readers of fields, made once.
READERS = {name: cache(_tuples.fields_reader.__wrapped__) for name in ("python", "c")}
OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}
NUMBERS = (
    "0",
    "-1",
    "12",
    "007",
    "-0",
    "+5",
    "1_0",
    "9223372036854775807",
    "-99999999999999999999",
)
FRACTIONS = (
    *NUMBERS,
    "1.50",
    "-0.0",
    "1e10",
    "1.5e-7",
    "NaN",
    "Infinity",
    "-Infinity",
    "nan",
    ".5",
)
DATES = ("2026-02-28", "0001-01-01", "9999-12-31", "2026-02-30", "10000-01-01", "infinity")
DATES = (*DATES, "-infinity", "0044-03-15 BC")
TIMES = ("00:00:00", "23:59:59.999999", "12:30:00.5", "24:00:00", "12:30:00.1234567", "12:60:00")
STAMPS = (*(f"{day} {time}" for day in DATES for time in TIMES), "infinity", "-infinity")
WORDS = ("", "a", "naïve", "🐘", "null", "NULL", 'a "b"', "a,b", "{}", "back\\slash", " spaces ")
UUIDS = ("00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11")
# By type, texts that PostgreSQL writes and some that it would not.
TEXTS = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), NUMBERS),
    **dict.fromkeys(("float4", "float8", "numeric"), FRACTIONS),
    **dict.fromkeys(("text", "varchar", "bpchar", "name"), WORDS),
    **dict.fromkeys(("json", "jsonb"), ('{"a": [1, 2.5, null]}', "1", '"x"', "{} ", " {}", "1 2")),
    "bool": ("t", "f", "true", "T", "0"),
    "bytea": ("\\x", "\\xDEADbeef", "\\x0", "\\x 00", "\\xzz", "abc"),
    "date": DATES,
    "time": TIMES,
    "timetz": tuple(f"{time}+00" for time in TIMES),
    "timestamp": STAMPS,
    "timestamptz": tuple(
        f"{stamp}{zone}" for stamp in STAMPS for zone in ("+00", "+02", "", "+00:00")
    ),
    "uuid": (*UUIDS, "a0eebc999c0b4ef8bb6d6bb9bd380a11", "{" + UUIDS[1] + "}"),
    "interval": ("1 day", "01:02:03", "-1 mons"),
    "inet": ("127.0.0.1", "10.0.0.0/8", "::1"),
}
ELEMENTS = [name for name in TEXTS if f"_{name}" in OIDS]
LETTERS = '0123456789-+:.,{}"\\ tfNULnaBC\x00é\u0661'


class DifferenceError(Exception):
    """The implementations do not agree; the text says on what."""


def run(count: int, seed: int) -> Counter[str]:
    """Try ``count`` inputs; return how many became what.

    Raises:
        DifferenceError: with the first input on which they do not agree.
    """
    random = Random(seed)
    outcomes: Counter[str] = Counter()
    for number in range(count):
        make = _INPUTS[number % len(_INPUTS)]
        outcomes[make(random)] += 1
    return outcomes


def _both(what: object, make: Callable[[], Any]) -> Any:
    """Return what ``make`` returns or raises, with either implementation."""
    python, c = _outcome(make, "python"), _outcome(make, "c")
    if python != c:
        raise DifferenceError(f"{what!r}\nin Python: {python!r}\nin C: {c!r}")
    return python


def _outcome(make: Callable[[], Any], implementation: str) -> tuple[str, Any]:
    with (
        patch.object(_tuples, "IMPLEMENTATION", implementation),
        patch.object(change_decoder, "IMPLEMENTATION", implementation),
        patch.object(decoder, "fields_reader", READERS[implementation]),
        patch.object(python_values, "IMPLEMENTATION", implementation),
        patch.object(_row_loader, "IMPLEMENTATION", implementation),
        patch.object(row_events, "IMPLEMENTATION", implementation),
    ):
        try:
            return "taken", make()
        except Exception as error:
            return type(error).__name__, str(error)


def _try_stream(random: Random) -> str:
    parallel = random.random() < 0.5
    stream = mutated_stream(random, parallel)
    _, found = _both(stream, lambda: _changes(stream, parallel))
    return f"stream: {found[-1][0] if found else 'nothing'}"


def _try_row(random: Random) -> str:
    frame, rows, end = random.choice(_rows())
    row = random.choice(rows)
    stream = [*frame, row, mutated(random, row), row, end]
    _, found = _both(stream, lambda: _changes(stream, parallel=False))
    _both(stream, lambda: _messages(stream))
    return f"row: {found[-1][0]}"


def _try_tuple(random: Random) -> str:
    _, rows, _ = random.choice(_rows())
    row = random.choice(rows)
    columns = int.from_bytes(row[HEAD - 2 : HEAD], "big") + random.choice((0, 0, 0, -1, 1, 1000))
    data, offset = mutated(random, row), random.choice((HEAD, HEAD, random.randint(0, len(row))))
    outcome, _ = _both(
        (data, offset, columns), lambda: decoder.fields_reader(columns)(data, offset)
    )
    return f"tuple: {outcome}"


def _try_values(random: Random) -> str:
    types, fields = [], []
    for _ in range(random.choice((1, 1, 1, 5))):
        name, text = _text(random)
        types.append(name)
        fields.append(text if random.random() < 0.95 else random.choice((None, UNCHANGED, b"\0\1")))
    omit, on_error = random.random() < 0.3, random.choice(("raise", "text", repr))
    # A stream that is wrong may have two columns of one name.
    names = random.choice((100, 100, 100, 2))
    outcome, _ = _both(
        (types, fields, names), lambda: _values(types, fields, names, omit, on_error)
    )
    _both((types, fields, names), lambda: _message_values(types, fields, names, omit, on_error))
    return f"values: {outcome}"


def _text(random: Random) -> tuple[str, str]:
    """Return the name of a type, and a text that it may be given."""
    if random.random() < 0.3:
        element = random.choice(ELEMENTS)
        return f"_{element}", _mutated_text(random, _array(random, element))
    name = random.choice(list(TEXTS))
    return name, _mutated_text(random, random.choice(TEXTS[name]))


def _array(random: Random, element: str) -> str:
    items = []
    for _ in range(random.choice((0, 1, 2, 5))):
        text = random.choice(TEXTS[element])
        if not text or random.random() < 0.5 or any(letter in text for letter in '{}," \\'):
            text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        items.append(random.choice((text, text, text, "NULL")))
    return "{" + ",".join(items) + "}"


def _mutated_text(random: Random, text: str) -> str:
    for _ in range(random.choice((0, 0, 1, 1, 3))):
        place = random.randint(0, len(text))
        letter = random.choice(("", random.choice(LETTERS)))
        text = text[:place] + letter + text[place + random.choice((0, 1, 1)) :]
    return text


def _values(
    types: list[str], fields: list[Any], names: int, omit: bool, on_error: Any
) -> list[str]:
    columns = [
        Column(f"c{place % names}", OIDS[name], name, "pg_catalog", -1, False)
        for place, name in enumerate(types)
    ]
    record = Record(Shape(tuple(columns)), tuple(fields))
    first = repr(record["c0"]) if on_error == "raise" else ""
    values = record.as_python(omit_unchanged=omit, on_error=on_error)
    return [first, repr(values), *(type(value).__name__ for value in values.values())]


def _message_values(
    types: list[str], fields: list[Any], names: int, omit: bool, on_error: Any
) -> list[str]:
    """Return the values of a row that was not looked at before."""
    columns = tuple(
        RelationColumn(0, f"c{place % names}", OIDS[name], -1) for place, name in enumerate(types)
    )
    row = UpdateMessage(1, None, False, tuple(fields))
    messages = (BeginMessage(LSN(9), 0, 7), RelationMessage(1, "s", "t", "d", columns), row, row)
    *_, change = ChangeDecoder().decode([encode(message) for message in messages])
    assert isinstance(change, Update)
    values = change.record.as_python(omit_unchanged=omit, on_error=on_error)
    return [repr(values), *(type(value).__name__ for value in values.values())]


def _try_copied(random: Random) -> str:
    types = [random.choice(list(TEXTS)) for _ in range(random.choice((1, 2, 5)))]
    lines = [
        "\t".join([_copied(random, name) for name in types])
        for _ in range(random.choice((0, 1, 3)))
    ]
    data = mutated(random, "".join([f"{line}\n" for line in lines]).encode())
    columns = [
        Column(f"c{place}", OIDS[name], name, "pg_catalog", -1, False)
        for place, name in enumerate(types)
    ]

    def found() -> list[str]:
        # The table is a new one, as it keeps what has loaded its rows.
        table = Relation(1, "s", "t", ReplicaIdentity.DEFAULT, tuple(columns))
        events = row_events.row_events(table, data, SnapshotProgress(table, 0, 0, 0, 0, 0, 0, 0))
        values = [event.record.as_python(on_error="text") for event in events]
        return [repr(values), *(repr(event.record.fields) for event in events)]

    outcome, _ = _both((types, data), found)
    return f"copied: {outcome}"


def _copied(random: Random, name: str) -> str:
    """Return a field as COPY writes it, or almost."""
    text = random.choice(TEXTS[name])
    if random.random() < 0.3:
        text += random.choice("\\\t\n\b\f\v\r\x01")
    if random.random() < 0.8:
        text = text.replace("\\", r"\\").replace("\t", r"\t").replace("\n", r"\n")
    return random.choice((text, text, text, r"\N"))


_INPUTS = (
    _try_stream,
    *(_try_row,) * 6,
    *(_try_tuple,) * 3,
    *(_try_values,) * 10,
    *(_try_copied,) * 3,
)


def _changes(stream: list[bytes], parallel: bool) -> list[Any]:
    """Return what a decoder makes of a stream: events, and in the end the error, if any."""
    both = ChangeDecoder(abort_info=parallel, max_memory=1000)
    found: list[Any] = []
    try:
        for event in both.decode(stream):
            found.append(_plain(event))
    except Exception as error:
        found.append((type(error).__name__, str(error)))
        # Neither goes on after an error.
        try:
            list(both.decode(stream[-1:]))
        except Exception as second:
            found.append((type(second).__name__, str(second)))
    finally:
        both.close()
    return found


def _plain(event: Any) -> Any:
    records = [getattr(event, name, None) for name in ("record", "old_record")]
    values = [record and repr(record.as_python(on_error="text")) for record in records]
    kinds = [record and [type(field) for field in record.fields] for record in records]
    return type(event).__name__, values, seen(event), repr(event), kinds


def _messages(stream: list[bytes]) -> list[Any]:
    decode = Decoder().decode
    found: list[Any] = []
    for data in stream:
        try:
            found.append(decode(data))
        except Exception as error:
            found.append((type(error).__name__, str(error)))
    return found


@cache
def _rows() -> list[tuple[list[bytes], list[bytes], bytes]]:
    """Return for each relation a Begin and what describes it; its rows; and the Commit."""
    found = []
    for name in ROWS:
        decoded = decoder_for(name)
        begin, commit = b"", b""
        types: list[bytes] = []
        relations: dict[int, bytes] = {}
        rows: dict[bytes, list[bytes]] = {}
        for data in payloads(name):
            message = decoded.decode(data)
            if decoded.in_stream:
                continue
            match message:
                case BeginMessage() if not commit:
                    begin = data
                case CommitMessage() if not commit:
                    commit = data
                case TypeMessage():
                    types.append(data)
                case RelationMessage(oid):
                    relations[oid] = data
                case InsertMessage(oid) | UpdateMessage(oid) | DeleteMessage(oid):
                    rows.setdefault(relations[oid], []).append(data)
        found += [([begin, *types, relation], some, commit) for relation, some in rows.items()]
    return found


if __name__ == "__main__":
    main(run, "inputs", "the same of each")
