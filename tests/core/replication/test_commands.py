from typing import Literal

import pytest

from realtime_core.lsn import LSN
from realtime_core.replication.commands import (
    check_slot_name,
    create_slot,
    drop_replication_slot,
    export_snapshot,
    parse_table,
    pgoutput_options,
    quote_identifier,
    quote_literal,
    set_failover,
    start_replication,
    timeline_history,
)


def test_names_and_strings_are_quoted() -> None:
    assert quote_identifier('we"ird') == '"we""ird"'
    assert quote_literal("o'clock \\n") == "'o''clock \\n'"


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        quote_identifier(name)


def test_a_string_with_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        quote_literal("\0")


@pytest.mark.parametrize("name", ["a", "slot_1", "x" * 63])
def test_slot_names_that_postgresql_takes(name: str) -> None:
    assert check_slot_name(name) == name


@pytest.mark.parametrize("name", ["", "Upper", "a-b", "x" * 64, "ä", 'a"b', "a b", "a\n"])
def test_slot_names_that_postgresql_refuses(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        check_slot_name(name)


def test_making_a_slot() -> None:
    assert create_slot("s", temporary=False) == (
        'CREATE_REPLICATION_SLOT "s" LOGICAL "pgoutput" NOEXPORT_SNAPSHOT'
    )
    assert create_slot("s", temporary=True) == (
        'CREATE_REPLICATION_SLOT "s" TEMPORARY LOGICAL "pgoutput" NOEXPORT_SNAPSHOT'
    )


def test_making_a_temporary_slot_with_a_snapshot() -> None:
    assert export_snapshot("s", plugin="pgoutput") == (
        'CREATE_REPLICATION_SLOT "s" TEMPORARY LOGICAL "pgoutput" EXPORT_SNAPSHOT'
    )


def test_publication_names_are_quoted_twice() -> None:
    options = pgoutput_options(["shop", 'a\'b "c"'])
    assert options == {"proto_version": "1", "publication_names": '"shop","a\'b ""c"""'}
    assert start_replication("s", LSN.parse("16/B374D848"), options) == (
        'START_REPLICATION SLOT "s" LOGICAL 16/B374D848 '
        '("proto_version" \'1\', "publication_names" \'"shop","a\'\'b ""c"""\')'
    )


def test_looking_after_a_slot() -> None:
    assert create_slot("s", plugin="wal2json", temporary=False, failover=True) == (
        """CREATE_REPLICATION_SLOT "s" LOGICAL "wal2json" (SNAPSHOT 'nothing', FAILOVER)"""
    )
    assert set_failover("s") == 'ALTER_REPLICATION_SLOT "s" (FAILOVER)'
    assert drop_replication_slot("s") == 'DROP_REPLICATION_SLOT "s"'
    assert timeline_history(2) == "TIMELINE_HISTORY 2"


@pytest.mark.parametrize(("streaming", "protocol"), [("on", "2"), ("parallel", "4")])
def test_an_option_of_pgoutput_is_mentioned_where_it_is_wanted(
    streaming: Literal["on", "parallel"], protocol: str
) -> None:
    assert pgoutput_options(["a"], streaming=streaming, messages=True, origin="none") == {
        "proto_version": protocol,
        "publication_names": '"a"',
        "streaming": streaming,
        "messages": "true",
        "origin": "none",
    }


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("public.Orders", ("public", "Orders")),
        ('public."odd ""table. $1"', ("public", 'odd "table. $1')),
        ('"my schema".t', ("my schema", "t")),
    ],
)
def test_a_table_is_named_with_its_schema(text: str, pair: tuple[str, str]) -> None:
    assert parse_table(text) == pair


@pytest.mark.parametrize("text", ["orders", "a.b.c", ".t", 'public."t', "", '"a"b.c'])
def test_what_does_not_name_a_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"which is not schema\.table"):
        parse_table(text)
