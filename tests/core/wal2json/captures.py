"""The captured streams of wal2json, and what a consumer does with their changes.

tests/core/captures.py says where they are; here they may be packed besides. Made with wal2json
2.6 from the WAL of the pgoutput captures of the same groups, with include-xids, -timestamp,
-lsn, -pk and filter-tables 'oracle.*': `_v1_` is format 1, `_v1_chunks` with write-in-chunks,
`_v2_` is format 2, `_everything` with every include- option and numeric-data-types-as-string.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from realtime_core import (
    UNCHANGED,
    Begin,
    Change,
    Commit,
    Delete,
    Insert,
    Record,
    Relation,
    ReplicaIdentity,
    Truncate,
    Update,
)
from realtime_core.wal2json import Wal2JsonDecoder, parse_file
from tests.core import captures
from tests.core.captures import Row, regclass

Decoded = list[Change | Begin | Commit]


def find(name: str) -> str | None:
    """Return the name of the file that has the capture, or None where there is none."""
    return next((each for each in (name, f"{name}.gz") if captures.find(each) is not None), None)


def each(*names: str) -> pytest.MarkDecorator:
    """Parametrize over those of the captures that are there; the large ones are slow."""
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=[pytest.mark.slow] if "mixed" in name else [])
            for name in names
            if find(name) is not None
        ],
    )


def texts(name: str) -> list[bytes]:
    """Return the texts, or fragments, of a capture."""
    file = find(name)
    assert file is not None
    if is_lines(name):
        return captures.read(file).splitlines(keepends=True)
    return list(captures.payloads(file))


def is_lines(name: str) -> bool:
    return "v2_mixed" in name


@cache
def events(name: str) -> Decoded:
    """Return what the capture becomes."""
    if is_lines(name):
        return list(parse_file(io.BytesIO(b"".join(texts(name))), boundaries=True))
    decoder = Wal2JsonDecoder()
    feed = decoder.feed_chunk if "chunks" in name else decoder.feed
    found = [event for text in texts(name) for event in feed(text)]
    decoder.end()
    return found


def changes(name: str) -> Iterator[Change]:
    """Yield the changes of a capture, without what frames them."""
    for event in events(name):
        if not isinstance(event, (Begin, Commit)):
            yield event


class Replica:
    """What a consumer has that applies every change to tables of its own.

    It finds a row by what the change says of the old one: in format 1 an old row lacks its
    NULLs, and the identity becomes known with the first UPDATE or DELETE only.
    """

    def __init__(self) -> None:
        self._tables: defaultdict[str, _Rows] = defaultdict(_Rows)

    def rows(self, table: str) -> list[Row]:
        return list(self._tables[table].rows.values())

    def apply(self, change: Change | Begin | Commit) -> None:
        match change:
            case Insert(relation=relation, record=record):
                self._tables[regclass(relation)].add(record.as_text())
            case Update(relation=relation, record=record, old_record=old):
                if old is None:
                    known = {name: record.text(name) for name in relation.key_shape.names}
                else:
                    known = old_row(relation, old)
                rows = self._tables[regclass(relation)]
                before = rows.remove(known)
                rows.add(
                    {
                        name: before[name] if value is UNCHANGED else value
                        for name, value in record.as_text().items()
                    }
                )
            case Delete(relation=relation, old_record=old):
                self._tables[regclass(relation)].remove(old_row(relation, old))
            case Truncate(relations=relations):
                for relation in relations:
                    self._tables[regclass(relation)] = _Rows()


def old_row(relation: Relation, record: Record) -> dict[str, Any]:
    """Return an old row or key, with the NULLs that format 1 leaves out of a row."""
    row: dict[str, Any] = {}
    if relation.replica_identity is ReplicaIdentity.FULL:
        row = dict.fromkeys(relation.shape.names)
    return row | record.as_text()


class _Rows:
    """One table's rows, found by any columns."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self._count = 0
        self._indexes: dict[tuple[str, ...], defaultdict[tuple[Any, ...], list[int]]] = {}

    def add(self, row: Any) -> None:
        self._count += 1
        self.rows[self._count] = row
        for names, index in self._indexes.items():
            index[tuple(row.get(name) for name in names)].append(self._count)

    def remove(self, known: dict[str, Any]) -> Row:
        names = tuple(known)
        if names not in self._indexes:
            index = self._indexes[names] = defaultdict(list)
            for number, row in self.rows.items():
                index[tuple(row.get(name) for name in names)].append(number)
        number = self._indexes[names][tuple(known.values())][0]
        row = self.rows.pop(number)
        for names, index in self._indexes.items():
            index[tuple(row.get(name) for name in names)].remove(number)
        return row
