"""Row level security: changes a second, against one check for each subscription.

    python -m benchmarks.rls

A table of 100,000 rows with a policy by owner, on PostgreSQL 17 with wal2json. Three ways to
decide who gets a change, the first two from wal2json's text of it, as scripts of the original read
it, the third from pgoutput's bytes, as the server reads it:

* *reference*: a function in the database that makes one check for each subscription, as the
  published ``apply_rls`` does;
* *apply_rls*: ours, which makes one for each claims;
* *server*: decode, match in the hub, and ask once for each viewer and batch of 100 changes;
  payloads are rendered, and not written to sockets.

Ratios are those of one run; each figure is the best of several rounds, since the machine may
be shared.

Then a real server in a process of its own: the time from the commit to a client, and what another
role's policy that sleeps does to it. The client sends heartbeats meanwhile, as real ones do.
``benchmarks.rls_latency`` has more of the time to clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import psycopg
from psycopg import AsyncConnection

from benchmarks._report import environment, percentile, save
from realtime_core import Insert
from realtime_core.pgoutput import ChangeDecoder
from realtime_server.demo.embedded import EmbeddedPostgres
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.payloads.oversize import size_of
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.serializers import SERIALIZERS
from realtime_server.rls.checker import Checker
from realtime_server.rls.counters import Counters
from realtime_server.rls.lookup.visibility import Visibility
from realtime_server.rls.matcher import Matcher
from realtime_server.rls.reader import Read
from realtime_server.rls.setup.migrations import migrate
from realtime_server.rls.viewers import Viewer
from tests.server_helpers import PhoenixClient, open_client
from tests.server_process import ServerProcess
from tests.tokens import SECRET, make_token

ROWS: Final = 100_000
BATCH: Final = 100
HEARTBEAT: Final = 0.05
"""Seconds between two of a client's."""
BINDIR: Final = Path("/usr/lib/postgresql/17/bin")

PLAIN = "owner = (current_setting('request.jwt.claims')::jsonb ->> 'sub')::uuid"
SELECT = "owner = (select (current_setting('request.jwt.claims')::jsonb ->> 'sub')::uuid)"

# What the published function does, and how: each column is cast by a statement of its own, each
# subscription's filters are judged by a function of SQL, and a prepared statement looks its row
# up with its role and claims.
REFERENCE = """
create or replace function public.ref_cast(val text, type_ regtype) returns jsonb
language plpgsql immutable as $$
declare result jsonb;
begin
    execute format('select to_jsonb(%L::' || type_::text || ')', val) into result;
    return result;
end
$$;
create or replace function public.ref_compare(
    op realtime.equality_op, type_ regtype, val_1 text, val_2 text
) returns boolean language plpgsql immutable as $$
declare
    result boolean;
begin
    execute format('select %L::' || type_::text || ' = %L::' || type_::text, val_1, val_2)
    into result;
    return result;
end
$$;
create or replace function public.ref_passes(
    columns realtime.wal_column[], filters realtime.user_defined_filter[]
) returns boolean language sql immutable as $$
    select $2 is null or array_length($2, 1) is null or bool_and(coalesce(
        public.ref_compare(f.op, c.type_oid::regtype, c.value #>> '{}', f.value), false
    ))
    from unnest(filters) f join unnest(columns) c on c.name = f.column_name
$$;
create or replace function public.one_check_each(wal jsonb) returns setof realtime.wal_rls
language plpgsql volatile as $$
declare
    entity_ regclass :=
        (quote_ident(wal ->> 'schema') || '.' || quote_ident(wal ->> 'table'))::regclass;
    subscriptions realtime.subscription[] := array_agg(s)
        from realtime.subscription s where s.entity = entity_;
    columns_ realtime.wal_column[];
    role_ regrole;
    one record;
    is_visible boolean;
    visible uuid[] := '{}';
    output jsonb;
begin
    columns_ := array_agg((
        c ->> 'name', c ->> 'type', (c ->> 'typeoid')::oid,
        public.ref_cast(c ->> 'value', (c ->> 'typeoid')::regtype), k is not null, true
    )::realtime.wal_column)
    from jsonb_array_elements(wal -> 'columns') c
    left join jsonb_array_elements(wal -> 'pk') k on k ->> 'name' = c ->> 'name';
    for role_ in select distinct s.claims_role from unnest(subscriptions) s loop
        columns_ := array_agg((
            c.name, c.type_name, c.type_oid, c.value, c.is_pkey,
            has_column_privilege(role_, entity_, c.name, 'SELECT')
        )::realtime.wal_column) from unnest(columns_) c;
        output := jsonb_build_object(
            'schema', wal ->> 'schema', 'table', wal ->> 'table', 'type', 'INSERT',
            'commit_timestamp', to_char(
                (wal ->> 'timestamp')::timestamptz at time zone 'utc',
                'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
            ),
            'columns', (
                select jsonb_agg(jsonb_build_object('name', a.attname, 'type', t.typname))
                from pg_attribute a join pg_type t on t.oid = a.atttypid
                where a.attrelid = entity_ and a.attnum > 0
                    and has_column_privilege(role_, entity_, a.attname, 'SELECT')
            ),
            'record', (
                select jsonb_object_agg(c.name, c.value) from unnest(columns_) c
                where c.is_selectable
            )
        );
        if (select 1 from pg_prepared_statements where name = 'reference' limit 1) > 0 then
            deallocate reference;
        end if;
        execute 'prepare reference as select exists (select 1 from ' || entity_ || ' where '
            || string_agg(quote_ident(c.name) || ' = ' || quote_nullable(c.value #>> '{}'), ' and ')
            || ')' from unnest(columns_) c where c.is_pkey;
        for one in
            select s.subscription_id, s.claims from unnest(subscriptions) s
            where s.claims_role = role_ and public.ref_passes(columns_, s.filters)
        loop
            perform set_config('role', trim(both '"' from role_::text), true),
                set_config('request.jwt.claims', one.claims::text, true);
            execute 'execute reference' into is_visible;
            if is_visible then
                visible := visible || one.subscription_id;
            end if;
        end loop;
        perform set_config('role', null, true);
        return next (output, true, visible, '{}')::realtime.wal_rls;
    end loop;
end
$$
"""


@attrs.frozen
class Case:
    name: str
    subscriptions: int
    distinct: bool = False
    policy: str = PLAIN
    filters: bool = False
    reference: bool = True


CASES = [
    *(
        Case(f"{number} {kind}", number, kind == "distinct", reference=number <= 1000)
        for number in (1, 100, 1000, 10_000)
        for kind in ("shared", "distinct")
    ),
    Case("1000 distinct, (select …)", 1000, True, SELECT),
    Case("1000 eq filters, one matches", 1000, filters=True),
]


class Nowhere:
    def write(self, frames: bytes, count: int = 1) -> None:
        raise AssertionError("nothing is written")


class Bench:
    """A database, and what is read from its slot."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.texts: list[str] = []
        self.messages: list[bytes] = []

    def prepare(self) -> None:
        run = self.connection.execute
        run("create role reader")
        run("create table docs (id int8 primary key, owner uuid, body text)")
        run(
            "insert into docs select i, md5((i % 1000)::text)::uuid, repeat('x', 100)"
            f" from generate_series(1, {ROWS}) i"
        )
        run("alter table docs enable row level security")
        run("grant select on docs to reader")
        run("create publication bench for table docs")
        run("vacuum analyze docs")
        run(REFERENCE.encode())
        run("select pg_create_logical_replication_slot('bench', 'wal2json', true)")
        run("select pg_create_logical_replication_slot('bench_pgoutput', 'pgoutput', true)")
        # 100 rows of 100 owners, committed one by one as most are.
        run(
            "do $$ begin for i in 1..100 loop insert into docs values"
            f" ({ROWS} + i, md5(i::text)::uuid, repeat('x', 100)); commit; end loop; end $$"
        )
        rows = run(
            "select data from pg_logical_slot_get_changes('bench', null, null,"
            " 'format-version', '2', 'include-transaction', 'false', 'include-timestamp', 'true',"
            " 'include-type-oids', 'true', 'include-pk', 'true', 'include-lsn', 'true',"
            " 'include-xids', 'true')"
        ).fetchall()
        self.texts = [row[0] for row in rows]
        assert len(self.texts) == BATCH
        rows = run(
            "select data from pg_logical_slot_get_binary_changes('bench_pgoutput', null, null,"
            " 'proto_version', '1', 'publication_names', 'bench')"
        ).fetchall()
        self.messages = [row[0] for row in rows]

    def subscribe(self, case: Case) -> list[tuple[str, Viewer]]:
        """Subscribe in the database; return topics and viewers."""
        run = self.connection.execute
        run("drop policy if exists own on docs")
        run(f"create policy own on docs to reader using ({case.policy})".encode())
        run("truncate realtime.subscription")
        people = []
        for number in range(case.subscriptions):
            # Shared claims are those of one who sees a row of the batch.
            sub = str(uuid.UUID(_md5(number if case.distinct else 1)))
            claims = {"role": "reader", "sub": sub, "exp": 1_900_000_000}
            topic = "realtime:public:docs"
            filters = "{}"
            if case.filters:
                wanted = ROWS + 1 if number == 0 else number
                topic += f":id=eq.{wanted}"
                filters = f'{{"(id,eq,{wanted})"}}'
            people.append((topic, Viewer.of(claims), filters))
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "insert into realtime.subscription (subscription_id, entity, claims, filters)"
                " values (gen_random_uuid(), 'docs', %s, %s)",
                [(viewer.claims, filters) for _, viewer, filters in people],
            )
        run("vacuum analyze realtime.subscription")
        return [(topic, viewer) for topic, viewer, _ in people]

    def in_database(self, function: str, least: float) -> float:
        """Return the changes a second of one call a change."""
        query = f"select * from {function}".encode()
        best = float("inf")
        end = time.perf_counter() + least
        place = 0
        while time.perf_counter() < end or not place:
            begin = time.perf_counter()
            self.connection.execute(query, (self.texts[place % BATCH],)).fetchall()
            best = min(best, time.perf_counter() - begin)
            place += 1
        return 1 / best

    async def in_server(
        self, people: list[tuple[str, Viewer]], least: float
    ) -> tuple[float, float]:
        """Return the changes a second of batches, and the checks for each change."""
        hub = hub_of(people)

        async def dsn() -> str:
            return self.dsn

        best = float("inf")
        async with Visibility(dsn, timeout=60) as visibility:
            counters = Counters()
            checker = Checker(visibility, counters, max_record_bytes=1_048_576)
            matcher = Matcher(hub)
            # Who is new may not be asked for at once; and the function and its plan are made.
            for _ in range(2):
                await self._round(matcher, checker)
            counters.checks = 0
            end = time.perf_counter() + least
            rounds = 0
            while time.perf_counter() < end or rounds < 1:
                begin = time.perf_counter()
                await self._round(matcher, checker)
                best = min(best, time.perf_counter() - begin)
                rounds += 1
            checks = counters.checks / rounds / BATCH
        return BATCH / best, checks

    async def _round(self, matcher: Matcher, checker: Checker) -> None:
        decoder = ChangeDecoder()
        reads = []
        for event in decoder.decode(self.messages):
            if isinstance(event, Insert):
                reads.append(Read(event, size_of(event)))
        assert len(reads) == BATCH
        verdict = await checker.check(await matcher.match(reads))
        for shown in verdict.shown:
            for view in set(shown.values()):
                view.payload()


def hub_of(people: list[tuple[str, Viewer]]) -> Hub:
    """Return a hub with a channel for each name of a topic and its viewer, which gets nothing."""
    hub = Hub()
    topics: dict[str, Topic] = {}
    for name, viewer in people:
        topic = topics.setdefault(name, Topic.parse(name))
        hub.subscribe(Subscription(topic, SERIALIZERS["1.0.0"], Nowhere(), None, viewer))
    return hub


def _md5(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


@contextlib.contextmanager
def database() -> Iterator[str]:
    """Yield the DSN of an empty database with wal2json."""
    with contextlib.ExitStack() as stack:
        dsn = os.environ.get("BENCH_DSN") or stack.enter_context(EmbeddedPostgres(BINDIR)).dsn
        with psycopg.connect(dsn, autocommit=True) as connection:
            if connection.execute(
                "select current_setting('output_plugin_libraries', true)"
            ).fetchone() != (None,):
                connection.execute(
                    "alter system set output_plugin_libraries = pgoutput, wal2json, test_decoding"
                )
                connection.execute("select pg_reload_conf()")
        yield dsn


async def measure(dsn: str) -> list[dict[str, Any]]:
    async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
        await migrate(connection)
    bench = Bench(dsn)
    bench.prepare()
    results = []
    for case in CASES:
        people = bench.subscribe(case)
        result: dict[str, Any] = {"case": case.name}
        if case.reference:
            result["reference"] = bench.in_database("one_check_each(%s::jsonb)", 2)
            result["apply_rls"] = bench.in_database("realtime.apply_rls(%s::jsonb)", 2)
        result["server"], result["checks_a_change"] = await bench.in_server(people, 3)
        if case.reference:
            result["apply_rls_ratio"] = result["apply_rls"] / result["reference"]
            result["server_ratio"] = result["server"] / result["reference"]
        results.append({name: _short(value) for name, value in result.items()})
        print(json.dumps(results[-1]), flush=True)
    bench.connection.close()
    return results


async def isolation(dsn: str) -> dict[str, Any]:
    """Return how long rows take before and after somebody's policy begins to sleep."""
    timeout = 500
    async with serving(dsn, RLS_CHECK_TIMEOUT=str(timeout)) as one:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("drop policy own on docs")
            connection.execute(
                "create policy own on docs to reader using (case when"
                " current_setting('request.jwt.claims')::jsonb ->> 'sub' = 'sleeper'"
                " then pg_sleep(60) is not null else true end)"
            )
            before = [await _arrival(one, connection) for _ in range(100)]
            token = make_token({"role": "reader", "sub": "sleeper"})
            async with open_client(one.port, query=f"apikey={token}") as sleeper:
                await sleeper.send("realtime:public:docs", "phx_join", {"user_token": token})
                await sleeper.receive()
                first = await _arrival(one, connection)
                after = [await _arrival(one, connection) for _ in range(100)]
    return {
        "check_timeout_ms": timeout,
        "before_p50_ms": round(percentile(before, 0.5) * 1000, 1),
        "first_row_ms": round(first * 1000, 1),
        "after_p50_ms": round(percentile(after, 0.5) * 1000, 1),
        "after_p99_ms": round(percentile(after, 0.99) * 1000, 1),
    }


class TimedClient(PhoenixClient):
    port: int

    async def receive(self) -> Any:
        """Return what comes next besides the replies to heartbeats."""
        while (frame := await super().receive())["topic"] == "phoenix":
            pass
        return frame

    async def beat(self) -> None:
        """Send heartbeats."""
        while True:
            await self.send("phoenix", "heartbeat", {})
            await asyncio.sleep(HEARTBEAT)


@contextlib.asynccontextmanager
async def serving(dsn: str, **settings: str) -> AsyncIterator[TimedClient]:
    """Run a server, and have a client of it who sees every row."""
    environment_ = {
        "REPLICATION_MODE": "RLS",
        "SECURE_CHANNELS": "true",
        "JWT_SECRET": SECRET,
        "PUBLICATIONS": '["bench"]',
        **settings,
    }
    token = make_token({"role": "postgres", "sub": "x"})
    with ServerProcess(dsn, **environment_) as server:
        server.wait_until_streaming()
        async with open_client(server.port, query=f"apikey={token}") as plain:
            client = TimedClient(plain.websocket, "1.0.0")
            client.port = server.port
            await client.send("realtime:public:docs", "phx_join", {"user_token": token})
            assert (await client.receive())["payload"]["status"] == "ok"
            beating = asyncio.create_task(client.beat())
            try:
                yield client
            finally:
                beating.cancel()


async def _arrival(client: TimedClient, connection: psycopg.Connection[Any]) -> float:
    """Commit a row; return the seconds until the client has it."""
    connection.execute(
        "insert into docs select max(id) + 1, md5('1')::uuid, 'x' from docs", prepare=True
    )
    begin = time.perf_counter()
    await client.receive()
    return time.perf_counter() - begin


def _short(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def main() -> None:
    with database() as dsn:
        results = asyncio.run(measure(dsn))
        isolated = asyncio.run(isolation(dsn))
    print(json.dumps(isolated))
    result = {
        **environment("psycopg", "psycopg-binary"),
        "results": results,
        "isolation": isolated,
    }
    print(save("rls", "python -m benchmarks.rls", result))


if __name__ == "__main__":
    main()
