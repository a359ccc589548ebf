"""Unpacker: rows of tables that nobody wants are passed over. What comes of all others is in
tests/property/test_cluster_envelopes.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from realtime_core import (
    LSN,
    Begin,
    Commit,
    Event,
    Idle,
    Insert,
    LogicalMessage,
    Position,
    RawEvent,
    RawRows,
    Relation,
    StreamIdentity,
    Transaction,
)
from realtime_core.positions import LAST_INDEX
from realtime_server.cluster.envelope import NOWHERE, decode
from realtime_server.cluster.packer import Packer
from realtime_server.cluster.unpacker import Unpacker
from tests.server_helpers import make_relation

STREAM = StreamIdentity(7, 1, ("shop",))
ITEM = make_relation("shop", "item", oid=16384)
ORDER = make_relation("shop", "order", oid=16400)
CHANGED = make_relation("shop", "order", oid=16400, columns=[("id", "int8", True)])


def row(relation: Relation, number: int) -> bytes:
    text = str(number).encode()
    field = b"t" + len(text).to_bytes(4, "big") + text
    count = len(relation.columns)
    return b"I" + relation.oid.to_bytes(4, "big") + b"N" + count.to_bytes(2, "big") + field * count


class Stream:
    """Packs transactions; each call is an envelope."""

    def __init__(self) -> None:
        self._packer = Packer(NOWHERE, STREAM)
        self._lsn = 0
        self._unpacker = Unpacker(NOWHERE)
        self._sequence = 0

    def transaction(self, *relations: Relation) -> bytes:
        """Pack a transaction with a row of each table."""
        return self._pack(self._events(relations))

    def transaction_and_message(self, relation: Relation) -> bytes:
        """Pack a transaction, and a message behind it."""
        events = self._events((relation,))
        return self._pack([*events, LogicalMessage(LSN(self._lsn + 5), "a", b"", None, 0, STREAM)])

    def _events(self, relations: Sequence[Relation]) -> list[RawEvent]:
        self._lsn += 10
        transaction = Transaction(
            self._lsn, LSN(self._lsn), datetime(2026, 11, 24, tzinfo=UTC), None, STREAM, None
        )
        rows = [
            RawRows(transaction, index, relation, (row(relation, index),))
            for index, relation in enumerate(relations)
        ]
        return [*rows, Commit(transaction, LSN(self._lsn + 1), len(relations))]

    def _pack(self, events: list[RawEvent]) -> bytes:
        packed = [one for event in events for one in self._packer.feed(event)]
        (one,) = [*packed, *self._packer.flush()]
        return one.data

    def read(self, data: bytes, wants: Callable[[str, str], bool]) -> list[Event]:
        self._sequence += 1
        return self._unpacker.feed(decode(data, self._sequence), self._sequence, wants)


def shown(events: list[Event]) -> list[str]:
    names = {Begin: "begin", Commit: "commit", Idle: "idle", LogicalMessage: "message"}
    return [
        f"{event.relation.table} {event.index}" if isinstance(event, Insert) else names[type(event)]  # type: ignore[index]
        for event in events
    ]


def only_items(schema: str, table: str) -> bool:
    assert schema == "shop"
    return table == "item"


def test_rows_that_nobody_wants_are_passed_over() -> None:
    stream = Stream()
    # The first row of a table is read: whoever knows the table's columns learns what they are now.
    first = stream.read(stream.transaction(ORDER, ORDER), only_items)
    assert shown(first) == ["begin", "order 0", "order 1", "commit"]
    mixed = stream.read(stream.transaction(ORDER, ITEM, ORDER, ITEM, ORDER), only_items)
    assert shown(mixed) == ["begin", "item 1", "item 3", "commit"]
    (commit,) = [event for event in mixed if isinstance(event, Commit)]
    assert commit.changes == 5


def test_of_a_transaction_that_nobody_wants_its_end_is_told() -> None:
    stream = Stream()
    stream.read(stream.transaction(ORDER), only_items)
    data = [stream.transaction(ORDER, ORDER) for _ in range(2)]
    assert stream.read(data[0], only_items) == [Idle(Position(LSN(20), LAST_INDEX, STREAM))]
    assert stream.read(data[1], only_items) == [Idle(Position(LSN(30), LAST_INDEX, STREAM))]


def test_before_a_message_the_end_of_what_was_passed_over_is_told() -> None:
    """Whoever counts only changes knows of no place behind a message."""
    stream = Stream()
    stream.read(stream.transaction(ORDER), only_items)
    found = stream.read(stream.transaction_and_message(ORDER), only_items)
    assert shown(found) == ["idle", "message"]
    assert found[0] == Idle(Position(LSN(20), LAST_INDEX, STREAM))
    # Where nothing was passed over, it is not.
    assert shown(stream.read(stream.transaction_and_message(ITEM), only_items)) == [
        *("begin", "item 0", "commit", "message")
    ]


def test_a_table_that_was_altered_is_read_once() -> None:
    stream = Stream()
    stream.read(stream.transaction(ORDER), only_items)
    found = stream.read(stream.transaction(CHANGED), only_items)
    assert shown(found) == ["begin", "order 0", "commit"]
    assert shown(stream.read(stream.transaction(CHANGED), only_items)) == ["idle"]


def test_a_table_is_read_as_soon_as_somebody_wants_it() -> None:
    stream = Stream()
    data = [stream.transaction(ORDER) for _ in range(3)]
    wanted: set[str] = set()
    found = [shown(stream.read(data[0], lambda _, table: table in wanted))]
    found.append(shown(stream.read(data[1], lambda _, table: table in wanted)))
    wanted.add("order")
    found.append(shown(stream.read(data[2], lambda _, table: table in wanted)))
    row = ["begin", "order 0", "commit"]
    assert found == [row, ["idle"], row]
