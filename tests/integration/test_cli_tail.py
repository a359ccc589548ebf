"""`python -m realtime_core tail` as a process, on real servers."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.waiting import eventually_sync

pytestmark = pytest.mark.integration

COMMAND = [sys.executable, "-m", "realtime_core", "tail"]


PAGE = Path(__file__).parents[2] / "docs" / "howto" / "tail.md"


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int primary key, name text)")
        database.execute("create publication shop for table item")
        yield database


@contextmanager
def following(
    database: Database, *arguments: str, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Have it run, streaming; its first line on standard error has been read."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    ) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
            assert first.startswith(f"info: streaming from database '{database.name}', "), first
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def read(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def end(process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
    """Send a signal; return what was left on standard error."""
    process.send_signal(number)
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    return process.stderr.read()


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def slots(database: Database) -> int:
    query = "select count(*) from pg_replication_slots where database = current_database()"
    return int(database.execute(query)[0][0])


def test_it_follows_with_a_temporary_slot_and_leaves_nothing_behind(shop: Database) -> None:
    with following(shop, shop.dsn, "--publication", "shop") as process:
        shop.execute("insert into item values (1, 'it''s'), (2, null)")
        assert read(process, 2) == [
            "INSERT public.item id=1 name='it''s'",
            "INSERT public.item id=2 name=NULL",
        ]
        shop.execute("update item set id = 3 where id = 2")
        shop.execute("delete from item where id = 3")
        shop.execute("truncate item")
        assert read(process, 3) == [
            "UPDATE public.item id=3 name=NULL (was id=2)",
            "DELETE public.item id=3",
            "TRUNCATE public.item",
        ]
        assert re.fullmatch(r"done: 5 changes, up to [0-9A-F/]+ in [\d.]+ s\n", end(process))
    assert slots(shop) == 0


def test_the_pages_statements_give_the_pages_lines(shop: Database) -> None:
    blocks = dict(re.findall(r"^```(sql|text)\n(.*?)^```$", PAGE.read_text(), re.M | re.S))
    shop.execute("create table orders (id int primary key, status text, total numeric)")
    shop.execute("alter publication shop add table orders")
    with following(shop, shop.dsn, "--publication", "shop") as process:
        for statement in blocks["sql"].splitlines():
            shop.execute(statement)
        assert read(process, 3) == blocks["text"].splitlines()
        end(process)


def test_a_filter_leaves_out_what_does_not_pass(shop: Database) -> None:
    shop.execute("create table other (id int primary key)")
    shop.execute("alter publication shop add table other")
    with following(
        shop, shop.dsn, "--publication", "shop", "--filter", "public.item:id=gt.1,name=not.like.x*"
    ) as process:
        shop.execute("insert into item values (1, 'a'), (2, 'b'), (3, 'xy')")
        shop.execute("insert into other values (1)")
        assert read(process, 2) == [
            "INSERT public.item id=2 name='b'",
            "INSERT public.other id=1",
        ]
        assert "done: 2 changes, 2 left out by the filter, up to " in end(process)


def test_a_filter_that_does_not_fit_a_table_ends_it(shop: Database) -> None:
    with following(shop, shop.dsn, "--publication", "shop", "--filter", "missing=eq.1") as process:
        shop.execute("insert into item values (1, 'a')")
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "error: public.item has no column 'missing'; it has id, name (at character 1" in err


@pytest.mark.parametrize(
    ("filter", "warning"),
    [
        (
            "public.items:id=eq.1",
            "the filter for public.items passes nothing: there is no such table; there is "
            "public.item",
        ),
        (
            "publik.orders:id=eq.1",
            "the filter for publik.orders passes nothing: there is no such table",
        ),
        (
            "public.item:nmae=eq.x",
            "the filter for public.item does not fit it: public.item has no column 'nmae'; it has "
            "id, name (at character 1 of 'nmae=eq.x')",
        ),
        (
            "nmae=eq.x",
            "the filter without a table does not fit public.item: public.item has no column "
            "'nmae'; it has id, name (at character 1 of 'nmae=eq.x')",
        ),
        (
            "public.secret:id=eq.1",
            "the filter for public.secret passes nothing: the table is in none of the "
            "publications shop",
        ),
    ],
)
def test_a_filter_that_is_misspelled_is_said_at_once(
    shop: Database, filter: str, warning: str
) -> None:
    shop.execute("create domain small as int; create domain smaller as small")
    shop.execute("create table secret (id smaller)")
    with following(
        shop, shop.dsn, "--publication", "shop", "--filter", "public.item:id=gt.1"
    ) as process:
        assert "warning" not in end(process)
    with following(shop, shop.dsn, "--publication", "shop", "--filter", filter) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"warning: {warning}\n"
        end(process)


def test_with_wal2json_too(pg17: Server) -> None:
    with fresh_database(pg17) as database:
        database.execute("create table item (id int primary key)")
        arguments = ["--plugin", "wal2json", "--filter", "public.itme:id=eq.1"]
        with following(database, database.dsn, *arguments) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == (
                "warning: the filter for public.itme passes nothing: there is no such table; "
                "there is public.item\n"
            )
            end(process)


def test_libpqs_environment_names_the_database(shop: Database) -> None:
    parts = conninfo_to_dict(shop.dsn)
    names = {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER"}
    environment = {names[key]: str(value) for key, value in parts.items() if key in names}
    with following(shop, "--publication", "shop", environment=environment) as process:
        shop.execute("insert into item values (1, 'x')")
        assert read(process, 1) == ["INSERT public.item id=1 name='x'"]
        end(process, signal.SIGTERM)


def test_what_was_acknowledged_does_not_come_again(shop: Database) -> None:
    slot = unique_name("tail")
    arguments = (shop.dsn, "--publication", "shop", "--slot", slot, "--format", "json")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err == (
        f"error: slot '{slot}' does not exist; --create makes it, and it keeps WAL from then on "
        "until it is read or dropped\n"
    )
    with following(shop, *arguments, "--create") as process:
        shop.execute("insert into item values (1)")
        read(process, 1)
        end(process)
    # It was only looked at.
    with following(shop, *arguments, "--ack") as process:
        shop.execute("insert into item values (2)")
        lines = read(process, 2)
        end(process)
    assert [json.loads(line)["record"]["id"] for line in lines] == ["1", "2"]
    with following(shop, *arguments, "--ack", "--boundaries") as process:
        shop.execute("insert into item values (3)")
        kinds = [json.loads(line)["kind"] for line in read(process, 3)]
        end(process)
    assert kinds == ["begin", "insert", "commit"]
    # The position of a line is where another run may begin, without an acknowledgement.
    shop.execute("insert into item values (4), (5)")
    code, out, _ = run(*arguments, "--count", "1")
    assert code == 0
    first = json.loads(out)
    code, out, _ = run(*arguments, "--count", "1", "--from-position", first["position"])
    assert code == 0
    assert (first["record"]["id"], json.loads(out)["record"]["id"]) == ("4", "5")


def test_a_broken_connection_is_a_line_on_standard_error(shop: Database) -> None:
    slot = unique_name("tail")
    arguments = (shop.dsn, "--publication", "shop", "--slot", slot, "--create")
    with following(shop, *arguments) as process:
        shop.execute("insert into item values (1)")
        read(process, 1)
        shop.execute(
            "select pg_terminate_backend(active_pid, 10000) from pg_replication_slots"
            " where slot_name = %s",
            (slot,),
        )
        shop.execute("insert into item values (2)")
        assert read(process, 1) == ["INSERT public.item id=2 name=NULL"]
        interrupted, again, done = end(process).splitlines()
    assert interrupted.startswith("warning: stream interrupted: ")
    assert again.startswith("info: streaming from database ")
    assert "2 changes" in done
    assert "1 reconnect" in done


def test_a_reader_that_has_had_enough_ends_it(shop: Database) -> None:
    with following(shop, shop.dsn, "--publication", "shop") as process:
        shop.execute("insert into item values (1)")
        read(process, 1)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        shop.execute("insert into item values (2)")
        assert process.wait(timeout=60) == 0
        assert process.stderr.read().startswith("done: 1 change,")
    assert slots(shop) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_nobody_takes_its_output(shop: Database, number: int) -> None:
    with following(shop, shop.dsn, "--publication", "shop") as process:
        shop.execute("insert into item select g, repeat('x', 1000) from generate_series(1, 5000) g")
        # The server waits for the client, and that for whoever reads its output: nobody.
        query = (
            "select sent_lsn from pg_stat_replication join pg_stat_activity using (pid)"
            " where datname = current_database() and wait_event = 'WalSenderWriteData'"
        )

        def waits_for_good() -> bool:
            # Now and then it waits for a moment only.
            before = shop.execute(query)
            shop.execute("select pg_sleep(0.5)")
            return bool(before) and shop.execute(query) == before

        eventually_sync(waits_for_good)
        process.send_signal(number)
        assert process.wait(timeout=60) == 130
        # The slot went with the process.
    eventually_sync(lambda: slots(shop) == 0)


def test_what_is_wrong_is_one_line_with_the_remedy(shop: Database) -> None:
    code, out, err = run(shop.dsn, "--publication", "mart")
    assert (code, out) == (1, "")
    assert err == (
        f"error: publication \"mart\" not found in database '{shop.name}'; create it with "
        'the tables to be sent: CREATE PUBLICATION "mart" FOR TABLE a, b\n'
    )
    code, out, err = run("host=127.0.0.1 port=1", "--publication", "shop")
    assert (code, out) == (1, "")
    assert err.startswith("error: cannot connect to PostgreSQL (")
    assert err.count("\n") == 1
    code, out, err = run(make_conninfo(shop.dsn, dbname="nowhere"), "--publication", "shop")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert '"nowhere" does not exist' in err


def test_wal2json_needs_no_publication(pg17: Server) -> None:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    schema = unique_name("tail")
    ((name,),) = pg17.execute("select current_database()")
    database = Database(pg17, name)
    pg17.execute(f"create schema {schema}")
    pg17.execute(f"create table {schema}.item (id int primary key)")
    pg17.execute(f"create table {schema}.other (id int primary key)")
    try:
        with following(
            database, pg17.dsn, "--plugin", "wal2json", "--table", f"{schema}.item"
        ) as process:
            pg17.execute(f"insert into {schema}.other values (1)")
            pg17.execute(f"insert into {schema}.item values (2)")
            assert read(process, 1) == [f"INSERT {schema}.item id=2"]
            end(process)
    finally:
        pg17.execute(f"drop schema {schema} cascade")


def test_the_rows_come_before_the_changes(shop: Database) -> None:
    """Standard error is a terminal, on which a bar shows how far it is."""
    shop.execute("insert into item values (1, 'a'), (2, null); analyze item")
    slot = unique_name("slot")
    arguments = ["--publication", "shop", "--slot", slot, "--create", "--ack", "--snapshot"]
    command = [*COMMAND, shop.dsn, *arguments, "--format", "json"]
    terminal, its_end = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its_end, text=True) as process:
        begin, *rows, complete = map(json.loads, read(process, 4))
        assert begin == {
            "kind": "snapshot_begin",
            "tables": [{"schema": "public", "table": "item"}],
        }
        assert [row["record"] for row in rows] == [
            {"id": "1", "name": "a"},
            {"id": "2", "name": None},
        ]
        assert (complete["kind"], complete["rows"]) == ("snapshot_complete", 2)
        shop.execute("insert into item values (3, 'c')")
        [change] = map(json.loads, read(process, 1))
        assert (change["kind"], change["record"]["id"]) == ("insert", "3")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        drawn = os.read(terminal, 65536).decode()
    os.close(terminal)
    os.close(its_end)
    assert re.search(r"\r\x1b\[K\[[#-]{30}\] +\d+% \d rows, 0 MiB, 0 of 1 tables\r\x1b\[K", drawn)
