"""`python -m realtime_core copy` as a process, to PostgreSQL and to SQLite, from real servers.

COPY_KILLS says how often it is killed for each target (6 by default), KILLS_SEED when.
"""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege
from psycopg.sql import SQL

from realtime_core import (
    LSN,
    Column,
    ConfigError,
    PgoutputSource,
    Position,
    Relation,
    ReplicaIdentity,
    SlotInUseError,
    Transaction,
    Truncate,
)
from realtime_core._cli.copy import make_target
from realtime_core._cli.parser import main
from realtime_core._copy import Copy
from realtime_core.sources._described import create_publication, described_tables
from realtime_core.targets import PostgresTarget, Target, TargetError
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.kill_phases import kill_in_some_phase
from tests.integration.source_helpers import drop_slot_of
from tests.integration.test_source_gaps import remove_wal
from tests.integration.writers import writing
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.integration, pytest.mark.slow]

COMMAND = [sys.executable, "-m", "realtime_core", "copy"]
KILLS = int(os.environ.get("COPY_KILLS", "6"))
SEED = int(os.environ.get("KILLS_SEED", "1"))
ROWS = 20_000
ORDERS = "create table orders (id bigint primary key, amount numeric not null, note text)"
LITE_ORDERS = "create table orders (id integer primary key, amount text not null, note text)"


class Copied:
    """A target, and what it has."""

    def __init__(self, argument: str, execute: Callable[[str], list[tuple[Any, ...]]]) -> None:
        self.argument = argument
        self.execute = execute


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    yield from fresh(one_pg)


def fresh(server: Server) -> Iterator[Database]:
    database = Database(server, unique_name("test"))
    server.create_database(database.name)
    yield database
    database.drop()


@pytest.fixture(params=["postgres", "sqlite"])
def copied(request: pytest.FixtureRequest, one_pg: Server, tmp_path: Path) -> Iterator[Copied]:
    if request.param == "postgres":
        for database in fresh(one_pg):
            yield Copied(database.dsn, database.execute)
        return
    file = tmp_path / "copy.sqlite"

    def execute(query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(file, timeout=60)) as connection, connection:
            return connection.execute(query).fetchall()

    yield Copied(f"sqlite:{file}", execute)


def is_lite(copied: Copied) -> bool:
    return copied.argument.startswith("sqlite:")


@contextmanager
def copying(
    shop: Database,
    copied: Copied,
    *arguments: str,
    tables: str = "public.orders",
    stderr: int = subprocess.PIPE,
) -> Iterator[subprocess.Popen[str]]:
    """Have it run; it is killed at the end, if it still runs."""
    source = make_conninfo(shop.dsn, application_name=shop.name)
    words = [*COMMAND, source, copied.argument, "--name", shop.name, "--tables", tables]
    with subprocess.Popen([*words, *arguments], stderr=stderr, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def test_a_copy_that_is_killed_at_any_time_equals_the_source_at_the_end(
    shop: Database, copied: Copied
) -> None:
    print(f"KILLS_SEED={SEED}")
    random = Random(SEED)
    shop.execute(ORDERS)
    large = "(select string_agg(md5(g || ' ' || i), '') from generate_series(1, 100) i)"
    shop.execute(
        f"insert into orders select g, g / 10.0, case when g % 100 = 0 then {large} end"
        f" from generate_series(1, {ROWS}) g"
    )
    shop.execute("create table item (id int primary key, name text not null)")
    shop.execute("insert into item select g, 'item ' || g from generate_series(1, 5000) g")
    copied.execute(LITE_ORDERS if is_lite(copied) else ORDERS)
    copied.execute("create table item (id integer primary key, name text not null)")
    both = ("--tables", "public.item")
    first_copies = max(KILLS // 3, 2)
    phases: Counter[str] = Counter()

    def stored() -> list[tuple[Any, ...]]:
        try:
            return copied.execute("select position from realtime_copy")
        except Exception:
            return []

    with writing(shop, random, ROWS):
        for number in range(KILLS):
            before = stored()
            if number < first_copies:
                # Within a first copy, or within one that is taken instead of a whole one.
                with copying(shop, copied, *both, "--overwrite") as process:
                    last = "going on behind the snapshot"
                    phases[kill_in_some_phase(process, shop, shop.name, random, last)] += 1
                continue
            with copying(shop, copied, *both) as process:
                eventually_sync(lambda before=before: stored() != before, within=60)
                time.sleep(random.uniform(0, 0.4))
                assert process.poll() is None, process.communicate()
    print(*phases.most_common(), sep="\n")
    assert stored()
    orders, items = "select id, {} from orders order by id", "select * from item order by id"
    rows = [shop.execute(orders.format("amount::text, note")), shop.execute(items)]
    with copying(shop, copied, *both):
        wanted = orders.format("amount, note" if is_lite(copied) else "amount::text, note"), items
        eventually_sync(lambda: [copied.execute(each) for each in wanted] == rows, within=60)


ODD = 'public."odd ""table\' $1"'
PARAMETERS = """
    ("the ""key" int, part text, ok bool, ratio {real}, raw {bytes}, day date, "?1 %" {numeric},
     tags {list}, primary key (part, "the ""key"))
"""
POSTGRES = {"real": "float8", "bytes": "bytea", "numeric": "numeric", "list": "text[]"}
LITE = {"real": "real", "bytes": "blob", "numeric": "text", "list": "text"}
PAIRS = "create table pairs (one int, two int, primary key (one, two))"


def test_rows_and_changes_are_copied_whatever_the_names_and_the_types(
    shop: Database, copied: Copied
) -> None:
    lite = is_lite(copied)
    theirs = ODD.removeprefix("public.") if lite else ODD
    shop.execute(SQL(f"create table {ODD} {PARAMETERS.format(**POSTGRES)}"))
    # A table with partitions is one table of the copy.
    shop.execute(
        """
        create table pairs (one int, two int, primary key (one, two)) partition by range (one);
        create table low_pairs partition of pairs for values from (0) to (3);
        create table other_pairs partition of pairs default;
        """
    )
    copied.execute(f"create table {theirs} {PARAMETERS.format(**(LITE if lite else POSTGRES))}")
    copied.execute(PAIRS)
    shop.execute(
        f"insert into {ODD} values (1, 'a', true, 'NaN', '\\x00ff', 'infinity', 'NaN', '{{a,b}}'),"
        " (2, 'a', false, 0.1, '', '2026-11-28', 1.50, '{}'),"
        " (3, 'a', null, null, null, null, null, null)"
    )
    values = {
        1: (1, "NaN", b"\0\xff", "infinity", "NaN", "{a,b}"),
        2: (0, 0.1, b"", "2026-11-28", "1.50", "{}"),
        3: (None,) * 6,
    }

    def odd_rows() -> Any:
        if lite:
            return sorted(copied.execute(f"select * from {theirs}"))
        return copied.execute(SQL(f"select t::text from {theirs} t order by 1"))

    def expected(*keys: tuple[int, int]) -> Any:
        if lite:
            return sorted((key, "a", *values[former]) for key, former in keys)
        return shop.execute(SQL(f"select t::text from {ODD} t order by 1"))

    def pairs() -> list[tuple[Any, ...]]:
        return copied.execute("select one, two from pairs order by 1, 2")

    with copying(shop, copied, "public.pairs", tables=ODD):
        eventually_sync(lambda: odd_rows() == expected((1, 1), (2, 2), (3, 3)))
        shop.execute(f'update {ODD} set "the ""key" = 7 where "the ""key" = 2')
        shop.execute(f'delete from {ODD} where "the ""key" = 1')
        shop.execute("insert into pairs select g, g from generate_series(1, 4) g")
        shop.execute("update pairs set two = 0 where one < 3")
        eventually_sync(lambda: odd_rows() == expected((7, 2), (3, 3)))
        eventually_sync(lambda: pairs() == [(1, 0), (2, 0), (3, 3), (4, 4)])
        shop.execute(
            "insert into pairs values (8, 8); truncate pairs; insert into pairs select 9, 9"
        )
        eventually_sync(lambda: pairs() == [(9, 9)])
        # What somebody else has taken away is missed, and said.
    copied.execute("delete from pairs")
    shop.execute("delete from pairs")
    with copying(shop, copied, "public.pairs", tables=ODD) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "error: 1 rows have to be there for DELETE FROM" in errors


@pytest.mark.parametrize("copied", ["postgres"], indirect=True)
def test_keys_of_composites_and_of_extensions_types_are_found_again(
    shop: Database, copied: Copied
) -> None:
    for execute in (shop.execute, copied.execute):
        execute("create extension ltree")
        execute("create type pair as (one int, two text)")
        execute(
            "create table orders (path ltree, pair pair, code char(3), note text,"
            " primary key (code, pair, path))"
        )
    query = "select o::text from orders o order by 1"
    shop.execute(
        "insert into orders values ('a.b', (1, 'x'), 'c', 'n'), ('a.c', (2, ','), 'd', null);"
        " analyze orders"
    )
    terminal, its_end = pty.openpty()
    with copying(shop, copied, stderr=its_end) as process:
        eventually_sync(lambda: copied.execute(query) == shop.execute(query))
        shop.execute("update orders set path = 'a.d' where path = 'a.b'")
        shop.execute("delete from orders where path = 'a.c'")
        eventually_sync(lambda: copied.execute(query) == shop.execute(query))
        # On a terminal a bar shows how far the rows are, and Ctrl-C ends it in good order.
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    os.close(its_end)
    assert re.search(r"\r\x1b\[K\[[#-]{30}\] +\d+% \d rows, 0 MiB, 0 of 1 tables\r\x1b\[K", shown)
    assert re.search(r"done: 2 rows, 2 changes, up to [0-9A-F]+/[0-9A-F]+\s*$", shown)


@pytest.fixture
def said(
    shop: Database, copied: Copied, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, list[str]]]:
    """Run it to its end, in this process."""

    def run(*arguments: str, tables: str = "public.orders") -> tuple[int, str, list[str]]:
        code = main(
            ["copy", shop.dsn, copied.argument, "--name", shop.name, "--tables", tables, *arguments]
        )
        out, errors = capsys.readouterr()
        return code, out, errors.splitlines()

    return run


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(
    shop: Database, copied: Copied, said: Callable[..., tuple[int, str, list[str]]]
) -> None:
    shop.execute(ORDERS)
    copied.execute(LITE_ORDERS if is_lite(copied) else ORDERS)
    code, out, errors = said("--dry-run")
    assert (code, errors) == (0, [])
    assert out.splitlines() == [
        f"publication '{shop.name}' would be created",
        "public.orders, 3 columns, key id: an unknown number of rows would be copied",
        "the tables fit; nothing was changed",
    ]
    assert shop.execute("select count(*) from pg_publication") == [(0,)]
    assert shop.execute(
        "select count(*) from pg_replication_slots where database = current_database()"
    ) == [(0,)]
    names = "sqlite_master" if is_lite(copied) else "pg_class where relname like 'realtime%'"
    assert "realtime_copy" not in str(copied.execute(f"select * from {names}"))


def test_tables_that_do_not_fit_are_named_with_each_reason(
    shop: Database, copied: Copied, said: Callable[..., tuple[int, str, list[str]]]
) -> None:
    shop.execute(
        "create table orders (id bigint primary key, amount numeric, note text, paid bool)"
    )
    shop.execute("create table notes (words text)")
    shop.execute("create table away (id int primary key)")
    shop.execute("create table without (words text)")
    copied.execute(
        "create table orders (note text, id int, amount double precision, at date not null,"
        " paid boolean generated always as (note > 'a') stored, primary key (note))"
    )
    copied.execute("create table notes (words text)")
    assert said(tables="orders")[2] == ["error: --tables has 'orders', which is not schema.table"]
    assert said("public.gone")[2] == [
        "error: the source has no table public.gone that can be published"
    ]
    code, _, errors = said("public.notes", "public.away", "public.without", "--dry-run")
    assert code == 2
    types = ("int", "double precision") if is_lite(copied) else ("integer", "double precision")
    assert sorted(errors) == [
        "error: column 'amount' of table public.orders has type numeric, which"
        f" {types[1]} cannot hold",
        *(
            []
            if is_lite(copied)
            else [
                "error: column 'id' of table public.orders has type int8, which integer cannot hold"
            ]
        ),
        "error: table public.notes has no primary key in the source: add one",
        "error: table public.without has no primary key in the source: add one",
        "error: the primary key of table public.orders is (id), in the target (note)",
        "error: the source has no column 'at' of table public.orders, which is NOT NULL in the"
        " target: give it a default",
        "error: the target has no table public.away: create it, with the same columns and primary"
        " key; in a SQLite file its name is without the schema",
        "error: the target makes the values of column 'paid' of table public.orders itself: let it"
        " take others, with ALTER COLUMN … SET GENERATED BY DEFAULT or DROP EXPRESSION",
    ]


@pytest.mark.parametrize("copied", ["postgres"], indirect=True)
def test_a_role_that_may_not_store_positions_is_told_what_it_lacks(
    shop: Database, copied: Copied, said: Callable[..., tuple[int, str, list[str]]]
) -> None:
    for execute in (shop.execute, copied.execute):
        execute(ORDERS)
    role = unique_name("role")
    copied.execute(f"create role {role} login; grant all on orders to {role}")
    owner, copied.argument = copied.argument, make_conninfo(copied.argument, user=role)
    try:
        code, _, errors = said("--dry-run")
        assert code == 2
        assert errors == [
            f'error: role "{role}" may not create the table "public".realtime_copy, where the'
            f' target stores positions: run GRANT CREATE ON SCHEMA "public" TO "{role}" in the'
            " target"
        ]
        with (
            PostgresTarget(copied.argument, "one") as target,
            pytest.raises(TargetError, match="may not create the table"),
        ):
            target.start()
        # Somebody else may make it.
        with PostgresTarget(owner, "one") as target:
            target.start()
        copied.execute(f"grant all on realtime_copy to {role}")
        assert said("--dry-run")[0] == 0
    finally:
        copied.execute(f"drop owned by {role}; drop role {role}")


@pytest.mark.parametrize("copied", ["sqlite"], indirect=True)
def test_what_a_role_lacks_in_the_source_is_said_before_anything_is_made(
    shop: Database, copied: Copied, said: Callable[..., tuple[int, str, list[str]]]
) -> None:
    shop.execute(ORDERS)
    copied.execute(LITE_ORDERS)
    role = unique_name("role")
    shop.execute(f"create role {role} login replication")
    owner, shop.dsn = shop.dsn, make_conninfo(shop.dsn, user=role)
    try:
        for arguments in ([], ["--dry-run"]):
            code, _, errors = said(*arguments)
            assert code == 2
            assert errors == [
                f'error: role "{role}" may not create a publication in the source: run GRANT CREATE'
                f' ON DATABASE "{shop.name}" TO "{role}", or have somebody else create it',
                f'error: role "{role}" may not read table public.orders of the source: run GRANT'
                f' SELECT ON "public"."orders" TO "{role}"',
                f'error: role "{role}" does not own table public.orders of the source, so it may'
                " not publish it: have the owner create the publication",
            ]
        shop.dsn = owner
        assert shop.execute("select 1 from pg_publication") == []
        shop.execute(f"grant select on orders to {role}")
        asyncio.run(create_publication(owner, shop.name, [("public", "orders")]))
        shop.dsn = make_conninfo(owner, user=role)
        assert said("--dry-run")[0] == 0
    finally:
        shop.dsn = owner
        shop.execute(f"drop owned by {role}; drop role {role}")


@pytest.mark.parametrize("copied", ["postgres"], indirect=True)
def test_rows_that_policies_hide_in_the_target_are_an_error(copied: Copied) -> None:
    role = unique_name("role")
    copied.execute("create table orders (id bigint primary key)")
    copied.execute("insert into orders values (1)")
    copied.execute(f"create role {role} login; grant all on orders to {role}")
    copied.execute(f"grant create on schema public to {role}")
    copied.execute("alter table orders enable row level security")
    try:
        key = Column("id", 20, "int8", "pg_catalog", -1, True)
        orders = Relation(1, "public", "orders", ReplicaIdentity.DEFAULT, (key,))
        emptied = Truncate(Transaction(1, LSN(1), None), 0, (orders,), False, False)
        with PostgresTarget(make_conninfo(copied.argument, user=role), "one") as target:
            target.start()
            with pytest.raises(InsufficientPrivilege, match="row-level security policy"):
                target.has_rows(orders)
            target.rollback()
            with pytest.raises(InsufficientPrivilege, match="row-level security policy"):
                target.write([emptied])
    finally:
        copied.execute(f"drop owned by {role}; drop role {role}")


@pytest.mark.parametrize("copied", ["postgres"], indirect=True)
def test_a_key_of_postgresql_that_takes_two_texts_for_the_same_is_refused(
    shop: Database, copied: Copied, said: Callable[..., tuple[int, str, list[str]]]
) -> None:
    table = "create table orders (id text{0} primary key, note text{0})"
    shop.execute(table.format(""))
    copied.execute("create collation loose (locale = 'C')")
    copied.execute(table.format(" collate loose"))
    # Not every server is built with ICU, whose collations alone may be made so.
    copied.execute("update pg_collation set collisdeterministic = false where collname = 'loose'")
    code, _, errors = said()
    assert code == 2
    assert errors == [
        "error: key column 'id' of table public.orders has collation loose in the target, which"
        " takes different texts for the same, so that rows would become one: give it another"
    ]


def test_rows_of_somebody_elses_are_not_removed_unless_that_is_asked_for(
    shop: Database, copied: Copied, said: Callable[..., tuple[int, str, list[str]]]
) -> None:
    shop.execute(ORDERS)
    copied.execute(LITE_ORDERS if is_lite(copied) else ORDERS)
    copied.execute("insert into orders values (1, '1', null)")
    code, _, errors = said()
    assert code == 2
    assert errors == [
        f"error: table public.orders of the target has rows, but no position of a copy"
        f" '{shop.name}' is stored there: --overwrite removes them"
    ]
    shop.execute("insert into orders values (7, 1, null)")
    for number in (7, 8):
        # The second time there are a slot and a position.
        shop.execute(f"update orders set id = {number}")
        with copying(shop, copied, "--overwrite"):
            eventually_sync(lambda n=number: copied.execute("select id from orders") == [(n,)])
        copied.execute("insert into orders values (2, '1', null)")


def test_a_table_that_gets_a_column_ends_the_copy_until_the_target_has_it(
    shop: Database, copied: Copied
) -> None:
    shop.execute(ORDERS)
    copied.execute(LITE_ORDERS if is_lite(copied) else ORDERS)
    with copying(shop, copied) as process:
        shop_slot = f"select 1 from pg_replication_slots where slot_name = '{shop.name}' and active"
        eventually_sync(lambda: shop.execute(shop_slot))
        shop.execute("insert into orders values (1, 1, 'a')")
        shop.execute("alter table orders add paid boolean")
        shop.execute("insert into orders values (2, 1, 'b', true)")
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "the target has no column 'paid' of table public.orders, of type bool: add it" in errors
    copied.execute("alter table orders add paid boolean")
    with copying(shop, copied):
        query = "select id, paid from orders order by id"
        eventually_sync(lambda: copied.execute(query) == [(1, None), (2, True)])


def made_copy(
    shop: Database, copied: Copied, *, overwrite: bool = False
) -> Callable[[], AbstractContextManager[Copy]]:
    """Have a publication of the table orders; return a function that makes a copy of it."""
    tables = [("public", "orders")]
    found, _ = asyncio.run(described_tables(shop.dsn, shop.name, tables))
    asyncio.run(create_publication(shop.dsn, shop.name, tables))

    @contextmanager
    def make() -> Iterator[Copy]:
        with make_target(copied.argument, shop.name, found) as target:
            yield Copy(target, found, overwrite=overwrite)

    return make


def follow(shop: Database, copied: Copied, copy: Copy, count: int) -> None:
    """Have a copy go on until there are so many orders in the target."""
    with closing(copy.follow(shop.dsn, None)) as following:
        while copied.execute("select count(*) from orders") != [(count,)]:
            next(following)


def test_a_copy_that_has_waited_goes_on_where_the_other_one_has_ended(
    shop: Database, copied: Copied, caplog: pytest.LogCaptureFixture
) -> None:
    shop.execute(f"{ORDERS}; insert into orders values (1, 1, 'a')")
    copied.execute(LITE_ORDERS if is_lite(copied) else ORDERS)
    make = made_copy(shop, copied)

    def wait() -> None:
        # SQLite's connections are for one thread.
        with make() as copy:
            follow(shop, copied, copy, 3)

    with ThreadPoolExecutor(1) as pool:
        with make() as copy, closing(copy.follow(shop.dsn, None)) as following:
            while copy.target.position is None:
                next(following)
            waiting = pool.submit(wait)
            eventually_sync(lambda: "waiting until it is free" in caplog.text)
            shop.execute("insert into orders values (2, 1, 'a')")
            while copied.execute("select count(*) from orders") != [(2,)]:
                next(following)
        shop.execute("insert into orders values (3, 1, 'a')")
        waiting.result(60)
    assert copied.execute("select id from orders order by id") == [(1,), (2,), (3,)]


def test_a_copy_that_finds_the_slot_just_made_waits_for_the_first_position(
    shop: Database,
    copied: Copied,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop.execute(f"{ORDERS}; insert into orders values (1, 1, 'a')")
    copied.execute(LITE_ORDERS if is_lite(copied) else ORDERS)
    make, commit = made_copy(shop, copied), Target.commit

    def wait() -> None:
        with make() as copy:
            follow(shop, copied, copy, 2)

    with ThreadPoolExecutor(1) as pool:

        def commit_late(target: Target, position: Position) -> None:
            # The slot is there, and what is written to the target is not committed.
            monkeypatch.undo()
            waiting.append(pool.submit(wait))
            said = "; trying again in 1.0 s"
            eventually_sync(lambda: said in caplog.text or waiting[0].done())
            commit(target, position)

        waiting: list[Future[None]] = []
        monkeypatch.setattr(Target, "commit", commit_late)
        with make() as copy:
            follow(shop, copied, copy, 1)
        shop.execute("insert into orders values (2, 1, 'a')")
        waiting[0].result(60)
    assert copied.execute("select id from orders order by id") == [(1,), (2,)]


def test_a_slot_of_somebody_elses_is_waited_for_no_longer_than_that(
    shop: Database, copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.execute(ORDERS)
    copied.execute(LITE_ORDERS if is_lite(copied) else ORDERS)
    monkeypatch.setattr("realtime_core._copy._PATIENCE", 0.1)
    monkeypatch.setattr("realtime_core._copy._PAUSE", 0.1)
    make = made_copy(shop, copied)
    with (
        PgoutputSource.sync(shop.dsn, publications=[shop.name], slot=shop.name),
        make() as copy,
        pytest.raises(SlotInUseError),
    ):
        follow(shop, copied, copy, 1)


@pytest.mark.parametrize("copied", ["postgres"], indirect=True)
def test_a_first_copy_within_one_server_survives_a_lost_connection(
    shop: Database, copied: Copied
) -> None:
    """A new snapshot waits for all transactions of the server, of which the target's is one."""
    shop.execute(f"{ORDERS}; insert into orders select g, g from generate_series(1, 20000) g")
    copied.execute(ORDERS)
    writes = "select count(*) from pg_locks where not granted and locktype = 'relation'"
    with psycopg.connect(copied.argument) as other:
        # Rows of the first snapshot wait here, when the copy has begun to write already.
        other.execute("lock table orders in share mode")
        with copying(shop, copied):
            eventually_sync(lambda: copied.execute(writes) == [(1,)])
            shop.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
            other.commit()
            count = "select count(*) from orders"
            eventually_sync(lambda: copied.execute(count) == [(20000,)], within=20)


@pytest.mark.parametrize("copied", ["postgres"], indirect=True)
def test_a_gap_amid_a_transaction_within_one_server_is_overwritten(
    shop: Database, copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime_core._copy._MOST_ROWS", 100)
    for execute in (shop.execute, copied.execute):
        execute(ORDERS)
    make = made_copy(shop, copied, overwrite=True)
    # Its own transaction is what the new snapshot would wait for, for ever.
    end_of_it = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name = 'realtime_copy'"
    )
    timer = threading.Timer(20, copied.execute, [end_of_it])
    timer.start()
    with make() as copy, closing(copy.follow(shop.dsn, None)) as following:
        while copy.target.position is None:
            next(following)
        # More than the sockets take, so that the end is never sent.
        many = "insert into orders select g, g, repeat('x', 10000) from generate_series(1, 2000) g"
        shop.execute(many)
        while not copy.target.changes:
            next(following)
        assert copied.execute("select count(*) from orders") == [(0,)]
        with ThreadPoolExecutor(1) as pool:
            pool.submit(drop_slot_of, shop, shop.name)
            while copied.execute("select count(*) from orders") != [(2000,)]:
                next(following)
    timer.cancel()
    assert copy.target.rows == 2000


def test_a_table_that_has_left_the_publication_is_not_taken_for_copied(
    shop: Database, copied: Copied
) -> None:
    shop.execute(f"{ORDERS}; {PAIRS}; insert into orders values (1, 1, 'a')")
    copied.execute(LITE_ORDERS if is_lite(copied) else ORDERS)
    make = made_copy(shop, copied)
    with make() as copy:
        shop.execute(f"alter publication {shop.name} set table pairs")
        with pytest.raises(ConfigError, match=r"snapshot has no table public\.orders: add it"):
            follow(shop, copied, copy, 1)


def unique_orders(*, deferrable: bool) -> str:
    when = "deferrable initially deferred" if deferrable else ""
    return f"create table orders (id int primary key, place int, unique (place) {when})"


def test_rows_swap_values_of_a_unique_column(
    shop: Database, copied: Copied, said: Callable[..., tuple[int, str, list[str]]]
) -> None:
    shop.execute(unique_orders(deferrable=True))
    copied.execute(unique_orders(deferrable=not is_lite(copied)))
    shop.execute("insert into orders values (1, 1), (2, 2)")
    make = made_copy(shop, copied)
    with make() as copy:
        follow(shop, copied, copy, 2)
    shop.execute("update orders set place = 3 - place; insert into orders values (3, 3)")
    if is_lite(copied):
        # Its constraints are never deferred.
        code, _, (*_, error) = said()
        assert code == 1
        assert "the target refused: UNIQUE constraint failed: orders.place" in error
        copied.execute("create table without_it (id integer primary key, place int)")
        copied.execute("insert into without_it select * from orders")
        copied.execute("drop table orders")
        copied.execute("alter table without_it rename to orders")
    with make() as copy:
        follow(shop, copied, copy, 3)
    assert copied.execute("select id, place from orders order by 1") == [(1, 2), (2, 1), (3, 3)]


def test_a_copy_that_was_made_before_another_one_began_goes_on_with_it(
    shop: Database, copied: Copied
) -> None:
    shop.execute(f"{ORDERS}; insert into orders values (1, 1, 'a')")
    copied.execute(LITE_ORDERS if is_lite(copied) else ORDERS)
    make = made_copy(shop, copied)
    with make() as begins, make() as goes_on:
        for count, copy in enumerate((begins, goes_on), 1):
            follow(shop, copied, copy, count)
            shop.execute(f"insert into orders values ({count + 1}, 1, 'a')")
    counts = [(copy.target.rows, copy.target.changes) for copy in (begins, goes_on)]
    assert counts == [(1, 0), (0, 1)]


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
def test_another_copy_may_come_and_go_between_the_stored_position_and_the_slot(
    shop: Database, copied: Copied, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    shop.execute(f"{ORDERS}; insert into orders values (1, 1, 'a')")
    copied.execute(LITE_ORDERS if is_lite(copied) else ORDERS)
    make = made_copy(shop, copied)
    if not is_first:
        with make() as copy:
            follow(shop, copied, copy, 1)
    start = Target.start

    def start_and_be_late(target: Target) -> object:
        monkeypatch.undo()
        found = start(target)
        shop.execute("insert into orders values (2, 1, 'b')")
        with make() as early:
            follow(shop, copied, early, 2)
        shop.execute("insert into orders values (3, 1, 'c')")
        return found

    with make() as late:
        monkeypatch.setattr(Target, "start", start_and_be_late)
        follow(shop, copied, late, 3)
    with make() as last:
        shop.execute("insert into orders values (4, 1, 'd')")
        follow(shop, copied, last, 4)
    assert copied.execute("select id from orders order by id") == [(1,), (2,), (3,), (4,)]


def test_a_table_that_joins_the_publication_is_left_out_and_needs_all_copied_anew(
    shop: Database,
    copied: Copied,
    said: Callable[..., tuple[int, str, list[str]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    shop.execute(f"{ORDERS}; {PAIRS}; insert into pairs values (1, 1)")
    for statement in (LITE_ORDERS if is_lite(copied) else ORDERS, PAIRS):
        copied.execute(statement)
    make = made_copy(shop, copied)
    with make() as copy, closing(copy.follow(shop.dsn, None)) as following:
        while copy.target.position is None:
            next(following)
        shop.execute(f"alter publication {shop.name} add table pairs")
        shop.execute("insert into pairs values (2, 2); insert into orders values (1, 1, 'a')")
        shop.execute("truncate pairs, orders; insert into orders values (2, 1, 'a')")
        while copied.execute("select id from orders") != [(2,)]:
            next(following)
    assert f"table public.pairs is not among those of copy '{shop.name}'" in caplog.text
    code, _, (error,) = said("public.pairs")
    assert code == 2
    assert f"table public.pairs is new to the copy '{shop.name}'" in error
    assert "--overwrite copies all tables anew" in error
    shop.execute("insert into pairs values (3, 3)")
    with copying(shop, copied, "public.pairs", "--overwrite"):
        eventually_sync(lambda: copied.execute("select one from pairs") == [(3,)])
    assert copied.execute("select id from orders") == [(2,)]


@pytest.mark.parametrize("copied", ["postgres"], indirect=True)
def test_what_the_targets_own_types_refuse_ends_the_copy_until_they_take_it(
    shop: Database, copied: Copied, said: Callable[..., tuple[int, str, list[str]]]
) -> None:
    mood = "create type mood as enum ({}); create domain few as int check (value < {});"
    orders = "create table orders (id int primary key, mood mood, few few)"
    shop.execute(mood.format("'glad', 'sad'", 10) + orders)
    copied.execute(mood.format("'glad'", 5) + orders)
    shop.execute("insert into orders values (1, 'glad', 3)")
    make = made_copy(shop, copied)
    with make() as copy:
        follow(shop, copied, copy, 1)
    shop.execute("insert into orders values (2, 'sad', 3)")
    code, _, (*_, error) = said()
    assert code == 1
    assert 'the target refused: invalid input value for enum public.mood: "sad"' in error
    copied.execute("alter type mood add value 'sad'")
    shop.execute("insert into orders values (3, 'sad', 7)")
    code, _, (*_, error) = said()
    assert code == 1
    assert "violates check constraint" in error
    copied.execute("alter domain few drop constraint few_check")
    with make() as copy:
        follow(shop, copied, copy, 3)


def test_an_invalidated_slot_is_replaced_where_all_is_copied_anew(
    shop: Database, copied: Copied, said: Callable[..., tuple[int, str, list[str]]]
) -> None:
    shop.execute(f"{ORDERS}; insert into orders values (1, 1, 'a')")
    copied.execute(LITE_ORDERS if is_lite(copied) else ORDERS)
    make = made_copy(shop, copied)
    with make() as copy:
        follow(shop, copied, copy, 1)
    with shop.server.setting("max_slot_wal_keep_size", "1MB"):
        shop.execute("update orders set id = 2")
        remove_wal(shop)
        code, _, errors = said()
        assert code == 1
        assert "wal_removed" in errors[-1]
        with copying(shop, copied, "--overwrite"):
            eventually_sync(lambda: copied.execute("select id from orders") == [(2,)])
            shop.execute("update orders set id = 3")
            eventually_sync(lambda: copied.execute("select id from orders") == [(3,)])


def test_a_publication_of_other_tables_is_refused(
    shop: Database, copied: Copied, said: Callable[..., tuple[int, str, list[str]]]
) -> None:
    shop.execute(ORDERS)
    shop.execute(PAIRS)
    shop.execute(f"create publication {shop.name} for table orders, pairs")
    code, _, (error,) = said()
    assert code == 2
    remedy = f'run ALTER PUBLICATION "{shop.name}" SET TABLE "public"."orders", and begin anew'
    assert remedy in error
    assert "by another --name" in error
