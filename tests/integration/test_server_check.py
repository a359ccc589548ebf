"""``python -m realtime_server --check``: reads, connects, reports, changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.test_cli_doctor import replicating
from tests.integration.test_stream_startup import run_to_its_end
from tests.nats_server import NatsServer
from tests.rls_helpers import make_nobody, migrated, roles
from tests.tokens import SECRET

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
        "REPLAY_SECRET": "a secret of 32 bytes for the journal",
        **settings,
    }
    return run_to_its_end("--dev", "--check", **environ)


def test_all_is_well_and_nothing_was_changed(shop: Database) -> None:
    shop.execute("create publication shop for table item")
    code, out, err = check(shop, SLOT_NAME=unique_name("slot"), JWT_SECERT="x")
    assert code == 0
    assert 'ok       publication "shop" publishes insert, update, delete, truncate of' in out
    assert out.splitlines()[-1].startswith("Nothing blocks replication")
    # The environment's part goes to the log.
    assert ["did you mean JWT_SECRET?" in line for line in err] == [True]
    slots = "select 1 from pg_replication_slots where database = current_database()"
    assert shop.execute(slots) == []


def test_the_log_that_servers_share_is_looked_at_too(
    shop: Database, new_nats: Callable[..., NatsServer]
) -> None:
    shop.execute("create publication shop for table item")
    nats = new_nats()
    settings = {"SLOT_NAME": unique_name("slot"), "CLUSTER_NAME": "shop"}
    code, out, _ = check(shop, NATS_URL=nats.url, LOG_ACK_DELAY="130000", **settings)
    assert code == 0
    assert "ok       NATS is reached; the first server to start makes the stream 'shop'" in out
    nats.kill()
    code, out, _ = check(shop, NATS_URL=nats.url, **settings)
    assert code == 1
    assert f"problem  no connection to NATS: {nats.url}:" in out


def test_what_would_stop_the_server_is_said_with_the_sql_that_mends_it(shop: Database) -> None:
    slot = unique_name("slot")
    shop.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", (slot,))
    code, out, err = check(shop, SLOT_NAME=slot)
    assert (code, err) == (1, [])
    assert f'problem  publication "shop" does not exist in database {shop.name}' in out
    assert 'CREATE PUBLICATION "shop" FOR TABLES IN SCHEMA public;' in out
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


def test_a_publication_of_all_tables_is_shown_to_whoever_may_join(shop: Database) -> None:
    shop.execute("create publication shop for all tables")
    code, out, err = check(shop)
    assert (code, err) == (0, [])
    assert " ".join(out.split()).count(
        'warning publication "shop" is FOR ALL TABLES: everybody who may join can see the changes '
        "of each table, "
        "also of those that are made later "
        'CREATE PUBLICATION "shop_tables" FOR TABLE my_table; '
        "(and set PUBLICATIONS to its name)"
    )


def test_what_a_plain_install_lacks_is_told_the_operator(shop: Database, tmp_path: Path) -> None:
    shop.execute("create publication shop for table item")
    (tmp_path / "re2.py").write_text("raise ImportError")
    code, out, _ = check(shop, PYTHONPATH=str(tmp_path))
    assert code == 0
    assert (
        "warning  google-re2 is not installed: joins whose filter has match or imatch are refused\n"
        "         (pip install google-re2)\n"
    ) in out
    assert "google-re2" not in check(shop)[1]


RLS = {"REPLICATION_MODE": "RLS", "SECURE_CHANNELS": "true", "JWT_SECRET": SECRET}


@attrs.frozen
class RlsShop:
    database: Database
    server: str
    """The server's role, which has no privileges yet."""
    reader: str

    def execute(self, *statements: str) -> None:
        for statement in statements:
            self.database.execute(statement)

    def check(self, **settings: str) -> tuple[int, str]:
        settings = {**RLS, "SLOT_NAME": unique_name("slot"), "DB_USER": self.server, **settings}
        code, out, err = check(self.database, **settings)
        assert err == []
        return code, out


@pytest.fixture
def rls_shop(pg17: Server) -> Iterator[RlsShop]:
    with (
        roles(pg17, "server", options="login replication") as (server,),
        roles(pg17, "reader") as (reader,),
        fresh_database(pg17) as database,
    ):
        shop = RlsShop(database, server, reader)
        shop.execute("create table item (id int8 primary key)", f"grant select on item to {reader}")
        yield shop


def test_rls_mode_looks_at_publication_schema_and_privileges(rls_shop: RlsShop) -> None:
    name = rls_shop.database.name
    code, out = rls_shop.check()
    assert code == 1
    assert 'problem  publication "shop" does not exist in database' in out
    lacks = f"GRANT CREATE ON DATABASE {name} TO {rls_shop.server};"
    assert f"problem  the server's role lacks privileges\n         {lacks}\n" in out

    rls_shop.execute("create publication shop for table item", lacks)
    code, out = rls_shop.check()
    assert code == 0
    assert (
        'ok       publication "shop" publishes insert, update, delete, truncate of 1 table\n' in out
    )
    assert "ok       the server brings the schema realtime up to date when it starts" in out
    becomes = f"GRANT {rls_shop.reader} TO {rls_shop.server} WITH INHERIT FALSE, SET TRUE;"
    assert "warning  the server's role may not act as roles" in out
    assert f"         {becomes}\n" in out
    schemas = "select from pg_namespace where nspname = 'realtime'"
    assert rls_shop.database.execute(schemas) == []

    make_nobody(rls_shop.database.server)
    nobody = f"GRANT realtime_nobody TO {rls_shop.server} WITH INHERIT FALSE, SET TRUE;"
    code, out = rls_shop.check()
    assert "warning  values of composite types and the like are sent as text" in out
    assert f"         {nobody}\n         (and run `python -m realtime_server migrate`)\n" in out

    rls_shop.execute(becomes, nobody)
    asyncio.run(migrated(make_conninfo(rls_shop.database.dsn, user=rls_shop.server)))
    code, out = rls_shop.check()
    assert code == 0
    assert "realtime_nobody" not in out
    assert "ok       the schema realtime is up to date" in out
    assert "ok       the server's role has the privileges it needs" in out


def test_in_rls_mode_a_superuser_is_warned_of_with_the_sql_that_makes_a_right_role(
    rls_shop: RlsShop,
) -> None:
    rls_shop.execute("create publication shop for table item")
    code, out = rls_shop.check(DB_USER="postgres")
    assert code == 0
    assert "warning  the server's role postgres is a superuser, which RLS mode does not need" in out
    assert "         CREATE ROLE realtime LOGIN REPLICATION PASSWORD '…';\n" in out
    grant = f"GRANT {rls_shop.reader} TO realtime WITH INHERIT FALSE, SET TRUE;"
    assert f"         {grant}\n" in out


@pytest.mark.parametrize("may_look", [False, True])
def test_in_rls_mode_a_schema_of_somebody_else_is_a_problem(
    rls_shop: RlsShop, may_look: bool
) -> None:
    rls_shop.execute("create publication shop for table item", "create schema realtime")
    if may_look:
        rls_shop.execute(f"grant usage on schema realtime to {rls_shop.server}")
    code, out = rls_shop.check()
    assert code == 1
    assert "problem  the schema realtime cannot be set up" in out
    assert "it belongs to postgres: run `python -m realtime_server migrate`" in " ".join(
        out.split()
    )


def test_in_rls_mode_with_wal2json_what_it_cannot_apply_is_a_problem(
    rls_shop: RlsShop, pg17: Server
) -> None:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    grant = f"grant create on database {rls_shop.database.name} to {rls_shop.server}"
    rls_shop.execute("create publication shop for table item where (id > 1)", grant)
    slot = unique_name("slot")
    rls_shop.database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    code, out = rls_shop.check(OUTPUT_PLUGIN="wal2json", SLOT_NAME=slot)
    assert code == 1
    assert "problem  the publications have row filters (on public.item)" in out
    assert f"problem  slot {slot} uses the output plugin pgoutput, not wal2json\n" in out
    assert f"         SELECT pg_drop_replication_slot('{slot}');\n" in out
    assert "(set OUTPUT_PLUGIN=pgoutput to go on with it; or drop it" in out
    rls_shop.execute("alter publication shop set table item")
    code, out = rls_shop.check(OUTPUT_PLUGIN="wal2json")
    assert code == 0
    assert "ok       'shop' can be applied to wal2json's changes" in out
    assert "ok       the server loads the output plugin wal2json" in out


def test_in_rls_mode_functions_that_are_wrongly_immutable_are_named_with_their_policies(
    rls_shop: RlsShop,
) -> None:
    rls_shop.execute(
        "create publication shop for table item",
        f"grant create on database {rls_shop.database.name} to {rls_shop.server}",
        "create schema auth",
        "create function auth.uid() returns text language sql immutable as"
        " $$ select current_setting('request.jwt.claims')::jsonb ->> 'sub' $$",
        "create function mine(whose text) returns bool language plpgsql stable as"
        " $$ begin return whose = auth.uid(); end $$",
        "create policy own on item using (auth.uid() = '1')",
        "create policy \"For all\" on item using (mine('1'))",
        # It calls nothing, although its table's other policies do.
        "create policy public on item using (id > 100)",
    )
    # Without row level security no policy is asked.
    assert "IMMUTABLE" not in rls_shop.check()[1]
    rls_shop.execute("alter table item enable row level security")
    code, out = rls_shop.check()
    assert code == 0
    assert (
        "warning policies call functions that are declared IMMUTABLE: auth.uid() (called by own "
        'on public.item, perhaps by "For all" on public.item through a function whose body has '
        "the name). PostgreSQL may keep" in " ".join(out.split())
    )
    mend = "ALTER FUNCTION auth.uid() STABLE;"
    assert f"         {mend}\n" in out
    rls_shop.execute(mend)
    assert "IMMUTABLE" not in rls_shop.check()[1]


def test_in_rls_mode_published_tables_that_no_policy_guards_are_named(rls_shop: RlsShop) -> None:
    name, reader = rls_shop.database.name, rls_shop.reader
    rls_shop.execute(
        f"grant create on database {name} to {rls_shop.server}",
        'create table "Two words" (id int primary key)',
        f'grant select (id) on "Two words" to {reader}',
        "create table guarded (id int primary key)",
        "alter table guarded enable row level security",
        f"grant select on guarded to {reader}",
        "create table nobodys (id int primary key)",
        "create table unpublished (id int primary key)",
        f"grant select on unpublished to {reader}",
        # Nobody is shown these rows.
        "create table parted (id int primary key) partition by list (id)",
        "alter table parted enable row level security",
        "create table part partition of parted for values in (1)",
        f"grant select on part to {reader}",
        'create publication shop for table item, "Two words", guarded, nobodys, part',
    )
    code, out = rls_shop.check()
    assert code == 0
    assert (
        "warning published without row level security, so that everybody who may SELECT from them "
        'gets every row: public."Two words", public.item ALTER TABLE public."Two words" ENABLE'
        in " ".join(out.split())
    )
    mends = [line.strip() for line in out.splitlines() if line.startswith("         ALTER TABLE")]
    assert mends == [
        'ALTER TABLE public."Two words" ENABLE ROW LEVEL SECURITY;',
        "ALTER TABLE public.item ENABLE ROW LEVEL SECURITY;",
    ]
    rls_shop.execute(*mends)
    assert "without row level security" not in rls_shop.check()[1]


def test_in_rls_mode_others_who_may_read_what_everybody_subscribes_to_are_named(
    rls_shop: RlsShop, pg17: Server
) -> None:
    server, reader = rls_shop.server, rls_shop.reader
    rls_shop.execute(
        "create publication shop for table item",
        f"grant create on database {rls_shop.database.name} to {server}",
    )
    asyncio.run(migrated(make_conninfo(rls_shop.database.dsn, user=server)))
    said = "others may read realtime.subscription"
    assert said not in rls_shop.check()[1]
    with roles(pg17, "Member") as (member,):
        # A grant is of no use to who may not use the schema.
        rls_shop.execute(f"grant select (claims) on realtime.subscription to {reader}")
        assert said not in rls_shop.check()[1]
        rls_shop.execute(
            f'grant usage on schema realtime to "{member}"', f'grant {reader} to "{member}"'
        )
        code, out = rls_shop.check()
        assert code == 0
        assert (
            "warning others may read realtime.subscription, which has all clients' claims and "
            f"filters: {reader} REVOKE" in " ".join(out.split())
        )
        rls_shop.execute("grant select on realtime.subscription to public")
        out = rls_shop.check()[1]
        [mend] = [line.strip() for line in out.splitlines() if "REVOKE" in line]
        assert mend == f"REVOKE SELECT ON realtime.subscription FROM PUBLIC, {reader};"
        rls_shop.execute(mend)
        assert said not in rls_shop.check()[1]
        rls_shop.execute(f'drop owned by "{member}"')


def test_the_second_slot_of_replay_is_named(shop: Database) -> None:
    shop.execute("create publication shop for table item")
    slot = unique_name("slot")
    second = f"{slot}_replay"
    for name in (slot, second):
        shop.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
    kept = {"REPLAY_WAL_MB": "1024", "REPLAY_SECRET": "s" * 32}
    code, out, _ = check(shop, SLOT_NAME=slot, **kept)
    assert code == 0
    assert f"ok       slot {second} is there and keeps " in out
    code, out, _ = check(shop, SLOT_NAME=slot, REPLAY_WINDOW="0")
    assert code == 0
    assert f"warning  slot '{second}' is left over from replay" in out
    assert f"SELECT pg_drop_replication_slot('{second}');" in out
    shop.execute("select pg_drop_replication_slot(%s)", (second,))
    shop.execute("select pg_create_physical_replication_slot(%s)", (second,))
    try:
        code, out, _ = check(shop, SLOT_NAME=slot, **kept)
        assert code == 1
        assert f"problem  slot {second} is a physical one" in out
    finally:
        shop.execute("select pg_drop_replication_slot(%s)", (second,))


def test_the_slots_to_be_made_are_counted_and_named(shop: Database) -> None:
    shop.execute("create publication shop for table item")
    slot, taken = unique_name("slot"), unique_name("taken")
    free = (
        "select current_setting('max_replication_slots')::int - count(*) from pg_replication_slots"
    )
    made = []
    try:
        while shop.execute(free) != [(1,)]:
            made.append(f"{taken}_{len(made)}")
            shop.execute("select pg_create_physical_replication_slot(%s)", (made[-1],))
        code, out, _ = check(shop, SLOT_NAME=slot)
        said = f"2 replication slots are to be made, {slot} and {slot}_replay, and 1 is free"
        assert code == 1
        assert f"problem {said}" in " ".join(out.split())
        assert check(shop, SLOT_NAME=slot, REPLAY_WAL_MB="0")[0] == 0
    finally:
        for name in made:
            shop.execute("select pg_drop_replication_slot(%s)", (name,))


def test_a_second_slot_under_a_former_name_is_named(shop: Database) -> None:
    shop.execute("create publication shop for table item")
    slot, former = unique_name("slot"), unique_name("former")
    left = f"{former}_replay"
    for name in (slot, f"{slot}_replay", former, left):
        shop.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
    kept = {"SLOT_NAME": slot, "REPLAY_WAL_MB": "1024", "REPLAY_SECRET": "s" * 32}
    # Another server's.
    assert "left over" not in check(shop, **kept)[1]
    shop.execute("select pg_drop_replication_slot(%s)", (former,))
    for settings in (kept, {**kept, "REPLAY_WINDOW": "0"}):
        code, out, _ = check(shop, **settings)
        assert code == 0
        said = f"slot '{left}' is left over from replay, whose slot '{former}' is not there"
        assert said in " ".join(out.split())
        assert f"SELECT pg_drop_replication_slot('{left}');" in out
    assert f"slot '{slot}_replay' is left over from replay, which needs no slot" in out
