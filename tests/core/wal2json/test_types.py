"""Names of types, as format_type() writes them."""

from __future__ import annotations

import pytest

from realtime_core.oids import BUILTIN_TYPES
from realtime_core.wal2json._types import Type, can_be_toasted, parse_type


@pytest.mark.parametrize(
    ("text", "name", "modifier"),
    [
        ("integer", "int4", -1),
        ("smallint[]", "_int2", -1),
        ("bigint", "int8", -1),
        ("real", "float4", -1),
        ("double precision[]", "_float8", -1),
        ("boolean", "bool", -1),
        ("numeric", "numeric", -1),
        ("numeric(10,2)", "numeric", (10 << 16 | 2) + 4),
        ("numeric(5,-2)[]", "_numeric", (5 << 16 | 0x7FE) + 4),
        ("character varying", "varchar", -1),
        ("character varying(10)", "varchar", 14),
        ("character varying(10485760)[]", "_varchar", 10485764),
        ("character(8)", "bpchar", 12),
        ("character", "bpchar", -1),
        ("bpchar", "bpchar", -1),
        ("bit(3)", "bit", 3),
        ("bit", "bit", -1),
        ('"bit"[]', "_bit", -1),
        ("bit varying(5)", "varbit", 5),
        ("char", "char", -1),
        ('"char"[]', "_char", -1),
        ("text", "text", -1),
        ("text[]", "_text", -1),
        ("time without time zone", "time", -1),
        ("time(3) with time zone", "timetz", 3),
        ("timestamp without time zone[]", "_timestamp", -1),
        ("timestamp(0) with time zone", "timestamptz", 0),
        ("timestamp(6) with time zone[]", "_timestamptz", 6),
        ("interval", "interval", -1),
        ("interval(3)", "interval", 0x7FFF << 16 | 3),
        ("interval year", "interval", 1 << 2 << 16 | 0xFFFF),
        ("interval year to month[]", "_interval", (1 << 2 | 1 << 1) << 16 | 0xFFFF),
        ("interval day to second(3)", "interval", 0x1C08 << 16 | 3),
        ("jsonb", "jsonb", -1),
        ("pg_snapshot", "pg_snapshot", -1),
        # Format 1 without include-typmod: pg_type.typname.
        ("int4", "int4", -1),
        ("_timestamptz", "_timestamptz", -1),
    ],
)
def test_a_built_in_type(text: str, name: str, modifier: int) -> None:
    assert parse_type(text, 0) == Type(name, "pg_catalog", modifier)


@pytest.mark.parametrize("name", sorted(set(BUILTIN_TYPES.values())))
def test_every_typname_names_itself(name: str) -> None:
    assert parse_type(name, 0) == Type(name, "pg_catalog", -1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status", ("status", "")),
        ("status[]", ("_status", "")),
        ("app.status", ("status", "app")),
        ("app.status[]", ("_status", "app")),
        ("pg_catalog.int4", ("int4", "pg_catalog")),
        # A quoted name arrives without its quotes, unless it is an array's or has a schema.
        ("Odd name", ("Odd name", "")),
        ('"Odd name"[]', ("_Odd name", "")),
        ('"My schema"."My Type"', ("My Type", "My schema")),
        ('app."we""ird"[]', ('_we"ird', "app")),
        ("geometry(Point,4326)", ("geometry", "")),
        ("vector(3)", ("vector", "")),
        ("intervals", ("intervals", "")),
        ("[]", ("[]", "")),
        ("a.b.c", ("a.b.c", "")),
        ("é" * 31 + "x[]", ("_" + "é" * 31, "")),
    ],
)
def test_a_type_of_ones_own(text: str, expected: tuple[str, str]) -> None:
    assert parse_type(text, 0) == Type(*expected, -1)


@pytest.mark.parametrize(
    "text",
    ["numeric(x)", "numeric(1,2,3)", "interval(9)", "interval second to day", "interval week"],
)
def test_a_modifier_of_no_known_form_is_none(text: str) -> None:
    kind = parse_type(text, 0)
    assert kind.schema == "pg_catalog"
    assert isinstance(kind.modifier, int)


def test_an_oid_says_which_built_in_type_it_is() -> None:
    assert parse_type("", 17) == Type("bytea", "pg_catalog", -1)
    assert parse_type("", 100_000) == Type("", "", -1)
    assert parse_type("", 0) == Type("", "", -1)
    assert parse_type("anything", 23) == Type("int4", "pg_catalog", -1)
    # A domain's own OID, with include-domain-data-type.
    assert parse_type("character varying(20)", 100_000) == Type("varchar", "pg_catalog", 24)


def test_fixed_length_types_are_never_toasted() -> None:
    assert not can_be_toasted("int4", "pg_catalog")
    assert can_be_toasted("text", "pg_catalog")
    assert can_be_toasted("_int4", "pg_catalog")
    assert can_be_toasted("int4", "app")
