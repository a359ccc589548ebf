"""The code of a table's owner, as that of its types, never runs as the server's role.

The owner is an ordinary role. Its function takes every way that it knows to become the server's
role, and counts in sequences, which no rollback takes back, how often it ran and succeeded.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.fix_rls import Stream
from tests.integration.rls_stage import RlsStage, open_rls_stage
from tests.rls_helpers import roles, wal

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

EVIL = """
create function evil(odd text) returns boolean language plpgsql as $body$
begin
    -- Others who write the row may run it as themselves.
    if current_setting('application_name') not like 'realtime_server %' then
        return true;
    end if;
    perform nextval('{schema}.ran');
    if current_user = session_user then
        perform nextval('{schema}.ran_as_server');
    end if;
    begin
        reset role;
        perform nextval('{schema}.reset');
    exception when others then null; end;
    begin
        perform set_config('role', session_user, false);
        perform nextval('{schema}.reset');
    exception when others then null; end;
    begin
        execute format('set session authorization %I', session_user);
        perform nextval('{schema}.reset');
    exception when others then null; end;
    begin
        alter function realtime.core_as_nobody(text) security invoker;
    exception when others then null; end;
    begin
        -- What is deferred fires at the end of the caller's transaction.
        insert into {schema}.later default values;
    exception when others then null; end;
    begin
        perform set_config('search_path', '{schema}', false);
        deallocate all;
        for number in 0 .. 30 loop
            execute format('prepare _pg3_%s as select {schema}.deferred_evil()', number);
        end loop;
    exception when others then null; end;
    return true;
end
$body$;
"""

LATER = """
create function deferred() returns trigger language plpgsql as $body$
begin
    if current_setting('application_name') like 'realtime_server %'
        and current_user = session_user
    then
        perform nextval('{schema}.ran_as_server');
    end if;
    return new;
end
$body$;
create function deferred_evil() returns void language plpgsql as $body$
begin
    if current_user = session_user then
        perform nextval('{schema}.ran_as_server');
    end if;
end
$body$;
create table later (id serial);
grant all on later, later_id_seq to public;
create constraint trigger deferred after insert on later deferrable initially deferred
    for each row execute function deferred();
"""

TYPES = """
create domain odd as text check ({schema}.evil(value));
create type pair as (a int, b odd);
create type span as range (subtype = odd);
create type mood as enum ('glad', 'sad');
create function mood_json(mood) returns json language sql as
    $$ select case when {schema}.evil('') then to_json($1::text) end $$;
create cast (mood as json) with function mood_json(mood);
create function same(mood, mood) returns boolean language sql as
    $$ select {schema}.evil('') and $1::text = $2::text $$;
create operator {schema}.= (leftarg = mood, rightarg = mood, function = same);
create function to_mood(text) returns mood language plpgsql as
    $$ begin perform {schema}.evil(''); return 'glad'::{schema}.mood; end $$;
create cast (text as mood) with function to_mood(text);
create type moody as (a mood);
"""

COLUMNS = {
    "odd": ("odd", "'x'", "x"),
    "odds": ("odd[]", "'{x}'", "{x}"),
    "pair": ("pair", "'(1,x)'", "(1,x)"),
    "span": ("span", "'[a,b)'", "[a,b)"),
    "mood": ("mood", "'glad'", "glad"),
    "moody": ("moody", "'(glad)'", "(glad)"),
}


SETTINGS = {
    "plain": {},
    "superuser": {"DB_USER": "postgres"},
    "strict": {"RLS_STRICT": "true", "RLS_DELETE": "policy"},
}


@pytest_asyncio.fixture(
    loop_scope="module", scope="module", params=["plain", "superuser", "strict"]
)
async def module_stage(
    stream: Stream, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[RlsStage, str]]:
    more = SETTINGS[request.param]
    with roles(stream.server, "owner") as (owner,):
        async with open_rls_stage(stream.server, **stream.settings, **more) as stage:
            yield stage, owner


class Attack:
    """A stage with a table of the owner's."""

    def __init__(self, stage: RlsStage, owner: str) -> None:
        self.stage = stage
        self.owner = owner

    def prepare(self, columns: str) -> None:
        """Have the owner make its code, its types and a table."""
        stage = self.stage
        with self._as_owner():
            for name in ("ran", "ran_as_server", "reset"):
                stage.execute(
                    f"create sequence {name} minvalue 0", f"grant all on sequence {name} to public"
                )
            for text in (EVIL, LATER, TYPES):
                stage.execute(text.replace("{schema}", stage.schema))
            stage.make("shown", columns, "true")

    def prepare_more(self, columns: str) -> None:
        """Have the owner make another table."""
        with self._as_owner():
            self.stage.make("more", columns, "true")

    @contextlib.contextmanager
    def _as_owner(self) -> Iterator[None]:
        self.stage.execute(
            f"grant create, usage on schema {self.stage.schema} to {self.owner}",
            f"set role {self.owner}",
        )
        yield
        self.stage.execute("reset role")

    def has(self, name: str) -> bool:
        return bool(self.stage.execute(f"select is_called from {self.stage.schema}.{name}")[0][0])

    def assert_failed(self) -> None:
        assert not self.has("ran_as_server")
        assert not self.has("reset")


@pytest.fixture
def attack(module_stage: tuple[RlsStage, str]) -> Iterator[Attack]:
    stage, owner = module_stage
    with stage.scene():
        yield Attack(stage, owner)


@pytest.mark.parametrize("column", COLUMNS)
async def test_a_filters_value_is_checked_as_nobody(attack: Attack, column: str) -> None:
    stage = attack.stage
    kind, _, value = COLUMNS[column]
    attack.prepare(f"id int primary key, {column} {kind}")
    async with stage.client() as client:
        for number in range(3):
            quoted = value.replace('"', '\\"')
            reply = await client.try_join(
                stage.topic("shown"),
                {
                    "user_token": client.token,
                    "config": {
                        "postgres_changes": [
                            {
                                "event": "*",
                                "schema": stage.schema,
                                "table": "shown",
                                "filter": f'{column}=eq."{quoted}"',
                            }
                        ]
                    },
                },
                ref=str(number),
            )
            assert reply["status"] in ("ok", "error"), reply
            await client.drain()
    assert attack.has("ran") or reply["status"] == "error"
    attack.assert_failed()


async def test_what_a_check_says_is_cut_short(attack: Attack) -> None:
    stage = attack.stage
    stage.execute(
        "create function says(text) returns bool language plpgsql as"
        " $$ begin raise exception '%', repeat('x', 1000000); end $$"
    )
    stage.execute("create domain loud as text check (says(value))")
    stage.make("shown", "id int primary key, data loud", "true")
    async with stage.client() as client:
        binding = {"event": "*", "schema": stage.schema, "table": "shown", "filter": "data=eq.y"}
        reply = await client.try_join(
            stage.topic("shown"),
            {"user_token": client.token, "config": {"postgres_changes": [binding]}},
        )
    assert reply["status"] == "error"
    assert 200 <= len(json.dumps(reply)) < 2000


async def test_values_become_json_as_nobody(attack: Attack) -> None:
    stage = attack.stage
    columns = ", ".join(f"{name} {kind}" for name, (kind, _, _) in COLUMNS.items())
    attack.prepare(f"id int primary key, {columns}")
    literals = ", ".join(literal for _, literal, _ in COLUMNS.values())
    stage.execute("alter table shown replica identity full")
    async with stage.client() as client:
        await client.sit(stage.topic("shown"))
        [told] = await stage.payloads(client, f"insert into shown values (1, {literals})")
        [gone] = await stage.payloads(client, "delete from shown")
    shown: dict[str, Any] = told["record"]
    assert shown["pair"] == {"a": 1, "b": "x"}
    assert gone["old_record"] == {"id": 1}
    attack.assert_failed()


@pytest.mark.parametrize("column", [*COLUMNS][:-1])
async def test_a_rows_key_is_read_without_running_users_code(attack: Attack, column: str) -> None:
    stage = attack.stage
    kind, literal, _ = COLUMNS[column]
    attack.prepare(f"{column} {kind}, id int, primary key ({column})")
    attack.prepare_more(f"{column} {kind}, id int, primary key (id, {column})")
    async with stage.client() as client:
        await client.sit(stage.topic("shown"), stage.topic("more"))
        for table in ("shown", "more"):
            [told] = await stage.payloads(client, f"insert into {table} values ({literal}, 7)")
            assert told["record"]["id"] == 7
            assert told["errors"] is None
    attack.assert_failed()


async def test_scripts_that_call_apply_rls_run_no_users_code_as_themselves(attack: Attack) -> None:
    stage = attack.stage
    columns = [(name, kind) for name, (kind, _, _) in COLUMNS.items()]
    attack.prepare(", ".join(["id int primary key", *(" ".join(each) for each in columns)]))
    stage.execute(f"grant select on {stage.schema}.shown to {stage.narrow}")
    with stage.database.connect() as script:
        # The code prepares other statements under the names that psycopg would take.
        script.prepare_threshold = None
        script.execute(f"set search_path to {stage.schema}, public")
        literals = ", ".join(literal for _, literal, _ in COLUMNS.values())
        script.execute(f"insert into shown values (1, {literals})")
        row: list[tuple[str, str, Any]] = [("id", "integer", 1)]
        row += [(name, kind, COLUMNS[name][2]) for name, kind in columns]
        change = wal(script, "I", "shown", row, schema=stage.schema)
        script.execute("set application_name to 'realtime_server script'")
        for name, _ in columns:
            script.execute(
                "insert into realtime.subscription (subscription_id, entity, claims, filters)"
                " values (gen_random_uuid(), 'shown', %s, array[(%s, 'eq', %s)"
                "::realtime.user_defined_filter])",
                (json.dumps({"role": stage.narrow}), name, COLUMNS[name][2]),
            )
        script.execute("set search_path to public")
        [result] = script.execute(
            "select cardinality(subscription_ids), wal #> '{record,pair}'"
            " from realtime.apply_rls(%s)",
            (change,),
        ).fetchall()
        script.execute("delete from realtime.subscription where node is null")
    assert result == (len(columns), {"a": 1, "b": "x"})
    assert attack.has("ran")
    attack.assert_failed()
