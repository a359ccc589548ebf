"""Targets write what sources hand over, and the position with it: what SQLite shows of it.

What PostgreSQL does is in tests/integration/test_targets.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from realtime_core import (
    LSN,
    Begin,
    Change,
    Column,
    Commit,
    Delete,
    Event,
    Idle,
    Insert,
    Position,
    Record,
    Relation,
    ReplicaIdentity,
    Snapshot,
    SnapshotBegin,
    SnapshotComplete,
    SnapshotProgress,
    Transaction,
    Truncate,
)
from realtime_core.errors import ConfigError
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.targets import Checkpoint, SqliteTarget, TargetError

OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}
VALUES = {
    "bool": ("t", 1),
    "int8": ("9007199254740993", 9007199254740993),
    "float8": ("0.1", 0.1),
    "numeric": ("1.50", "1.50"),
    "text": ("007", "007"),
    "uuid": ("11111111-2222-3333-4444-555555555555",) * 2,
    "bytea": ("\\x00ff", b"\0\xff"),
    "timestamp": ("2026-11-28 12:00:00", "2026-11-28 12:00:00"),
    "date": ("infinity", "infinity"),
    "interval": ("01:00:00", "01:00:00"),
    "jsonb": ("1.0", "1.0"),
}


def column(type_name: str, modifier: int = -1, *, key: bool = False) -> Column:
    name = "id" if key else "c"
    return Column(name, OIDS.get(type_name, 1), type_name, "pg_catalog", modifier, key)


def relation(type_name: str) -> Relation:
    columns = (column("int8", key=True), column(type_name))
    return Relation(1, "public", "t", ReplicaIdentity.DEFAULT, columns)


T = relation("text")
TABLES = ["public.t"]


def inserted(*fields: str, table: Relation = T) -> Insert:
    return Insert(Transaction(1, LSN(1), None), 0, table, Record(table.shape, fields))


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Callable[[str], SqliteTarget]]:
    targets = []

    def make(declared: str) -> SqliteTarget:
        path = tmp_path / f"{len(targets)}.db"
        with sqlite3.connect(path) as connection:
            connection.execute(f"create table t (id integer primary key, c {declared})")
        connection.close()
        targets.append(SqliteTarget(str(path), "one", tables=TABLES))
        targets[-1].start()
        return targets[-1]

    yield make
    for target in targets:
        target.close()


@pytest.mark.parametrize("declared", ["", "int", "text", "varchar(9)", "blob", "double", "date"])
def test_a_column_of_sqlite_fits_if_it_keeps_every_value_as_it_is(
    lite: Callable[[str], SqliteTarget], declared: str
) -> None:
    target = lite(declared)
    fitting = set()
    for type_name, (text, value) in VALUES.items():
        of_type = relation(type_name)
        if any("cannot hold" in problem for problem in target.misfits(of_type)):
            continue
        fitting.add(type_name)
        target.write([inserted("1", text, table=of_type)])
        ((found,),) = target.connection.execute("select c from t")
        assert (type(found), found) == (type(value), value), type_name
    times = {"timestamp", "date", "interval"}
    texts = {"numeric", "text", "uuid", "jsonb", *times}
    assert (
        fitting
        == {
            "": set(VALUES),
            "int": {"bool", "int8"},
            "text": texts,
            "varchar(9)": texts,
            "blob": set(VALUES),
            "double": {"float8"},
            "date": {"bool", "int8", "float8", *times},
        }[declared]
    )


@pytest.mark.parametrize("name", ["realtime_copy", "Realtime_Copy"])
def test_a_table_with_the_name_of_the_table_of_positions_is_refused(
    lite: Callable[[str], SqliteTarget], name: str
) -> None:
    columns = (column("int8", key=True),)
    taken = Relation(1, "public", name, ReplicaIdentity.DEFAULT, columns)
    problem, *_ = lite("text").misfits(taken)
    assert problem == (
        f"table public.{name} has the name of the target's table of positions: rename it"
    )


def test_a_key_of_sqlite_that_takes_two_texts_for_the_same_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "copy.db"
    with sqlite3.connect(file) as connection:
        connection.execute(
            "create table t (a text collate nocase, b text, c text collate nocase unique,"
            " primary key (b, a)) without rowid"
        )
        connection.execute("create table u (id text primary key collate rtrim)")
    connection.close()
    columns = [Column(name, OIDS["text"], "text", "pg_catalog", -1, True) for name in "abc"]
    merges = (
        "key column {!r} of table public.{} has collation {} in the target, which takes different"
        " texts for the same, so that rows would become one: give it another"
    )
    with SqliteTarget(str(file), "one") as target:
        t = Relation(1, "public", "t", ReplicaIdentity.FULL, tuple(columns))
        assert target.misfits(t, ("b", "a")) == [merges.format("a", "t", "nocase")]
        key = (Column("id", OIDS["text"], "text", "pg_catalog", -1, True),)
        u = Relation(2, "public", "u", ReplicaIdentity.DEFAULT, key)
        assert target.misfits(u) == [merges.format("id", "u", "rtrim")]


def test_a_key_is_compared_with_the_replica_identity(lite: Callable[[str], SqliteTarget]) -> None:
    target = lite("text")
    note = Column("c", OIDS["text"], "text", "pg_catalog", -1, True)
    both = Relation(1, "public", "t", ReplicaIdentity.DEFAULT, (column("int8", key=True), note))
    other = "the primary key of table public.t is (id, c), in the target (id)"
    assert target.misfits(both) == target.misfits(both, ("id", "c")) == [other]
    full = Relation(1, "public", "t", ReplicaIdentity.FULL, both.columns)
    assert target.misfits(full) == []
    nothing = Relation(1, "public", "t", ReplicaIdentity.NOTHING, (column("int8"),))
    identity = "table public.t needs REPLICA IDENTITY DEFAULT, and all of its key published"
    assert identity in target.misfits(nothing)


def test_of_a_table_that_is_missing_everywhere_only_the_key_is_asked_for_first(
    lite: Callable[[str], SqliteTarget],
) -> None:
    without = Relation(1, "public", "away", ReplicaIdentity.DEFAULT, (column("text"),))
    alone = ["table public.away has no primary key in the source: add one"]
    assert lite("text").misfits(without, ()) == lite("text").misfits(without) == alone


def test_a_row_that_is_not_there_is_an_error(lite: Callable[[str], SqliteTarget]) -> None:
    gone = Delete(Transaction(1, LSN(1), None), 0, T, Record(T.key_shape, ("1",)))
    with pytest.raises(TargetError, match=r"1 rows have to be there for DELETE FROM .*, and 0 are"):
        lite("text").write([gone])


def at(number: int) -> Position:
    return Position(LSN(number))


def test_a_position_is_stored_in_the_place_of_the_former_one(
    lite: Callable[[str], SqliteTarget], tmp_path: Path
) -> None:
    target = lite("text")
    assert target.start() is target.checkpoint() is None
    target.commit(at(1))
    target.commit(at(2))
    assert target.checkpoint() == Checkpoint(at(2), ("public.t",))
    with SqliteTarget(str(tmp_path / "0.db"), "one") as second:
        with pytest.raises(TargetError, match="another process writes to the copy 'one'"):
            # It has not looked what is stored.
            second.commit(at(3))
        assert second.start() == at(2)
        second.commit(at(3))
    with pytest.raises(TargetError, match="another process writes to the copy 'one'"):
        target.commit(at(4))
    with SqliteTarget(str(tmp_path / "0.db"), "other") as other:
        assert other.start() is None


PROGRESS = SnapshotProgress(T, 1, None, 1, 1, None, 0, 1)


def copied(number: int) -> Snapshot:
    return Snapshot(T, Record(T.shape, (str(number), "copied")), PROGRESS)


def rows(target: SqliteTarget) -> list[tuple[int, str]]:
    return target.connection.execute("select * from t order by id").fetchall()


def test_a_batch_is_committed_up_to_what_ends_in_it(lite: Callable[[str], SqliteTarget]) -> None:
    target, transaction = lite("text"), Transaction(1, LSN(9), None)
    begin, complete = SnapshotBegin((T,), None), SnapshotComplete(at(5), 2)
    commit = Commit(transaction, LSN(10), 1)
    assert target.apply([begin, copied(1)]) is None
    batch: list[Event | Snapshot | SnapshotComplete] = [
        *(copied(2), complete, Begin(transaction), inserted("3", "new"))
    ]
    assert target.apply(batch) is complete
    assert (target.position, target.rows, target.changes) == (at(5), 2, 1)
    target.rollback()
    assert rows(target) == [(1, "copied"), (2, "copied")]
    assert target.apply([Begin(transaction), inserted("3", "new"), commit]) is commit
    assert target.apply([idle := Idle(at(11))]) is idle
    assert target.start() == at(11)
    assert rows(target) == [(1, "copied"), (2, "copied"), (3, "new")]


def test_a_snapshot_takes_the_place_of_all_that_was_there(
    lite: Callable[[str], SqliteTarget], tmp_path: Path
) -> None:
    target = lite("text")
    target.write([inserted("7", "old")])
    target.commit(at(1))
    target.write([inserted("8", "half a transaction"), SnapshotBegin((), None)])
    assert rows(target) == [(7, "old")]
    target.write([SnapshotBegin((T,), None), copied(1), SnapshotBegin((T,), None)])
    # One of which no row has come changes nothing, and holds no lock.
    assert rows(target) == [(7, "old")]
    with SqliteTarget(str(tmp_path / "0.db"), "one") as second:
        second.start()
        second.commit(at(2))
    assert target.apply([copied(2), done := SnapshotComplete(at(6), 1)]) is done
    assert rows(target) == [(2, "copied")]
    assert target.rows == 1
    target.apply([SnapshotBegin((T,), None), SnapshotComplete(at(7), 0)])
    assert rows(target) == []


def test_a_table_that_a_snapshot_lacks_is_an_error(lite: Callable[[str], SqliteTarget]) -> None:
    target = lite("text")
    with pytest.raises(ConfigError, match=r"the snapshot has no table public\.t: add it to the"):
        target.write([SnapshotBegin((), None), SnapshotComplete(at(1), 0)])


def test_a_table_that_was_not_named_is_left_out(
    lite: Callable[[str], SqliteTarget], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    target = lite("text")
    other = Relation(2, "public", "u", ReplicaIdentity.DEFAULT, T.columns)
    changes: list[Change] = [
        *(inserted("1", "a"), inserted("1", "b", table=other), inserted("2", "c", table=other)),
        Truncate(Transaction(1, LSN(1), None), 3, (other,), False, False),
    ]
    target.write(changes)
    assert rows(target) == [(1, "a")]
    assert caplog.messages == ["table public.u is not among those of copy 'one'"]


def test_a_table_that_was_altered_has_to_fit_again(lite: Callable[[str], SqliteTarget]) -> None:
    target = lite("text")
    target.write([inserted("1", "a")])
    altered = Relation(1, "public", "t", ReplicaIdentity.DEFAULT, (*T.columns, column("int8")))
    with pytest.raises(ConfigError, match="the target has no column"):
        target.write([Truncate(Transaction(1, LSN(1), None), 0, (altered,), False, False)])


def test_two_tables_of_one_name_in_sqlite_are_refused_and_one_that_moves_is_not(
    tmp_path: Path,
) -> None:
    def table(oid: int, schema: str, name: str) -> Relation:
        return Relation(oid, schema, name, ReplicaIdentity.DEFAULT, T.columns)

    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (id integer primary key, c text)")
    connection.close()
    with SqliteTarget(str(path), "one") as target:
        target.start()
        target.write([inserted("1", "first", table=table(1, "a", "t"))])
        for other in (table(2, "b", "t"), table(2, "a", "T")):
            problem = f"tables a.t and {other} would be one table of the SQLite file"
            with pytest.raises(ConfigError, match=problem):
                target.write([inserted("1", "of another table", table=other)])
            with pytest.raises(ConfigError, match=problem):
                target.write([Truncate(Transaction(1, LSN(1), None), 0, (other,), False, False)])
        target.write([inserted("2", "moved", table=table(1, "b", "t"))])
        rows = target.connection.execute("select * from t order by id").fetchall()
        assert rows == [(1, "first"), (2, "moved")]
