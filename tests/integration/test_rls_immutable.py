"""What a function that is wrongly declared IMMUTABLE returned for one viewer is not the next one's.

PostgreSQL computes it when a plan is made, and RLS mode keeps plans.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs
import pytest
import pytest_asyncio

from realtime_server.rls.lookup.deleted_rows import read_conditions
from realtime_server.rls.lookup.questions import LookupRow, Question, RowsToCheck
from realtime_server.rls.lookup.visibility import Visibility
from tests.fix_postgres import Server
from tests.integration.conftest import fresh_database
from tests.integration.test_rls_visibility import TIMEOUT, Scene, seen
from tests.rls_helpers import at, roles

pytestmark = pytest.mark.integration

SUB = "current_setting('request.jwt.claims')::jsonb ->> 'sub'"
WRONG = {
    "plpgsql": f"create function uid() returns text language plpgsql immutable as"
    f" $$ begin return {SUB}; end $$",
    "sql": f"create function uid() returns text language sql immutable as $$ select {SUB} $$",
}
READER = "owner = uid()"


@attrs.frozen
class Way:
    """How a policy comes to call ``uid()``."""

    policy: str
    before: tuple[str, ...] = ()


WAYS = {
    "itself": Way(READER),
    "in a subquery": Way("owner = (select uid())"),
    "with arguments": Way(
        "mine(owner, uid())",
        (
            "create function mine(text, text) returns bool"
            " language sql stable as $$ select $1 = $2 $$",
        ),
    ),
    "in a body of SQL": Way(
        "owner = who()",
        ("create function who() returns text language sql stable as $$ select UID() $$",),
    ),
    "in a body between begin atomic and end": Way(
        "owner = who()",
        ("create function who() returns text language sql stable begin atomic select uid(); end",),
    ),
    "in a body of plpgsql": Way(
        "owner = who()",
        (
            "create function who() returns text"
            " language plpgsql stable as $$ declare w text := uid(); begin return w; end $$",
        ),
    ),
    "two bodies away": Way(
        "sees(owner)",
        (
            "create function who() returns text language plpgsql as $$ begin return uid(); end $$",
            "create function sees(text) returns bool language plpgsql security definer"
            " set search_path to public as $$ begin return $1 = who(); end $$",
        ),
    ),
    "by a quoted name in a body": Way(
        "owner = who()",
        (
            'create function "Who, then"() returns text language sql stable as $$ select uid() $$',
            "create function who() returns text language plpgsql stable as"
            ' $$ begin return "Who, then"(); end $$',
        ),
    ),
    "by an operator": Way(
        "sees(owner)",
        (
            "create function same(text, text) returns bool language plpgsql immutable as"
            f" $$ begin return $2 = {SUB}; end $$",
            "create operator === (leftarg = text, rightarg = text, function = same)",
            "create function sees(text) returns bool language plpgsql stable as $$ begin"
            " return ('' === 'ann' and $1 = 'ann') or ('' === 'bob' and $1 = 'bob'); end $$",
        ),
    ),
    "by a view": Way(
        "exists (select from v where v.id = notes.id)",
        (
            "create table data (id int, owner text)",
            "insert into data values (1, 'ann'), (2, 'bob')",
            "create view v as select * from data where owner = uid()",
            "grant select on v to public",
        ),
    ),
    "by another table's policy": Way(
        "exists (select from data d where d.id = notes.id)",
        (
            "create table data (id int, owner text)",
            "insert into data values (1, 'ann'), (2, 'bob')",
            "alter table data enable row level security",
            "create policy q on data using (owner = uid())",
            "grant select on data to public",
        ),
    ),
    "by a view in a body": Way(
        "sees(id)",
        (
            "create table data (id int, owner text)",
            "insert into data values (1, 'ann'), (2, 'bob')",
            "create view v as select * from data where owner = uid()",
            "grant select on v to public",
            "create function sees(int) returns bool language plpgsql stable as"
            " $$ begin return exists (select from public.v where v.id = $1); end $$",
        ),
    ),
}


@pytest_asyncio.fixture
async def scene(pg: Server) -> AsyncIterator[Scene]:
    with roles(pg, "reader") as (reader,), fresh_database(pg) as database:
        database.execute("create publication shop for all tables")
        async with Visibility(at(database.dsn), timeout=TIMEOUT, size=2) as visibility:
            yield Scene(database, reader, visibility)


def notes(scene: Scene, policy: str = READER) -> None:
    scene.make("id int primary key, owner text", policy)
    scene.execute("insert into notes values (1, 'ann'), (2, 'bob')")


EVERYBODY = ("ann", "bob", "eve", "ann")
RIGHT: list[set[int]] = [{0}, {1}, set(), {0}]


@pytest.mark.parametrize("language", WRONG)
@pytest.mark.parametrize("way", WAYS)
async def test_each_viewer_sees_its_own_rows(scene: Scene, way: str, language: str) -> None:
    scene.execute(WRONG[language], *WAYS[way].before)
    notes(scene, WAYS[way].policy)
    for _ in range(2):
        assert seen(await scene.ask([1, 2], *EVERYBODY)) == RIGHT
        # A call of its own for each, too: they share a session.
        for sub, expected in zip(EVERYBODY, RIGHT, strict=True):
            assert seen(await scene.ask([1, 2], sub)) == [expected]


async def test_rows_that_are_compared_are_looked_up_anew_too(scene: Scene) -> None:
    scene.execute(WRONG["plpgsql"])
    notes(scene)
    table = await scene.table()
    rows = [LookupRow(("1",), '{"owner": "ann"}'), LookupRow(("2",), '{"owner": "bob"}')]
    questions = [Question(scene.viewer(sub), (0, 1)) for sub in EVERYBODY]
    answers = await scene.visibility.check(RowsToCheck(table, rows, table.columns), questions)
    assert seen(answers) == RIGHT


async def test_rows_that_were_deleted_are_asked_for_anew_too(scene: Scene) -> None:
    scene.execute(WRONG["plpgsql"])
    notes(scene)
    table = await scene.table()
    async with scene.visibility.connections.one() as connection:
        [condition] = (await read_conditions(connection, table, [scene.reader])).values()
    rows = [LookupRow(("(1,ann)",)), LookupRow(("(2,bob)",))]
    questions = [Question(scene.viewer(sub), (0, 1)) for sub in EVERYBODY]
    answers = await scene.visibility.check(RowsToCheck(table, rows, condition=condition), questions)
    assert seen(answers) == RIGHT


async def test_a_function_that_becomes_immutable_is_noticed(scene: Scene) -> None:
    scene.execute(WRONG["plpgsql"], "alter function uid() stable")
    notes(scene)
    assert await immutable(scene) == ()
    assert seen(await scene.ask([1, 2], *EVERYBODY)) == RIGHT
    scene.execute("alter function uid() immutable")
    assert (await scene.table()).functions.immutable == ("public.uid()",)
    assert seen(await scene.ask([1, 2], *EVERYBODY)) == RIGHT


@pytest.mark.parametrize("way", ["itself", "in a body of plpgsql"])
async def test_a_plan_from_when_a_function_was_immutable_is_not_kept(
    scene: Scene, way: str
) -> None:
    """It was made between the look at the table and the question about its rows."""
    scene.execute(WRONG["plpgsql"], "alter function uid() stable", *WAYS[way].before)
    notes(scene, WAYS[way].policy)
    rows = [LookupRow(("1",)), LookupRow(("2",))]
    before = await scene.table()
    scene.execute("alter function uid() immutable")
    question = Question(scene.viewer("ann"), (0, 1))
    assert seen(await scene.visibility.check(RowsToCheck(before, rows), [question])) == [{0}]
    scene.execute("alter function uid() stable")
    assert seen(await scene.ask([1, 2], *EVERYBODY)) == RIGHT


async def immutable(scene: Scene) -> tuple[str, ...]:
    return (await scene.table()).functions.immutable


async def test_a_plan_is_kept_where_nothing_is_declared_immutable(scene: Scene) -> None:
    scene.execute(
        "create function uid() returns text language sql stable as"
        " $$ select nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub' $$",
        # Others' names are parts of words there, and not called.
        "create function set() returns int language sql immutable as 'select 1'",
        "create function other(text) returns text language sql immutable as 'select $1'",
    )
    notes(scene)
    assert await immutable(scene) == ()


async def test_a_policy_that_select_does_not_ask_counts_not(scene: Scene) -> None:
    scene.execute(WRONG["plpgsql"])
    notes(scene, "true")
    scene.execute("create policy w on notes for update using (owner = uid())")
    assert await immutable(scene) == ()


async def test_an_extensions_compiled_functions_do_not_count(scene: Scene) -> None:
    scene.execute("create extension citext")
    notes(scene, "owner::citext = 'ANN'")
    assert await immutable(scene) == ()
    assert seen(await scene.ask([1, 2], "x")) == [{0}]
    # Where it is called, one of SQL counts, as anybody could have written it.
    scene.execute("alter policy p on notes using (replace(owner::citext, 'n', 'm') = 'amm')")
    assert await immutable(scene) == ("public.replace(citext, citext, citext)",)
    # In a body it is not taken for PostgreSQL's own of that name.
    scene.execute(
        "create function who(text) returns text language sql stable as"
        " $$ select replace($1, 'n', 'm') $$",
        "alter policy p on notes using (who(owner) = 'amm')",
    )
    assert await immutable(scene) == ()
