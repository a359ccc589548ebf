"""``python -m realtime_server --check``: reads, connects, reports, changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.test_cli_doctor import replicating
from tests.integration.test_stream_startup import run_to_its_end

pytestmark = pytest.mark.integration


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int8 primary key)")
        yield database


def check(database: Database, **settings: str) -> tuple[int, str, list[str]]:
    dsn = conninfo_to_dict(database.dsn)
    environ = {
        "DB_HOST": str(dsn["host"]),
        "DB_PORT": str(dsn["port"]),
        "DB_NAME": database.name,
        "DB_USER": str(dsn["user"]),
        "PUBLICATIONS": '["shop"]',
        **settings,
    }
    return run_to_its_end("--dev", "--check", **environ)


def test_all_is_well_and_nothing_was_changed(shop: Database) -> None:
    shop.execute("create publication shop for table item")
    code, out, err = check(shop, SLOT_NAME=unique_name("slot"), JWT_SECERT="x")
    assert code == 0
    assert 'ok       publication "shop" publishes insert, update, delete, truncate of' in out
    assert out.splitlines()[-1].startswith("Nothing stands in the way of a stream")
    # The environment's part goes to the log.
    assert ["did you mean JWT_SECRET?" in line for line in err] == [True]
    slots = "select 1 from pg_replication_slots where database = current_database()"
    assert shop.execute(slots) == []


def test_what_would_stop_the_server_is_said_with_the_sql_that_mends_it(shop: Database) -> None:
    slot = unique_name("slot")
    shop.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", (slot,))
    code, out, err = check(shop, SLOT_NAME=slot)
    assert (code, err) == (1, [])
    assert f'problem  publication "shop" does not exist in database {shop.name}' in out
    assert 'CREATE PUBLICATION "shop" FOR ALL TABLES;' in out
    assert f"problem  slot {slot} uses the output plugin test_decoding, not pgoutput" in out
    assert out.splitlines()[-1].startswith("2 problems, ")


def test_a_slot_that_the_running_server_holds_does_not_stop_the_next_one(shop: Database) -> None:
    shop.execute("create publication shop for table item")
    slot = unique_name("slot")
    shop.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    with replicating(shop.dsn, slot) as pid:
        code, out, _ = check(shop, SLOT_NAME=slot)
    assert code == 0
    assert f"warning  slot {slot} is in use by PID {pid}\n" in out
    assert "(it is waited for until it is free)" in out


def test_a_database_that_cannot_be_reached_is_one_problem(shop: Database) -> None:
    code, out, _ = check(shop, DB_HOST="127.0.0.1", DB_PORT="1")
    assert code == 1
    assert out.startswith("problem  cannot connect to PostgreSQL")


def test_a_name_without_an_address_is_one_problem(shop: Database) -> None:
    code, out, _ = check(shop, DB_HOST="no-such-host.invalid")
    assert code == 1
    assert out.startswith("problem  no IPv4 address was found for 'no-such-host.invalid'")


def test_bad_settings_are_told_as_ever(shop: Database) -> None:
    code, out, err = check(shop, PORT="x")
    assert (code, out) == (2, "")
    assert err == ["configuration error: PORT is 'x'; use a whole number between 0 and 65535"]
