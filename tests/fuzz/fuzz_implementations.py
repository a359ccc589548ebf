"""Do the implementations in Python and in C make the same of any input?

    PYTHONPATH=build/accelerator python -m tests.fuzz.fuzz_implementations COUNT [SEED]

tries COUNT inputs with both, and fails with the first one of which they make different things:
events, values, or errors, whose class and text have to be the same. `make accelerator` compiles
what this compares.

An input is one of two: a stream as fuzz_pgoutput makes them, or a captured row's message between
its Begin and its Commit, mutated, behind one that was not.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any
from unittest.mock import patch

from realtime_core.pgoutput import (
    BeginMessage,
    ChangeDecoder,
    CommitMessage,
    Decoder,
    DeleteMessage,
    InsertMessage,
    RelationMessage,
    TypeMessage,
    UpdateMessage,
    _tuples,
    change_decoder,
    decoder,
)
from tests.core.captures import decoder_for, payloads
from tests.fuzz.fuzz_pgoutput import CAPTURES, mutated, mutated_stream
from tests.pgoutput_streams import seen

__all__ = ["DifferenceError", "run"]

ROWS = (*CAPTURES, "replica_identity_binary.bin.gz")
# Where a row's fields begin, if it has one tuple.
HEAD = 8
# Each implementation's readers of fields, made once.
READERS = {name: cache(_tuples.fields_reader.__wrapped__) for name in ("python", "c")}


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


_INPUTS = (_try_stream, *(_try_row,) * 6, *(_try_tuple,) * 3)


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
    kinds = [record and [type(field) for field in record.fields] for record in records]
    return type(event).__name__, seen(event), repr(event), kinds


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


def main() -> None:
    count = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    start = time.monotonic()
    outcomes = run(count, seed)
    seconds = time.monotonic() - start
    for outcome, number in outcomes.most_common():
        print(f"{number:>12,}  {outcome}")
    print(f"{count:,} inputs in {seconds:,.0f} s, seed {seed}: the same of each")


if __name__ == "__main__":
    main()
