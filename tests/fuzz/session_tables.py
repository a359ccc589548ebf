"""Tables that sessions listen to, and changes of them, with long values in their rows, too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from random import Random
from typing import Final

from realtime_core import Change, Column, Record, Relation, ReplicaIdentity
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.payloads.json_values import renderer
from realtime_core.records import UNCHANGED, Field
from realtime_server.config.database.tables import (
    CustomType,
    Functions,
    KeyColumn,
    LiveColumn,
    Table,
)
from tests.filter_oracle import ENUM_LABELS, TYPES
from tests.server_helpers import delete, insert, truncate, update

__all__ = ["COLUMNS", "ENUMS", "LONG", "TABLES", "long_changes", "make_change"]

LONG: Final = 65_536
"""Characters of a long value: a pattern is looked for in no longer one."""
ENUMS: Final = {("public", "mood"): ENUM_LABELS}
OIDS: Final = {name: oid for oid, name in BUILTIN_TYPES.items()}
_MOOD: Final = 90_001
_MOODS: Final = 90_002


def _columns() -> tuple[Column, ...]:
    columns = []
    for place, each in enumerate(TYPES):
        name = each.sql.partition("(")[0].strip('"').replace("positive", "int4")
        if name.endswith("[]"):
            name = f"_{name[:-2]}"
        oid = OIDS.get(name, {"mood": _MOOD, "_mood": _MOODS}.get(name, 90_000))
        schema = "pg_catalog" if name in OIDS else "public"
        columns.append(Column(f"c{place}", oid, name, schema, -1, place == 0))
    return tuple(columns)


COLUMNS: Final = _columns()
"""One of each type, c0 and so on."""
WIDE: Final = Relation(16_385, "public", "t", ReplicaIdentity.FULL, COLUMNS)
ALTERED: Final = Relation(16_385, "public", "t", ReplicaIdentity.FULL, COLUMNS[:-1])
"""The same table, one column ago."""
TODOS: Final = Relation(
    16_386,
    "public",
    "todos",
    ReplicaIdentity.DEFAULT,
    (
        Column("id", OIDS["int8"], "int8", "pg_catalog", -1, True),
        Column("details", OIDS["text"], "text", "pg_catalog", -1, False),
        Column("data", OIDS["jsonb"], "jsonb", "pg_catalog", -1, False),
    ),
)


def _table(relation: Relation, *, is_published: bool = True) -> Table:
    live = tuple(
        LiveColumn(each.name, each.type_name, each.type_schema, each.type_oid, each.type_name)
        for each in relation.columns
    )
    names = frozenset(each.name for each in relation.columns)
    key = tuple(
        KeyColumn(each.name, each.type_name, "operator(pg_catalog.=)")
        for each in relation.columns
        if each.is_key
    )
    mood = CustomType(_MOOD, "e", 0, "mood", "public")
    moods = CustomType(_MOODS, "b", _MOOD, "_mood", "public")
    return Table(
        oid=relation.oid,
        schema=relation.schema,
        name=relation.table,
        has_rls=False,
        is_partitioned=False,
        is_partition=False,
        is_full=relation.replica_identity is ReplicaIdentity.FULL,
        is_at_odds=False,
        columns=live,
        key=key,
        published=names if is_published else None,
        published_actions=None,
        has_row_filter=False,
        selectable={},
        bypassing=frozenset(),
        types={_MOOD: mood, _MOODS: moods},
        functions=Functions(),
    )


TABLES: Final[Mapping[tuple[str, str], Table]] = {
    ("public", "t"): _table(WIDE),
    ("public", "todos"): _table(TODOS),
    ("public", "secret"): _table(
        Relation(16_387, "public", "secret", ReplicaIdentity.DEFAULT, TODOS.columns),
        is_published=False,
    ),
}
"""By schema and name."""


def _of(text: str) -> str:
    return (text * (LONG // len(text) + 1))[:LONG]


def _random_text(letters: str, length: int) -> str:
    return "".join(Random(letters).choices(letters, k=length))


_LONG_VALUES: Final[dict[str, list[str]]] = {
    "text": [
        _of("a"),
        _of("ab"),
        _of("a" * 63 + "b"),
        _of("a" * 64 + "b"),
        _of("abcdefghijklmnopqrstuvwxyz0123456789"),
        _of("é"),
        _of("aé"),
        _of("\u0130"),
        _of("漢字"),
        _of("\U0001f642"),
        _of(" "),
        _of("1"),
        _of("%_\\"),
        *(_random_text("ab", length) for length in (600, 1000, 2600, 10_000, 30_000, LONG)),
        *(_random_text("abcdefgh", length) for length in (5000, LONG)),
    ],
    "jsonb": [
        json.dumps([[]] * 16_000),
        json.dumps([1] * 20_000),
        json.dumps([{"a": 1}] * 6000),
        json.dumps({str(number): number for number in range(4000)}),
        json.dumps({"a": [{"b": [1, [2, {"c": number}]]} for number in range(2000)]}),
        '{"a":' * 900 + "1" + "}" * 900,
        "[" * 900 + "]" * 900,
        json.dumps({"a": _of("a"), "b": _of("é")}, ensure_ascii=False),
        f"[{'9' * (LONG - 2)}]",
        "[" + ",".join(["1e131071"] * 7000) + "]",
        '{"a":1e131071,"b":-1e-16383}',
    ],
    "_int4": [f"{{{','.join(['1'] * 32_000)}}}", f"{{{','.join(map(str, range(11_000)))}}}"],
    "_text": [f"{{{','.join(['a'] * 32_000)}}}", '{"' + _of("\\\\") + '"}', f"{{{_of('a')}}}"],
    "_numeric": [f"{{{','.join(['1.0'] * 16_000)}}}", f"{{{'9' * 60_000}}}"],
    "_date": [f"{{{','.join(['2026-01-01'] * 5900)}}}"],
    "_int4range": ["{" + ",".join(['"[1,5)"'] * 8000) + "}"],
    "int4multirange": ["{" + ",".join(f"[{each},{each + 1})" for each in range(0, 9000, 2)) + "}"],
    "nummultirange": ["{" + ",".join(f"[{each},{each}.5)" for each in range(4500)) + "}"],
    "numrange": [f"[{'9' * 30_000},)"],
    "numeric": ["9" * LONG, f"0.{'0' * 16_000}1", f"{'9' * 60_000}.{'9' * 5000}"],
    "bytea": [f"\\x{'00' * (LONG // 2)}"],
    "varbit": ["1" * LONG],
    "tsvector": [" ".join(f"'w{each}':{each}" for each in range(5000))],
}
"""By type's name."""
_SAME: Final = {"varchar": "text", "citext": "text", "json": "jsonb", "_citext": "_text"}


@cache
def long_changes() -> tuple[Change, ...]:
    """Return changes with one long value each, most of them of the wide table."""
    usual: list[Field] = [each.values[0] for each in TYPES]
    found: list[Change] = []
    for kind, values in _LONG_VALUES.items():
        places = [
            place
            for place, column in enumerate(COLUMNS)
            if kind in (column.type_name, _SAME.get(column.type_name))
        ]
        for number, value in enumerate(values):
            # Mostly in the first column of its type, which most conditions are about.
            for place in (places[0], places[number % len(places)]):
                fields = [*usual[:place], value, *usual[place + 1 :]]
                found.append(insert(WIDE, *fields))
            found.append(update(WIDE, fields, Record(WIDE.shape, tuple(usual))))
    for text in _LONG_VALUES["text"]:
        found.append(insert(TODOS, "1", text, "{}"))
    return tuple(found)


def _written(column: Column, values: Sequence[str]) -> list[str]:
    """Return those of a type's literals that PostgreSQL might have written."""
    render = renderer(column)
    found = []
    for value in values:
        with suppress(ValueError, IndexError):
            render(value)
            found.append(value)
    return found


@cache
def _changes() -> tuple[Change, ...]:
    random = Random("changes")
    written = [_written(column, each.values) for column, each in zip(COLUMNS, TYPES, strict=True)]
    found: list[Change] = [truncate(WIDE), truncate(WIDE, TODOS)]
    for _ in range(60):
        fields: list[Field] = [
            None if random.random() < 0.1 else random.choice(values) for values in written
        ]
        if random.random() < 0.2:
            fields[random.randrange(1, len(fields))] = UNCHANGED
        old = Record(WIDE.shape, tuple(map(random.choice, written)))
        todo: tuple[Field, ...] = (str(random.randrange(9)), random.choice("abc"), '{"a":1}')
        key = Record(TODOS.shape, (todo[0], UNCHANGED, UNCHANGED))
        found += [
            insert(WIDE, *fields),
            update(WIDE, fields, old),
            update(WIDE, fields),
            delete(WIDE, old),
            insert(ALTERED, *fields[:-1]),
            insert(TODOS, *todo),
            insert(TODOS, *todo),
            update(TODOS, todo),
            delete(TODOS, key),
        ]
    return tuple(found)


def make_change(random: Random) -> Change:
    """Return a change with values of usual length."""
    return random.choice(_changes())
