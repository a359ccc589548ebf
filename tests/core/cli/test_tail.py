"""`python -m realtime_core tail` on a database in memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from realtime_core import (
    ChangeSource,
    ConfigError,
    DecodeError,
    GapReason,
    MemoryDatabase,
    MemorySource,
    MemoryTable,
    PgoutputSource,
    Position,
    Wal2JsonSource,
)
from realtime_core._cli import tail
from realtime_core._cli.parser import main
from realtime_core._cli.tail import TailSettings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


class Play:
    """A database, and what happens in it once the stream runs."""

    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.table = self.database.table("item", {"id": "int8", "name": "text"}, key="id")
        self.script: Callable[[MemoryDatabase, MemoryTable], None] = lambda *_: None
        self.source: MemorySource | None = None

    def make_source(self, settings: TailSettings) -> ChangeSource:
        play = self

        class Source(MemorySource):
            async def __aenter__(self) -> Any:
                entered = await super().__aenter__()
                play.script(play.database, play.table)
                return entered

        start = settings.from_position
        self.source = Source(
            self.database,
            slot=settings.slot,
            on_gap=settings.on_gap,
            boundaries=settings.boundaries,
            start_at="slot" if start is None else Position.parse(start),
        )
        return self.source


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    play = Play()
    monkeypatch.setattr(tail, "make_source", play.make_source)

    async def no_check(dsn: str, slot: str) -> None:
        pass

    monkeypatch.setattr(tail, "_check_slot", no_check)
    return play


def run(*arguments: str) -> int:
    return main(["tail", "--publication", "shop", *arguments])


def write_some(database: MemoryDatabase, table: MemoryTable) -> None:
    with database.transaction():
        table.insert(id=1, name="one")
        table.insert(id=2, name="two")
    table.delete(1)
    database.end()


def test_changes_are_lines_of_text(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play.script = write_some
    assert run() == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "INSERT public.item id=1 name='one'",
        "INSERT public.item id=2 name='two'",
        "DELETE public.item id=1",
    ]
    assert err.startswith("done: 3 changes, up to 0/")
    assert err.count("\n") == 1


def test_json_lines_with_boundaries_and_nothing_else_when_quiet(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    play.script = write_some
    assert run("--format", "json", "--boundaries", "--quiet") == 0
    out, err = capsys.readouterr()
    kinds = [json.loads(line)["kind"] for line in out.splitlines()]
    assert kinds == ["begin", "insert", "insert", "commit", "begin", "delete", "commit"]
    assert err == ""


def test_a_slot_stays_where_it_is_unless_what_was_written_is_acknowledged(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    play.script = write_some
    assert run("--slot", "log", "--create") == 0
    assert len(play.database.unacknowledged("log")) == 3
    play.script = lambda *_: None
    assert run("--slot", "log", "--ack") == 0
    assert play.database.unacknowledged("log") == ()
    out, _ = capsys.readouterr()
    assert len(out.splitlines()) == 6


def test_a_number_of_changes(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play.script = write_some
    assert run("--slot", "log", "--ack", "--count", "2", "--boundaries") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "INSERT public.item id=2 name='two'"
    assert err.startswith("done: 2 changes, ")
    # What was read, but not written, is not acknowledged.
    (left,) = play.database.unacknowledged("log")
    assert type(left).__name__ == "Delete"


def test_from_a_position(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play.script = write_some
    assert run("--slot", "log", "--format", "json") == 0
    first, *rest = capsys.readouterr().out.splitlines()
    play.script = lambda database, _: database.write_elsewhere()
    position = json.loads(first)["position"]
    assert run("--slot", "log", "--format", "json", "--from-position", position, "--ack") == 0
    # An Idle position is acknowledged, but no line.
    assert capsys.readouterr().out.splitlines() == rest
    assert play.database.unacknowledged("log") == ()


def test_a_gap_is_a_line_or_an_error(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    def lose(database: MemoryDatabase, table: MemoryTable) -> None:
        table.insert(id=5)
        database.lose_slot("log", GapReason.WAL_REMOVED)
        database.end()

    play.script = lose
    assert run("--slot", "log") == 0
    out, err = capsys.readouterr()
    assert out.startswith("GAP wal_removed: changes may be missing until ")
    assert "error: changes may be lost: wal_removed, after None" in err
    play.database = MemoryDatabase()
    play.table = play.database.table("item", {"id": "int8"}, key="id")
    assert run("--slot", "log", "--on-gap", "raise") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("error: changes may be lost (wal_removed)")


def test_a_broken_connection_is_said_and_made_again(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_it(database: MemoryDatabase, table: MemoryTable) -> None:
        database.drop_connections()
        write_some(database, table)

    play.script = break_it
    assert run("--slot", "log") == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    first, last = err.splitlines()
    assert first == "warning: stream interrupted: the connection was broken"
    assert "3 changes, 1 reconnect, up to" in last


def test_an_error_that_ends_the_stream_is_one_line_and_exit_code_1(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    play.script = lambda database, _: database.drop_connections(DecodeError("strange\nbytes"))
    assert run() == 1
    out, err = capsys.readouterr()
    assert out == ""
    done, error = err.splitlines()
    assert done.startswith("done: 0 changes")
    assert error == "error: strange bytes"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_good_order(
    play: Play, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_and_signal(database: MemoryDatabase, table: MemoryTable) -> None:
        table.insert(id=1)
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)

    before = signal.getsignal(number)
    play.script = write_and_signal
    assert run("--slot", "log", "--ack") == 0
    assert capsys.readouterr().out == "INSERT public.item id=1 name=NULL\n"
    assert play.database.unacknowledged("log") == ()
    assert play.source is not None
    assert not play.source.stats().connected
    assert signal.getsignal(number) == before


@pytest.mark.slow
def test_progress_is_said_where_it_is_not_between_the_changes(
    play: Play, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_later(database: MemoryDatabase, table: MemoryTable) -> None:
        table.insert(id=1)
        asyncio.get_running_loop().call_later(0.3, database.end)

    monkeypatch.setattr(tail, "_PROGRESS", 0.02)
    play.script = write_later
    assert run() == 0
    progress, done = capsys.readouterr().err.splitlines()
    # Once: nothing else happened.
    assert progress.startswith("progress: 1 change, up to 0/")
    assert done.startswith("done: 1 change")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "no publication is named; give --publication NAME"),
        (["--publication", "a", "--table", "a.b"], "--table is for --plugin wal2json"),
        (["--plugin", "wal2json", "--publication", "a"], "--publication is for --plugin pgoutput"),
        (["--plugin", "wal2json", "--table", "orders"], "--table 'orders' is not schema.table"),
        (["--publication", "a", "--ack"], "--ack needs --slot NAME"),
        (["--publication", "a", "--create"], "--create needs --slot NAME"),
        (["--publication", "a", "--from-position", "0/1:0"], "--from-position needs --slot NAME"),
        (["--publication", "a", "--count", "0"], "--count is a number from 1, not 0"),
        (
            ["--publication", "a", "--slot", "s", "--from-position", "x"],
            "--from-position is not a position: 'x'; it looks like 16/B374D848:0",
        ),
        (
            ["--publication", "a", "--slot", "A b"],
            "slot 'A b' cannot be the name of a replication slot",
        ),
        (["nonsense", "--publication", "a"], "dsn is not a connection string"),
        (["--publication", ""], "publications has '', which is not a name"),
        (["--count", "many"], "argument --count: invalid int value: 'many'"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["tail", *arguments])
    except SystemExit as exc:
        code = exc.code  # type: ignore[assignment]
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {problem}")
    assert err.count("\n") == 1


def test_all_problems_are_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tail", "--ack", "--count", "-1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def settings(**given: Any) -> TailSettings:
    defaults: dict[str, Any] = {
        "dsn": "",
        "plugin": "pgoutput",
        "publications": ("shop",),
        "tables": (),
        "filters": (),
        "messages": False,
        "slot": None,
        "create": False,
        "ack": False,
        "from_position": None,
        "on_gap": "continue",
        "boundaries": False,
        "count": None,
        "line": str,
        "quiet": False,
    }
    return TailSettings(**(defaults | given))


Made = tuple[type[Any], dict[str, Any]]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Made]:
    """Make the source for such settings; return its type and what it was given."""
    made: list[Made] = []

    def make(**given: Any) -> Made:
        tail.make_source(settings(**given))
        return made.pop()

    for kind in (PgoutputSource, Wal2JsonSource):

        def recorded(dsn: str, *, kind: type[Any] = kind, **options: Any) -> Any:
            made.append((kind, options))
            return kind(dsn, **options)

        monkeypatch.setattr(tail, kind.__name__, recorded)
    return make


def test_the_source_is_what_the_arguments_say(make: Callable[..., Made]) -> None:
    kind, options = make(slot="log", messages=True, from_position="0/1:2")
    assert kind is PgoutputSource
    assert options["slot"] == "log"
    assert options["start_at"] == Position.parse("0/1:2")
    # A pager may stand still for hours.
    assert options["sender_timeout"] == 0
    assert options["messages"] is True
    kind, options = make(plugin="wal2json", publications=(), tables=("public.a", "*.b"))
    assert kind is Wal2JsonSource
    assert options["tables"] == [("public", "a"), (None, "b")]
    assert "start_at" not in options
    assert "snapshot" not in options
    _, options = make(snapshot=True)
    assert options["snapshot"] == "initial"
    with pytest.raises(ConfigError):
        make(slot="A")


def test_a_snapshot_needs_a_slot_that_moves(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--slot", "log", "--snapshot", "--from-position", "0/1:2")
    assert run(*arguments, "--publication", "shop") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "error: --snapshot needs --create and --ack with --slot: the slot is made when the rows "
        "are written",
        "error: --snapshot begins with all rows: leave --from-position out",
    ]


@pytest.mark.parametrize(
    ("given", "filters"),
    [
        (["id=eq.1"], {"*": "id=eq.1"}),
        (["public.item:id=eq.1"], {"public.item": "id=eq.1"}),
        (["public.my table:", "a.b:c=eq.d:e"], {"public.my table": "", "a.b": "c=eq.d:e"}),
        (["at=gt.2026-11-24T05:36:00.5Z"], {"*": "at=gt.2026-11-24T05:36:00.5Z"}),
        (["or(a.eq.1,b.eq.x:y)"], {"*": "or(a.eq.1,b.eq.x:y)"}),
        (['"a.b:c"=eq.1'], {"*": '"a.b:c"=eq.1'}),
    ],
)
def test_a_filter_may_be_for_a_table(
    make: Callable[..., Made], given: list[str], filters: dict[str, str]
) -> None:
    _, options = make(filters=tuple(given))
    assert options["filter"] == filters


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["id=foo.1"], "filter 'id=foo.1': unknown operator 'foo'; expected one of eq, "),
        (["id=eq.1", "id=eq.2"], "--filter without a table is given twice; join the two with a "),
        (["a.b:id=eq.1", "a.b:id=eq.2"], "--filter for a.b is given twice; join the two with a "),
    ],
)
def test_a_filter_that_cannot_work_is_said(
    given: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [part for text in given for part in ("--filter", text)]
    assert main(["tail", "--publication", "shop", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {problem}")
