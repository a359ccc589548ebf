import contextlib
import copy
import csv
import io
import json
import logging
import pickle
import sqlite3
from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from ipaddress import IPv4Address
from typing import Any

import orjson
import pytest
from psycopg import ProgrammingError
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.json import Jsonb

from realtime_core import UNCHANGED, Column, Record, Shape, Unchanged, ValueConversionError

SHAPE = Shape(
    (
        Column("id", 23, "int4", "pg_catalog", -1, True),
        Column("name", 25, "text", "pg_catalog", -1, False),
        Column("born", 1082, "date", "pg_catalog", -1, False),
        Column("bio", 25, "text", "pg_catalog", -1, False),
    )
)
ROW = Record(SHAPE, ("7", None, "infinity", UNCHANGED))


def test_a_record_is_a_mapping_in_the_order_of_its_columns() -> None:
    assert isinstance(ROW, Mapping)
    assert list(ROW) == ["id", "name", "born", "bio"]
    assert len(ROW) == 4
    assert "id" in ROW
    assert "missing" not in ROW


def test_a_field_is_converted_when_it_is_asked_for() -> None:
    assert ROW["id"] == 7
    assert ROW.text("id") == "7"
    assert ROW.raw("id") == "7"


def test_null_is_none_in_every_form() -> None:
    assert (ROW["name"], ROW.text("name"), ROW.raw("name")) == (None, None, None)


def test_unchanged_is_itself_in_every_form_and_is_never_none() -> None:
    for value in (ROW["bio"], ROW.text("bio"), ROW.raw("bio"), ROW.get("bio")):
        assert value is UNCHANGED
        assert value is not None


def test_unchanged_shows_its_name_where_it_is_looked_at() -> None:
    assert repr(UNCHANGED) == f"{UNCHANGED!r}" == "UNCHANGED"
    assert str([UNCHANGED]) == "[UNCHANGED]"
    assert isinstance(UNCHANGED, Unchanged)


def test_unchanged_stays_the_only_one_of_its_type() -> None:
    copies = [pickle.loads(pickle.dumps(UNCHANGED, version)) for version in range(6)]
    copies += [copy.copy(UNCHANGED), copy.deepcopy(UNCHANGED), Unchanged()]
    copies += [pickle.loads(pickle.dumps(ROW))["bio"], copy.deepcopy(ROW)["bio"]]
    assert all(each is UNCHANGED for each in copies)


def write_to_sqlite(value: Any) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("select ?", [value])


SINKS: dict[str, Callable[[Any], Any]] = {
    "csv": lambda value: csv.writer(io.StringIO()).writerow([value]),
    "json": json.dumps,
    "json, with str": partial(json.dumps, default=str),
    "json, with attributes": partial(json.dumps, default=vars),
    "orjson": orjson.dumps,
    "orjson, as a key": lambda value: orjson.dumps({value: 1}, option=orjson.OPT_NON_STR_KEYS),
    "psycopg, text": lambda value: Transformer().as_literal(value),
    "psycopg, any format": lambda value: Transformer().dump_sequence([value], [PyFormat.AUTO]),
    "psycopg, jsonb": lambda value: Transformer().as_literal(Jsonb({"bio": value})),
    "sqlite3": write_to_sqlite,
    "print": lambda value: print(value, file=io.StringIO()),
    "an f-string": lambda value: f"{value}",
    "an f-string, aligned": lambda value: f"{value:>20}",
    "%": lambda value: "%s" % value,  # noqa: UP031
    "join": lambda value: ", ".join([value]),
    "bytes": bytes,
    "int": int,
    "list": list,
    "bool": bool,
    "or": lambda value: value or "",
}


@pytest.mark.parametrize("write", SINKS.values(), ids=SINKS)
def test_nothing_writes_unchanged_by_mistake(write: Callable[[Any], Any]) -> None:
    with pytest.raises((TypeError, ProgrammingError, sqlite3.Error)):
        write(ROW["bio"])


def test_who_writes_unchanged_is_told_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"is UNCHANGED.*as_python\(omit_unchanged=True\)"):
        str(ROW["bio"])


def test_a_log_line_shows_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("%r %s", ROW["bio"], {"bio": ROW["bio"]})
    assert caplog.messages == ["UNCHANGED {'bio': UNCHANGED}"]


def test_a_value_that_python_cannot_hold_has_its_text_and_names_its_column() -> None:
    with pytest.raises(ValueConversionError, match=r"column 'born' .* row.text\('born'\)"):
        _ = ROW["born"]
    assert ROW.text("born") == "infinity"


@pytest.mark.parametrize("read", [Record.__getitem__, Record.text, Record.raw])
def test_a_column_that_is_not_there_is_a_key_error(read: Callable[[Record, str], Any]) -> None:
    with pytest.raises(KeyError, match="missing"):
        read(ROW, "missing")


def test_get_has_a_default_for_a_column_that_is_not_there_only() -> None:
    assert ROW.get("missing", 1) == 1
    assert ROW.get("name", 1) is None


def test_as_text_has_every_field() -> None:
    assert ROW.as_text() == {"id": "7", "name": None, "born": "infinity", "bio": UNCHANGED}


def test_unchanged_columns_can_be_left_out() -> None:
    row = Record(SHAPE, ("7", None, "1815-12-10", UNCHANGED))
    python = {"id": 7, "name": None, "born": date(1815, 12, 10)}
    assert row.as_python(omit_unchanged=True) == python
    assert row.as_python() == python | {"bio": UNCHANGED}
    text = {"id": "7", "name": None, "born": "1815-12-10"}
    assert row.as_text(omit_unchanged=True) == text
    assert row.as_text() == text | {"bio": UNCHANGED}


def test_a_row_without_unchanged_columns_has_all_of_them_left_out_or_not() -> None:
    row = Record(SHAPE, ("7", None, None, "long"))
    assert row.as_python(omit_unchanged=True) == row.as_python()
    assert row.as_text(omit_unchanged=True) == row.as_text()
    binary = Record(SHAPE, (b"\0\0\0\7", None, None, UNCHANGED))
    assert binary.as_python(omit_unchanged=True) == {"id": 7, "name": None, "born": None}


def test_as_python_has_every_field_or_the_first_error() -> None:
    row = Record(SHAPE, ("7", "Ada", None, UNCHANGED))
    assert row.as_python() == {"id": 7, "name": "Ada", "born": None, "bio": UNCHANGED}
    with pytest.raises(ValueConversionError):
        ROW.as_python()


@pytest.mark.parametrize(
    ("on_error", "born"),
    [
        ("text", "infinity"),
        (lambda error: None, None),
        (lambda error: (error.column, error.type_name, error.text), ("born", "date", "infinity")),
    ],
)
def test_as_python_keeps_a_row_with_a_value_that_python_cannot_hold(
    on_error: Any, born: object
) -> None:
    values = {"id": 7, "name": None, "born": born}
    assert ROW.as_python(on_error=on_error) == values | {"bio": UNCHANGED}
    assert ROW.as_python(on_error=on_error, omit_unchanged=True) == values
    with pytest.raises(ValueConversionError, match="infinity"):
        ROW.as_python(on_error="raise")


def test_what_the_function_for_errors_raises_is_raised() -> None:
    def give_up(error: ValueConversionError) -> None:
        raise LookupError(error.column)

    with pytest.raises(LookupError, match="born"):
        ROW.as_python(on_error=give_up)


def test_a_binary_field_that_python_cannot_hold_has_its_bytes() -> None:
    row = Record(SHAPE, (b"\0\0\0\7", b"Ada", b"\x7f\xff\xff\xff", None))
    assert row.as_python(on_error="text")["born"] == b"\x7f\xff\xff\xff"


@pytest.mark.parametrize("on_error", ["txt", None, True])
def test_as_python_refuses_another_way_to_meet_errors(on_error: Any) -> None:
    with pytest.raises(ValueError, match="on_error must be 'raise', 'text' or a function, not "):
        Record(SHAPE, ("7", None, None, None)).as_python(on_error=on_error)


def test_a_binary_field_has_bytes_and_a_value_but_no_text() -> None:
    row = Record(SHAPE, (b"\0\0\0\7", b"Ada", None, None))
    assert (row["id"], row["name"], row.raw("id")) == (7, "Ada", b"\0\0\0\7")
    with pytest.raises(ValueConversionError, match="a binary field has no text") as caught:
        row.text("id")
    assert (caught.value.column, caught.value.text) == ("id", None)
    with pytest.raises(ValueConversionError):
        row.as_text()


def test_records_are_equal_by_names_and_fields() -> None:
    assert Record(SHAPE, ("7", None, "infinity", UNCHANGED)) == ROW
    assert Record(SHAPE, ("7", "", "infinity", UNCHANGED)) != ROW
    assert Record(SHAPE, ("7", None, "infinity", None)) != ROW
    assert Record(Shape(SHAPE.columns), ROW.fields) == ROW
    renamed = tuple(
        Column(column.name.upper(), 25, "text", "pg_catalog", -1, False) for column in SHAPE.columns
    )
    assert Record(Shape(renamed), ROW.fields) != ROW


def test_a_record_compares_with_a_dict_by_python_values() -> None:
    assert Record(SHAPE, ("7", None, None, UNCHANGED)) == {
        "id": 7,
        "name": None,
        "born": None,
        "bio": UNCHANGED,
    }


def test_a_record_is_not_hashable() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(ROW)


def test_repr_shows_the_fields_as_they_came() -> None:
    assert repr(ROW) == "Record(id='7', name=None, born='infinity', bio=UNCHANGED)"


def test_a_record_without_columns_is_empty() -> None:
    row = Record(Shape(()), ())
    assert (list(row), len(row), row.as_text(), row.as_python()) == ([], 0, {}, {})


def test_rows_of_one_shape_share_their_converters() -> None:
    # A type that psycopg alone converts, whichever the implementation.
    columns = [Column(name, 869, "inet", "pg_catalog", -1, False) for name in "abc"]
    shape = Shape(tuple(columns))
    texts = tuple(f"10.0.0.{number}" for number in range(3))
    assert Record(shape, texts)["a"] == IPv4Address("10.0.0.0")
    converter = shape.converters[0]
    assert converter is not None
    assert Record(shape, texts[::-1])["a"] == IPv4Address("10.0.0.2")
    assert shape.converters[0] is converter
    # Only what was asked for was made.
    assert shape.converters[1:] == [None, None]
