"""`python -m realtime_core doctor`: what is wrong is found, and the SQL that it gives mends it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from realtime_core._cli.parser import main
from realtime_server.demo.embedded import EmbeddedPostgres
from tests.fix_postgres import DEBIAN_BINDIR, Database, Server, execute, unique_name
from tests.integration.conftest import fresh_database
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]

ROOT = Path(__file__).parents[2]

Doctor = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Call the doctor; it returns the exit code and the findings."""

    def call(*arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main(["doctor", "--json", *arguments])
        out, err = capsys.readouterr()
        assert err == ""
        return code, json.loads(out)

    return call


def found(report: dict[str, Any], severity: str, check: str = "") -> list[dict[str, Any]]:
    return [
        finding
        for finding in report["findings"]
        if finding["severity"] == severity and check in ("", finding["check"])
    ]


def one(report: dict[str, Any], severity: str, check: str) -> dict[str, Any]:
    (finding,) = found(report, severity, check)
    return finding


@pytest.fixture
def shop(database: Database) -> Database:
    """A database that has nothing wrong."""
    database.execute("create table item (id int primary key)")
    database.execute("create publication shop for table item")
    return database


def test_a_database_that_has_nothing_wrong(shop: Database, doctor: Doctor) -> None:
    code, report = doctor(shop.dsn, "--publication", "shop")
    assert code == 0
    assert report["database"] == shop.name
    assert report["problems"] == 0
    checks = [finding["check"] for finding in found(report, "ok")]
    assert [check for check in checks if check != "max_slot_wal_keep_size"] == [
        *("server version", "wal_level", "replication privilege", "output_plugin_libraries"),
        *("free WAL senders", "free replication slots", "publication", "replica identity"),
    ]
    message = one(report, "ok", "publication")["message"]
    assert message == 'publication "shop" publishes insert, update, delete, truncate of 1 table'


def test_a_missing_publication(shop: Database, doctor: Doctor) -> None:
    shop.server.needs(15, "FOR TABLES IN SCHEMA")
    name = 'The "other"'
    code, report = doctor(shop.dsn, "--publication", "shop", "--publication", name)
    assert code == 1
    finding = one(report, "problem", "publication")
    assert finding["message"] == (
        f'publication "The ""other""" does not exist in database {shop.name}'
    )
    mend(shop, finding)
    assert doctor(shop.dsn, "--publication", name)[0] == 0


def test_a_database_without_publications(database: Database, doctor: Doctor) -> None:
    database.server.needs(15, "FOR TABLES IN SCHEMA")
    code, report = doctor(database.dsn)
    assert code == 1
    mend(database, one(report, "problem", "publication"))
    # A schema's tables may come yet.
    database.execute("create table item (id int primary key)")
    code, report = doctor(database.dsn)
    assert code == 0
    assert one(report, "ok", "publication")["message"].endswith(" of 1 table")


def test_a_publication_of_all_tables(database: Database, doctor: Doctor) -> None:
    database.execute("create publication shop for all tables")
    code, report = doctor(database.dsn)
    assert code == 0
    finding = one(report, "ok", "publication")
    assert finding["message"].endswith(" of all tables, now 0")
    assert finding["remedy"].startswith("and those that are created later; better name the tables")


def test_a_publication_of_nothing(shop: Database, doctor: Doctor) -> None:
    shop.execute("create publication empty")
    shop.execute("alter publication shop set (publish = '')")
    code, report = doctor(shop.dsn)
    assert code == 0
    empty, mute = found(report, "warning", "publication")
    assert empty["message"] == 'publication "empty" has no tables'
    assert empty["sql"] == ['ALTER PUBLICATION "empty" ADD TABLE my_table;']
    mend(shop, mute)
    assert len(found(doctor(shop.dsn)[1], "warning", "publication")) == 1


def test_tables_without_a_replica_identity(shop: Database, doctor: Doctor) -> None:
    for statement in (
        "create table keyless (v int)",
        'create table "Nothing at all" (id int primary key)',
        'alter table "Nothing at all" replica identity nothing',
        "create table deferred (id int primary key deferrable)",
        "create table dropped_index (id int not null unique)",
        "alter table dropped_index replica identity using index dropped_index_id_key",
        "alter table dropped_index drop constraint dropped_index_id_key",
        "create table parted (id int not null, v int) partition by range (id)",
        "create table part_1 partition of parted for values from (1) to (10)",
        "create table part_2 partition of parted (primary key (id)) for values from (10) to (20)",
        "create table full_row (v int)",
        "alter table full_row replica identity full",
        "create table inserted_only (v int)",
        'alter publication shop add table keyless, "Nothing at all", deferred, dropped_index,'
        " parted, full_row",
        "create publication inserts for table inserted_only with (publish = 'insert')",
    ):
        shop.execute(statement)
    code, report = doctor(shop.dsn)
    assert code == 0
    warnings = found(report, "warning", "replica identity")
    tables = [finding["message"].removeprefix("table ").split(" has no")[0] for finding in warnings]
    expected = ['public."Nothing at all"', "public.deferred", "public.dropped_index"]
    assert tables == [*expected, "public.keyless", "public.part_1"]
    # PostgreSQL is of the same opinion.
    for table in tables:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            shop.execute(f"update {table} set ctid = ctid".replace("ctid", column(table)))
    for finding in warnings:
        mend(shop, finding)
    assert found(doctor(shop.dsn)[1], "warning", "replica identity") == []


def column(table: str) -> str:
    return "v" if "keyless" in table else "id"


def test_column_lists(shop: Database, doctor: Doctor) -> None:
    shop.server.needs(15, "a column list")
    for statement in (
        "create table wide (id int primary key, a int, b int)",
        "create publication narrow for table wide (a)",
        "create publication other for table wide (id, b)",
    ):
        shop.execute(statement)
    code, report = doctor(shop.dsn)
    # It has not been said which are to be used together.
    assert code == 0
    one(report, "warning", "column lists")
    (uncovered,) = found(report, "warning", "replica identity")
    assert uncovered["message"].startswith(
        'the column list of public.wide in publication "narrow" lacks columns'
    )
    assert uncovered["remedy"] == 'add "id" to the list'
    with pytest.raises(psycopg.errors.InvalidColumnReference):
        shop.execute("update wide set a = 1")
    code, report = doctor(shop.dsn, "--publication", "narrow", "--publication", "other")
    assert code == 1
    finding = one(report, "problem", "column lists")
    assert "narrow, other have different column lists for public.wide" in finding["message"]
    mend(shop, finding)
    assert doctor(shop.dsn, "--publication", "narrow", "--publication", "other")[0] == 0


def test_a_slot_that_will_not_do(shop: Database, doctor: Doctor) -> None:
    slot = unique_name("doctor")
    shop.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", (slot,))
    code, report = doctor(shop.dsn, "--slot", slot)
    assert code == 1
    message = one(report, "problem", "slot")["message"]
    assert message == f"slot {slot} uses the output plugin test_decoding, not pgoutput"
    other = make_conninfo(shop.dsn, dbname=shop.server.execute("select current_database()")[0][0])
    _, report = doctor(other, "--slot", slot)
    assert f"belongs to database {shop.name}" in one(report, "problem", "slot")["message"]


def test_a_slot_that_is_there_in_use_or_missing(shop: Database, doctor: Doctor) -> None:
    slot = unique_name("doctor")
    arguments = (shop.dsn, "--publication", "shop", "--slot", slot)
    assert doctor(*arguments)[0] == 0
    shop.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    code, report = doctor(*arguments)
    assert code == 0
    assert "of WAL" in one(report, "ok", "slot")["message"]
    with replicating(shop.dsn, slot) as pid:
        code, report = doctor(*arguments)
        assert code == 1
        finding = one(report, "problem", "slot")
        assert finding["message"] == f"slot {slot} is in use by PID {pid}"
        mend(shop, finding)
        eventually_sync(lambda: doctor(*arguments)[0] == 0)


def test_a_second_slot_of_replay_whose_first_one_is_gone(shop: Database, doctor: Doctor) -> None:
    slot = unique_name("doctor")
    second = f"{slot}_replay"
    for name in (slot, second):
        shop.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
    _, report = doctor(shop.dsn, "--publication", "shop")
    assert second not in str(report)
    shop.execute("select pg_drop_replication_slot(%s)", (slot,))
    _, report = doctor(shop.dsn, "--publication", "shop")
    (finding,) = (each for each in report["findings"] if second in each["message"])
    assert (finding["severity"], finding["check"]) == ("warning", "other slots")
    said = f"slot {second} is left over from replay, whose slot {slot} is not there any more"
    assert finding["message"].startswith(said)
    assert finding["sql"] == [f"SELECT pg_drop_replication_slot('{second}');"]


@contextlib.contextmanager
def replicating(dsn: str, slot: str | None = None) -> Iterator[int]:
    """Have a walsender, which streams from a slot if one is named; yields its process ID."""
    with psycopg.connect(dsn, replication="database", autocommit=True) as connection:
        if slot is not None:
            connection.pgconn.send_query(
                f"START_REPLICATION SLOT {slot} LOGICAL 0/0"
                " (proto_version '1', publication_names 'shop')".encode()
            )
            query = "select 1 from pg_replication_slots where slot_name = %s and active"
            eventually_sync(lambda: execute(dsn, query, (slot,)))
        yield connection.info.backend_pid
        connection.pgconn.finish()


def test_a_long_transaction_that_a_new_slot_would_wait_for(
    shop: Database, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime_core.doctor.slots._LONG", 0)
    with shop.connect() as connection, connection.transaction():
        connection.execute("insert into item values (1)")
        code, report = doctor(shop.dsn)
        pid = connection.info.backend_pid
    assert code == 0
    pids = [finding["sql"] for finding in found(report, "warning", "long transactions")]
    assert [f"SELECT pg_terminate_backend({pid});"] in pids


def test_text_that_is_not_utf8_stops_a_stream_until_it_is_skipped(
    one_pg: Server, doctor: Doctor, capsys: pytest.CaptureFixture[str]
) -> None:
    with fresh_database(one_pg, "template template0 encoding 'SQL_ASCII' locale 'C'") as shop:
        shop.execute("create table item (id int primary key, name text)")
        shop.execute("create publication shop for table item")
        slot = unique_name("slot")
        shop.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
        finding = one(doctor(shop.dsn, "--slot", slot)[1], "warning", "server_encoding")
        assert "stops the stream for good" in finding["message"]
        tail = ["tail", shop.dsn, "--publication", "shop", "--slot", slot, "--quiet"]
        with shop.connect() as connection:
            connection.execute("set client_encoding to sql_ascii")
            connection.execute("insert into item values (1, e'gr\\374n')")
        for _ in range(2):
            assert main([*tail, "--count", "1"]) == 1
            assert "invalid byte sequence" in capsys.readouterr().err
        assert "pg_replication_slot_advance()" in finding["remedy"]
        shop.execute("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", (slot,))
        shop.execute("insert into item values (2, 'plain')")
        assert main([*tail, "--count", "1"]) == 0
        assert "plain" in capsys.readouterr().out


def test_a_role_that_may_not_replicate(shop: Database, doctor: Doctor) -> None:
    role = unique_name("Role")
    shop.execute(f'create role "{role}" login')
    try:
        dsn = make_conninfo(shop.dsn, user=role)
        code, report = doctor(dsn, "--publication", "shop")
        assert code == 1
        finding = one(report, "problem", "replication privilege")
        assert finding["message"] == f"role {role} may not replicate"
        mend(shop, finding)
        code, report = doctor(dsn, "--publication", "shop")
        assert code == 0
        if shop.execute("select 1 from pg_settings where name = 'output_plugin_libraries'"):
            # It may not see that setting, so a slot was tried.
            message = one(report, "ok", "output plugin")["message"]
            assert message == "the server loads the output plugin pgoutput"
        assert (
            shop.execute("select 1 from pg_replication_slots where database = %s", (shop.name,))
            == []
        )
    finally:
        shop.execute(f'drop role "{role}"')


def test_a_server_that_cannot_be_reached(doctor: Doctor) -> None:
    code, report = doctor("host=127.0.0.1 port=1 dbname=x")
    assert code == 1
    message = one(report, "problem", "connection")["message"]
    assert message.startswith("cannot connect to PostgreSQL")
    assert (report["database"], report["server_version"]) == (None, None)


def test_a_database_that_does_not_exist(one_pg: Server, doctor: Doctor) -> None:
    code, report = doctor(make_conninfo(one_pg.dsn, dbname="nowhere"))
    assert code == 1
    assert '"nowhere" does not exist' in one(report, "problem", "connection")["message"]


def test_wrong_arguments_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "nonsense", "--slot", "Not a name"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("error: dsn is not a connection string")
    assert second.startswith("error: slot 'Not a name' cannot be the name of a replication slot")


def test_what_people_see(shop: Database, capsys: pytest.CaptureFixture[str]) -> None:
    shop.server.needs(15, "FOR TABLES IN SCHEMA")
    shop.execute("create table keyless (v int)")
    shop.execute("alter publication shop add table keyless")
    assert main(["doctor", shop.dsn, "--publication", "shop", "--publication", "mart"]) == 1
    lines = capsys.readouterr().out.splitlines()
    place = lines.index(f'problem  publication "mart" does not exist in database {shop.name}')
    assert lines[place + 1] == '         CREATE PUBLICATION "mart" FOR TABLES IN SCHEMA public;'
    assert "         ALTER TABLE public.keyless REPLICA IDENTITY FULL;" in lines
    assert lines[-1].startswith("1 problem, ")
    assert max(map(len, lines)) <= 100


def test_wal2json(pg17: Server, doctor: Doctor) -> None:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    code, report = doctor(pg17.dsn, "--plugin", "wal2json")
    assert code == 0
    assert one(report, "ok", "output plugin")["message"].endswith(
        "loads the output plugin wal2json"
    )
    assert found(report, "ok", "publication") == []


def test_wal2json_where_it_is_not_installed(pg18: Server, doctor: Doctor) -> None:
    code, report = doctor(pg18.dsn, "--plugin", "wal2json")
    assert code == 1
    (finding,) = found(report, "problem")
    assert finding["check"] in ("output plugin", "output_plugin_libraries")
    if finding["check"] == "output plugin":
        assert "not installed" in finding["message"]


def mend(database: Database, finding: dict[str, Any]) -> None:
    """Run what a finding says, as it says it."""
    for statement in finding["sql"]:
        database.execute(statement)


def test_a_server_whose_settings_are_all_wrong(doctor: Doctor) -> None:
    """It is mended by nothing but the SQL of the findings, and restarts."""
    if not (DEBIAN_BINDIR / "postgres").exists():
        pytest.skip(f"PostgreSQL 17 is not installed in {DEBIAN_BINDIR}")
    with EmbeddedPostgres(DEBIAN_BINDIR, settings={"wal_level": "replica"}) as embedded:
        dsn = embedded.dsn
        has_libraries = execute(
            dsn, "select 1 from pg_settings where name = 'output_plugin_libraries'"
        )
        for setting in (
            "max_wal_senders = 1",
            "max_replication_slots = 1",
            *(["output_plugin_libraries = test_decoding"] if has_libraries else []),
        ):
            execute(dsn, f"alter system set {setting}")
        embedded.restart()
        execute(dsn, "create publication shop for all tables")
        execute(dsn, "select pg_create_physical_replication_slot('taken', true)")
        with replicating(dsn):
            code, report = doctor(dsn)
        assert code == 1
        problems = found(report, "problem")
        assert [finding["check"] for finding in problems] == [
            "wal_level",
            *(["output_plugin_libraries"] if has_libraries else []),
            "free WAL senders",
            "free replication slots",
        ]
        for finding in (*problems, one(report, "warning", "max_slot_wal_keep_size")):
            for statement in finding["sql"]:
                # Of two ways, the other one.
                if "pg_drop_replication_slot" not in statement:
                    execute(dsn, statement)
        # On this server's command line, which is stronger than its file.
        query = "select setting from pg_file_settings where name = 'wal_level'"
        ((wal_level,),) = execute(dsn, query)
        embedded.restart(settings={"wal_level": wal_level})
        code, report = doctor(dsn)
        assert (code, report["problems"], report["warnings"]) == (0, 0, 0)


def test_a_lost_slot_and_one_that_keeps_much(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (DEBIAN_BINDIR / "postgres").exists():
        pytest.skip(f"PostgreSQL 17 is not installed in {DEBIAN_BINDIR}")
    settings = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with EmbeddedPostgres(DEBIAN_BINDIR, settings=settings) as embedded:
        dsn = embedded.dsn
        execute(dsn, "create publication shop for all tables")
        for name in ("ours", "theirs"):
            execute(dsn, "select pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
        lost = "select count(*) from pg_replication_slots where wal_status = 'lost'"

        def write() -> bool:
            execute(dsn, "select pg_logical_emit_message(false, '', repeat('x', 16000000))")
            execute(dsn, "select pg_switch_wal()")
            execute(dsn, "checkpoint")
            return execute(dsn, lost) == [(2,)]

        eventually_sync(write)
        execute(dsn, "select pg_create_logical_replication_slot('idle', 'pgoutput')")
        execute(dsn, "select pg_logical_emit_message(false, '', 'x')")
        monkeypatch.setattr("realtime_core.doctor.slots._MUCH", 0)
        code, report = doctor(dsn, "--slot", "ours")
        assert code == 1
        assert one(report, "problem", "slot")["message"].startswith("slot ours is lost")
        idle, theirs = found(report, "warning", "other slots")
        assert idle["message"].startswith("slot idle is read by nobody and keeps ")
        assert (
            theirs["message"]
            == "slot theirs is lost and only takes up one of max_replication_slots"
        )
        for finding in (one(report, "problem", "slot"), idle, theirs):
            for statement in finding["sql"]:
                execute(dsn, statement)
        code, report = doctor(dsn, "--slot", "ours")
        assert (code, report["problems"], report["warnings"]) == (0, 0, 0)


def test_the_page_lists_every_check() -> None:
    folder = ROOT / "realtime_core" / "doctor"
    sources = "".join(path.read_text() for path in folder.glob("*.py"))
    made = set(re.findall(r'check(?:, \w+)? = "([^"]+)"', sources))
    made |= set(re.findall(r'Finding\.\w+\(\s*"([^"]+)"', sources))
    page = (ROOT / "docs" / "howto" / "doctor.md").read_text()
    listed = set(re.findall(r"^\| `([^`]+)` \|", page, re.M))
    assert made
    assert made <= listed
    # The heads of its tables.
    assert listed - made == {"check", "findings"}
