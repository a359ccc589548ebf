"""What a line of an event looks like."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from realtime_core import (
    LSN,
    UNCHANGED,
    BackfillStep,
    Begin,
    Column,
    Commit,
    Delete,
    Event,
    Field,
    Gap,
    GapReason,
    Idle,
    Insert,
    LogicalMessage,
    Position,
    Record,
    Relation,
    ReplicaIdentity,
    Shape,
    Snapshot,
    SnapshotBegin,
    SnapshotComplete,
    SnapshotEvent,
    SnapshotProgress,
    StreamIdentity,
    Transaction,
    Truncate,
    Update,
)
from realtime_core._cli.lines import FORMATS, json_line, text_line
from tests.core import captures

ID = Column("id", 23, "int4", "pg_catalog", -1, True)
NAME = Column("name", 25, "text", "pg_catalog", -1, False)
RAW = Column("Raw\nname", 17, "bytea", "pg_catalog", -1, False)
ITEM = Relation(1, "public", "item", ReplicaIdentity.DEFAULT, (ID, NAME, RAW))
ODD = Relation(2, "", 'Odd "x"', ReplicaIdentity.DEFAULT, (ID,))
TIME = datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=UTC)
TRANSACTION = Transaction(742, LSN.parse("1/AB"), TIME)
OF_TRANSACTION = {
    "xid": 742,
    "commit_lsn": "1/AB",
    "commit_time": "2026-01-02T03:04:05.000060+00:00",
}


def row(*fields: Field) -> Record:
    return Record(ITEM.shape, fields)


def key(*fields: Field) -> Record:
    return Record(ITEM.key_shape, fields)


PROGRESS = SnapshotProgress(ITEM, 1, None, 1, 9, None, 0, 1)
EVENTS: dict[str, tuple[Event | SnapshotEvent, dict[str, object], str]] = {
    "insert": (
        Insert(TRANSACTION, 3, ITEM, row("1", "it's", None)),
        {
            "kind": "insert",
            "schema": "public",
            "table": "item",
            "record": {"id": "1", "name": "it's", "Raw\nname": None},
            "position": "1/AB:3",
            **OF_TRANSACTION,
        },
        "INSERT public.item id=1 name='it''s' \"Raw\\nname\"=NULL",
    ),
    "update": (
        Update(TRANSACTION, 0, ITEM, row("2", UNCHANGED, b"\x00\xff"), key("1")),
        {
            "kind": "update",
            "schema": "public",
            "table": "item",
            "record": {"id": "2", "Raw\nname": {"hex": "00ff"}},
            "unchanged": ["name"],
            "old_record": {"id": "1"},
            "position": "1/AB:0",
            **OF_TRANSACTION,
        },
        'UPDATE public.item id=2 name=(unchanged) "Raw\\nname"=binary:00ff (was id=1)',
    ),
    "update_without_old_row": (
        Update(TRANSACTION, 0, ITEM, row("2", "a\\b\n\x1b[31m\u2028😀", "x"), None),
        {
            "kind": "update",
            "schema": "public",
            "table": "item",
            "record": {"id": "2", "name": "a\\b\n\x1b[31m\u2028😀", "Raw\nname": "x"},
            "position": "1/AB:0",
            **OF_TRANSACTION,
        },
        "UPDATE public.item id=2 name=E'a\\\\b\\n\\u001b[31m\\u2028😀' \"Raw\\nname\"='x'",
    ),
    "delete": (
        Delete(TRANSACTION, 0, ODD, Record(Shape((ID,)), ("1",))),
        {
            "kind": "delete",
            "schema": "",
            "table": 'Odd "x"',
            "old_record": {"id": "1"},
            "position": "1/AB:0",
            **OF_TRANSACTION,
        },
        'DELETE "Odd ""x""" id=1',
    ),
    "truncate": (
        Truncate(TRANSACTION, 0, (ITEM, ODD), True, True),
        {
            "kind": "truncate",
            "tables": [{"schema": "public", "table": "item"}, {"schema": "", "table": 'Odd "x"'}],
            "cascade": True,
            "restart_identity": True,
            "position": "1/AB:0",
            **OF_TRANSACTION,
        },
        'TRUNCATE public.item, "Odd ""x""" RESTART IDENTITY CASCADE',
    ),
    "message": (
        LogicalMessage(LSN(1), "app", "hellö".encode(), TRANSACTION, 1),
        {
            "kind": "message",
            "prefix": "app",
            "content": "hellö",
            "transactional": True,
            "position": "1/AB:1",
            **OF_TRANSACTION,
        },
        "MESSAGE 'app' 'hellö'",
    ),
    "message_in_no_transaction": (
        LogicalMessage(LSN(0xFF), "app", b"\x00\xff", None, 0),
        {
            "kind": "message",
            "prefix": "app",
            "content_hex": "00ff",
            "transactional": False,
            "position": "0/FE:0",
        },
        "MESSAGE 'app' E'\\u0000\\\\xff'",
    ),
    "begin": (
        Begin(Transaction(1, LSN(2), TIME, origin="node_a", gid="two-phase")),
        {
            "kind": "begin",
            "xid": 1,
            "commit_lsn": "0/2",
            "commit_time": "2026-01-02T03:04:05.000060+00:00",
            "origin": "node_a",
            "gid": "two-phase",
        },
        "BEGIN 1 2026-01-02 03:04:05.000060+00:00",
    ),
    "commit_of_a_format_that_tells_little": (
        Commit(Transaction(1, LSN(0), None), LSN(7), 2),
        {"kind": "commit", "changes": 2, "xid": 1, "end_lsn": "0/7"},
        "COMMIT 1",
    ),
    "gap": (
        Gap(
            Position(LSN(1), 0, StreamIdentity(5, 1, ("shop",))),
            Position(LSN(9), 0, StreamIdentity(5, 1, ("shop",))),
            GapReason.SLOT_MISSING,
        ),
        {
            "kind": "gap",
            "reason": "slot_missing",
            "after": "0/1:0@5.1/shop",
            "until": "0/9:0@5.1/shop",
        },
        "GAP slot_missing: changes may be missing after 0/1:0@5.1/shop until 0/9:0@5.1/shop",
    ),
    "idle": (
        Idle(Position(LSN(9))),
        {"kind": "idle", "position": "0/9:0"},
        "IDLE 0/9:0",
    ),
    "row_of_a_snapshot": (
        Snapshot(ITEM, row("1", "o'clock", None), PROGRESS),
        {
            "kind": "snapshot",
            "schema": "public",
            "table": "item",
            "record": {"id": "1", "name": "o'clock", "Raw\nname": None},
        },
        "ROW public.item id=1 name='o''clock' \"Raw\\nname\"=NULL",
    ),
    "snapshot_begin": (
        SnapshotBegin((ITEM, ODD), None),
        {
            "kind": "snapshot_begin",
            "tables": [
                {"schema": "public", "table": "item"},
                {"schema": "", "table": 'Odd "x"'},
            ],
        },
        'SNAPSHOT of public.item, "Odd ""x"""',
    ),
    "snapshot_begin_for_a_reason": (
        SnapshotBegin((), GapReason.SLOT_MISSING),
        {"kind": "snapshot_begin", "tables": [], "reason": "slot_missing"},
        "SNAPSHOT (slot_missing) of no table",
    ),
    "snapshot_complete": (
        SnapshotComplete(Position(LSN(9)), 7),
        {"kind": "snapshot_complete", "rows": 7, "position": "0/9:0"},
        "SNAPSHOT of 7 rows is complete at 0/9:0",
    ),
    "backfill_step": (
        BackfillStep(ITEM, ("1",), False, PROGRESS),
        {"kind": "backfill_step", "schema": "public", "table": "item", "after": ["1"]},
        "BACKFILL public.item up to '1'",
    ),
    "gap_at_the_start": (
        Gap(None, Position(LSN(9)), GapReason.SLOT_MISSING),
        {"kind": "gap", "reason": "slot_missing", "after": None, "until": "0/9:0"},
        "GAP slot_missing: changes may be missing until 0/9:0",
    ),
}


@pytest.mark.parametrize(("event", "structure", "text"), EVENTS.values(), ids=EVENTS)
def test_an_event_as_json_and_as_text(
    event: Event, structure: dict[str, object], text: str
) -> None:
    line = json_line(event)
    assert json.loads(line) == structure
    assert list(json.loads(line)) == list(structure)
    assert text_line(event) == text


def test_json_keeps_its_letters() -> None:
    assert '"content":"hellö"' in json_line(EVENTS["message"][0])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["types_text.bin", "truncate_message_origin.bin"])
def test_each_event_of_a_capture_is_one_line(name: str, form: str) -> None:
    for event in captures.events(name):
        line = FORMATS[form](event)
        assert len(line.splitlines()) == 1 or form == "json"
        assert "\n" not in line
        if form == "text":
            assert line.isprintable()


def test_json_has_every_field_as_postgresql_wrote_it() -> None:
    for event in captures.events("types_text.bin"):
        if isinstance(event, (Insert, Update)):
            assert json.loads(json_line(event))["record"] == dict(event.record.as_text())
