"""ChangeDecoder is a Decoder and an Assembler, with short cuts for common rows.

Those two are the reference: whatever comes, by a short cut or not, must be the same.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest

from realtime_core import (
    LSN,
    UNCHANGED,
    Begin,
    Change,
    Commit,
    ConfigError,
    DecodeError,
    Delete,
    Insert,
    Record,
    TruncatedMessageError,
    UnknownMessageError,
    Update,
    ValueConversionError,
)
from realtime_core.pgoutput import (
    Assembler,
    BeginMessage,
    ChangeDecoder,
    CommitMessage,
    Decoder,
    DeleteMessage,
    Fields,
    InsertMessage,
    Message,
    OriginMessage,
    RelationColumn,
    RelationMessage,
    StreamCommitMessage,
    StreamStartMessage,
    StreamStopMessage,
    UpdateMessage,
)
from realtime_core.pgoutput._row_readers import change_reader
from realtime_core.pgoutput._short_cuts import ShortCuts
from tests.core.captures import FOLDERS, events, payloads
from tests.pgoutput_encoder import encode
from tests.pgoutput_streams import seen

# Bytes that make an OID, or a length, look like something else.
OID = 0x4E000174
COLUMNS = (
    RelationColumn(1, "id", 23, -1),
    RelationColumn(0, "name", 25, -1),
    RelationColumn(0, "price", 1700, -1),
    RelationColumn(1, "born", 1082, -1),
)
RELATION = RelationMessage(OID, "public", "people", "d", COLUMNS)
BEGIN, COMMIT = BeginMessage(LSN(9), 0, 7), CommitMessage(0, LSN(9), LSN(10), 0)
ROW: Fields = ("1", "Ada", "2.50", "1815-12-10")
KEY: Fields = ("1", None, None, "1815-12-10")

KINDS: dict[str, Message] = {
    "insert": InsertMessage(OID, ROW),
    "update": UpdateMessage(OID, None, False, ROW),
    "update of a key": UpdateMessage(OID, KEY, True, ROW),
    "update with the old row": UpdateMessage(OID, ROW, False, ROW),
    "delete by key": DeleteMessage(OID, KEY, True),
    "delete with the old row": DeleteMessage(OID, ROW, False),
}
each_kind = pytest.mark.parametrize("message", KINDS.values(), ids=list(KINDS))


class Warm(ChangeDecoder):
    """A decoder that says for which messages it has a short cut."""

    def has_short_cut(self, message: Message) -> bool:
        return encode(message)[:8] in self._short_cuts.readers


def warmed(*messages: Message, rows: int = 100) -> ChangeDecoder:
    """Return a decoder within a transaction, with short cuts for rows like these."""
    decoder = Warm()
    first = (encode(message) for message in (RELATION, BEGIN))
    for data in (*first, *(encode(message) for message in messages * rows)):
        list(decoder.decode([data]))
    for message in messages:
        assert decoder.has_short_cut(message)
    return decoder


def long_way(payloads: Iterable[bytes]) -> Iterator[Change | Begin | Commit]:
    """Return what Decoder and Assembler make of the same."""
    decoder, assembler = Decoder(), Assembler()
    for data in payloads:
        yield from assembler.feed(decoder.decode(data))


def outcome(iterator: Iterable[Change | Begin | Commit]) -> list[object]:
    found: list[object] = []
    try:
        found.extend(seen(event) for event in iterator)
    except DecodeError as error:
        found.append((type(error), str(error)))
    return found


def after_warming(message: Message, data: bytes) -> tuple[list[object], list[object]]:
    """Return what comes of a message behind 100 like ``message``: here, and the long way."""
    stream = [encode(one) for one in (RELATION, BEGIN, *[message] * 100)]
    everything = outcome(long_way([*stream, data]))
    return outcome(warmed(message).decode([data])), everything[101:]


NAMES = sorted(
    path.name for path in FOLDERS[0].glob("*.bin*") if not path.name.startswith("wal2json")
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_capture_becomes_what_decoder_and_assembler_make_of_it(name: str) -> None:
    decoder = ChangeDecoder(abort_info="parallel" in name)
    assert [seen(event) for event in decoder.decode(payloads(name))] == [
        seen(event) for event in events(name)
    ]


@each_kind
def test_a_short_cut_reads_what_the_long_way_does(message: Message) -> None:
    here, there = after_warming(message, encode(message))
    assert here == there
    assert len(here) == 1


TEXTS = ["", "x" * 127, "x" * 128, "x" * 70_000, "Łódź 東京 🦊", "nnn", "t\x01", "a\0b", None]


@each_kind
@pytest.mark.parametrize("text", TEXTS)
def test_any_text_is_read_by_a_short_cut_or_else_the_long_way(
    message: Message, text: str | None
) -> None:
    row = (ROW[0], text, *ROW[2:])
    if isinstance(message, InsertMessage):
        other: Message = InsertMessage(OID, row)
    elif isinstance(message, UpdateMessage):
        old = row if message.old == ROW else message.old
        other = UpdateMessage(OID, old, message.old_is_key, row)
    else:
        assert isinstance(message, DeleteMessage)
        old = (text or "", None, None, "1815-12-10") if message.old_is_key else row
        other = DeleteMessage(OID, old, message.old_is_key)
    here, there = after_warming(message, encode(other))
    assert here == there


@pytest.mark.slow
@each_kind
def test_a_row_that_is_cut_is_truncated_behind_every_byte(message: Message) -> None:
    data = encode(message)
    for length in range(len(data)):
        with pytest.raises(TruncatedMessageError):
            list(warmed(message, rows=35).decode([data[:length]]))


@pytest.mark.slow
@each_kind
def test_a_row_with_a_changed_byte_is_what_the_long_way_makes_of_it(message: Message) -> None:
    data = encode(message)
    for place in range(len(data)):
        for byte in b"\0\x01\x05ntubNKO\x7f\x80\xff":
            changed = data[:place] + bytes([byte]) + data[place + 1 :]
            decoder = warmed(message, rows=35)
            here = outcome(decoder.decode([changed]))
            stream = [encode(one) for one in (RELATION, BEGIN, *[message] * 35)]
            assert here == outcome(long_way([*stream, changed]))[36:]


@each_kind
def test_a_row_with_something_behind_it_is_an_error(message: Message) -> None:
    with pytest.raises(DecodeError, match="1 bytes left over"):
        list(warmed(message).decode([encode(message) + b"n"]))


@each_kind
def test_text_that_is_not_utf8_is_an_error(message: Message) -> None:
    data = encode(message).replace(b"1815-12-10", b"1815-12-1\xff")
    with pytest.raises(DecodeError, match="is not UTF-8"):
        list(warmed(message).decode([data]))


def test_a_character_cut_by_the_end_of_its_field_is_an_error() -> None:
    """Though the bytes behind it would complete it, were they text."""
    message = InsertMessage(OID, ROW)
    data = encode(message).replace(b"Ada", "\u0174".encode()[:1].rjust(3, b"A"))
    with pytest.raises(DecodeError, match="is not UTF-8"):
        list(warmed(message).decode([data]))


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["", "12345678"])
def test_utf8_is_what_python_takes_for_it(padding: str) -> None:
    message = InsertMessage(OID, ("1", f"{padding}xxxx", "2.50", "1815-12-10"))
    frame = encode(message)
    firsts = b"\x7f\x80\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff"
    seconds = b"\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0"
    thirds = fourths = b"x\x80\xbf\xc0"
    valid = 0
    for text in map(bytes, product(firsts, seconds, thirds, fourths)):
        try:
            name = padding + text.decode()
        except UnicodeDecodeError:
            name = ""
        (change,) = outcome(warmed(message, rows=2).decode([frame.replace(b"xxxx", text)]))
        valid += bool(name)
        if name:
            assert ("name", name) in change[4], text  # type: ignore[index]
        else:
            assert change[0] is DecodeError, text  # type: ignore[index]
    assert valid


def test_unchanged_toast_is_taken_from_the_old_row() -> None:
    row: Fields = ("1", UNCHANGED, "2.50", "1815-12-10")
    message = UpdateMessage(OID, ROW, False, ROW)
    (change,) = warmed(message).decode([encode(UpdateMessage(OID, ROW, False, row))])
    assert isinstance(change, Update)
    assert change.record.fields == ROW


def values(record: Record) -> list[object]:
    found: list[object] = []
    for name in record:
        try:
            found.append(repr(record[name]))
        except ValueConversionError as error:
            found.append(str(error))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if "binary" not in name])
def test_a_capture_has_the_same_values_by_short_cuts(name: str) -> None:
    decoder = ChangeDecoder(abort_info="parallel" in name)
    for here, there in zip(decoder.decode(payloads(name)), events(name), strict=True):
        for field in ("record", "old_record"):
            record, like = getattr(here, field, None), getattr(there, field, None)
            if record is not None and like is not None:
                assert values(record) == values(like)
        assert seen(here) == seen(there)


# What a record out of a short cut is


def the_record(row: Fields) -> tuple[Record, Record]:
    """Return the record that a short cut makes of a row, and the one that it must equal."""
    message = InsertMessage(OID, row)
    (change,) = warmed(message).decode([encode(message)])
    assert isinstance(change, Insert)
    return change.record, Record(change.relation.shape, row)


ROWS: list[Fields] = [
    ROW,
    ("-2147483648", None, None, None),
    ("1", "Łódź 東京 🦊", "NaN", "0001-01-01"),
    ("1", "", "1e-5", "9999-12-31"),
]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_by_a_short_cut_is_a_record_like_any_other(row: Fields) -> None:
    for ask in (
        lambda record: record.fields,
        lambda record: record.as_text(),
        lambda record: repr(record.as_python()),
        lambda record: [repr(record[name]) for name in record],
        lambda record: [record.text(name) for name in record],
        lambda record: [record.raw(name) for name in record],
        lambda record: (list(record), len(record), "name" in record, repr(record)),
        lambda record: pickle.loads(pickle.dumps(record)).fields,
    ):
        # A new one each time: the first question may change how the second is answered.
        record, like = the_record(row)
        assert ask(record) == ask(like)
        assert ask(record) == ask(like)
        assert record == like


def test_names_of_columns_are_not_taken_for_code() -> None:
    names = ("'", '"', "\\", "{S}", "g0: 1", "\n", "None", "S", "\u2028")
    columns = tuple(RelationColumn(0, name, 23, -1) for name in names)
    relation = RelationMessage(OID, "public", "odd", "d", columns)
    row = InsertMessage(OID, tuple(map(str, range(len(names)))))
    stream = (relation, BEGIN, row, row)
    *_, change = ChangeDecoder().decode(encode(message) for message in stream)
    assert isinstance(change, Insert)
    assert change.record.as_python() == {name: place for place, name in enumerate(names)}


def test_a_value_that_python_cannot_hold_is_refused_and_has_its_text() -> None:
    record, _ = the_record(("1", "é", "1", "infinity"))
    with pytest.raises(ValueConversionError, match="column 'born'"):
        record["born"]
    with pytest.raises(ValueConversionError, match="column 'born'"):
        record.as_python()
    assert record.text("born") == "infinity"
    assert record["id"] == 1
    record, _ = the_record(("1", "é", "1", "infinity"))
    assert list(record.as_python(on_error="text").values()) == [1, "é", 1, "infinity"]


def test_a_column_that_a_record_does_not_have_is_a_key_error() -> None:
    record, _ = the_record(ROW)
    with pytest.raises(KeyError, match="missing"):
        record["missing"]


# Where there are short cuts


def test_short_cuts_count_the_changes_of_a_transaction() -> None:
    decoder = ChangeDecoder()
    row = encode(InsertMessage(OID, ROW))
    stream = [encode(RELATION)]
    for _ in range(3):
        stream += [encode(BEGIN), *[row] * 50, encode(COMMIT)]
    found = list(decoder.decode(stream))
    assert [event.index for event in found if isinstance(event, Insert)] == [*range(50)] * 3
    assert [type(event).__name__ for event in found if not isinstance(event, Insert)] == [
        "Begin",
        "Commit",
    ] * 3
    assert [event.changes for event in found if isinstance(event, Commit)] == [50] * 3
    begin = found[0]
    assert isinstance(begin, Begin)
    assert begin.transaction.commit_time == datetime(2000, 1, 1, tzinfo=UTC)


def test_an_iterator_goes_on_where_another_has_ended() -> None:
    decoder = warmed(InsertMessage(OID, ROW), rows=50)
    for index in range(50, 60):
        (change,) = decoder.decode([encode(InsertMessage(OID, ROW))])
        assert isinstance(change, Insert)
        assert change.index == index
    assert decoder.in_transaction


def test_what_a_message_completes_comes_before_the_next_is_taken() -> None:
    decoder = warmed(InsertMessage(OID, ROW))
    taken = 0

    def rows() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield encode(InsertMessage(OID, ROW))

    for number, _ in enumerate(decoder.decode(rows()), 1):
        assert taken == number
        if number == 10:
            break


def test_the_first_row_behind_an_origin_has_it() -> None:
    decoder = warmed(InsertMessage(OID, ROW))
    stream = (COMMIT, BEGIN, OriginMessage(LSN(1), "away"), InsertMessage(OID, ROW))
    _, begin, change = decoder.decode(encode(message) for message in stream)
    assert isinstance(begin, Begin)
    assert isinstance(change, Insert)
    assert change.transaction is begin.transaction
    assert change.transaction.origin == "away"


def test_a_row_outside_of_a_transaction_is_an_error() -> None:
    decoder = warmed(InsertMessage(OID, ROW))
    list(decoder.decode([encode(COMMIT)]))
    with pytest.raises(DecodeError, match="InsertMessage outside of a transaction"):
        list(decoder.decode([encode(InsertMessage(OID, ROW))]))


def test_a_relation_that_is_described_anew_has_its_new_columns() -> None:
    decoder = warmed(InsertMessage(OID, ROW))
    columns = (*COLUMNS[:3], RelationColumn(0, "died", 1082, -1))
    stream = (RelationMessage(OID, "public", "people", "d", columns), InsertMessage(OID, ROW))
    (change,) = decoder.decode(encode(message) for message in stream)
    assert isinstance(change, Insert)
    assert change.record.as_text()["died"] == "1815-12-10"
    assert [column.is_key for column in change.relation.columns] == [True, False, False, False]


def test_what_a_stream_has_described_counts_when_it_has_committed() -> None:
    decoder = warmed(InsertMessage(OID, ROW))
    columns = (*COLUMNS[:3], RelationColumn(0, "died", 1082, -1))
    relation = RelationMessage(OID, "public", "people", "d", columns, xid=8)
    stream = (
        *(COMMIT, StreamStartMessage(8, True), relation, InsertMessage(OID, ROW, xid=8)),
        *(StreamStopMessage(), BEGIN, InsertMessage(OID, ROW), COMMIT),
        *(StreamCommitMessage(8, 0, LSN(12), LSN(13), 0), BEGIN, InsertMessage(OID, ROW)),
    )
    found = list(decoder.decode(encode(message) for message in stream))
    names = [list(event.record)[-1] for event in found if isinstance(event, Insert)]
    assert names == ["born", "died", "died"]


def test_inside_a_stream_block_an_xid_is_not_taken_for_a_relation() -> None:
    """Though it may be the same number, with a relation behind it that begins like a tuple."""
    row = InsertMessage(OID, ROW)
    oid = int.from_bytes(encode(row)[5:8] + b"\x07", "big")
    relation = RelationMessage(oid, "public", "odd", "d", COLUMNS, xid=OID)
    stream = (
        *(COMMIT, StreamStartMessage(OID, True), relation, InsertMessage(oid, ROW, xid=OID)),
        *(StreamStopMessage(), StreamCommitMessage(OID, 0, LSN(12), LSN(13), 0)),
    )
    assert encode(stream[3])[:8] == encode(row)[:8]
    found = list(warmed(row).decode(encode(message) for message in stream))
    assert [str(event.relation) for event in found if isinstance(event, Insert)] == ["public.odd"]


class Counted(bytes):
    """A message that counts how often it, or a part of it, is looked into."""

    looks = 0

    def __getitem__(self, place: Any) -> Any:
        Counted.looks += 1
        part = super().__getitem__(place)
        return Counted(part) if isinstance(part, bytes) else part


def test_to_forget_a_relation_takes_no_look_at_the_others() -> None:
    """Else a database of thousands of tables takes minutes to describe."""
    short_cuts = ShortCuts(change_reader)
    row = InsertMessage(OID, ROW)
    (change,) = warmed(row).decode([encode(row)])
    assert isinstance(change, Insert)
    for oid in range(500):
        short_cuts.learn(Counted(encode(InsertMessage(oid, ROW))), change.relation)
    Counted.looks = 0
    short_cuts.forget(7)
    assert Counted.looks == 0
    assert len(short_cuts.readers) == 499
    assert encode(InsertMessage(7, ROW))[:8] not in short_cuts.readers


# Errors


def test_after_an_error_nothing_more_is_taken() -> None:
    message = InsertMessage(OID, ROW)
    for bad in (b"", b"?", encode(message)[:-1], encode(BEGIN)):
        decoder = warmed(message)
        with pytest.raises(DecodeError):
            list(decoder.decode([bad]))
        with pytest.raises(DecodeError, match="start with a new one"):
            list(decoder.decode([encode(message)]))


def test_what_comes_before_an_error_is_yielded() -> None:
    decoder = warmed(InsertMessage(OID, ROW))
    iterator = decoder.decode([encode(InsertMessage(OID, ROW)), b"?"])
    assert isinstance(next(iterator), Insert)
    with pytest.raises(UnknownMessageError):
        next(iterator)


def test_a_negative_bound_of_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_memory"):
        ChangeDecoder(max_memory=-1)


def test_a_deleted_key_has_its_columns_only() -> None:
    message = DeleteMessage(OID, KEY, True)
    (change,) = warmed(message).decode([encode(message)])
    assert isinstance(change, Delete)
    assert change.old_record.as_text() == {"id": "1", "born": "1815-12-10"}


def test_changes_that_are_left_out_count_in_places() -> None:
    messages = [encode(message) for message in (RELATION, BEGIN, KINDS["insert"], COMMIT)]
    decoder = ChangeDecoder()
    assert list(decoder.decode(messages[:2])) == []
    decoder.skip(5)
    begin, first = decoder.decode(messages[2:3])
    assert isinstance(begin, Begin)
    decoder.skip(2)
    second, commit = decoder.decode(messages[2:])
    assert isinstance(first, Insert)
    assert isinstance(second, Insert)
    assert (first.index, second.index) == (5, 8)
    assert isinstance(commit, Commit)
    assert commit.changes == 9
    with pytest.raises(DecodeError, match="2 changes are left out, but no transaction"):
        decoder.skip(2)
