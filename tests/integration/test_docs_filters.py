"""Every example on the page about filters does what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from realtime_core import FilterError, Record, Relation, ReplicaIdentity
from realtime_core.filters import EnumOrders, parse_filter
from realtime_core.filters.nodes import Operator
from realtime_core.filters.parser import MAX_CONDITIONS, MAX_DEPTH, MAX_IN_VALUES, MAX_LENGTH
from tests.filter_oracle import SETTINGS, read_relation, read_texts, to_sql
from tests.fix_postgres import Database

PAGE = (Path(__file__).parents[2] / "docs/reference/filters.md").read_text(encoding="utf-8")

EXAMPLE = re.compile(r"^\| `([^`]+)` \| (yes|no) \|", re.MULTILINE)
ERROR = re.compile(r"^\| `([^`]+)` \| ([^|]+ \(at character .*\)) \|$", re.MULTILINE)
ENUMS: EnumOrders = {("public", "mood"): ("sad", "ok", "happy")}


def examples() -> list[tuple[str, bool]]:
    """Return the page's filters and whether they pass; a table's cell has its pipes escaped."""
    return [(text.replace("\\|", "|"), answer == "yes") for text, answer in EXAMPLE.findall(PAGE)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.integration
def test_every_example_is_true_here_and_in_postgresql(database: Database) -> None:
    with database.connect() as connection:
        connection.execute(SETTINGS)
        (prepare,) = blocks("sql")
        connection.execute(prepare)
        relation = read_relation(connection, "todos")
        (fields,) = read_texts(connection, "SELECT * FROM todos")
        record = Record(relation.shape, fields)
        assert len(examples()) > 40
        for text, passes in examples():
            parsed = parse_filter(text)
            assert parsed.root is not None
            assert parsed.compile(relation, enums=ENUMS)(record) is passes, text
            query = f"SELECT {to_sql(parsed.root)} FROM todos"
            assert read_texts(connection, query) == [("t" if passes else "f",)], text
        errors = ERROR.findall(PAGE)
        assert len(errors) == 8
        named = Relation(1, "public", "todos", ReplicaIdentity.DEFAULT, relation.columns)
        for text, message in errors:
            with pytest.raises(FilterError) as caught:
                parse_filter(text).compile(named, enums=ENUMS)
            assert str(caught.value) == message


def test_every_operator_has_an_example() -> None:
    shown = {text for text, _ in examples()}
    page = " ".join([*shown, *re.findall(r"`(\w+)`", PAGE)])
    missing = [each.value for each in Operator if not re.search(rf"\b{each.value}\b", page)]
    assert missing == []


def test_the_limits_are_those_of_the_parser() -> None:
    assert f"{MAX_LENGTH:,} characters, {MAX_CONDITIONS} conditions and {MAX_DEPTH} groups" in PAGE
    assert f"at most {MAX_IN_VALUES} values" in PAGE


def test_the_programs_print_what_the_page_says() -> None:
    names: dict[str, object] = {}
    for source, expected in zip(blocks("python"), blocks("text"), strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "docs/reference/filters.md", "exec"), names)
        assert printed.getvalue() == expected
