"""What holds for any text, any rows, any options and any cuts."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime_core import (
    UNCHANGED,
    Begin,
    Commit,
    DecodeError,
    Delete,
    Insert,
    LogicalMessage,
    TruncatedMessageError,
    Update,
)
from realtime_core.wal2json import Wal2JsonDecoder, parse
from tests.core.wal2json.encoder import (
    KINDS,
    NUMBERS,
    MessageModel,
    Model,
    Options,
    RowModel,
    TableModel,
    encode,
)

pytestmark = pytest.mark.slow

# PostgreSQL's texts have no NUL and no half of a surrogate pair.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
names = texts.filter(bool)
integers = st.integers(-(2**63), 2**63 - 1).map(str)
# As numeric_out writes them: any number of digits, zeros at the end kept.
numerics = st.from_regex(r"-?(?:0|[1-9][0-9]{0,60})(?:\.[0-9]{1,60})?", fullmatch=True)
floats = st.from_regex(r"-?[1-9](?:\.[0-9]{1,16})?(?:e[-+][0-9]{2,3})?", fullmatch=True)
VALUES: dict[str, st.SearchStrategy[str]] = {
    "integer": integers,
    "bigint": integers,
    "numeric(10,2)": numerics,
    "double precision": floats,
    "boolean": st.sampled_from("tf"),
    "bytea": st.binary(max_size=20).map(lambda value: f"\\x{value.hex()}"),
    "text": texts,
    "character varying(40)": texts,
    "timestamp(3) with time zone": texts,
    "text[]": texts,
}
TOASTED = ("text", "bytea", "numeric(10,2)", "text[]", "character varying(40)")

# A transaction takes long to draw; the fuzzing that found nothing had thousands of each.
fewer = settings(max_examples=40, deadline=None)

options = st.builds(
    Options,
    format_version=st.sampled_from((1, 2)),
    **{field.name: st.booleans() for field in attrs.fields(Options) if field.type == "bool"},  # type: ignore[arg-type]
)


@st.composite
def tables(draw: st.DrawFn) -> TableModel:
    """A table with a key, and one more column, so that a key is no whole row."""
    columns = draw(st.dictionaries(names, st.sampled_from(list(KINDS)), min_size=2, max_size=6))
    key = draw(st.integers(1, len(columns) - 1))
    return TableModel(draw(names), columns, tuple(columns)[:key])


@st.composite
def transactions(draw: st.DrawFn) -> list[Model]:
    """An insert into each table first, which makes its columns known, then anything."""
    models = draw(st.lists(tables(), min_size=1, max_size=3, unique_by=lambda table: table.name))
    changes: list[Model] = [RowModel("insert", table, draw(rows(table)), {}) for table in models]
    for _ in range(draw(st.integers(0, 5))):
        table = draw(st.sampled_from(models))
        kind = draw(st.sampled_from(("insert", "update", "delete", "message")))
        if kind == "message":
            changes.append(MessageModel(draw(st.booleans()), draw(texts), draw(texts)))
            continue
        new, old = draw(rows(table)), draw(rows(table))
        key_changes = draw(st.booleans())
        source = old if key_changes or kind == "delete" else new
        identity = {name: source[name] for name in table.key}
        if kind == "update":
            for name, column_kind in table.columns.items():
                if name not in table.key and column_kind in TOASTED and draw(st.booleans()):
                    del new[name]
        changes.append(RowModel(kind, table, new, identity))
    return changes


@st.composite
def rows(draw: st.DrawFn, table: TableModel) -> dict[str, str | None]:
    return {
        name: draw(VALUES[kind] if name in table.key else st.none() | VALUES[kind])
        for name, kind in table.columns.items()
    }


def decode(stream: list[str]) -> list[Any]:
    decoder = Wal2JsonDecoder()
    return [event for text in stream for event in decoder.feed(text)]


def comparable(event: Any) -> Any:
    """Relations are compared by identity, so two decoders' are never equal."""
    match event:
        case Insert() | Update() | Delete():
            records = [getattr(event, name, None) for name in ("record", "old_record")]
            return (type(event), event.position, str(event.relation), *records)
    return event


@fewer
@given(transactions(), options)
def test_every_row_comes_out_as_it_went_in(changes: list[Model], options: Options) -> None:
    events = [
        event
        for event in decode(list(encode(changes, options)))
        if not isinstance(event, (Begin, Commit))
    ]
    if options.format_version == 1:
        changes = sorted(
            changes, key=lambda change: not isinstance(change, MessageModel) or change.transactional
        )
    assert len(events) == len(changes)
    for event, model in zip(events, changes, strict=True):
        check(event, model, options)


def check(event: Any, model: Model, options: Options) -> None:
    if isinstance(model, MessageModel):
        assert isinstance(event, LogicalMessage)
        assert (event.prefix, event.content) == (model.prefix, model.content.encode())
        assert (event.transaction is not None) is model.transactional
        return
    assert event.relation.table == model.table.name
    assert event.relation.schema == ("public" if options.include_schemas else "")
    prefix = "" if options.include_types or options.include_type_oids else "\\x"

    def expected(row: dict[str, str | None]) -> dict[str, Any]:
        return {
            # Without types nobody can tell that the prefix is missing.
            name: value.removeprefix(prefix) if value and kind == "bytea" else value
            for name, kind in model.table.columns.items()
            if name in row
            for value in [row[name]]
        }

    identity = expected(model.identity)
    if isinstance(event, Delete):
        assert event.old_record.as_text() == identity
        return
    new = expected(model.new)
    left_out = {name: UNCHANGED for name in model.table.columns if name not in new}
    assert event.record.as_text() == {name: (new | left_out)[name] for name in model.table.columns}
    if isinstance(event, Update):
        changed = any(new[name] != value for name, value in identity.items())
        assert (event.old_record is not None) is changed
        assert event.old_record is None or event.old_record.as_text() == identity


@fewer
@given(transactions(), options)
def test_each_table_is_one_relation(changes: list[Model], options: Options) -> None:
    relations: dict[str, set[int]] = {}
    for event in decode(list(encode(changes, options))):
        if isinstance(event, (Insert, Update, Delete)):
            relations.setdefault(str(event.relation), set()).add(id(event.relation))
    # Without include-pk the key becomes known with the first identity.
    assert all(len(ids) <= (1 if options.include_pk else 2) for ids in relations.values())


@fewer
@given(transactions(), options, st.sampled_from(("", "\n", " \t\r\n")), st.data(), st.booleans())
def test_where_a_stream_is_cut_does_not_matter(
    changes: list[Model], options: Options, between: str, data: st.DataObject, as_bytes: bool
) -> None:
    stream: Any = between.join(encode(changes, options))
    wanted = [comparable(event) for event in decode(list(encode(changes, options)))]
    if as_bytes:
        stream = stream.encode()
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10).map(sorted))
    decoder = Wal2JsonDecoder()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed_chunk(stream[start:end])
    decoder.end()
    assert [comparable(event) for event in found] == wanted


@fewer
@given(transactions(), options, st.data())
def test_a_text_that_is_cut_short_is_an_error(
    changes: list[Model], options: Options, data: st.DataObject
) -> None:
    text = data.draw(st.sampled_from(list(encode(changes, options)))).encode()
    end = data.draw(st.integers(0, len(text) - 1))
    try:
        parse(text[:end])
    except TruncatedMessageError:
        return
    raise AssertionError("a part of a text was taken for a whole one")


@settings(deadline=None)
@given(st.sampled_from(NUMBERS), st.sampled_from((1, 2)), numerics | floats | integers)
def test_numbers_are_exact(kind: str, version: int, number: str) -> None:
    table = TableModel("t", {"n": kind}, ())
    (text,) = encode(
        [RowModel("insert", table, {"n": number}, {})],
        Options(format_version=version, include_transaction=False),
    )
    (change,) = parse(text)
    assert isinstance(change, Insert)
    assert change.record.text("n") == number


# Anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = (
    *("action", "xid", "timestamp", "origin", "lsn", "nextlsn", "schema", "table", "columns"),
    *("identity", "pk", "transactional", "prefix", "content", "name", "type", "typeoid", "value"),
    *("change", "kind", "columnnames", "columntypes", "columntypeoids", "columnvalues"),
    *("oldkeys", "keynames", "keytypes", "keytypeoids", "keyvalues", "pknames"),
)
likely_values = st.recursive(
    st.sampled_from(
        (*"BCIUDTM", "insert", "update", "delete", "message", "a", "integer", "bytea", "0/1")
    )
    | st.none()
    | st.booleans()
    | st.integers(-1, 3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)
    ),
    max_leaves=20,
)
likely_objects = st.dictionaries(st.sampled_from(KEYS), likely_values) | st.builds(
    lambda head, rest: rest | head,
    st.fixed_dictionaries({"action": st.sampled_from("BCIUDTM"), "table": st.just("a")}),
    st.dictionaries(st.sampled_from(KEYS), likely_values),
)


def accept(text: Any) -> None:
    """Decode the text whole and in chunks, and see no other error than the documented one."""
    for feed in (
        parse,
        Wal2JsonDecoder().feed,
        Wal2JsonDecoder().feed_chunk,
        lambda text: parse(b'{"change":[' + text + b"]}" if isinstance(text, bytes) else text),
    ):
        try:
            feed(text)
        except DecodeError:
            continue


@settings(deadline=None)
@given(st.binary() | st.text())
def test_any_text_is_changes_or_a_decode_error(text: Any) -> None:
    accept(text)


@fewer
@given(json_values | likely_objects | likely_objects.map(lambda value: {"change": [value]}))
def test_any_json_is_changes_or_a_decode_error(value: Any) -> None:
    accept(json.dumps(value))
    accept(json.dumps(value).encode())


@fewer
@given(transactions(), options, st.data())
def test_a_changed_text_is_changes_or_a_decode_error(
    changes: list[Model], options: Options, data: st.DataObject
) -> None:
    text = bytearray(data.draw(st.sampled_from(list(encode(changes, options)))).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 5, len(text))))
        text[start:end] = data.draw(st.binary(max_size=5) | st.sampled_from([b'"', b"{}", b"\\"]))
    accept(bytes(text))


@fewer
@given(st.lists(likely_objects, max_size=5))
def test_a_decoder_that_met_an_error_stays_broken(values: list[Any]) -> None:
    decoder = Wal2JsonDecoder()
    broken = False
    for value in values:
        try:
            decoder.feed(json.dumps(value))
            assert not broken
        except DecodeError:
            broken = True
