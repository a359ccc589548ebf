"""The captured streams, and what the server says happened.

tests/data has the small ones; the folder `shared/captures` beside the project, where there
is one, has more. tests/data/README.md describes both.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from realtime_core import UNCHANGED, Delete, Event, Insert, Record, Relation, Truncate, Update
from realtime_core.pgoutput import Assembler, Decoder

TESTS = Path(__file__).parents[1]
FOLDERS = (TESTS / "data", TESTS.parents[1] / "shared" / "captures")

Row = dict[str, str | None]


def find(name: str) -> Path | None:
    """Return where the file is, or None where only a bigger collection has it."""
    return next((folder / name for folder in FOLDERS if (folder / name).exists()), None)


def read(name: str) -> bytes:
    """Return the file's bytes, unpacked."""
    path = find(name)
    assert path is not None, f"no capture {name}"
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def payloads(name: str) -> Iterator[bytes]:
    """Yield what each XLogData message of the capture carries."""
    data, offset = read(name), 0
    while offset < len(data):
        (length,) = struct.unpack_from("!I", data, offset)
        yield data[offset + 4 : offset + 4 + length]
        offset += 4 + length


def decoder_for(name: str) -> Decoder:
    """Return a decoder for the options that the capture was made with."""
    return Decoder(abort_info="parallel" in name)


@lru_cache(maxsize=6)
def events(name: str) -> list[Event]:
    """Return what the capture becomes: the same list each time, so leave it as it is."""
    decoder, assembler = decoder_for(name), Assembler()
    return [
        event for payload in payloads(name) for event in assembler.feed(decoder.decode(payload))
    ]


def expected(group: str) -> dict[str, Any]:
    """Return what the server says about a group of captures."""
    name = f"expected/{group}.json"
    return json.loads(read(name if find(name) is not None else f"{name}.gz"))


class Tables:
    """What a consumer has that applies every change to tables of its own."""

    def __init__(self) -> None:
        # By table and by the replica identity's values; a list, since under FULL two rows
        # can be alike.
        self._rows: dict[str, dict[tuple[str | None, ...], list[Row]]] = defaultdict(dict)

    def apply(self, event: Event) -> None:
        match event:
            case Insert(relation=relation, record=record):
                self._insert(relation, record.as_text())
            case Update(relation=relation, record=record, old_record=old):
                before = self._remove(relation, record if old is None else old)
                row = {
                    name: before[name] if value is UNCHANGED else value
                    for name, value in record.as_text().items()
                }
                self._insert(relation, row)
            case Delete(relation=relation, old_record=old):
                self._remove(relation, old)
            case Truncate(relations=relations):
                for relation in relations:
                    self._rows[regclass(relation)].clear()

    def add(self, table: str, row: Row, key: Iterable[str]) -> None:
        """Put in a row that was there before the stream began."""
        self._rows[table].setdefault(tuple(row[name] for name in key), []).append(row)

    def rows(self, table: str) -> list[Row]:
        return [row for rows in self._rows[table].values() for row in rows]

    def _insert(self, relation: Relation, row: Any) -> None:
        key = tuple(row[name] for name in relation.key_shape.names)
        self._rows[regclass(relation)].setdefault(key, []).append(row)

    def _remove(self, relation: Relation, record: Record) -> Row:
        key = tuple(record.text(name) for name in relation.key_shape.names)
        return self._rows[regclass(relation)][key].pop()


def checksums(rows: Iterable[Row], columns: Iterable[str]) -> dict[str, Any]:
    """Return what `state` has for a table; the column names give the order of the fields."""
    columns = list(columns)
    texts = [[_text(row[name]) for name in columns] for row in rows]
    texts.sort(key=lambda fields: "\x1f".join(fields).encode())
    return {
        "rows": len(texts),
        "md5": _md5("\x1f".join(fields) for fields in texts),
        "columns": {
            name: _md5(fields[place] for fields in texts) for place, name in enumerate(columns)
        },
    }


def regclass(relation: Relation) -> str:
    """Return the table's name as PostgreSQL writes it: quoted where it must be."""
    return ".".join(
        name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'
        for name in (relation.schema, relation.table)
    )


def _text(field: str | None) -> str:
    return r"\N" if field is None else field


def _md5(items: Iterable[str]) -> str:
    text = "".join(f"{item}\x1e" for item in items)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
