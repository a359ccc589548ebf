"""Both formats' texts to changes, whole or in chunks."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from realtime_core import (
    LSN,
    UNCHANGED,
    Begin,
    Commit,
    DecodeError,
    Delete,
    Insert,
    LogicalMessage,
    Position,
    StreamIdentity,
    Transaction,
    Truncate,
    TruncatedMessageError,
    Update,
)
from realtime_core.wal2json import Wal2JsonDecoder, parse

TIME = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
HEAD = {"xid": 7, "timestamp": "2026-01-02 03:04:05.678901+00"}
LSNS = {"lsn": "A9/10", "nextlsn": "A9/40"}
COLUMNS = [
    {"name": "id", "type": "integer", "value": 1},
    {"name": "ok", "type": "boolean", "value": True},
    {"name": "bio", "type": "text", "value": None},
]
KEY = COLUMNS[:1]
TABLE = {"schema": "public", "table": "users"}


def feed(decoder: Wal2JsonDecoder, *values: Any) -> list[Any]:
    return [event for value in values for event in decoder.feed(json.dumps(value))]


@pytest.fixture
def decoder() -> Wal2JsonDecoder:
    return Wal2JsonDecoder()


@pytest.mark.slow
def test_importing_the_decoder_loads_no_driver() -> None:
    program = (
        "import sys; from realtime_core import wal2json\n"
        'wal2json.parse(\'{"action":"B"}\')\n'
        "assert not {'psycopg', 'asyncio', 'orjson'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# Format 2


def test_format_2_frames_a_transaction(decoder: Wal2JsonDecoder) -> None:
    begin, insert, update, delete, truncate, commit = feed(
        decoder,
        {"action": "B", **HEAD, **LSNS},
        {"action": "I", **HEAD, "lsn": "A9/8", **TABLE, "columns": COLUMNS},
        {"action": "U", **HEAD, "lsn": "A9/8", **TABLE, "columns": COLUMNS[:2], "identity": KEY},
        {"action": "D", **HEAD, "lsn": "A9/8", **TABLE, "identity": KEY},
        {"action": "T", **HEAD, "lsn": "A9/8", **TABLE},
        {"action": "C", **HEAD, **LSNS},
    )
    transaction = Transaction(7, LSN.parse("A9/10"), TIME)
    assert begin == Begin(transaction)
    assert isinstance(insert, Insert)
    assert insert.record.as_text() == {"id": "1", "ok": "t", "bio": None}
    assert insert.record.as_python() == {"id": 1, "ok": True, "bio": None}
    assert insert.position == Position(LSN.parse("A9/10"), 0)
    assert isinstance(update, Update)
    assert update.record.as_text() == {"id": "1", "ok": "t", "bio": UNCHANGED}
    assert update.old_record is None
    assert isinstance(delete, Delete)
    assert delete.old_record.as_text() == {"id": "1"}
    assert isinstance(truncate, Truncate)
    assert [str(relation) for relation in truncate.relations] == ["public.users"]
    assert truncate.relations == (delete.relation,)
    assert (truncate.cascade, truncate.restart_identity) == (False, False)
    assert [change.index for change in (insert, update, delete, truncate)] == [0, 1, 2, 3]
    assert commit == Commit(transaction, LSN.parse("A9/40"), 4)


def test_a_truncate_of_a_table_without_rows_so_far(decoder: Wal2JsonDecoder) -> None:
    (truncate,) = feed(decoder, {"action": "T", "table": "t"})
    assert truncate.relations[0].columns == ()


def test_the_stream_goes_into_the_positions() -> None:
    stream = StreamIdentity(1, 2, ("a",))
    decoder = Wal2JsonDecoder(stream)
    message = {"action": "M", "prefix": "p", "content": "c", "transactional": False, "lsn": "0/8"}
    _, insert, message = feed(
        decoder, {"action": "B"}, {"action": "I", **TABLE, "columns": []}, message
    )
    assert insert.position.stream is message.position.stream is stream


def test_without_any_option_nothing_is_known_of_a_transaction(decoder: Wal2JsonDecoder) -> None:
    begin, insert, commit = feed(
        decoder,
        {"action": "B"},
        {"action": "I", "table": "t", "columns": [{"name": "a", "value": 1.50}]},
        {"action": "C"},
    )
    assert begin.transaction == Transaction(0, LSN(0), None)
    assert commit == Commit(begin.transaction, LSN(0), 1)
    assert str(insert.relation) == ".t"
    (column,) = insert.relation.columns
    assert (column.type_oid, column.type_name, column.type_schema) == (0, "", "")
    assert insert.record["a"] == "1.5"


def test_an_origin_is_its_number(decoder: Wal2JsonDecoder) -> None:
    (begin,) = feed(decoder, {"action": "B", "origin": 65535})
    assert begin.transaction.origin == "65535"
    (local,) = feed(Wal2JsonDecoder(), {"action": "B", "origin": 0})
    assert local.transaction.origin is None


def test_oids_above_two_to_the_31st_come_as_negative_numbers(decoder: Wal2JsonDecoder) -> None:
    (insert,) = feed(
        decoder, {"action": "I", **TABLE, "columns": [{"name": "a", "typeoid": -1, "value": "x"}]}
    )
    assert insert.relation.columns[0].type_oid == 2**32 - 1


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-02 03:04:05+00", datetime(2026, 1, 2, 3, 4, 5, 0, UTC)),
        ("2026-01-02 08:34:05.6+05:30", datetime(2026, 1, 2, 3, 4, 5, 600000, UTC)),
        ("2026-01-01 23:04:05.00001-04", datetime(2026, 1, 2, 3, 4, 5, 10, UTC)),
        ("1883-11-18 12:03:58-04:56:02", datetime(1883, 11, 18, 17, 0, 0, 0, UTC)),
    ],
)
def test_commit_times_come_in_any_time_zone(
    decoder: Wal2JsonDecoder, text: str, time: datetime
) -> None:
    (begin,) = feed(decoder, {"action": "B", "timestamp": text})
    assert begin.transaction.commit_time == time
    assert begin.transaction.commit_time.tzinfo is UTC


@pytest.mark.parametrize(
    "text", ["infinity", "0044-03-15 00:00:00+00 BC", "10000-01-01 00:00:00+00", "", "x", 5, True]
)
def test_a_commit_time_that_python_cannot_hold_is_an_error(
    decoder: Wal2JsonDecoder, text: Any
) -> None:
    with pytest.raises(DecodeError, match="'timestamp'"):
        feed(decoder, {"action": "B", "timestamp": text})


def test_a_commit_time_at_the_edge_of_what_python_holds(decoder: Wal2JsonDecoder) -> None:
    with pytest.raises(DecodeError, match="out of range"):
        feed(decoder, {"action": "B", "timestamp": "9999-12-31 23:59:59-01"})


# Format 2 without include-transaction


def test_rows_with_the_same_xid_are_one_transaction(decoder: Wal2JsonDecoder) -> None:
    row = {"action": "I", **HEAD, **TABLE, "columns": COLUMNS}
    first, second, third = feed(decoder, row, row, {**row, "xid": 8})
    assert first.transaction is second.transaction
    assert first.transaction == Transaction(7, LSN(0), TIME)
    assert third.transaction.xid == 8
    assert [change.index for change in (first, second, third)] == [0, 1, 0]


def test_without_an_xid_each_row_is_by_itself(decoder: Wal2JsonDecoder) -> None:
    row = {"action": "I", **TABLE, "columns": COLUMNS}
    first, second = feed(decoder, row, row)
    assert first.transaction == second.transaction == Transaction(0, LSN(0), None)
    assert (first.index, second.index) == (0, 0)


# Messages


def test_a_message_stands_in_its_transaction_or_by_itself(decoder: Wal2JsonDecoder) -> None:
    inside = {"action": "M", **HEAD, "lsn": "A9/8", "prefix": "p", "content": "ü\n"}
    outside = {"xid": None, "timestamp": None, "transactional": False, "lsn": "A9/9"}
    begin, first, second = feed(
        decoder,
        {"action": "B", **HEAD, **LSNS},
        {**inside, "transactional": True},
        {**inside, **outside},
    )
    content = "ü\n".encode()
    assert first == LogicalMessage(LSN.parse("A9/8"), "p", content, begin.transaction, 0)
    assert second == LogicalMessage(LSN.parse("A9/9"), "p", content, None, 0)
    assert second.position == Position(LSN.parse("A9/8"))


def test_the_bytes_of_a_message_that_are_not_utf_8_are_kept() -> None:
    text = b'"transactional":false,"prefix":"p","content":"\xff\\n\xc3"}'
    for head in (b'{"action":"M",', b'{"change":[{"kind":"message",'):
        tail = b"]}" if b"change" in head else b""
        (message,) = parse(head + text + tail)
        assert isinstance(message, LogicalMessage)
        assert message.content == b"\xff\n\xc3"


def test_a_message_alone_is_no_transaction_of_format_1(decoder: Wal2JsonDecoder) -> None:
    message = {"kind": "message", "transactional": False, "prefix": "", "content": "c"}
    assert feed(decoder, {"change": [message]}) == [LogicalMessage(LSN(0), "", b"c", None, 0)]
    assert not decoder.in_transaction


# Format 1


def element(kind: str, **more: Any) -> dict[str, Any]:
    columns = {
        "columnnames": ["id", "bio", "n"],
        "columntypes": ["integer", "text", "numeric(9,3)"],
        "columnvalues": [1, "x", 1.500],
    }
    return {"kind": kind, **TABLE, **({} if kind == "delete" else columns), **more}


def test_format_1_can_place_its_changes_by_the_end_of_their_transaction() -> None:
    stream = StreamIdentity(1, 1, ("wal2json",))
    decoder = Wal2JsonDecoder(stream, place_by_end=True)
    head = json.dumps({**HEAD, "nextlsn": "A9/40"})[:-1]
    # Known before the first change, also in fragments.
    (begin, insert) = decoder.feed_chunk(f'{head},"change":[{json.dumps(element("insert"))},')
    assert insert.position == Position(LSN.parse("A9/40"), 0, stream)
    assert begin.transaction.commit_lsn == LSN.parse("A9/40")
    assert feed(Wal2JsonDecoder(place_by_end=True), {"action": "B", **HEAD, **LSNS}) == [
        Begin(Transaction(7, LSN.parse("A9/10"), TIME))
    ]


def test_a_successor_knows_the_tables(decoder: Wal2JsonDecoder) -> None:
    feed(decoder, {"action": "I", **TABLE, "columns": COLUMNS})
    update = {"action": "U", **TABLE, "columns": COLUMNS[:2], "identity": KEY}
    (change,) = feed(Wal2JsonDecoder(successor_of=decoder), update)
    assert change.record.raw("bio") is UNCHANGED
    (change,) = feed(Wal2JsonDecoder(), update)
    assert "bio" not in change.record


OLD_KEYS = {"keynames": ["id"], "keytypes": ["integer"], "keyvalues": [1]}


def test_format_1_is_a_transaction(decoder: Wal2JsonDecoder) -> None:
    head = {**HEAD, "nextlsn": "A9/40", "origin": 2}
    message = {"kind": "message", "transactional": True, "prefix": "p", "content": "c"}
    left_out = {"columnnames": ["id", "n"], "columntypes": ["integer", "numeric(9,3)"]}
    begin, insert, update, delete, message, commit = feed(
        decoder,
        {
            **head,
            "change": [
                element("insert"),
                element("update", **left_out, columnvalues=[2, 7], oldkeys=OLD_KEYS),
                element("delete", oldkeys=OLD_KEYS),
                message,
            ],
        },
    )
    transaction = Transaction(7, LSN(0), TIME, "2")
    assert begin == Begin(transaction)
    assert insert.record.as_text() == {"id": "1", "bio": "x", "n": "1.5"}
    assert update.record.as_text() == {"id": "2", "bio": UNCHANGED, "n": "7"}
    assert update.old_record.as_text() == {"id": "1"}
    assert delete.old_record.as_text() == {"id": "1"}
    assert message == LogicalMessage(LSN(0), "p", b"c", transaction, 3)
    assert [change.index for change in (insert, update, delete)] == [0, 1, 2]
    assert commit == Commit(transaction, LSN.parse("A9/40"), 4)


def test_a_transaction_without_changes(decoder: Wal2JsonDecoder) -> None:
    transaction = Transaction(0, LSN(0), None)
    wanted = [Begin(transaction), Commit(transaction, LSN(0), 0)]
    assert feed(decoder, {"change": []}) == wanted
    assert [*decoder.feed_chunk('{"change":['), *decoder.feed_chunk("]}")] == wanted


def test_each_change_of_a_transaction_in_chunks_comes_at_once(decoder: Wal2JsonDecoder) -> None:
    change = json.dumps(element("insert"))
    assert decoder.feed_chunk('{"xid":7,"change":[') == []
    assert decoder.in_text
    assert decoder.in_transaction
    assert [type(event) for event in decoder.feed_chunk(change)] == [Begin, Insert]
    assert [type(event) for event in decoder.feed_chunk(f",{change},")] == [Insert]
    assert [type(event) for event in decoder.feed_chunk(f"{change}]}}\n")] == [Insert, Commit]
    assert not decoder.in_text
    assert not decoder.in_transaction
    decoder.end()


def test_chunks_may_end_within_a_character(decoder: Wal2JsonDecoder) -> None:
    text = json.dumps(
        {"action": "I", "table": "ü", "columns": [{"name": "🚀", "value": "\\\n"}]},
        ensure_ascii=False,
    ).encode()
    events = [event for byte in text for event in decoder.feed_chunk(bytes([byte]))]
    (insert,) = events
    assert isinstance(insert, Insert)
    assert insert.relation.table == "ü"
    assert insert.record.as_text() == {"🚀": "\\\n"}


def test_what_follows_the_changes_must_be_json(decoder: Wal2JsonDecoder) -> None:
    with pytest.raises(DecodeError):
        decoder.feed_chunk('{"change":[{"kind":"x","a":[{}]}]:}')


# parse


def test_parse_gives_the_changes_of_one_text() -> None:
    row = json.dumps({"action": "I", **HEAD, **TABLE, "columns": COLUMNS})
    (insert,) = parse(row)
    assert isinstance(insert, Insert)
    assert insert.transaction == Transaction(7, LSN(0), TIME)
    assert [type(change) for change in parse(json.dumps({"change": [element("insert")]}))] == [
        Insert
    ]


@pytest.mark.parametrize("action", ["B", "C"])
def test_parse_gives_nothing_for_what_frames_a_transaction(action: str) -> None:
    assert parse(json.dumps({"action": action})) == []


# Errors


MESSAGE = {"transactional": True, "prefix": "", "content": ""}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "not an object"),
        ("text", "not an object"),
        ({}, "no 'action' and no 'change'"),
        ({"action": "X"}, "'action' is none of B, C, I, U, D, T, M"),
        ({"action": ["I"]}, "'action' is none of"),
        ({"action": "I"}, "action 'I' has no 'table'"),
        ({"action": "I", **TABLE}, "action 'I' has no 'columns'"),
        ({"action": "I", **TABLE, "columns": {"a": 1}}, "not a list"),
        ({"action": "I", **TABLE, "columns": [1]}, "of an unknown form"),
        ({"action": "I", **TABLE, "columns": [{"name": "a"}]}, "has no 'value'"),
        ({"action": "I", **TABLE, "columns": [{"name": [], "value": 1}]}, "of an unknown form"),
        ({"action": "I", **TABLE, "columns": [*COLUMNS, {"name": "a", "value": 1}]}, "no 'type'"),
        ({"action": "I", **TABLE, "columns": [], "xid": 2**32}, "'xid' is not a 32-bit number"),
        ({"action": "I", **TABLE, "columns": [], "xid": 1.5}, "'xid' is not a 32-bit number"),
        ({"action": "I", **TABLE, "columns": [], "origin": "x"}, "'origin'"),
        ({"action": "I", **TABLE, "columns": [], "pk": [{}]}, "has no 'name'"),
        ({"action": "I", "schema": None, "table": "t", "columns": []}, "not a string"),
        ({"action": "I", "table": [], "columns": []}, "of an unknown form"),
        ({"action": "D", **TABLE}, "action 'D' has no 'identity'"),
        ({"action": "B", "lsn": "x"}, "'lsn' is not an LSN"),
        ({"action": "B", "nextlsn": True}, "'nextlsn' is not an LSN"),
        ({"action": "C"}, "did not begin"),
        ({"action": "M", **MESSAGE, "prefix": None}, "not a string"),
        ({"action": "M", **MESSAGE, "content": None}, "not a string"),
        ({"action": "M", **MESSAGE, "transactional": None}, "neither true nor false"),
        ({"change": {}}, "'change' is not a list"),
        ({"change": [1]}, "not an object"),
        ({"change": [{"kind": "truncate"}]}, "'kind' of a change is none of"),
        ({"change": [{"kind": ["insert"]}]}, "'kind' of a change is none of"),
        ({"change": [{"kind": "insert"}]}, "kind 'insert' has no 'table'"),
        ({"change": [element("insert", columnvalues=[1])]}, "3 columns and 1 values"),
        ({"change": [element("insert", columnvalues="abc")]}, "not a list"),
        ({"change": [element("insert", columntypes="abc")]}, "not a list"),
        ({"change": [element("insert", columnnames=[[], "b", "c"])]}, "of an unknown form"),
        ({"change": [element("update", oldkeys=[])]}, "of an unknown form"),
        ({"change": [element("delete")]}, "no 'oldkeys'"),
        ({"change": [{"kind": "message", **MESSAGE, "transactional": 1}]}, "neither true"),
        ({"change": [{"kind": "message", **MESSAGE, "prefix": 1.0, "content": None}]}, "a string"),
    ],
)
def test_what_is_not_wal2jsons_output_is_an_error_that_says_what(value: Any, reason: str) -> None:
    text = json.dumps(value)
    with pytest.raises(DecodeError, match=reason):
        Wal2JsonDecoder().feed(text)
    with pytest.raises(DecodeError):
        Wal2JsonDecoder().feed_chunk(text)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([{"action": "B", "xid": 1}, {"action": "B", "xid": 2}], "before transaction 1 has ended"),
        ([{"action": "B", "xid": 1}, {"action": "C", "xid": 2}], "before transaction 1 has ended"),
        (
            [{"action": "B", "xid": 1}, {"action": "T", **TABLE, "xid": 2}],
            "the message with action C is missing",
        ),
        ([{"action": "B", "lsn": "0/1"}, {"action": "C", "lsn": "0/2"}], "ends at 0/2, but"),
    ],
)
def test_what_cannot_come_at_its_place_is_an_error(
    decoder: Wal2JsonDecoder, values: list[Any], reason: str
) -> None:
    with pytest.raises(DecodeError, match=reason):
        feed(decoder, *values)
    with pytest.raises(DecodeError, match="start with a new one"):
        decoder.feed('{"action":"B"}')
    with pytest.raises(DecodeError, match="start with a new one"):
        decoder.feed_chunk("")
    with pytest.raises(DecodeError, match="start with a new one"):
        decoder.end()


def test_a_whole_text_within_chunks_is_an_error(decoder: Wal2JsonDecoder) -> None:
    decoder.feed_chunk('{"action"')
    with pytest.raises(DecodeError, match="came in chunks"):
        decoder.feed('{"action":"B"}')


def test_a_truncated_text_is_an_error(decoder: Wal2JsonDecoder) -> None:
    with pytest.raises(TruncatedMessageError):
        decoder.feed('{"action":"B"')


def test_a_stream_that_ends_within_a_transaction_is_truncated(decoder: Wal2JsonDecoder) -> None:
    feed(decoder, {"action": "B"})
    assert decoder.in_transaction
    with pytest.raises(TruncatedMessageError, match="within a transaction"):
        decoder.end()
