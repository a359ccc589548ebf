"""Rows of realtime.messages: which are broadcast, where, and as what."""

from __future__ import annotations

import logging

import pytest

from realtime_core import Insert, Relation, ReplicaIdentity
from realtime_core.records import Column
from realtime_server.fanout.message_rows import MessageRows, has_messages
from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from tests.server_helpers import insert

ID = "5c1f0e5e-0000-4000-8000-000000000001"
ROW: dict[str, str | None] = {
    "topic": "room",
    "extension": "broadcast",
    "payload": '{"a": 12345678901234567890.10}',
    "event": "m",
    "private": "t",
    "updated_at": "2026-11-29 00:00:00",
    "inserted_at": "2026-11-29 00:00:00",
    "id": ID,
    "binary_payload": None,
    "skip_broadcast": "f",
}
META = f'{{"id":"{ID}"}}'.encode()


def relation(*names: str) -> Relation:
    columns = tuple(Column(name, 25, "text", "pg_catalog", -1, name == "id") for name in names)
    return Relation(1, "realtime", "messages", ReplicaIdentity.DEFAULT, columns)


MESSAGES = relation(*ROW)


def row(**values: str | None) -> Insert:
    return insert(MESSAGES, *{**ROW, **values}.values())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (RoomName("realtime:room", True), Broadcast("m", b'{"a": 12345678901234567890.10}'))),
        ({"private": "f"}, (RoomName("realtime:room"), Broadcast("m", ROW["payload"].encode()))),  # type: ignore[union-attr]
        # As wal2json writes it.
        (
            {"private": "true", "payload": "null"},
            (RoomName("realtime:room", True), Broadcast("m", b"null")),
        ),
        ({"payload": None}, (RoomName("realtime:room", True), Broadcast("m", b"{}"))),
        (
            {"binary_payload": "\\x00ff"},
            (RoomName("realtime:room", True), Broadcast("m", b"\0\xff", is_json=False)),
        ),
        (
            {"binary_payload": "\\x"},
            (RoomName("realtime:room", True), Broadcast("m", b"", is_json=False)),
        ),
    ],
)
def test_what_is_broadcast(
    values: dict[str, str | None], expected: tuple[RoomName, Broadcast]
) -> None:
    rows = MessageRows(1000)
    name, broadcast = expected
    assert rows.read(row(**values)) == (name, Broadcast(*broadcast[:3], META))
    assert rows.stats().broadcasts == 1


@pytest.mark.parametrize(
    "values",
    [
        {"extension": "presence"},
        {"private": None},
        {"event": None},
        {"skip_broadcast": "t"},
        {"skip_broadcast": "true"},
    ],
)
def test_what_is_left(values: dict[str, str | None]) -> None:
    rows = MessageRows(1000)
    assert rows.read(row(**values)) is None
    assert rows.stats().broadcasts == 0
    assert {count for _, count in rows.stats().refused} == {0}


async def test_what_cannot_be_sent_is_counted_and_said_once_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    rows = MessageRows(1000)
    for change in (
        row(payload="1" * 1000),
        row(binary_payload="\\x" + "00" * 1000),
        row(binary_payload="\\x00", event="é" * 128),
        row(binary_payload="\\x00", topic="t" * 247),
        insert(relation("id", "topic"), ID, "room"),
    ):
        assert rows.read(change) is None
    assert rows.stats().refused == (
        ("too_large", 2),
        ("long_names", 2),
        ("columns_missing", 1),
        ("malformed", 0),
    )
    (line,) = caplog.messages
    assert "too_large" in line
    # What just fits.
    assert rows.read(row(payload="1" * 999)) is not None
    assert rows.read(row(binary_payload="\\x00", topic="t" * 246, event="e" * 255)) is not None


@pytest.mark.parametrize(
    ("schema", "table", "expected"),
    [
        ("realtime", "messages", True),
        ("realtime", "messages_2026_11_29", True),
        ("realtime", "messages_default", True),
        ("realtime", "messages_probes", False),
        ("realtime", "subscription", False),
        ("public", "messages", False),
        ("realtime", "messages_of_mine", False),
    ],
)
def test_which_tables_have_messages(schema: str, table: str, expected: bool) -> None:
    assert has_messages(schema, table) is expected
