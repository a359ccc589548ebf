"""Plays a world: clients join, rows are written, and PostgreSQL says what they have to be told."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from random import Random
from typing import Final

import attrs

from tests.fuzz.rls.clients import Binding, Channel, Client, Former, Kind, Viewer, WriteObserver
from tests.fuzz.rls.filters import make_filter, name_of
from tests.fuzz.rls.oracle import Oracle
from tests.fuzz.rls.rules import Expected
from tests.fuzz.rls.stage import Stage, execute
from tests.fuzz.rls.verdict import difference
from tests.fuzz.rls.viewers import make_viewers
from tests.fuzz.rls.world import make_world
from tests.fuzz.rls.writes import Writer, migration

__all__ = ["Player", "Result", "WrongDecisionError"]

KINDS: Final[Sequence[Kind | None]] = (None, None, None, "INSERT", "UPDATE", "DELETE")
CLIENTS, CHANNELS, BATCHES, CHANGES = 8, 7, 7, 55


@attrs.define
class Result:
    """What became of the decisions."""

    decisions: int = 0
    worlds: int = 0
    wrong: list[str] = attrs.field(factory=list)
    """What was found, if a run goes on."""
    outcomes: Counter[str] = attrs.field(factory=Counter)

    def lines(self) -> Iterator[str]:
        for outcome, number in self.outcomes.most_common():
            yield f"{number:>12,}  {outcome}"
        yield (
            f"{self.decisions:,} decisions in {self.worlds} worlds, "
            f"{len(self.wrong) or 'none'} wrong"
        )
        yield from self.wrong


class WrongDecisionError(Exception):
    """A subscriber that was told too much, or too little."""


class Player:
    """Plays one world."""

    _topic_share = 0.25
    """The share of channels that are joined as topic clients do."""

    def __init__(self, stage: Stage, random: Random, schema: str, result: Result) -> None:
        self._stage = stage
        self._random = random
        self._result = result
        setting = stage.setting
        self._world = make_world(
            random,
            schema,
            stage.roles,
            setting.plugin,
            # Of rows that are deleted all is known only there.
            full=0.6 if setting.asks_for_deleted else 0.3,
        )
        self._writer = Writer(random, self._world)
        self._viewers = make_viewers(random, stage.roles)

    async def play(self) -> None:
        try:
            await self._play()
        finally:
            self._drop()

    async def _play(self) -> None:
        world, connection = self._world, self._stage.connection
        changing, plain = name_of(self._stage.roles.changing), name_of(self._stage.roles.plain)
        execute(
            connection,
            f"ALTER ROLE {changing} NOBYPASSRLS INHERIT",
            f"REVOKE {plain} FROM {changing}",
            *world.statements,
        )
        for table in world.tables:
            execute(connection, self._writer.insert(table, 12))
        async with self._clients() as clients:
            # Nothing that was written before anybody joined is still to come.
            await self._fence(clients)
            oracle = Oracle(connection, world, self._stage.setting, [])
            channels = self._channels(oracle)
            for client, theirs in zip(clients, channels, strict=True):
                await client.join(theirs)
            await asyncio.to_thread(
                self._judge_joins, oracle, [one for theirs in channels for one in theirs]
            )
            joined = {
                channel: client
                for client, theirs in zip(clients, channels, strict=True)
                for channel in theirs
                if channel.refusal is None
            }
            oracle = Oracle(connection, world, self._stage.setting, joined)
            await self._fence(clients)
            oracle.forget()
            for number in range(BATCHES):
                await self._play_batch(oracle, clients, joined, number)

    async def _play_batch(
        self, oracle: Oracle, clients: Sequence[Client], joined: dict[Channel, Client], number: int
    ) -> None:
        random = self._random
        if number and random.random() < 0.6:
            self._migrate()
        batch = self._writer.batch(oracle.keys(), random.randint(3, CHANGES))
        # Before one of them, or while all of them are on their way.
        replacing = random.randint(0, len(batch)) if random.random() < 0.4 else None
        for place, transaction in enumerate(batch):
            if place == replacing:
                await self._replace(oracle, joined)
            execute(self._stage.connection, "BEGIN", *transaction, "COMMIT")
        if replacing == len(batch):
            await self._replace(oracle, joined)
        await self._fence(clients)
        # Pings are answered meanwhile.
        await asyncio.to_thread(self._judge, oracle, number)
        for channel in joined:
            channel.former, channel.has_gap = None, False

    def _migrate(self, *, keeps_columns: bool = False) -> None:
        random, world, roles = self._random, self._world, self._stage.roles
        for _ in range(random.randint(1, 3)):
            statements = migration(random, world, roles, keeps_columns=keeps_columns)
            execute(self._stage.connection, *statements)

    def _drop(self) -> None:
        world = self._world
        execute(
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
                clients.append(await self._open(vsn, viewer))
            yield clients
        finally:
            await asyncio.gather(*(client.close() for client in clients))

    async def _open(self, vsn: str, viewer: Viewer) -> Client:
        return await Client.open(self._stage.port, vsn, viewer, self._world.schema)

    async def _fence(self, clients: Sequence[Client]) -> None:
        """Return when each client has got what was committed so far."""
        [(number,)] = self._stage.connection.execute(
            "INSERT INTO fence VALUES (nextval('h.n')) RETURNING n"
        ).fetchall()
        for client in clients:
            await client.read_until_fence(number)

    async def _replace(self, oracle: Oracle, joined: Mapping[Channel, Client]) -> None:
        """Give some channels another token, whose viewer may have what they have joined."""
        random = self._random
        for channel in random.sample(list(joined), min(len(joined), 3)):
            viewer = random.choice(self._viewers)
            if not self._may_join(oracle, viewer, channel):
                continue
            channel.former = Former(channel.viewer, oracle.now())
            channel.give_to(viewer)
            await joined[channel].replace(channel, viewer)
            self._result.outcomes["a token is replaced"] += 1

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
                if random.random() < self._topic_share:
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
            may = self._may_join(oracle, channel.viewer, channel)
            if may != (channel.refusal is None):
                raise WrongDecisionError(
                    f"{channel.viewer} joins {channel.topic} with {[*map(str, channel.bindings)]}: "
                    f"expected {'ok' if may else 'a refusal'}, got {channel.refusal or 'ok'}"
                )
            self._result.outcomes["a join is refused" if channel.refusal else "a join is ok"] += 1

    def _may_join(self, oracle: Oracle, viewer: Viewer, channel: Channel) -> bool:
        hidden = {table.name for table in self._world.tables if table.row_filter is not None}
        tables = {binding.table for binding in channel.bindings}
        # With wal2json a table that has a row filter by now is refused.
        may = self._world.plugin != "wal2json" or tables.isdisjoint(hidden)
        for binding in channel.bindings:
            if binding.table is not None:
                [table] = (one for one in self._world.tables if one.name == binding.table)
                allowed = oracle.selectable(table, [viewer.role])[viewer.role]
                allowed -= {*table.unpublished}
                if table.published is not None:
                    allowed &= {*table.published}
                may &= bool(allowed) and binding.columns | {*(binding.select or ())} <= allowed
        return may

    def _judge(self, oracle: Oracle, number: int) -> None:
        for binding, expected in oracle.judge():
            told, binding.told = binding.told, []
            self._compare(oracle, f"batch {number}", binding, expected, told)
            self._count(expected)

    def _count(self, expected: Sequence[Expected], how: str = "") -> None:
        self._result.decisions += len(expected)
        self._result.outcomes.update(f"{how}{one.why}" for one in expected)

    def _compare(
        self,
        oracle: Oracle,
        when: str,
        binding: Binding,
        expected: Sequence[Expected],
        told: Sequence[WriteObserver],
    ) -> None:
        tables = {table.name: table for table in self._world.tables}
        wrong = difference(tables, expected, told)
        if wrong is not None:
            raise WrongDecisionError(
                f"world {self._world.schema}, {when}, viewer {binding.viewer.role} "
                f"{binding.viewer.claims}, {binding}:\n{wrong}\n"
                + "\n".join(
                    str(one)
                    for table in self._world.tables
                    if binding.table in (None, table.name)
                    for one in (*oracle.policies(table), f"row filter {table.row_filter}")
                )
            )
