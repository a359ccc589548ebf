"""Is anybody told of a row that a SELECT would not show, or not told of one that it would?

    python -m tests.fuzz.fuzz_rls --decisions 1000000 --seed 1

makes random worlds one after the other (tables, privileges, policies, viewers, filters), writes to
them, and compares what a real server in RLS mode tells real clients with what PostgreSQL itself
says: see :mod:`tests.fuzz.rls.oracle`. It prints how many decisions came out how, and fails with
the first one that is wrong, and with the command that makes its world again (``--world 17``). The
same worlds for the same seed.

A decision is one committed change and one subscriber that listens to such changes of its table: a
channel of the first generation, or a binding of a later one. Has it been told exactly when it
should, once and in order, with the right columns and values? What it is told besides is wrong, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from random import Random
from typing import Final

import attrs
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from realtime_server.demo.embedded import EmbeddedPostgres
from tests.fix_postgres import SETTINGS as PG_SETTINGS
from tests.fix_postgres import Database, Server, unique_name
from tests.fuzz.rls.clients import (
    Binding,
    Channel,
    Client,
    Kind,
    ProtocolError,
    Viewer,
    bindings_of,
)
from tests.fuzz.rls.filters import make_filter, name_of
from tests.fuzz.rls.oracle import Oracle
from tests.fuzz.rls.policies import Roles
from tests.fuzz.rls.verdict import difference
from tests.fuzz.rls.viewers import make_viewers
from tests.fuzz.rls.world import PREPARE, make_world
from tests.fuzz.rls.writes import Writer, migration
from tests.server_process import ServerProcess
from tests.tokens import SECRET

__all__ = ["Result", "WrongDecisionError", "run"]

SETTINGS: Final = """
    SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3;
    SET timezone = 'UTC'; SET bytea_output = 'hex'; SET client_min_messages = 'error'
"""
NOBODY: Final = """
    DO $$ BEGIN
        CREATE ROLE realtime_nobody NOLOGIN NOINHERIT;
    EXCEPTION WHEN duplicate_object THEN
        -- All databases share it.
    END $$
"""
ENVIRONMENT: Final = {
    "REPLICATION_MODE": "RLS",
    "SECURE_CHANNELS": "true",
    "JWT_SECRET": SECRET,
    "PUBLICATIONS": '["leaves", "roots"]',
    # No clock decides: what takes long on a busy machine is waited for.
    "RLS_CHECK_TIMEOUT": "30000",
    "OUTBOX_MAX_AGE": "60000",
    "IDLE_TIMEOUT": "600000",
    "MAX_JOINS_PER_SECOND": "100000",
}
KINDS: Final[Sequence[Kind | None]] = (None, None, None, "INSERT", "UPDATE", "DELETE")
CLIENTS, CHANNELS, BATCHES, CHANGES = 8, 7, 6, 45


@attrs.define
class Result:
    """What became of the decisions."""

    decisions: int = 0
    worlds: int = 0
    wrong: list[str] = attrs.field(factory=list)
    """What was found, if a run goes on."""
    outcomes: Counter[str] = attrs.field(factory=Counter)


class WrongDecisionError(Exception):
    """A subscriber that was told too much, or too little."""


@attrs.frozen
class _Stage:
    """What all worlds of a run share."""

    connection: psycopg.Connection
    roles: Roles
    port: int


async def run(
    server: Server,
    decisions: int,
    seed: int = 0,
    *,
    world: int | None = None,
    goes_on: bool = False,
    module: str = "realtime_server",
    **environment: str,
) -> Result:
    """Make decisions until there are so many.

    Args:
        server: PostgreSQL, where databases and roles may be made.
        decisions: at least so many.
        seed: of all that is random.
        world: the number of the only one to be made.
        goes_on: with the next world where one was wrong.
        module: what is run as the server.
        environment: more of the server's variables.

    Raises:
        WrongDecisionError: at the first one.
    """
    result = Result()
    with _stage(server, module, environment) as stage:
        number = 0 if world is None else world
        while result.decisions < decisions:
            try:
                await _World(stage, Random(f"{seed} {number}"), f"w{number}", result).play()
            except (WrongDecisionError, ProtocolError) as error:
                error.add_note(
                    f"To see it again: python -m tests.fuzz.fuzz_rls --seed {seed} --world {number}"
                )
                if not goes_on:
                    raise
                result.wrong.append("\n".join((str(error), *error.__notes__)))
            result.worlds += 1
            number += 1
            if world is not None:
                break
    return result


@contextlib.contextmanager
def _stage(server: Server, module: str, environment: dict[str, str]) -> Iterator[_Stage]:
    database = Database(server, unique_name("fuzz"))
    roles = Roles(
        *(unique_name(name) for name in ("plain", "Mem ber", "str-ange", "by", "own", "ch"))
    )
    user = unique_name("server")
    # Text is ordered by code point, as filters have it.
    server.execute(
        sql.SQL(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING utf8 "
            "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C.UTF-8'"
        ).format(sql.Identifier(database.name))
    )
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.prepare_threshold = None
        _execute(
            connection,
            SETTINGS,
            PREPARE,
            f"CREATE ROLE {user} LOGIN REPLICATION",
            NOBODY,
            f"GRANT realtime_nobody TO {user} WITH INHERIT FALSE, SET TRUE",
        )
        for role in roles.names:
            _execute(
                connection,
                f"CREATE ROLE {name_of(role)}",
                f"GRANT {name_of(role)} TO {user} WITH INHERIT FALSE, SET TRUE",
            )
        plain = name_of(roles.plain)
        _execute(
            connection,
            f"GRANT {plain} TO {name_of(roles.member)}",
            f"GRANT {plain} TO {name_of(roles.stranger)} WITH INHERIT FALSE",
            f"ALTER ROLE {name_of(roles.bypassing)} BYPASSRLS",
            f"GRANT CREATE ON DATABASE {database.name} TO {user}",
        )
        try:
            dsn = make_conninfo(database.dsn, user=user)
            with ServerProcess(dsn, module=module, **ENVIRONMENT, **environment) as process:
                process.wait_until_streaming()
                yield _Stage(connection, roles, process.port)
        finally:
            connection.close()
            database.drop()
            for role in (user, *roles.names):
                server.execute(f"DROP ROLE {name_of(role)}")


class _World:
    """Plays one world."""

    def __init__(self, stage: _Stage, random: Random, schema: str, result: Result) -> None:
        self._stage = stage
        self._random = random
        self._result = result
        self._world = make_world(random, schema, stage.roles)
        self._writer = Writer(random, self._world)
        self._viewers = make_viewers(random, stage.roles)

    async def play(self) -> None:
        try:
            await self._play()
        finally:
            self._drop()

    async def _play(self) -> None:
        world, random, connection = self._world, self._random, self._stage.connection
        changing, plain = name_of(self._stage.roles.changing), name_of(self._stage.roles.plain)
        _execute(
            connection,
            f"ALTER ROLE {changing} NOBYPASSRLS INHERIT",
            f"REVOKE {plain} FROM {changing}",
            *world.statements,
        )
        for table in world.tables:
            _execute(connection, self._writer.insert(table, 12))
        async with self._clients() as clients:
            # Nothing that was written before anybody joined is still to come.
            await self._fence(clients)
            oracle = Oracle(connection, world, [])
            channels = self._channels(oracle)
            for client, theirs in zip(clients, channels, strict=True):
                await client.join(theirs)
            self._judge_joins(oracle, [one for theirs in channels for one in theirs])
            joined = [one for theirs in channels for one in theirs if one.refusal is None]
            bindings = list(bindings_of(joined))
            oracle = Oracle(connection, world, bindings)
            await self._fence(clients)
            oracle.forget()
            for number in range(BATCHES):
                if number and random.random() < 0.6:
                    for _ in range(random.randint(1, 3)):
                        _execute(connection, *migration(random, world, self._stage.roles))
                batch = self._writer.batch(oracle.keys(), random.randint(3, CHANGES))
                for transaction in batch:
                    _execute(connection, "BEGIN", *transaction, "COMMIT")
                await self._fence(clients)
                self._judge(oracle, number)

    def _drop(self) -> None:
        world = self._world
        _execute(
            self._stage.connection,
            f"DROP SCHEMA IF EXISTS {world.schema} CASCADE",
            f"DROP FUNCTION IF EXISTS h.{world.schema}_sees",
            *(f"DROP TABLE IF EXISTS {table.log}" for table in world.tables),
            *(
                f"DROP FUNCTION IF EXISTS h.{name_of(f'log_{world.schema}_{table.name}')}"
                for table in world.tables
            ),
        )

    @contextlib.asynccontextmanager
    async def _clients(self) -> AsyncIterator[list[Client]]:
        clients: list[Client] = []
        try:
            for number in range(CLIENTS):
                vsn = "1.0.0" if number % 2 else "2.0.0"
                viewer = self._random.choice(self._viewers)
                clients.append(await Client.open(self._stage.port, vsn, viewer, self._world.schema))
            yield clients
        finally:
            await asyncio.gather(*(client.close() for client in clients))

    async def _fence(self, clients: Sequence[Client]) -> None:
        """Return when each client has got what was committed so far."""
        [(number,)] = self._stage.connection.execute(
            "INSERT INTO fence VALUES (nextval('h.n')) RETURNING n"
        ).fetchall()
        for client in clients:
            await client.read_until_fence(number)

    def _channels(self, oracle: Oracle) -> list[list[Channel]]:
        """Return channels for each client to join."""
        random, tables = self._random, self._world.tables
        may = {table.name: oracle.selectable(table, self._stage.roles.names) for table in tables}
        found = []
        for _ in range(CLIENTS):
            theirs = {}
            for number in range(CHANNELS):
                viewer = random.choice(self._viewers)
                wishes = [self._binding(viewer, may) for _ in range(random.randint(1, 6))]
                topic, has_config = f"realtime:room {number}", True
                if random.random() < 0.25:
                    [binding] = wishes = wishes[:1]
                    binding.kind = binding.select = None
                    has_config = False
                    topic = f"realtime:{self._world.schema}"
                    if binding.table is not None:
                        topic += f":{binding.table}"
                    if binding.filter is not None:
                        topic += f":{binding.filter.text(in_group=False)}"
                theirs[topic] = Channel(viewer, topic, wishes, has_config)
            found.append(list(theirs.values()))
        return found

    def _binding(self, viewer: Viewer, may: dict[str, dict[str, frozenset[str]]]) -> Binding:
        random = self._random
        table = random.choice(self._world.tables)
        kind = random.choice(KINDS)
        if random.random() < 0.05:
            return Binding(viewer, None, kind)
        allowed = set(may[table.name][viewer.role])
        if random.random() < 0.02:
            # One column too many, at times: the join is to be refused.
            allowed = {column.name for column in table.columns}
        allowed -= {*table.unpublished}
        if table.published is not None:
            allowed &= {*table.published}
        columns = [(one.name, one.kind) for one in table.columns if one.name in allowed]
        binding = Binding(viewer, table.name, kind)
        if columns and random.random() < 0.7:
            binding.filter = make_filter(random, columns)
        if columns and random.random() < 0.2:
            names = random.sample(columns, random.randint(1, len(columns)))
            binding.select = tuple(name for name, _ in names)
        return binding

    def _judge_joins(self, oracle: Oracle, channels: Sequence[Channel]) -> None:
        """See that those are refused, and those alone, that ask for what they may not have."""
        for channel in channels:
            may = True
            for binding in channel.bindings:
                if binding.table is not None:
                    [table] = (one for one in self._world.tables if one.name == binding.table)
                    allowed = oracle.selectable(table, [channel.viewer.role])[channel.viewer.role]
                    allowed -= {*table.unpublished}
                    if table.published is not None:
                        allowed &= {*table.published}
                    may &= bool(allowed) and binding.columns | {*(binding.select or ())} <= allowed
            if may != (channel.refusal is None):
                raise WrongDecisionError(
                    f"{channel.viewer} joins {channel.topic} with {[*map(str, channel.bindings)]}: "
                    f"expected {'ok' if may else 'a refusal'}, got {channel.refusal or 'ok'}"
                )
            self._result.outcomes["a join is refused" if channel.refusal else "a join is ok"] += 1

    def _judge(self, oracle: Oracle, number: int) -> None:
        tables = {table.name: table for table in self._world.tables}
        for binding, expected in oracle.judge():
            told, binding.told = binding.told, []
            wrong = difference(tables, expected, told)
            if wrong is not None:
                raise WrongDecisionError(
                    f"world {self._world.schema}, batch {number}, viewer {binding.viewer.role} "
                    f"{binding.viewer.claims}, {binding}:\n{wrong}\n"
                    + "\n".join(
                        str(one)
                        for table in self._world.tables
                        if binding.table in (None, table.name)
                        for one in oracle.policies(table)
                    )
                )
            self._result.decisions += len(expected)
            self._result.outcomes.update(one.why for one in expected)


def _execute(connection: psycopg.Connection, *statements: str) -> None:
    for statement in statements:
        try:
            connection.execute(statement.encode())
        except psycopg.Error as error:
            error.add_note(statement[:1000])
            raise


def main() -> int:
    parser = argparse.ArgumentParser(description="Look for wrong decisions of RLS mode.")
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", type=int, help="the number of the only one to be made")
    parser.add_argument(
        "--dsn", help="a superuser's, of a PostgreSQL server; default: one is started"
    )
    parser.add_argument(
        "--go-on", action="store_true", help="with the next world where one is wrong"
    )
    parser.add_argument("--module", default="realtime_server", help="what is run as the server")
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if chosen.dsn is None:
            chosen.dsn = stack.enter_context(EmbeddedPostgres(settings=PG_SETTINGS)).dsn
        begin = time.perf_counter()
        result = asyncio.run(
            run(
                Server(chosen.dsn),
                chosen.decisions,
                chosen.seed,
                world=chosen.world,
                goes_on=chosen.go_on,
                module=chosen.module,
            )
        )
    for outcome, number in result.outcomes.most_common():
        print(f"{number:>12,}  {outcome}")
    print(
        f"{result.decisions:,} decisions in {result.worlds} worlds of seed {chosen.seed} and "
        f"{time.perf_counter() - begin:,.0f} s, {len(result.wrong) or 'none'} wrong"
    )
    for wrong in result.wrong:
        print(wrong)
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
