"""What a change looks like on the wire, from each PostgreSQL, over real sockets.

Section 3 of the specification.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.integration.conftest import Stage
from tests.server_helpers import RECENTLY, PhoenixClient, Vsn

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

NO_MODIFIER = 4294967295

Column = dict[str, Any]


def column(name: str, kind: str, *, key: bool = False, modifier: int = NO_MODIFIER) -> Column:
    flags = ["key"] if key else []
    return {"flags": flags, "name": name, "type": kind, "type_modifier": modifier}


ITEM = [column("id", "int8", key=True), column("details", "text")]


def payload(
    stage: Stage, table: str, event: str, columns: list[Column], **records: Any
) -> dict[str, Any]:
    return {
        "schema": stage.schema,
        "table": table,
        "type": event,
        "commit_timestamp": RECENTLY,
        "errors": None,
        "columns": columns,
        **records,
    }


def emptied(stage: Stage, table: str) -> dict[str, Any]:
    return {
        "schema": stage.schema,
        "table": table,
        "type": "TRUNCATE",
        "commit_timestamp": RECENTLY,
    }


async def payloads(stage: Stage, *statements: str) -> list[Any]:
    """Return the payloads of what statements do in the test's schema."""
    await stage.settle()
    async with stage.client() as client:
        await client.join(stage.topic())
        return [frame["payload"] for frame in await stage.frames(client, *statements)]


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
async def test_each_event_has_its_own_form(stage: Stage, vsn: Vsn) -> None:
    stage.execute("create table item (id int8 primary key, details text)")
    async with stage.client(vsn) as client:
        topic = stage.topic("item")
        await client.join(topic)
        frames = await stage.frames(
            client,
            "insert into item values (14, 'x'), (15, null)",
            "update item set details = 'y' where id = 14",
            "update item set id = 16 where id = 15",
            "delete from item where id = 14",
            "truncate item",
        )

        def frame(event: str, **records: Any) -> Any:
            return client.frame(topic, event, payload(stage, "item", event, ITEM, **records))

        assert frames == [
            frame("INSERT", record={"id": "14", "details": "x"}),
            frame("INSERT", record={"id": "15", "details": None}),
            frame("UPDATE", record={"id": "14", "details": "y"}, old_record={}),
            frame("UPDATE", record={"id": "16", "details": None}, old_record={"id": "15"}),
            frame("DELETE", old_record={"id": "14"}),
            client.frame(topic, "TRUNCATE", emptied(stage, "item")),
        ]


async def test_a_truncate_is_one_event_for_each_table_cascade_included(stage: Stage) -> None:
    stage.execute(
        "create table one (id int primary key)",
        "create table two (id int references one)",
        "create table three (id int)",
    )
    shown = await payloads(stage, "truncate one, three cascade")
    assert sorted(shown, key=lambda payload: payload["table"]) == [
        emptied(stage, table) for table in ("one", "three", "two")
    ]


# Old rows.


async def test_under_full_the_old_row_is_whole_and_every_column_is_key(stage: Stage) -> None:
    stage.execute(
        "create table item (id int8 primary key, details text)",
        "alter table item replica identity full",
        "insert into item values (1, null)",
    )
    columns = [column("id", "int8", key=True), column("details", "text", key=True)]
    before, after = {"id": "1", "details": None}, {"id": "1", "details": "x"}
    assert await payloads(stage, "update item set details = 'x'", "delete from item") == [
        payload(stage, "item", "UPDATE", columns, record=after, old_record=before),
        payload(stage, "item", "DELETE", columns, old_record=after),
    ]


async def test_with_an_index_as_identity_its_columns_are_the_key(stage: Stage) -> None:
    stage.execute(
        "create table item (id int8 primary key, code text not null, more text)",
        "create unique index by_code on item (code)",
        "alter table item replica identity using index by_code",
        "insert into item values (1, 'a', 'x')",
    )
    columns = [column("id", "int8"), column("code", "text", key=True), column("more", "text")]
    assert await payloads(
        stage, "update item set id = 2", "update item set code = 'b'", "delete from item"
    ) == [
        payload(
            stage,
            "item",
            "UPDATE",
            columns,
            record={"id": "2", "code": "a", "more": "x"},
            old_record={},
        ),
        payload(
            stage,
            "item",
            "UPDATE",
            columns,
            record={"id": "2", "code": "b", "more": "x"},
            old_record={"code": "a"},
        ),
        payload(stage, "item", "DELETE", columns, old_record={"code": "b"}),
    ]


async def test_a_key_of_several_columns_comes_whole(stage: Stage) -> None:
    stage.execute(
        "create table item (a int8, details text, b int8, primary key (b, a))",
        "insert into item values (1, 'x', 2)",
    )
    columns = [
        column("a", "int8", key=True),
        column("details", "text"),
        column("b", "int8", key=True),
    ]
    assert await payloads(stage, "update item set b = 3", "delete from item") == [
        payload(
            stage,
            "item",
            "UPDATE",
            columns,
            record={"a": "1", "details": "x", "b": "3"},
            old_record={"a": "1", "b": "2"},
        ),
        payload(stage, "item", "DELETE", columns, old_record={"a": "1", "b": "3"}),
    ]


async def test_a_table_without_a_key_has_inserts_without_flags(stage: Stage) -> None:
    shown = await payloads(stage, "create table item (id int8)", "insert into item values (1)")
    assert shown == [payload(stage, "item", "INSERT", [column("id", "int8")], record={"id": "1"})]


async def test_unchanged_toast_is_absent_and_under_full_the_old_value(stage: Stage) -> None:
    long = "x" * 5000
    stage.execute(
        "create table item (id int8 primary key, n int4, long text)",
        "alter table item alter long set storage external",
        f"insert into item values (1, 1, '{long}')",
    )
    kinds = {"id": "int8", "n": "int4", "long": "text"}
    default = [column(name, kinds[name], key=name == "id") for name in kinds]
    full = [column(name, kinds[name], key=True) for name in kinds]
    assert await payloads(
        stage,
        "update item set n = 2",
        "alter table item replica identity full",
        "update item set n = 3",
        "update item set long = 'short'",
    ) == [
        payload(stage, "item", "UPDATE", default, record={"id": "1", "n": "2"}, old_record={}),
        payload(
            stage,
            "item",
            "UPDATE",
            full,
            record={"id": "1", "n": "3", "long": long},
            old_record={"id": "1", "n": "2", "long": long},
        ),
        payload(
            stage,
            "item",
            "UPDATE",
            full,
            record={"id": "1", "n": "3", "long": "short"},
            old_record={"id": "1", "n": "3", "long": long},
        ),
    ]


# Values: (type, literal, type's name in `columns`, modifier, text).
TYPES: list[tuple[str, str, str, int, str]] = [
    ("bool", "true", "bool", -1, "t"),
    ("bool", "false", "bool", -1, "f"),
    ("int2", "-32768", "int2", -1, "-32768"),
    ("int4", "2147483647", "int4", -1, "2147483647"),
    ("int8", "9223372036854775807", "int8", -1, "9223372036854775807"),
    ("float4", "1.1", "float4", -1, "1.1"),
    ("float8", "0.1", "float8", -1, "0.1"),
    ("float8", "1e300", "float8", -1, "1e+300"),
    ("float8", "NaN", "float8", -1, "NaN"),
    ("float8", "-Infinity", "float8", -1, "-Infinity"),
    ("numeric", "1234567890123456789.123456789", "numeric", -1, "1234567890123456789.123456789"),
    ("numeric(10,3)", "1.5", "numeric", (10 << 16 | 3) + 4, "1.500"),
    ("numeric", "NaN", "numeric", -1, "NaN"),
    ("oid", "4294967295", "oid", -1, "4294967295"),
    ("text", 'a"b\\c\n\té漢🦄', "text", -1, 'a"b\\c\n\té漢🦄'),
    ("text", "", "text", -1, ""),
    ("text", "null", "text", -1, "null"),
    ("varchar", "x", "varchar", -1, "x"),
    ("varchar(10)", "x", "varchar", 14, "x"),
    ("char(5)", "ab", "bpchar", 9, "ab   "),
    ('"char"', "x", "char", -1, "x"),
    ("name", "x", "name", -1, "x"),
    ("bytea", "\\xDEADBEEF", "bytea", -1, "\\xdeadbeef"),
    ("date", "2026-11-24", "date", -1, "2026-11-24"),
    ("date", "infinity", "date", -1, "infinity"),
    ("date", "0044-03-15 BC", "date", -1, "0044-03-15 BC"),
    ("time", "05:36:56.5", "time", -1, "05:36:56.5"),
    ("time(3)", "24:00:00", "time", 3, "24:00:00"),
    ("timetz", "05:36:56.5+02", "timetz", -1, "05:36:56.5+02"),
    ("interval", "1-2 3 4:05:06.5", "interval", -1, "1 year 2 mons 3 days 04:05:06.5"),
    ("interval", "-1 day", "interval", -1, "-1 days"),
    ("bit(3)", "101", "bit", 3, "101"),
    ("varbit", "10101", "varbit", -1, "10101"),
    ("inet", "10.0.0.1/8", "inet", -1, "10.0.0.1/8"),
    ("cidr", "10.0.0.0/8", "cidr", -1, "10.0.0.0/8"),
    ("macaddr", "08-00-2b-01-02-03", "macaddr", -1, "08:00:2b:01:02:03"),
    ("macaddr8", "08002b0102030405", "macaddr8", -1, "08:00:2b:01:02:03:04:05"),
    ("uuid", "A0EEBC999C0B4EF8BB6D6BB9BD380A11", "uuid", -1,
     "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("json", '{"b" : 1, "a":[null]}', "json", -1, '{"b" : 1, "a":[null]}'),
    ("jsonb", '{"b" : 1, "a":[null]}', "jsonb", -1, '{"a": [null], "b": 1}'),
    ("jsonb", "null", "jsonb", -1, "null"),
    ("jsonpath", "$.a[*]", "jsonpath", -1, '$."a"[*]'),
    ("tsvector", "b:2 a:1A", "tsvector", -1, "'a':1A 'b':2"),
    ("tsquery", "a & !b", "tsquery", -1, "'a' & !'b'"),
    ("point", "1,2", "point", -1, "(1,2)"),
    ("line", "{1,2,3}", "line", -1, "{1,2,3}"),
    ("lseg", "0,0,1,1", "lseg", -1, "[(0,0),(1,1)]"),
    ("box", "0,0,1,1", "box", -1, "(1,1),(0,0)"),
    ("path", "[0,0,1,1]", "path", -1, "[(0,0),(1,1)]"),
    ("polygon", "0,0,1,1,2,0", "polygon", -1, "((0,0),(1,1),(2,0))"),
    ("circle", "0,0,1", "circle", -1, "<(0,0),1>"),
    ("int4range", "[1,5]", "int4range", -1, "[1,6)"),
    ("int8range", "empty", "int8range", -1, "empty"),
    ("numrange", "(1.5,)", "numrange", -1, "(1.5,)"),
    ("tsrange", "[2026-11-24 05:36:00,)", "tsrange", -1, '["2026-11-24 05:36:00",)'),
    ("tstzrange", "[2026-11-24 05:36:00+02,)", "tstzrange", -1, '["2026-11-24 03:36:00+00",)'),
    ("daterange", "[2026-11-24,2026-11-24]", "daterange", -1, "[2026-11-24,2026-11-25)"),
    ("int4multirange", "{[5,8),[1,3)}", "int4multirange", -1, "{[1,3),[5,8)}"),
    ("int8multirange", "{}", "int8multirange", -1, "{}"),
    ("nummultirange", "{[1,2]}", "nummultirange", -1, "{[1,2]}"),
    ("tsmultirange", "{(,2026-11-24)}", "tsmultirange", -1, '{(,"2026-11-24 00:00:00")}'),
    ("tstzmultirange", "{(,2026-11-24)}", "tstzmultirange", -1, '{(,"2026-11-24 00:00:00+00")}'),
    ("datemultirange", "{(,2026-11-24)}", "datemultirange", -1, "{(,2026-11-24)}"),
    ("xid", "4294967295", "xid", -1, "4294967295"),
    ("xid8", "18446744073709551615", "xid8", -1, "18446744073709551615"),
    ("cid", "1", "cid", -1, "1"),
    ("tid", "(0,1)", "tid", -1, "(0,1)"),
    ("pg_lsn", "16/B374D848", "pg_lsn", -1, "16/B374D848"),
    ("pg_snapshot", "10:20:10,14", "pg_snapshot", -1, "10:20:10,14"),
    ("txid_snapshot", "10:20:10,14", "txid_snapshot", -1, "10:20:10,14"),
    ("regclass", "pg_catalog.pg_class", "regclass", -1, "pg_class"),
    ("regproc", "pg_catalog.now", "regproc", -1, "now"),
    ("regprocedure", "pg_catalog.now()", "regprocedure", -1, "now()"),
    ("regoper", "pg_catalog.||/", "regoper", -1, "||/"),
    ("regoperator", "+(int4,int4)", "regoperator", -1, "+(integer,integer)"),
    ("regtype", "int4", "regtype", -1, "integer"),
    ("regnamespace", "pg_catalog", "regnamespace", -1, "pg_catalog"),
    ("regconfig", "english", "regconfig", -1, "english"),
    ("regdictionary", "simple", "regdictionary", -1, "simple"),
    ("regcollation", '"C"', "regcollation", -1, '"C"'),
    ("refcursor", "x", "refcursor", -1, "x"),
    ("oidvector", "1 2", "oidvector", -1, "1 2"),
    ("int2vector", "1 2", "int2vector", -1, "1 2"),
    ("bool[]", "{true,NULL}", "_bool", -1, "{t,NULL}"),
    ("int4[]", "{1,2,3}", "_int4", -1, "{1,2,3}"),
    ("int4[][]", "{{1,2},{3,4}}", "_int4", -1, "{{1,2},{3,4}}"),
    ("int4[]", "[0:1]={1,2}", "_int4", -1, "[0:1]={1,2}"),
    ("text[]", '{"a b",NULL,"NULL","q\\"uote",""}', "_text", -1,
     '{"a b",NULL,"NULL","q\\"uote",""}'),
    ("numeric(10,2)[]", "{1}", "_numeric", (10 << 16 | 2) + 4, "{1.00}"),
    ("jsonb[]", '{"{\\"a\\":1}"}', "_jsonb", -1, '{"{\\"a\\": 1}"}'),
    ("uuid[]", "{}", "_uuid", -1, "{}"),
    ("box[]", "{(1,1),(0,0);(2,2),(0,0)}", "_box", -1, "{(1,1),(0,0);(2,2),(0,0)}"),
    ("int4range[]", '{"[1,5)"}', "_int4range", -1, '{"[1,5)"}'),
    ("xid8[]", "{1}", "_xid8", -1, "{1}"),
    ("timestamptz[]", "{2026-11-24 05:36+02}", "_timestamptz", -1, '{"2026-11-24 03:36:00+00"}'),
    ("timestamp[]", "{infinity}", "_timestamp", -1, "{infinity}"),
    ("timestamp", "2026-11-24 05:36:56.166595", "timestamp", -1, "2026-11-24T05:36:56.166595Z"),
    ("timestamp", "2026-11-24 05:36:56.5", "timestamp", -1, "2026-11-24T05:36:56.5Z"),
    ("timestamp(0)", "2026-11-24 05:36:56.2", "timestamp", 0, "2026-11-24T05:36:56Z"),
    ("timestamp", "2026-11-24", "timestamp", -1, "2026-11-24T00:00:00Z"),
    ("timestamp", "0001-01-01", "timestamp", -1, "0001-01-01T00:00:00Z"),
    ("timestamp", "9999-12-31 23:59:59.999999", "timestamp", -1, "9999-12-31T23:59:59.999999Z"),
    ("timestamp", "infinity", "timestamp", -1, "infinity"),
    ("timestamp", "-infinity", "timestamp", -1, "-infinity"),
    ("timestamp", "0044-03-15 12:00:00 BC", "timestamp", -1, "0044-03-15 12:00:00 BC"),
    ("timestamp", "10000-01-01", "timestamp", -1, "10000-01-01 00:00:00"),
    ("timestamptz", "2026-11-24 05:36:56+00", "timestamptz", -1, "2026-11-24T05:36:56Z"),
    ("timestamptz", "2026-11-24 05:36:56.5+05:30", "timestamptz", -1, "2026-11-24T00:06:56.5Z"),
    ("timestamptz", "2026-11-24 05:36:56.120-08", "timestamptz", -1, "2026-11-24T13:36:56.12Z"),
    ("timestamptz(3)", "2026-11-24 05:36:56.9996Z", "timestamptz", 3, "2026-11-24T05:36:57Z"),
    ("timestamptz", "infinity", "timestamptz", -1, "infinity"),
    ("timestamptz", "-infinity", "timestamptz", -1, "-infinity"),
    ("timestamptz", "0044-03-15 12:00:00+00 BC", "timestamptz", -1, "0044-03-15 12:00:00+00 BC"),
    ("timestamptz", "10000-01-01 00:00+00", "timestamptz", -1, "10000-01-01 00:00:00+00"),
    ("timestamptz", "9999-12-31 23:59:59-01", "timestamptz", -1, "10000-01-01 00:59:59+00"),
]  # fmt: skip


def quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def test_every_built_in_type_is_its_text_and_its_name(stage: Stage) -> None:
    names = [f"c{number}" for number in range(len(TYPES))]
    definitions = ", ".join(f"{name} {TYPES[place][0]}" for place, name in enumerate(names))
    literals = ", ".join(quote(literal) for _, literal, _, _, _ in TYPES)
    (shown,) = await payloads(
        stage,
        f"create table typed (id int8 primary key, {definitions})",
        f"insert into typed values (1, {literals})",
    )
    columns = [
        column(name, TYPES[place][2], modifier=TYPES[place][3] & 0xFFFFFFFF)
        for place, name in enumerate(names)
    ]
    record = {name: TYPES[place][4] for place, name in enumerate(names)}
    assert shown == payload(
        stage,
        "typed",
        "INSERT",
        [column("id", "int8", key=True), *columns],
        record={"id": "1", **record},
    )


async def test_null_is_null_whatever_the_type(stage: Stage) -> None:
    kinds = sorted({kind for kind, *_ in TYPES})
    definitions = ", ".join(f"c{place} {kind}" for place, kind in enumerate(kinds))
    (shown,) = await payloads(
        stage,
        f"create table typed (id int8 primary key, {definitions})",
        "insert into typed values (1)",
    )
    assert shown["record"] == {"id": "1", **{f"c{place}": None for place in range(len(kinds))}}


async def test_what_depends_on_the_server_is_what_the_server_says(stage: Stage) -> None:
    """Money has the locale's currency; roles are the installation's."""
    (shown,) = await payloads(
        stage,
        "create table typed (id int8 primary key, m money, r regrole, a aclitem[])",
        "insert into typed select 1, 1234.5::numeric::money, r.oid, nspacl from pg_roles r,"
        " pg_namespace where rolname = current_user and nspname = 'pg_catalog'",
    )
    ((money, role, acl),) = stage.execute("select m::text, r::text, a::text from typed")
    assert shown["record"] == {"id": "1", "m": money, "r": role, "a": acl}
    assert [each["type"] for each in shown["columns"]] == ["int8", "money", "regrole", "_aclitem"]


async def test_own_types_have_their_names_and_domains_their_base_types(stage: Stage) -> None:
    (shown,) = await payloads(
        stage,
        "create type mood as enum ('sad', 'ok', 'it''s \"fine\"', '')",
        "create domain positive as int4 check (value > 0)",
        "create domain label as varchar(20)",
        "create domain nested as positive",
        "create domain moody as mood",
        "create domain list as int4[]",
        "create domain moment as timestamptz",
        "create type point3 as (x int4, y text)",
        "create type floats as range (subtype = float8, multirange_type_name = many_floats)",
        "create table own (id positive primary key, e mood, d positive, l label, n nested, m moody,"
        " a list, t moment, c point3, r floats, s many_floats, ea mood[], ca point3[],"
        " da positive[])",
        "insert into own values (1, 'it''s \"fine\"', 2, 'x', 3, 'ok', '{1}',"
        " '2026-11-24 05:36:00+02', '(1,\"a b\")', '[1.5,2)', '{[1,2)}', '{sad,\"\"}',"
        " array['(1,x)'::point3], '{4}')",
    )
    kinds = {
        "id": ("int4", "1"),
        "e": ("mood", 'it\'s "fine"'),
        "d": ("int4", "2"),
        "l": ("varchar", "x"),
        "n": ("int4", "3"),
        "m": ("mood", "ok"),
        "a": ("_int4", "{1}"),
        "t": ("timestamptz", "2026-11-24T03:36:00Z"),
        "c": ("point3", '(1,"a b")'),
        "r": ("floats", "[1.5,2)"),
        "s": ("many_floats", "{[1,2)}"),
        "ea": ("_mood", '{sad,""}'),
        "ca": ("_point3", '{"(1,x)"}'),
        "da": ("_positive", "{4}"),
    }
    assert shown == payload(
        stage,
        "own",
        "INSERT",
        [column(name, kind, key=name == "id") for name, (kind, _) in kinds.items()],
        record={name: text for name, (_, text) in kinds.items()},
    )


async def test_an_enum_that_gets_a_label_shows_it(stage: Stage) -> None:
    shown = await payloads(
        stage,
        "create type mood as enum ('sad')",
        "create table own (m mood)",
        "insert into own values ('sad')",
        "alter type mood add value 'happy'",
        "insert into own values ('happy')",
    )
    assert [each["record"] for each in shown] == [{"m": "sad"}, {"m": "happy"}]
    assert [each["columns"] for each in shown] == [[column("m", "mood")]] * 2


# Tables.


async def test_a_generated_column_is_there_where_the_publication_has_it(stage: Stage) -> None:
    stage.execute(
        "create table item (id int8 primary key, twice int8 generated always as (id * 2) stored)"
    )
    key = column("id", "int8", key=True)
    without = payload(stage, "item", "INSERT", [key], record={"id": "1"})
    assert await payloads(stage, "insert into item values (1)") == [without]
    if stage.database.server.version < 18:
        return
    stage.execute("alter publication shop set (publish_generated_columns = stored)")
    try:
        assert await payloads(stage, "insert into item values (2)") == [
            payload(
                stage,
                "item",
                "INSERT",
                [key, column("twice", "int8")],
                record={"id": "2", "twice": "4"},
            )
        ]
    finally:
        stage.execute("alter publication shop set (publish_generated_columns = none)")


async def test_changes_of_a_tables_columns_show_from_the_next_row_on(stage: Stage) -> None:
    shown = await payloads(
        stage,
        "create table item (id int8 primary key, a text)",
        "insert into item values (1, 'x')",
        "alter table item add b int4 default 5",
        "insert into item values (2, 'y')",
        "alter table item rename a to c",
        "alter table item alter c type varchar(5)",
        "insert into item values (3, 'z')",
        "alter table item drop c",
        "update item set b = 6 where id = 1",
        "alter table item rename to thing",
        "insert into thing values (4, 7)",
    )
    key = column("id", "int8", key=True)
    a, b, c = column("a", "text"), column("b", "int4"), column("c", "varchar", modifier=9)
    assert shown == [
        payload(stage, "item", "INSERT", [key, a], record={"id": "1", "a": "x"}),
        payload(stage, "item", "INSERT", [key, a, b], record={"id": "2", "a": "y", "b": "5"}),
        payload(stage, "item", "INSERT", [key, c, b], record={"id": "3", "c": "z", "b": "5"}),
        payload(stage, "item", "UPDATE", [key, b], record={"id": "1", "b": "6"}, old_record={}),
        payload(stage, "thing", "INSERT", [key, b], record={"id": "4", "b": "7"}),
    ]


async def test_rows_of_a_partitioned_table_are_their_partitions(stage: Stage) -> None:
    shown = await payloads(
        stage,
        "create table item (id int8 primary key) partition by range (id)",
        "create table low partition of item for values from (0) to (10)",
        "create table high partition of item for values from (10) to (20)",
        "insert into item values (5), (15)",
        "update item set id = 6 where id = 15",
    )
    key = [column("id", "int8", key=True)]
    assert shown == [
        payload(stage, "low", "INSERT", key, record={"id": "5"}),
        payload(stage, "high", "INSERT", key, record={"id": "15"}),
        payload(stage, "high", "DELETE", key, old_record={"id": "15"}),
        payload(stage, "low", "INSERT", key, record={"id": "6"}),
    ]


async def test_a_table_without_columns_and_a_row_without_values(stage: Stage) -> None:
    shown = await payloads(stage, "create table item ()", "insert into item default values")
    assert shown == [payload(stage, "item", "INSERT", [], record={})]


async def test_odd_names_are_shown_as_they_are(stage: Stage) -> None:
    names = ["Mixed Case", 'quo"ted', "it's", "größe", "漢字 🦄", "back\\slash", "new\nline", "a:b"]
    definitions = ", ".join('"' + name.replace('"', '""') + '" text' for name in names)
    values = ", ".join(quote(name) for name in names)
    (shown,) = await payloads(
        stage,
        f'create table "odd ""T"" 漢" ({definitions})',
        f'insert into "odd ""T"" 漢" values ({values})',
    )
    assert shown == payload(
        stage,
        'odd "T" 漢',
        "INSERT",
        [column(name, "text") for name in names],
        record={name: name for name in names},
    )


@pytest.mark.parametrize("size", [100, 70_000, 900_000])
async def test_a_value_of_any_size_comes_whole(stage: Stage, size: int) -> None:
    (shown,) = await payloads(
        stage,
        "create table item (id int8 primary key, long text)",
        f"insert into item values (1, repeat('é', {size // 2}))",
    )
    assert shown["record"] == {"id": "1", "long": "é" * (size // 2)}


# Order and time.


async def ids(stage: Stage, client: PhoenixClient) -> list[tuple[str, str]]:
    await stage.settle()
    frames = [frame["payload"] for frame in await client.drain()]
    return [(each["type"], (each.get("record") or each["old_record"])["id"]) for each in frames]


async def test_the_changes_of_a_transaction_keep_their_order(stage: Stage) -> None:
    shown = await payloads(
        stage,
        "create table one (id int8 primary key)",
        "create table two (id int8 primary key)",
        "begin; insert into two values (1); insert into one values (1); update two set id = 2;"
        " delete from one; insert into one values (3); truncate two; insert into two values (4);"
        " commit",
    )
    assert [(each["type"], each["table"]) for each in shown] == [
        ("INSERT", "two"),
        ("INSERT", "one"),
        ("UPDATE", "two"),
        ("DELETE", "one"),
        ("INSERT", "one"),
        ("TRUNCATE", "two"),
        ("INSERT", "two"),
    ]
    assert len({each["commit_timestamp"] for each in shown}) == 1


async def test_transactions_come_in_the_order_of_their_commits(stage: Stage) -> None:
    stage.execute("create table item (id int8 primary key)")
    insert = f"insert into {stage.schema}.item values (%s)"
    async with stage.client() as client:
        await client.join(stage.topic("item"))
        with stage.database.connect() as first, stage.database.connect() as second:
            first.execute("begin")
            first.execute(insert, (1,))
            second.execute("begin")
            second.execute(insert, (2,))
            first.execute(insert, (3,))
            second.execute("commit")
            second.execute(insert, (4,))
            first.execute("commit")
        arrived = await ids(stage, client)
    assert arrived == [("INSERT", "2"), ("INSERT", "4"), ("INSERT", "1"), ("INSERT", "3")]


async def test_what_was_rolled_back_never_comes(stage: Stage) -> None:
    shown = await payloads(
        stage,
        "create table item (id int8 primary key)",
        "begin; insert into item values (1); rollback",
        "begin; insert into item values (2); savepoint a; insert into item values (3);"
        " rollback to a; insert into item values (4); savepoint b; insert into item values (5);"
        " release b; commit",
    )
    assert [each["record"]["id"] for each in shown] == ["2", "4", "5"]


async def test_a_large_transaction_comes_whole_and_in_order(stage: Stage) -> None:
    shown = await payloads(
        stage,
        "create table item (id int8 primary key)",
        "insert into item select generate_series(1, 2000)",
    )
    assert [each["record"]["id"] for each in shown] == [str(n) for n in range(1, 2001)]
    assert len({each["commit_timestamp"] for each in shown}) == 1


async def test_the_commit_timestamp_is_that_of_the_commit_in_utc(stage: Stage) -> None:
    stage.execute("create table item (id int8 primary key)")
    async with stage.client() as client:
        await client.join(stage.topic("item"))
        with stage.database.connect() as connection:
            connection.execute("set timezone = 'Asia/Tokyo'")
            connection.execute("begin")
            connection.execute(f"insert into {stage.schema}.item values (1)")
            before = _now(connection)
            connection.execute("commit")
            after = _now(connection)
        (frame,) = await stage.frames(client)
    text = frame["payload"]["commit_timestamp"]
    time = datetime.fromisoformat(text)
    assert text == time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert before <= time <= after


def _now(connection: Any) -> datetime:
    (row,) = connection.execute("select clock_timestamp()").fetchall()
    now: datetime = row[0]
    return now
