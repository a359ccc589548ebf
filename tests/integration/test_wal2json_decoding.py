"""wal2json's real output under any options, against pgoutput's of the same WAL.

What pgoutput's decoder makes of it is tested on its own; here it is the truth.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from realtime_core import (
    UNCHANGED,
    Begin,
    Change,
    Commit,
    DecodeError,
    Delete,
    Insert,
    LogicalMessage,
    Transaction,
    Truncate,
    Update,
)
from realtime_core.pgoutput import Assembler, Decoder
from realtime_core.wal2json import Wal2JsonDecoder, parse, parse_file
from tests.fix_postgres import DEBIAN_BINDIR, Database, Server, unique_name

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "wal2json.md"

pytestmark = [pytest.mark.integration, pytest.mark.pg17]

SCHEMA = r"""
create schema "My schema";
create type "My schema"."My Type" as enum ('a "b"', 'c');
create type "My schema".plain as enum ('x');
create type "we""ird" as enum ('y');
create domain money_like as numeric(9, 2) check (value > 0);
create domain "Bytes" as bytea;
create domain flag as boolean;
create table "Odd ""Name"".x" (
    id bigserial primary key,
    "Key Col" text default 'quoted "x"' not null,
    a "My schema"."My Type" default 'a "b"',
    b "My schema".plain, c "we""ird", d "we""ird"[], e "My schema"."My Type"[],
    f money_like, g "Bytes", h flag,
    i numeric, j numeric(10, 2)[], k real, l double precision, m bytea, n bytea[],
    o boolean default true, p char(5), q bpchar, r "char", s bit(3), t bit varying(9),
    u varchar(12)[], v interval day to second(3), w interval year to month, x timestamptz(3),
    y timetz, z jsonb default '[{"a": "b"}]', aa int8range, ab inet, ac oid, ad smallint
);
create table by_full (id int primary key, a text, b int);
alter table by_full replica identity full;
create table by_index (id int primary key, code text not null unique, a text);
alter table by_index replica identity using index by_index_code_key;
create table toasted (id int primary key, big text, n int, other text);
alter table toasted alter big set storage external, alter other set storage external;
create table toasted_key (big text not null, n int);
alter table toasted_key alter big set storage external;
create unique index toasted_key_index on toasted_key (big);
alter table toasted_key replica identity using index toasted_key_index;
create table ignored (id int primary key);
create publication everything for table
    "Odd ""Name"".x", by_full, by_index, toasted, toasted_key;
"""
WORK = [
    r"""insert into "Odd ""Name"".x" (b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u,
        v, w, x, y, aa, ab, ac, ad) values
    ('x', 'y', '{y}', '{c,NULL}', 1.50, 'abc', true, 12345678901234567890.123456789, '{1.5,NULL}',
     1.5, 9007199254740993, '\xdeadbeef', '{"\\x00"}', false, 'ab', 'ab ', 'z', '101', '1',
     '{a,"b,c"}', '1 day 02:03:04.567', '1 year 2 mons', '2026-01-02 03:04:05.678+05:30',
     '01:02:03+04', '[1,5)', '10.0.0.1/8', 4294967295, -32768),
    (null, null, null, null, null, null, null, 'NaN', null, '-Infinity', 'Infinity', '', null, null,
     null, null, null, null, null, null, null, null, 'infinity', null, 'empty', null, 0, 0)""",
    r"""update "Odd ""Name"".x" set "Key Col" = E'\u00fc\U0001F680\n\t\\"\u0001' where id = 1""",
    r"""update "Odd ""Name"".x" set id = 10, i = -0.000 where id = 2""",
    "insert into by_full values (1, 'a', 1), (2, 'b', 2)",
    "update by_full set b = 1 where id = 1",
    "update by_full set a = null where id = 1",
    "update by_full set a = 'c' where id = 1",
    "delete from by_full where id = 1",
    "insert into by_index values (1, 'a', 'x')",
    "update by_index set id = 2",
    "update by_index set code = 'b'",
    "delete from by_index",
    """insert into toasted values (1, repeat('0123456789', 1000), 1, 'short'),
        (2, 'short', 2, repeat('abcdefghij', 1000))""",
    "update toasted set n = 10 where id = 1",
    "update toasted set id = 3, n = 11 where id = 2",
    "update toasted set big = repeat('x', 9000), other = repeat('y', 9000) where id = 1",
    "update toasted set n = 12 where id = 1",
    "insert into toasted_key values (repeat('k', 2300), 1)",
    "update toasted_key set n = 2",
    "insert into ignored values (1)",
    "truncate by_full, by_index",
    """begin; insert into by_full values (3, 'x', null); savepoint a;
        insert into by_full values (4); rollback to a;
        select pg_logical_emit_message(true, 'inside', E'content "\\u00fc"');
        update by_full set b = 5; commit""",
    "select pg_logical_emit_message(false, 'outside', 'content')",
    r"select pg_logical_emit_message(false, 'outside', '\x41ffc342'::bytea)",
]

FROM_AN_ORIGIN = """
    select pg_replication_origin_create('{0}');
    select pg_replication_origin_session_setup('{0}');
    begin;
    select pg_replication_origin_xact_setup('0/1', '2000-01-01 00:00:01+00');
    insert into by_index values (7, 'origin', null);
    commit;
    select pg_replication_origin_session_reset()
"""

CHOICES: dict[str, tuple[str, ...]] = {
    "format-version": ("1", "2"),
    "include-xids": ("true", "false"),
    "include-timestamp": ("true", "false"),
    "include-schemas": ("true", "false"),
    "include-types": ("true", "false"),
    "include-typmod": ("true", "false"),
    "include-type-oids": ("true", "false"),
    "include-domain-data-type": ("true", "false"),
    "include-column-positions": ("true", "false"),
    "include-origin": ("true", "false"),
    "include-not-null": ("true", "false"),
    "include-default": ("true", "false"),
    "include-pk": ("true", "false"),
    "include-lsn": ("true", "false"),
    "include-transaction": ("true", "false"),
    "numeric-data-types-as-string": ("true", "false"),
    "pretty-print": ("true", "false"),
    "write-in-chunks": ("true", "false"),
    "actions": ("insert,update,delete,truncate", "insert,delete", "update"),
    "filter-tables": ("*.ignored", r'public.Odd\ "Name"\.x,*.ignored'),
}


class Recorded:
    """A database with both plugins' slots, in which something happened."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.connect() as connection:
            connection.execute(SCHEMA)
            for slot, plugin in (("json", "wal2json"), ("truth", "pgoutput")):
                connection.execute(
                    "select pg_create_logical_replication_slot(%s, %s)",
                    (f"{slot}_{database.name}", plugin),
                )
            for statement in WORK:
                connection.execute(statement.encode())
            connection.execute(FROM_AN_ORIGIN.format(database.name).encode())
        self._truths: dict[str, list[Change | Begin | Commit]] = {}

    def texts(self, options: dict[str, str], *, timezone: str = "UTC") -> list[str | bytes]:
        """Return wal2json's texts under some options."""
        arguments = [part for pair in options.items() for part in pair]
        with self.database.connect() as connection:
            connection.execute("select set_config('timezone', %s, false)", (timezone,))
            rows = connection.execute(
                "select data from pg_logical_slot_peek_binary_changes(%s, null, null, variadic %s)",
                (f"json_{self.database.name}", arguments),
            )
            return [data for (data,) in rows]

    def truth(self, timezone: str = "UTC") -> list[Change | Begin | Commit]:
        """Return pgoutput's changes; a session's time zone shows in the values, too."""
        if timezone not in self._truths:
            self._truths[timezone] = list(self._pgoutput(timezone))
        return self._truths[timezone]

    def _pgoutput(self, timezone: str) -> Iterator[Change | Begin | Commit]:
        decoder, assembler = Decoder(), Assembler()
        with self.database.connect() as connection:
            connection.execute("select set_config('timezone', %s, false)", (timezone,))
            rows = connection.execute(
                "select data from pg_logical_slot_peek_binary_changes(%s, null, null, "
                "'proto_version', '1', 'publication_names', 'everything', 'messages', 'true')",
                (f"truth_{self.database.name}",),
            ).fetchall()
        for (data,) in rows:
            for event in assembler.feed(decoder.decode(data)):
                if isinstance(event, Truncate):
                    # wal2json has one for each table, without options.
                    for relation in event.relations:
                        yield attrs.evolve(event, relations=(relation,))
                else:
                    yield event


@pytest.fixture(scope="module")
def recorded(pg17: Server) -> Iterator[Recorded]:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    database = Database(pg17, unique_name("wal2json"))
    pg17.create_database(database.name)
    yield Recorded(database)
    database.drop()
    # Unlike all else it belongs to the whole cluster.
    pg17.execute("select pg_replication_origin_drop(%s)", (database.name,))


def decode(texts: list[str | bytes], *, in_chunks: bool) -> list[Change | Begin | Commit]:
    decoder = Wal2JsonDecoder()
    feed = decoder.feed_chunk if in_chunks else decoder.feed
    events = [event for text in texts for event in feed(text)]
    decoder.end()
    return events


def expected(truth: list[Change | Begin | Commit], options: dict[str, str]) -> list[Any]:
    """Return the facts of pgoutput's changes that wal2json's have under the options."""
    return [
        facts(event, options)
        for event in truth
        if not isinstance(event, (Begin, Commit)) and is_written(event, options)
    ]


def is_written(change: Change, options: dict[str, str]) -> bool:
    match change:
        case LogicalMessage():
            return True
        case Truncate():
            return options["format-version"] == "2" and "truncate" in options["actions"]
        case Insert() | Update() | Delete():
            if 'Name"' in change.relation.table and "Odd" in options["filter-tables"]:
                return False
            return type(change).__name__.lower() in options["actions"]
    return True


def facts(change: Change, options: dict[str, str]) -> Any:
    """Return what of a change can be compared; works for both plugins' changes."""
    transaction = None
    if change.transaction is not None:
        transaction = transaction_facts(change.transaction, options)
    if isinstance(change, LogicalMessage):
        return ("M", transaction, change.prefix, change.content)
    relation = change.relations[0] if isinstance(change, Truncate) else change.relation
    name = relation.table
    if options["include-schemas"] == "true":
        name = str(relation)
    if isinstance(change, Truncate):
        return ("T", transaction, name)
    new, old = (
        None if record is None else row_facts(relation.table, dict(record.as_text()), options)
        for record in (getattr(change, "record", None), getattr(change, "old_record", None))
    )
    if new is not None and "insert" not in options["actions"]:
        # No row has shown the columns that an UPDATE leaves out.
        new = {column: text for column, text in new.items() if text is not UNCHANGED}
    if options["format-version"] == "1" and old is not None:
        old = {column: text for column, text in old.items() if text is not None}
    return (type(change).__name__, transaction, name, new, old)


def transaction_facts(transaction: Transaction, options: dict[str, str]) -> Any:
    return (
        transaction.xid if options["include-xids"] == "true" else 0,
        transaction.commit_time if options["include-timestamp"] == "true" else None,
        options["include-origin"] == "true" and transaction.origin is not None,
    )


SPECIAL = ("NaN", "Infinity", "-Infinity")


def row_facts(table: str, row: dict[str, Any], options: dict[str, str]) -> dict[str, Any]:
    if 'Name"' in table:
        if options["numeric-data-types-as-string"] == "false":
            # JSON has no such numbers.
            for column in "ikl":
                if row.get(column) in SPECIAL:
                    row[column] = None
        if options["include-types"] == options["include-type-oids"] == "false" and row.get("m"):
            # Nothing tells that it is a bytea, whose prefix is missing.
            row["m"] = row["m"].removeprefix("\\x")
    return row


@pytest.mark.parametrize("number", range(60))
def test_any_options_give_pgoutputs_changes(recorded: Recorded, number: int) -> None:
    options = {name: random.choice(values) for name, values in CHOICES.items()}
    in_chunks = options["format-version"] == "1" and options["write-in-chunks"] == "true"
    timezone = random.choice(("UTC", "Asia/Kolkata", "America/St_Johns", "<-04:56>+04:56"))
    texts = recorded.texts(options, timezone=timezone)
    events = decode(texts, in_chunks=in_chunks or random.random() < 0.2)
    changes = [event for event in events if not isinstance(event, (Begin, Commit))]
    found = [facts(change, options) for change in changes]
    truth = recorded.truth(timezone)
    assert found == expected(truth, options)
    check_positions(events, truth, options)


def check_positions(events: list[Any], truth: list[Any], options: dict[str, str]) -> None:
    commits = [event for event in events if isinstance(event, Commit)]
    if options["format-version"] == "2" and options["include-transaction"] == "false":
        assert commits == []
        return
    if options["include-lsn"] == "false":
        assert {int(event.end_lsn) for event in commits} == {0}
        return
    ends = {event.end_lsn: event for event in truth if isinstance(event, Commit)}
    for event in commits:
        # The others are of transactions without a change that is published.
        if (known := ends.get(event.end_lsn)) and options["format-version"] == "2":
            assert event.transaction.commit_lsn == known.transaction.commit_lsn
    assert ends.keys() <= {event.end_lsn for event in commits}


@pytest.mark.parametrize("version", ["1", "2"])
def test_columns_are_pgoutputs(recorded: Recorded, version: str) -> None:
    options = {name: values[0] for name, values in CHOICES.items()} | {"format-version": version}
    options["pretty-print"] = options["write-in-chunks"] = "false"
    relations = {
        event.relation.table: event.relation
        for event in decode(recorded.texts(options), in_chunks=False)
        if isinstance(event, (Update, Delete))
    }
    for event in recorded.truth():
        if isinstance(event, (Update, Delete)):
            theirs, ours = event.relation, relations[event.relation.table]
            for our, their in zip(ours.columns, theirs.columns, strict=True):
                is_domain = our.name in "fgh" and 'Name"' in theirs.table
                assert (our.name, our.type_name) == (their.name, their.type_name)
                assert our.type_schema in ("", their.type_schema)
                assert our.is_key == their.is_key
                if not is_domain:
                    assert our.type_modifier == their.type_modifier
                if not (is_domain and version == "1"):
                    # Format 1 has the OID of a domain's base type.
                    assert our.type_oid == their.type_oid
            if not (theirs.table == "toasted_key" and version == "1"):
                # Format 1 does not say that a table has no primary key.
                assert ours.replica_identity is theirs.replica_identity


def test_the_options_that_the_reference_page_recommends(recorded: Recorded) -> None:
    (query,) = re.findall(r"^```sql\n(.*?);\n```$", PAGE.read_text(), re.M | re.S)
    query = query.replace("'slot'", f"'json_{recorded.database.name}'")
    # One of the messages is not UTF-8.
    query = query.replace("pg_logical_slot_peek_changes", "pg_logical_slot_peek_binary_changes")
    options = {name: values[0] for name, values in CHOICES.items()} | {"format-version": "2"}
    events = decode([data for (data,) in recorded.database.execute(query)], in_chunks=False)
    changes = [event for event in events if not isinstance(event, (Begin, Commit))]
    found = [facts(change, options) for change in changes if "ignored" not in str(change)]
    assert found == expected(recorded.truth(), options)


def test_each_text_decodes_alone(recorded: Recorded) -> None:
    for version in "12":
        texts = recorded.texts({"format-version": version, "filter-tables": "*.ignored"})
        count = sum(len(parse(text)) for text in texts)
        whole = decode(texts, in_chunks=False)
        assert count == sum(not isinstance(event, (Begin, Commit)) for event in whole)


@pytest.mark.parametrize("version", ["1", "2"])
def test_bytea_in_escape_format_is_refused(recorded: Recorded, version: str) -> None:
    with recorded.database.connect() as connection:
        connection.execute("set bytea_output = 'escape'")
        rows = connection.execute(
            "select data from pg_logical_slot_peek_binary_changes(%s, null, null, "
            "'format-version', %s)",
            (f"json_{recorded.database.name}", version),
        ).fetchall()
    with pytest.raises(DecodeError, match="bytea_output"):
        decode([data for (data,) in rows], in_chunks=False)


@pytest.mark.parametrize(
    "options",
    [
        {"format-version": "2"},
        {"format-version": "1"},
        {"format-version": "1", "pretty-print": "1"},
        {"format-version": "1", "write-in-chunks": "1"},
    ],
    ids=lambda options: "-".join(options),
)
def test_what_pg_recvlogical_writes_to_a_file(
    recorded: Recorded, options: dict[str, str], tmp_path: Path
) -> None:
    every = {name: values[0] for name, values in CHOICES.items()}
    every |= {"pretty-print": "0", "write-in-chunks": "0", **options}
    slot, path = unique_name("recv"), tmp_path / "changes"
    with recorded.database.connect() as connection:
        connection.execute(
            "select pg_copy_logical_replication_slot(%s, %s)",
            (f"json_{recorded.database.name}", slot),
        )
        end = connection.execute("select pg_current_wal_lsn()").fetchone()
    assert end is not None
    command = [
        *(str(DEBIAN_BINDIR / "pg_recvlogical"), "--start", "--no-loop", "--slot", slot),
        *("--dbname", recorded.database.dsn, "--endpos", end[0], "--file", str(path)),
        *(part for option in every.items() for part in ("--option", "=".join(option))),
    ]
    subprocess.run(command, check=True, timeout=60, env={"PGTZ": "UTC"})
    with path.open("rb") as file:
        events = list(parse_file(file, boundaries=True))
    found = [facts(event, every) for event in events if not isinstance(event, (Begin, Commit))]
    assert found == expected(recorded.truth(), every)
    times = [event.transaction.commit_time for event in events if isinstance(event, Begin)]
    assert all(isinstance(time, datetime) for time in times)
