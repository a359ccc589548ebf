"""Chunks of a table that are brought up to the stream's place."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from realtime_core import (
    LSN,
    UNCHANGED,
    Column,
    Delete,
    Insert,
    Relation,
    ReplicaIdentity,
    Transaction,
    Truncate,
    Update,
)
from realtime_core.records import Record, Shape
from realtime_core.snapshot.chunk import ChunkMerger
from realtime_core.snapshot.tables import CopiedTable
from realtime_core.snapshot.visibility import SeenTransactions

RELATION = Relation(
    1,
    "public",
    "item",
    ReplicaIdentity.DEFAULT,
    tuple(
        Column(name, 25, "text", "pg_catalog", -1, is_key=name == "id")
        for name in ("id", "n", "large")
    ),
)
TABLE = CopiedTable(RELATION, 1, ("id",), (), is_partitioned=False, estimate=None)

Row = tuple[Any, ...]


def row(*fields: Any) -> Record:
    return Record(RELATION.shape, fields)


def change(xid: int, new: Row | None, old: str | None = None) -> Insert | Update | Delete:
    """Make the change that leaves a new row, or none, where there was one with an old key."""
    transaction = Transaction(xid, LSN(1), None)
    key = None if old is None else Record(RELATION.key_shape, (old,))
    if new is None:
        assert key is not None
        return Delete(transaction, 0, RELATION, key)
    if old is None:
        return Insert(transaction, 0, RELATION, row(*new))
    return Update(transaction, 0, RELATION, row(*new), None if old == new[0] else key)


def read(merger: ChunkMerger, *rows: Row, seen: str = "10:10:") -> None:
    merger.begin()
    merger.read(list(rows), SeenTransactions.parse(seen))


def test_a_change_that_the_snapshot_does_not_see_is_applied() -> None:
    merger = ChunkMerger(TABLE)
    read(merger, ("1", "a", "L"), ("2", "b", "M"), ("3", "c", "N"))
    merger.see(change(9, ("1", "x", "x"), "1"))
    merger.see(change(10, ("1", "d", UNCHANGED), "1"))
    merger.see(change(11, None, "2"))
    merger.see(change(12, ("9", "c", UNCHANGED), "3"))
    assert merger.take() == [("1", "d", "L")]
    assert not merger.is_stale


def test_a_change_that_came_while_the_chunk_was_read_is_applied_too() -> None:
    merger = ChunkMerger(TABLE)
    merger.begin()
    merger.see(change(9, ("1", "x", "x"), "1"))
    merger.see(change(10, ("1", "d", "D"), "1"))
    merger.read([("1", "a", "L")], SeenTransactions.parse("10:10:"))
    assert merger.take() == [("1", "d", "D")]
    # The next snapshot may not see it either.
    read(merger, ("1", "a", "L"), seen="10:12:10")
    assert merger.take() == [("1", "d", "D")]
    read(merger, ("1", "e", "L"), seen="12:12:")
    assert merger.take() == [("1", "e", "L")]


def test_a_truncate_empties_it() -> None:
    merger = ChunkMerger(TABLE)
    read(merger, ("1", "a", "L"))
    truncate = Truncate(Transaction(10, LSN(1), None), 0, (RELATION,), False, False)
    merger.see(truncate)
    assert merger.take() == []


def test_other_tables_change_nothing() -> None:
    other = Relation(2, "public", "other", ReplicaIdentity.DEFAULT, RELATION.columns)
    merger = ChunkMerger(TABLE)
    read(merger, ("1", "a", "L"))
    merger.see(Delete(Transaction(10, LSN(1), None), 0, other, Record(RELATION.key_shape, ("1",))))
    assert merger.take() == [("1", "a", "L")]


def test_it_is_read_again_if_the_table_was_altered() -> None:
    merger = ChunkMerger(TABLE)
    read(merger, ("1", "a", "L"))
    altered = Record(Shape(RELATION.columns[:2]), ("1", "b"))
    merger.see(Update(Transaction(10, LSN(1), None), 0, RELATION, altered, None))
    assert merger.is_stale
    merger.begin()
    assert not merger.is_stale
    keyless = Record(Shape(RELATION.columns[1:]), ("b", "L"))
    merger.see(Update(Transaction(10, LSN(1), None), 0, RELATION, keyless, None))
    assert merger.is_stale


def test_a_row_whose_key_changes_may_have_to_be_read_by_itself() -> None:
    merger = ChunkMerger(TABLE)
    read(merger, ("1", "a", "L"), ("2", "b", "M"))
    merger.see(change(10, ("0", "c", UNCHANGED), "7"))
    merger.see(change(11, ("6", "c", "whole"), "8"))
    assert merger.missed == {("0",): 10}


class World:
    """A table, its log, and who sees which transaction; and a copy made by a stream and chunks."""

    def __init__(self) -> None:
        self.log: list[tuple[int, Insert | Update | Delete]] = []
        self.states: list[dict[str, Row]] = [
            {str(number): (str(number), "0", "L") for number in range(6)}
        ]
        self.writers: dict[str, int] = {}
        self.hidden: set[int] = set()
        self.streamed = 0
        self.copy: dict[str, Row] = {}
        self.merger = ChunkMerger(TABLE)
        self.after = ""
        self.due: int | None = None
        self.chunk: tuple[list[Row], str, int] | None = None
        self.last = ""
        self.keys: set[str] = set()
        self.at_end = self.done = False

    def write(self, key: str, kind: str, other: str) -> None:
        """Commit a change to a row, which snapshots may not see yet."""
        state = dict(self.states[-1])
        before = state.get(key)
        xid = 100 + len(self.log)
        # A row that another transaction has written is locked until snapshots see that one.
        for each in (key, other):
            self.hidden.discard(self.writers.get(each, 0))
        if before is None:
            event = change(xid, (key, str(xid), f"L{xid}"))
            state[key] = event.record.fields  # type: ignore[union-attr]
        elif kind == "delete":
            event = change(xid, None, key)
            del state[key]
        elif kind == "move" and other not in state:
            event = change(xid, (other, str(xid), UNCHANGED), key)
            del state[key]
            state[other] = (other, str(xid), before[2])
        else:
            event = change(xid, (key, str(xid), UNCHANGED), key)
            state[key] = (key, str(xid), before[2])
        self.states.append(state)
        self.log.append((xid, event))
        self.writers[key] = self.writers[other] = xid
        self.hidden.add(xid)

    def show(self) -> None:
        """Let snapshots see the oldest transaction that they do not see."""
        if self.hidden:
            self.hidden.remove(min(self.hidden))

    def begin_chunk(self) -> None:
        if self.due is None and self.chunk is None and not self.done:
            self.merger.begin()
            rows = dict(self.states[0])
            for xid, event in self.log:
                if xid not in self.hidden:
                    apply(rows, event)
            self.keys = {str(key) for (key,) in self.merger.missed} if self.at_end else set()
            chosen = [rows[key] for key in sorted(rows) if key > self.after][:2]
            if self.keys:
                chosen = [rows[key] for key in self.keys if key in rows]
            xmax = 100 + len(self.log)
            text = f"{min(self.hidden, default=xmax)}:{xmax}:{','.join(map(str, self.hidden))}"
            self.chunk = chosen, text, len(self.log)

    def end_chunk(self) -> None:
        if self.chunk is not None:
            rows, text, self.due = self.chunk
            self.chunk = None
            self.merger.read(rows, SeenTransactions.parse(text))
            self.last = rows[-1][0] if rows and not self.keys else self.after
            self.at_end = self.at_end or len(rows) < 2
            self.hand_over()

    def stream(self) -> None:
        if self.streamed < len(self.log):
            _, event = self.log[self.streamed]
            self.streamed += 1
            self.merger.see(event)
            apply(self.copy, event)
            self.hand_over()

    def hand_over(self) -> None:
        if self.due is not None and self.streamed >= self.due:
            self.due, self.after = None, self.last
            for fields in self.merger.take():
                self.copy[fields[0]] = fields
            self.merger.found([(key,) for key in self.keys])
            self.done = self.at_end and not self.merger.missed


def apply(copy: dict[str, Row], event: Insert | Update | Delete) -> None:
    """Apply a change as a consumer does that writes rows over, and ignores those it lacks."""
    if isinstance(event, Delete):
        copy.pop(event.old_record["id"], None)
        return
    new = event.record.fields
    old = event.old_record["id"] if isinstance(event, Update) and event.old_record else new[0]
    before = copy.pop(old, None)
    if before is not None:
        copy[new[0]] = tuple(b if f is UNCHANGED else f for b, f in zip(before, new, strict=True))
    elif UNCHANGED not in new:
        copy[new[0]] = new


KEYS = st.sampled_from("012345")
STEPS = st.one_of(
    st.tuples(st.just("write"), KEYS, st.sampled_from(["update", "delete", "move"]), KEYS),
    st.tuples(st.sampled_from(["show", "begin_chunk", "end_chunk", "stream", "stream"])),
)


@given(st.lists(STEPS, max_size=40))
def test_the_copy_is_the_table_whatever_happens_meanwhile(steps: list[tuple[str, ...]]) -> None:
    world = World()
    for name, *arguments in steps:
        getattr(world, name)(*arguments)
    while not world.done or world.due is not None or world.streamed < len(world.log):
        for name in ("begin_chunk", "end_chunk", "stream", "show"):
            getattr(world, name)()
    assert world.copy == world.states[-1]


def test_the_copy_has_a_row_that_moved_to_where_chunks_were_read_already() -> None:
    world = World()
    world.begin_chunk()
    world.end_chunk()
    world.write("0", "delete", "0")
    world.write("5", "move", "0")
    while not world.done or world.streamed < len(world.log):
        for name in ("stream", "show", "begin_chunk", "end_chunk"):
            getattr(world, name)()
    assert world.copy == world.states[-1]


def test_a_row_is_read_by_itself_until_it_is_there() -> None:
    """A snapshot may not see yet what moved the row."""
    world = World()
    world.write("1", "delete", "1")
    world.write("0", "move", "1")
    for _ in range(20):
        for name in ("begin_chunk", "end_chunk", "stream"):
            getattr(world, name)()
    assert not world.done
    world.show()
    while not world.done:
        for name in ("begin_chunk", "end_chunk"):
            getattr(world, name)()
    assert world.copy == world.states[-1]
