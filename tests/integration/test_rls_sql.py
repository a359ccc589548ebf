"""The SQL interface of RLS mode, as scripts of existing installations call it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.fix_postgres import Rows, Server
from tests.integration.conftest import fresh_database
from tests.rls_helpers import migrated, roles, wal

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]

ANN = "3bbba68e-a797-494e-903d-6f8464cb7fff"
BOB = "0f0b4f4e-57e7-4b8e-8b0c-8f3a5e0a4b11"


class Script:
    """A superuser's connection in a transaction, two roles and a table with a policy."""

    def __init__(self, connection: psycopg.Connection[Any], *names: str) -> None:
        self.connection = connection
        self.reader, self.other = names

    def execute(self, query: str, *parameters: object) -> Rows:
        cursor = self.connection.execute(query, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *parameters: object) -> Any:
        return self.execute(query, *parameters)[0][0]

    def as_role(self, query: str, role: str) -> None:
        """Run a statement in which ``{}`` is a role."""
        self.connection.execute(sql.SQL(query).format(sql.Identifier(role)))

    def subscribe(
        self,
        table: str = "notes",
        filters: list[tuple[str, str, str | None]] | None = None,
        *,
        role: str | None = None,
        sub: str = ANN,
        **more: Any,
    ) -> uuid.UUID:
        """Insert a subscription; return its id."""
        subscription = uuid.uuid4()
        claims = {"role": role or self.reader, "sub": sub}
        columns = {"subscription_id": subscription, "entity": table, "claims": json.dumps(claims)}
        self.connection.execute(
            sql.SQL("insert into realtime.subscription ({}) values ({})").format(
                sql.SQL(", ").join(map(sql.Identifier, [*columns, "filters", *more])),
                sql.SQL(", ").join(
                    [
                        *(sql.Literal(value) for value in columns.values()),
                        self.filter_array(filters or []),
                        *(sql.Literal(value) for value in more.values()),
                    ]
                ),
            )
        )
        return subscription

    def filter_array(self, filters: list[tuple[str, str, str | None]]) -> sql.Composable:
        items = (
            sql.SQL("({}, {}, {})::realtime.user_defined_filter").format(*map(sql.Literal, item))
            for item in filters
        )
        return sql.SQL("array[{}]::realtime.user_defined_filter[]").format(
            sql.SQL(", ").join(items)
        )

    def filters(self, subscription: uuid.UUID) -> Rows:
        return self.execute(
            "select f.column_name, f.op::text, f.value"
            " from realtime.subscription s, unnest(s.filters) f where s.subscription_id = %s",
            subscription,
        )

    def apply(self, message: str, *more: object) -> Rows:
        arguments = ", ".join(["%s"] * (1 + len(more)))
        return self.execute(f"select * from realtime.apply_rls({arguments})", message, *more)

    def note(self, action: str = "I", **values: Any) -> str:
        """A change of the table of notes."""
        row = {"id": 1, "owner": ANN, "body": "text", **values}
        kinds = {"id": "integer", "owner": "uuid", "body": "text"}
        columns = [(name, kinds[name], value) for name, value in row.items()]
        if action == "D":
            return wal(self.connection, "D", "notes", None, columns)
        return wal(self.connection, action, "notes", columns, columns if action == "U" else None)


@pytest.fixture(scope="module")
def database(pg: Server) -> Iterator[tuple[str, str, str]]:
    """A DSN and two roles."""
    with roles(pg, "my-Role", "other") as names, fresh_database(pg) as database:
        asyncio.run(migrated(database.dsn))
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            connection.execute("create table notes (id int primary key, owner uuid, body text)")
            connection.execute("alter table notes enable row level security")
            connection.execute(
                "create policy own on notes using"
                " (owner = (current_setting('request.jwt.claims')::jsonb ->> 'sub')::uuid)"
            )
            for name in names:
                connection.execute(
                    sql.SQL("grant select on notes to {}").format(sql.Identifier(name))
                )
        yield database.dsn, *names


@pytest.fixture
def script(database: tuple[str, str, str]) -> Iterator[Script]:
    dsn, *names = database
    with contextlib.closing(psycopg.connect(dsn)) as connection:
        yield Script(connection, *names)
        connection.rollback()


# Values.


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("7", "integer", 7),
        ("9007199254740993", "bigint", 9007199254740993),
        ("1.50", "numeric", 1.5),
        ("NaN", "numeric", "NaN"),
        ("t", "boolean", True),
        ("a b", "text", "a b"),
        ("abc  ", "character", "abc  "),
        ("101", "bit", "101"),
        ('{"a": [1]}', "jsonb", {"a": [1]}),
        ("{1,NULL,2}", "integer[]", [1, None, 2]),
        ("2026-11-24 05:36:00.5", "timestamp", "2026-11-24T05:36:00.5"),
        ("\\xdeadBEEF", "bytea", "\\xdeadbeef"),
        ("[1,2)", "int4range", "[1,2)"),
        (None, "integer", None),
    ],
)
def test_cast_gives_the_value_as_json(
    script: Script, text: str, kind: str, expected: object
) -> None:
    assert script.value("select realtime.cast(%s, %s::regtype)", text, kind) == expected


@pytest.mark.parametrize("kind", ["point", "pair"])
def test_many_values_are_cast_at_once_in_their_order(script: Script, kind: str) -> None:
    script.execute("create type pair as (a int, b int)")
    texts = [f"({number},{number % 3})" for number in range(200)]
    each = [script.value("select realtime.cast(%s, %s::regtype)", text, kind) for text in texts]
    assert script.value("select realtime.core_cast_all(%s, %s::regtype)", texts, kind) == each
    assert len({json.dumps(one) for one in each}) == len(texts)


def test_cast_raises_what_postgresql_raises(script: Script) -> None:
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="integer"):
        script.value("select realtime.cast('x', 'integer')")


@pytest.mark.parametrize(
    ("op", "kind", "left", "right", "expected"),
    [
        ("eq", "integer", "10", "10", True),
        ("neq", "integer", "10", "9", True),
        ("gt", "integer", "10", "9", True),
        ("gt", "text", "10", "9", False),
        ("gte", "numeric", "1.0", "1", True),
        ("lt", "timestamptz", "2026-01-01 00:00+01", "2026-01-01 00:00+00", True),
        ("lte", "date", "2026-01-02", "2026-01-01", False),
        ("eq", "boolean", "t", "true", True),
        ("eq", "character", "abc", "abd", False),
        ("in", "integer", "3", "{1,2,3}", True),
        ("in", "text", "x", '{"a,b",y}', False),
        ("in", "uuid", ANN, f"{{{ANN.upper()}}}", True),
        ("eq", "integer[]", "{1,2}", "{1,2}", True),
        ("eq", "integer", None, "1", None),
        ("neq", "integer", "1", None, None),
    ],
)
def test_check_equality_op_compares_as_the_type_does(
    script: Script, op: str, kind: str, left: str | None, right: str | None, expected: object
) -> None:
    query = "select realtime.check_equality_op(%s, %s::regtype, %s, %s)"
    assert script.value(query, op, kind, left, right) is expected


def test_a_types_own_operators_are_found_wherever_they_are(script: Script) -> None:
    """Here = on a type of another schema ignores what the built-in one sees."""
    script.execute(
        "create schema far",
    )
    script.execute("grant usage on schema far to public")
    script.execute("create type far.pair as (a int, b int)")
    script.execute(
        "create function far.same_a(far.pair, far.pair) returns boolean language sql immutable"
        " as 'select $1.a = $2.a'"
    )
    script.execute(
        "create operator far.= (leftarg = far.pair, rightarg = far.pair, function = far.same_a)"
    )
    script.execute("create domain far.labelled as far.pair")
    for kind in ("far.pair", "far.labelled"):
        query = "select realtime.check_equality_op('eq', %s::regtype, '(1,2)', '(1,3)')"
        assert script.value(query, kind) is True


def test_quote_wal2json_escapes_each_character(script: Script) -> None:
    script.execute(
        'create schema "My, schema"',
    )
    script.execute('create table "My, schema"."a.b\\" ()')
    quoted = script.value('select realtime.quote_wal2json(\'"My, schema"."a.b\\"\'::regclass)')
    assert quoted == "".join(f"\\{c}" for c in "My, schema") + "." + "\\a\\.\\b\\\\"


COLUMNS = """
    array[
        ('id', 'integer', 'integer'::regtype, '1', true, true),
        ('tags', 'text[]', 'text[]'::regtype, '["a\\"b", null, "c"]', false, true),
        ('doc', 'jsonb', 'jsonb'::regtype, '"x"', false, true),
        ('none', 'text', 'text'::regtype, null, false, true)
    ]::realtime.wal_column[]
"""


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], True),
        ([("id", "eq", "1")], True),
        ([("id", "eq", "2")], False),
        ([("id", "gte", "1"), ("id", "lt", "1")], False),
        ([("none", "neq", "x")], False),
        ([("id", "eq", "1"), ("absent", "eq", "x")], True),
        ([("tags", "eq", '{"a\\"b",NULL,c}')], True),
        ([("tags", "eq", "{a}")], False),
        ([("doc", "eq", '"x"')], True),
    ],
)
def test_all_filters_have_to_hold(
    script: Script, filters: list[tuple[str, str, str]], expected: bool
) -> None:
    query = sql.SQL("select realtime.is_visible_through_filters({}, {})").format(
        sql.SQL(COLUMNS), script.filter_array(filters)
    )
    row = script.connection.execute(query).fetchone()
    assert row == (expected,)


def test_a_row_of_no_known_column_passes_no_filter(script: Script) -> None:
    query = (
        "select realtime.is_visible_through_filters('{}',"
        " array[('id', 'eq', '1')]::realtime.user_defined_filter[])"
    )
    assert not script.value(query)


def test_the_prepared_statement_asks_for_the_row_with_that_key(script: Script) -> None:
    script.execute("create table pairs (a text, b timestamptz[], c int, primary key (a, b))")
    script.execute("insert into pairs values ('it''s', '{2026-01-01 00:00+00}', 1)")
    query = """
        select realtime.build_prepared_statement_sql('my statement', 'pairs', array[
            ('a', 'text', 'text'::regtype, to_jsonb(%s::text), true, true),
            ('b', 'timestamptz[]', 'timestamptz[]'::regtype, '["2026-01-01T00:00:00+00:00"]',
                true, true),
            ('c', 'integer', 'integer'::regtype, '9', false, true)
        ]::realtime.wal_column[])
    """
    found = []
    for key in ("it's", "other"):
        script.execute(script.value(query, key))
        found.append(script.value('execute "my statement"'))
        script.execute('deallocate "my statement"')
    assert found == [True, False]


# Subscriptions.


def test_a_subscription_has_its_defaults(script: Script) -> None:
    subscription = script.subscribe()
    row = script.execute(
        "select filters::text, claims_role::text, action_filter, selected_columns, node,"
        " abs(extract(epoch from created_at - timezone('utc', clock_timestamp()))) < 300"
        " from realtime.subscription where subscription_id = %s",
        subscription,
    )
    assert row == [("{}", f'"{script.reader}"', "*", None, None, True)]


def test_filters_and_selected_columns_are_stored_in_order(script: Script) -> None:
    subscription = script.subscribe(
        filters=[("id", "lt", "9"), ("body", "eq", "b"), ("id", "gt", "1"), ("body", "eq", "a")],
        selected_columns=["owner", "body"],
    )
    assert script.filters(subscription) == [
        ("body", "eq", "a"),
        ("body", "eq", "b"),
        ("id", "lt", "9"),
        ("id", "gt", "1"),
    ]
    selected = script.value(
        "select selected_columns from realtime.subscription where subscription_id = %s",
        subscription,
    )
    assert selected == ["body", "owner"]


def test_the_same_filters_in_another_order_are_the_same(script: Script) -> None:
    first = script.subscribe(filters=[("id", "gt", "1"), ("body", "eq", "a")])
    with pytest.raises(psycopg.errors.UniqueViolation):
        script.execute(
            "insert into realtime.subscription (subscription_id, entity, claims, filters)"
            " select subscription_id, entity, claims,"
            " array[('id', 'gt', '1'), ('body', 'eq', 'a')]::realtime.user_defined_filter[]"
            " from realtime.subscription where subscription_id = %s",
            first,
        )


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([("nothing", "eq", "1")], "invalid column for filter nothing"),
        ([("ctid", "eq", "(0,1)")], "invalid column for filter ctid"),
        ([("id", "eq", "x")], "invalid input syntax for type integer"),
        ([("id", "in", "{1,x}")], "invalid input syntax for type integer"),
        ([("id", "in", "1")], "malformed array literal"),
        ([("id", "in", "{" + ",".join(["1"] * 101) + "}")], "too many values for `in` filter"),
    ],
)
def test_a_bad_filter_is_refused(
    script: Script, filters: list[tuple[str, str, str | None]], message: str
) -> None:
    with pytest.raises(psycopg.Error, match=message):
        script.subscribe(filters=filters)


def test_a_hundred_values_are_not_too_many(script: Script) -> None:
    script.subscribe(filters=[("id", "in", "{" + ",".join(["1"] * 100) + "}")])


def test_a_type_that_cannot_be_compared_is_refused_at_once(script: Script) -> None:
    script.execute("create table docs (id int primary key, doc json)")
    script.as_role("grant select on docs to {}", script.reader)
    with pytest.raises(psycopg.errors.UndefinedFunction, match=r"json pg_catalog\.= json"):
        script.subscribe("docs", [("doc", "eq", "1")])


def test_a_column_that_the_role_may_not_select_is_refused(script: Script) -> None:
    script.as_role("revoke select on notes from {}", script.reader)
    script.as_role("grant select (id) on notes to {}", script.reader)
    script.subscribe(filters=[("id", "eq", "1")], selected_columns=["id"])
    script.execute("savepoint before")
    with pytest.raises(psycopg.Error, match="invalid column for filter body"):
        script.subscribe(filters=[("body", "eq", "x")])
    script.execute("rollback to before")
    with pytest.raises(psycopg.Error, match="invalid column for select body"):
        script.subscribe(selected_columns=["body"])


def test_an_update_is_checked_like_an_insert(script: Script) -> None:
    subscription = script.subscribe()
    with pytest.raises(psycopg.Error, match="invalid column for filter nothing"):
        script.execute(
            "update realtime.subscription"
            " set filters = array[('nothing', 'eq', '1')]::realtime.user_defined_filter[]"
            " where subscription_id = %s",
            subscription,
        )


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"role": "no such role"}, psycopg.errors.UndefinedObject),
        ({"role": "10"}, psycopg.errors.UndefinedObject),  # an OID
        ({}, psycopg.errors.NotNullViolation),
    ],
)
def test_claims_without_a_role_are_refused(
    script: Script, claims: dict[str, str], error: type[psycopg.Error]
) -> None:
    with pytest.raises(error):
        script.execute(
            "insert into realtime.subscription (subscription_id, entity, claims)"
            " values (gen_random_uuid(), 'notes', %s)",
            json.dumps(claims),
        )


def test_an_action_that_does_not_exist_is_refused(script: Script) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        script.subscribe(action_filter="TRUNCATE")


# apply_rls.


def test_an_insert_goes_to_those_who_may_see_the_row(script: Script) -> None:
    ann, bob = script.subscribe(), script.subscribe(sub=BOB)
    script.execute("insert into notes values (1, %s, 'text')", ANN)
    expected = {
        "schema": "public",
        "table": "notes",
        "type": "INSERT",
        "commit_timestamp": "2026-11-24T05:36:00.166Z",
        "columns": [
            {"name": "id", "type": "int4"},
            {"name": "owner", "type": "uuid"},
            {"name": "body", "type": "text"},
        ],
        "record": {"id": 1, "owner": ANN, "body": "text"},
    }
    assert script.apply(script.note()) == [(expected, True, [ann], [])]
    assert bob != ann


def test_commit_timestamp_is_utc_with_milliseconds(script: Script) -> None:
    script.subscribe()
    script.execute("set local timezone to 'Asia/Kolkata'")
    columns = [("id", "integer", 1), ("owner", "uuid", ANN)]
    message = wal(
        script.connection, "I", "notes", columns, timestamp="2026-11-24 11:06:00.9999+05:30"
    )
    assert script.apply(message)[0][0]["commit_timestamp"] == "2026-11-24T05:36:00.999Z"


def test_the_role_claims_and_search_path_are_as_before(script: Script) -> None:
    script.subscribe()
    state = (
        "select current_user, current_setting('role'), current_setting('search_path'),"
        " current_setting('request.jwt.claims', true)"
    )
    script.execute("select set_config('request.jwt.claims', 'mine', false)")
    before = script.execute(state)
    script.apply(script.note())
    assert script.execute(state) == before


def test_the_role_is_as_before_also_after_an_error(script: Script) -> None:
    script.subscribe()
    script.execute("create policy broken on notes as restrictive using (1 / (id - 1) > 0)")
    script.execute("insert into notes values (1, %s, 'text')", ANN)
    script.execute("savepoint before")
    with pytest.raises(psycopg.errors.DivisionByZero):
        script.apply(script.note())
    script.execute("rollback to before")
    assert script.value("select current_user") == "postgres"
    script.execute("drop policy broken on notes")
    assert len(script.apply(script.note())) == 1


def test_unqualified_names_in_a_policys_function_are_found(script: Script) -> None:
    """The caller's search path is in force while policies run."""
    script.execute("create table members (id int)")
    script.execute("insert into members values (1)")
    script.execute("grant select on members to public")
    script.execute(
        "create function is_member(int) returns boolean language plpgsql stable as"
        " $$ begin return exists (select from members m where m.id = $1); end $$"
    )
    script.execute("create policy members on notes as restrictive using (is_member(id))")
    subscription = script.subscribe()
    script.execute("insert into notes values (1, %s, 'text')", ANN)
    assert script.apply(script.note())[0][2] == [subscription]


def test_a_subquery_of_the_policy_is_computed_for_each_subscriber(script: Script) -> None:
    script.execute("drop policy own on notes")
    script.execute(
        "create policy own on notes using (owner = (select"
        " (current_setting('request.jwt.claims')::jsonb ->> 'sub')::uuid))"
    )
    subscriptions = [script.subscribe(sub=sub) for sub in (BOB, ANN, BOB, ANN)]
    script.execute("insert into notes values (1, %s, 'text')", ANN)
    assert script.apply(script.note())[0][2] == [subscriptions[1], subscriptions[3]]


def test_what_a_policy_keeps_for_its_transaction_is_not_the_next_ones(script: Script) -> None:
    script.execute(
        "create function uid() returns text language plpgsql as $$ begin"
        " if coalesce(current_setting('app.uid', true), '') = '' then"
        "  perform set_config("
        "   'app.uid', current_setting('request.jwt.claims')::jsonb ->> 'sub', true);"
        " end if;"
        " return current_setting('app.uid'); end $$"
    )
    script.execute("drop policy own on notes")
    script.execute("create policy own on notes using (owner::text = uid())")
    subscriptions = [script.subscribe(sub=sub) for sub in (ANN, BOB, ANN)]
    script.execute("insert into notes values (1, %s, 'text')", ANN)
    assert script.apply(script.note())[0][2] == [subscriptions[0], subscriptions[2]]
    assert script.value("select current_setting('app.uid', true)") in (None, "")


def test_without_row_level_security_everybody_sees_it(script: Script) -> None:
    script.execute("alter table notes disable row level security")
    subscriptions = [script.subscribe(), script.subscribe(sub=BOB)]
    assert script.apply(script.note())[0][1:] == (False, subscriptions, [])


def test_a_delete_goes_to_everybody_with_the_primary_key_alone(script: Script) -> None:
    subscriptions = [script.subscribe(), script.subscribe(sub=BOB)]
    payload, *rest = script.apply(script.note("D"))[0]
    assert payload["old_record"] == {"id": 1}
    assert "record" not in payload
    assert rest == [True, subscriptions, []]


def test_a_delete_without_row_level_security_has_the_identity(script: Script) -> None:
    script.execute("alter table notes disable row level security")
    script.subscribe()
    payload = script.apply(script.note("D"))[0][0]
    assert payload["old_record"] == {"id": 1, "owner": ANN, "body": "text"}


def test_a_delete_is_filtered_by_the_old_row(script: Script) -> None:
    script.subscribe(filters=[("id", "eq", "2")])
    first = script.subscribe(filters=[("id", "eq", "1")])
    assert script.apply(script.note("D"))[0][2] == [first]


def test_an_update_has_both_rows(script: Script) -> None:
    subscription = script.subscribe()
    script.execute("insert into notes values (1, %s, 'new')", ANN)
    kinds = [("id", "integer", 1), ("owner", "uuid", ANN)]
    message = wal(
        script.connection,
        "U",
        "notes",
        [*kinds, ("body", "text", "new")],
        [*kinds, ("body", "text", "old")],
    )
    payload, _, visible, _ = script.apply(message)[0]
    assert payload["record"]["body"] == "new"
    assert payload["old_record"] == {"id": 1, "owner": ANN, "body": "old"}
    assert visible == [subscription]


def test_unchanged_toast_takes_the_old_rows_value(script: Script) -> None:
    script.subscribe()
    kinds = [("id", "integer", 1), ("owner", "uuid", ANN)]
    message = wal(script.connection, "U", "notes", kinds, [*kinds, ("body", "text", "long")])
    assert script.apply(message)[0][0]["record"] == {"id": 1, "owner": ANN, "body": "long"}
    message = wal(script.connection, "U", "notes", kinds, kinds)
    assert script.apply(message)[0][0]["record"] == {"id": 1, "owner": ANN}


def test_bytea_gets_its_prefix_back(script: Script) -> None:
    script.execute("create table files (id bytea primary key)")
    script.execute("alter table files enable row level security")
    script.execute("create policy all_of_it on files using (true)")
    script.as_role("grant select on files to {}", script.reader)
    script.execute("insert into files values ('\\xdead')")
    subscription = script.subscribe("files", [("id", "eq", "\\xdead")])
    row = script.apply(wal(script.connection, "I", "files", [("id", "bytea", "dead")]))[0]
    assert row[0]["record"] == {"id": "\\xdead"}
    assert row[2] == [subscription]


def test_a_value_of_a_reg_type_is_its_text_whatever_the_search_path(script: Script) -> None:
    script.execute("create table links (id int primary key, target regclass, targets regclass[])")
    script.execute("alter table links enable row level security")
    script.execute("create policy all_of_it on links using (true)")
    script.as_role("grant select on links to {}", script.reader)
    script.execute("insert into links values (1, 'notes', '{notes}')")
    everybody = script.subscribe("links")
    # As a session prints them that has the table's schema in its search path.
    columns = [("id", "integer", 1), ("target", "regclass", "notes")]
    message = wal(script.connection, "I", "links", [*columns, ("targets", "regclass[]", "{notes}")])
    [row] = script.apply(message)
    assert row[0]["record"] == {"id": 1, "target": "notes", "targets": "{notes}"}
    assert (row[2], row[3]) == ([everybody], [])


def test_a_filter_on_a_value_that_cannot_be_read_passes_nothing(script: Script) -> None:
    script.execute("create table links (id int primary key, target regclass)")
    script.as_role("grant select on links to {}", script.reader)
    filtered = script.subscribe("links", [("target", "eq", "public.notes")])
    everybody = script.subscribe("links")
    columns = [("id", "integer", 1), ("target", "regclass", "notes")]
    [row] = script.apply(wal(script.connection, "I", "links", columns))
    assert row[2] == [everybody]
    columns = [("id", "integer", 1), ("target", "regclass", "public.notes")]
    [row] = script.apply(wal(script.connection, "I", "links", columns))
    assert row[2] == [filtered, everybody]


def test_nobody_sees_a_row_whose_key_cannot_be_read(script: Script) -> None:
    script.execute("create table links (id regclass primary key)")
    script.execute("alter table links enable row level security")
    script.execute("create policy all_of_it on links using (true)")
    script.as_role("grant select on links to {}", script.reader)
    script.execute("insert into links values ('notes')")
    subscription = script.subscribe("links")
    message = wal(script.connection, "I", "links", [("id", "regclass", "notes")])
    assert script.apply(message)[0][2] == []
    message = wal(script.connection, "I", "links", [("id", "regclass", "public.notes")])
    assert script.apply(message)[0][2] == [subscription]


def test_a_value_that_its_type_allows_no_more_is_shown_as_text(script: Script) -> None:
    script.execute("create domain small as int check (value < 10)")
    script.execute("create table sizes (id int primary key, size small)")
    script.as_role("grant select on sizes to {}", script.reader)
    filtered = script.subscribe("sizes", [("size", "lt", "9")])
    everybody = script.subscribe("sizes")
    columns = [("id", "integer", 1), ("size", "small", 70)]
    [row] = script.apply(wal(script.connection, "I", "sizes", columns))
    assert row[0]["record"] == {"id": 1, "size": "70"}
    assert row[2] == [everybody]
    assert filtered not in row[2]


def test_columns_that_the_role_may_not_select_are_left_out(script: Script) -> None:
    script.as_role("revoke select on notes from {}", script.reader)
    script.as_role("grant select (id, body) on notes to {}", script.reader)
    script.subscribe()
    payload = script.apply(script.note("U"))[0][0]
    assert [column["name"] for column in payload["columns"]] == ["id", "body"]
    assert payload["record"] == {"id": 1, "body": "text"} == payload["old_record"]


def test_selected_columns_come_with_the_primary_key(script: Script) -> None:
    narrow = script.subscribe(selected_columns=["body"])
    wide = script.subscribe()
    script.execute("insert into notes values (1, %s, 'text')", ANN)
    first, second = script.apply(script.note())
    assert first[0]["record"] == {"id": 1, "owner": ANN, "body": "text"}
    assert first[2] == [wide]
    assert second[0]["record"] == {"id": 1, "body": "text"}
    assert [column["name"] for column in second[0]["columns"]] == ["id", "body"]
    assert second[2] == [narrow]


def test_a_row_for_each_role_in_their_names_order(script: Script) -> None:
    other = script.subscribe(role=script.other)
    reader = script.subscribe()
    script.execute("insert into notes values (1, %s, 'text')", ANN)
    # The text of a role that needs quotes begins with one.
    assert [row[2] for row in script.apply(script.note())] == [[reader], [other]]


def test_an_action_filter_is_obeyed(script: Script) -> None:
    for action in ("INSERT", "UPDATE", "DELETE"):
        script.subscribe(action_filter=action)
    every = script.subscribe()
    script.execute("insert into notes values (1, %s, 'text')", ANN)
    for action, place in (("I", 0), ("U", 1), ("D", 2)):
        visible = script.apply(script.note(action))[0][2]
        ids = [
            row[0]
            for row in script.execute(
                "select subscription_id from realtime.subscription order by id"
            )
        ]
        assert visible == [ids[place], every]


def test_no_primary_key_is_error_400_for_all(script: Script) -> None:
    subscriptions = [script.subscribe(), script.subscribe(filters=[("id", "eq", "9")])]
    message = wal(script.connection, "I", "notes", [("id", "integer", 1)], pk=())
    head = {"schema": "public", "table": "notes", "type": "INSERT"}
    errors = ["Error 400: Bad Request, no primary key"]
    assert script.apply(message) == [(head, True, subscriptions, errors)]


def test_a_key_that_the_role_may_not_select_is_error_401(script: Script) -> None:
    script.as_role("revoke select on notes from {}", script.reader)
    script.as_role("grant select (body) on notes to {}", script.reader)
    subscription = script.subscribe()
    head = {"schema": "public", "table": "notes", "type": "UPDATE"}
    expected = [(head, True, [subscription], ["Error 401: Unauthorized"])]
    assert script.apply(script.note("U")) == expected


def test_a_long_record_is_error_413_with_its_short_values(script: Script) -> None:
    subscription = script.subscribe()
    script.execute("insert into notes values (1, %s, 'text')", ANN)
    message = script.note("U", body="x" * 100)
    payload, _, visible, errors = script.apply(message, 300)[0]
    assert payload["record"] == {"id": 1, "owner": ANN} == payload["old_record"]
    assert [column["name"] for column in payload["columns"]] == ["id", "owner", "body"]
    assert (visible, errors) == ([subscription], ["Error 413: Payload Too Large"])
    assert script.apply(script.note("U", body="x" * 62), 100)[0][0]["record"]["body"] == "x" * 62
    assert "body" not in script.apply(script.note("U", body="x" * 63), 100)[0][0]["record"]


def test_the_default_bound_is_a_mebibyte(script: Script) -> None:
    script.subscribe()
    assert script.apply(script.note(body="x" * 1_000_000))[0][3] == []
    errors = ["Error 413: Payload Too Large"]
    assert script.apply(script.note(body="x" * 1_048_576))[0][3] == errors


def test_a_dropped_column_is_left_out(script: Script) -> None:
    """The change is older than the table as it is now."""
    script.subscribe()
    script.execute("insert into notes values (1, %s, 'text')", ANN)
    message = script.note()
    script.execute("alter table notes drop column body")
    payload = script.apply(message)[0][0]
    assert payload["record"] == {"id": 1, "owner": ANN}
    assert [column["name"] for column in payload["columns"]] == ["id", "owner"]


def test_a_childs_row_is_not_taken_for_its_parents(script: Script) -> None:
    """Inheritance shares no keys: Bob's row in the child must not show him Ann's."""
    script.execute("create table child () inherits (notes)")
    script.execute("insert into notes values (1, %s, 'text')", ANN)
    script.execute("insert into child values (1, %s, 'text')", BOB)
    script.subscribe(sub=BOB)
    assert script.apply(script.note())[0][2] == []


def test_a_table_without_subscriptions_has_no_rows(script: Script) -> None:
    assert script.apply(script.note()) == []


def test_a_table_that_is_not_there_is_an_error(script: Script) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        script.apply(wal(script.connection, "I", "nothing", [("id", "integer", 1)]))


def test_others_may_neither_call_nor_read(script: Script) -> None:
    script.as_role("grant usage on schema realtime to {}", script.reader)
    script.as_role("set local role {}", script.reader)
    for query in (
        "select * from realtime.subscription",
        "select * from realtime.apply_rls('{}')",
        "select realtime.cast('1', 'integer')",
        "select realtime.check_equality_op('eq', 'integer', '1', '1')",
    ):
        script.execute("savepoint before")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            script.execute(query)
        script.execute("rollback to before")


def test_every_function_has_its_search_path_pinned_or_is_named_here(script: Script) -> None:
    rows = script.execute(
        "select proname from pg_proc where pronamespace = 'realtime'::regnamespace"
        " and not coalesce(proconfig, '{}') @> '{\"search_path=\\\"\\\"\"}'"
    )
    # These are inlined, and have nothing to look up.
    inlined = ("core_is_built_in",), ("symbol_of",), ("topic",)
    # Policies and triggers rely on the search path of who sends. The functions name all schemas.
    senders = ("send",), ("send_binary",), ("broadcast_changes",)
    # Nothing that its caller has made for itself may come before PostgreSQL's own.
    assert {*rows} == {("apply_rls",), ("core_as_nobody",), *inlined, *senders}
