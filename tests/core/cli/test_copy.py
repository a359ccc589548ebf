"""What `copy` needs of a target; what it does is in tests/integration/test_cli_copy.py."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from realtime_core import (
    LSN,
    Column,
    Delete,
    Insert,
    Record,
    Relation,
    ReplicaIdentity,
    Transaction,
)
from realtime_core._cli.copy import _follow as follow_copy
from realtime_core._cli.copy import copy, make_target
from realtime_core._copy.targets import SqliteTarget, TargetError
from realtime_core.errors import ConfigError
from realtime_core.oids import BUILTIN_TYPES

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


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Callable[[str], SqliteTarget]]:
    targets = []

    def make(declared: str) -> SqliteTarget:
        path = tmp_path / f"{len(targets)}.db"
        with sqlite3.connect(path) as connection:
            connection.execute(f"create table t (id integer primary key, c {declared})")
        connection.close()
        targets.append(SqliteTarget(str(path)))
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
        if any("cannot hold" in problem for problem in target.problems(of_type, ("id",))):
            continue
        fitting.add(type_name)
        plan = target.statements(of_type, ("id",))
        change = Insert(
            Transaction(1, LSN(1), None), 0, of_type, Record(of_type.shape, ("1", text))
        )
        statement, row = plan.step(change)
        target.execute([(statement, [row])])
        ((found,),) = target.run("select c from t")
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
    problem, *_ = lite("text").problems(taken, ("id",))
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
    target = SqliteTarget(str(file))
    identity = ReplicaIdentity.DEFAULT
    found = [*target.problems(Relation(1, "public", "t", identity, tuple(columns)), ("b", "a"))]
    assert found == [
        "column 'a' of table public.t has type text, which TEXT COLLATE nocase cannot hold"
    ]
    key = (Column("id", OIDS["text"], "text", "pg_catalog", -1, True),)
    found = [*target.problems(Relation(2, "public", "u", identity, key), ("id",))]
    assert found == [
        "column 'id' of table public.u has type text, which TEXT COLLATE rtrim cannot hold"
    ]
    target.close()


def test_a_row_that_is_not_there_is_an_error(lite: Callable[[str], SqliteTarget]) -> None:
    target, of_type = lite("text"), relation("text")
    plan = target.statements(of_type, ("id",))
    gone = Delete(Transaction(1, LSN(1), None), 0, of_type, Record(of_type.key_shape, ("1",)))
    statement, key = plan.step(gone)
    with pytest.raises(TargetError, match=r"1 rows have to be there for DELETE FROM .*, and 0 are"):
        target.execute([(statement, [key])])


def test_a_position_is_stored_in_the_place_of_the_former_one(
    lite: Callable[[str], SqliteTarget],
) -> None:
    target = lite("text")
    assert target.checkpoint("one") == (None, [])
    target.claim("one")
    target.store("one", "0/1:0", {"public.b", "public.a"}, "")
    target.store("one", "0/2:0", {"public.b", "public.a"}, "0/1:0")
    target.end(commit=True)
    assert target.checkpoint("one") == ("0/2:0", ["public.a", "public.b"])
    for former in ("0/1:0", ""):
        with pytest.raises(TargetError, match="another process writes to the copy 'one'"):
            target.store("one", "0/3:0", {"public.a"}, former)
    target.claim("one")
    with pytest.raises(TargetError, match="another process writes to the copy 'one'"):
        target.store("one", "0/3:0", {"public.a"}, "0/2:0")


@pytest.mark.parametrize(
    ("place", "source", "target"),
    [
        ("source", "mysql://me:secret@db/shop", "sqlite:shop.db"),
        ("target", "dbname=shop", "mysql://me:secret@db/shop"),
    ],
)
def test_what_is_no_connection_string_is_refused_and_not_quoted(
    place: str, source: str, target: str
) -> None:
    with pytest.raises(ConfigError, match=f"of the {place}, dsn is not a conn") as caught:
        copy(source, target, ["public.t"], name="copy", overwrite=False, dry_run=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("second", ["other.orders", "public.Orders", "other.ORDERS"])
def test_two_tables_that_are_one_in_sqlite_are_refused(tmp_path: Path, second: str) -> None:
    with pytest.raises(ConfigError, match="two tables of one name"):
        copy(
            "",
            f"sqlite:{tmp_path / 'copy.db'}",
            ["public.orders", second],
            name="copy",
            overwrite=False,
            dry_run=True,
        )


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "shop.db"
    with pytest.raises(TargetError, match=f"the file '{file}' cannot be opened: unable to open"):
        make_target(f"sqlite:{file}")


class Followed:
    """A copy of one more row with each batch, until Ctrl-C."""

    def __init__(self, batches: int) -> None:
        self._batches, self._copied = batches, 0

    def follow(self, dsn: str, progress: object) -> Iterator[None]:
        for _ in range(self._batches):
            self._copied += 1
            yield
        # With nothing new nothing is said.
        yield
        raise KeyboardInterrupt

    def __str__(self) -> str:
        return f"{self._copied} rows"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, ["progress: 1 rows", "progress: 2 rows", "done: 2 rows"]),
        (3600.0, ["done: 2 rows"]),
    ],
)
def test_it_says_now_and_then_how_far_it_is(
    seconds: float,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("realtime_core._cli.copy._PROGRESS", seconds)
    follow_copy("dbname=shop", Followed(2))  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines() == said
