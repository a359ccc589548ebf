"""Joins and leaves at random, by many sockets, while changes flow."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.server_process import ServerProcess

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SOCKETS = 500
JOINS_AND_LEAVES = 10_000
OPERATIONS_FOR_A_CHANGE = 50
TOPICS = ("realtime:one", "realtime:two", "realtime:public:item")
BUCKETS = 4
DEADLINE = 240.0


class Writer:
    """Inserts a row for every so many operations of the sockets."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self.begun = 0
        """The last row whose commit was asked for."""
        self.committed = 0
        """The last row whose commit was answered."""
        self._operations = 0
        self._due = asyncio.Semaphore(0)

    def operation(self) -> None:
        self._operations += 1
        if self._operations % OPERATIONS_FOR_A_CHANGE == 0:
            self._due.release()

    async def run(self) -> None:
        for number in itertools.count(1):
            await self._due.acquire()
            self.begun = number
            await self._connection.execute(
                "insert into item values (%s, %s)", (number, number % BUCKETS)
            )
            self.committed = number


class Membership:
    """One join of a topic, from its ok reply to what ends it.

    Args:
        bucket: of the rows that it asked for, None for all of them.
        first: of the rows whose commits began after its reply had arrived.
    """

    def __init__(self, bucket: int | None, first: int) -> None:
        self._bucket = bucket
        self._first = first
        self.got: list[int] = []
        self._changed = asyncio.Event()

    def receive(self, number: int) -> None:
        self.got.append(number)
        self._changed.set()

    def _wants(self, numbers: range) -> list[int]:
        return [n for n in numbers if self._bucket is None or n % BUCKETS == self._bucket]

    async def has_all_until(self, last: int) -> None:
        """Wait for the last row up to ``last`` that it must get."""
        wanted = self._wants(range(self._first, last + 1))
        while wanted and (not self.got or self.got[-1] < wanted[-1]):
            self._changed.clear()
            await self._changed.wait()

    def check(self, until: int) -> None:
        """Everything came once and in order: each row up to ``until``, and none left out."""
        if self.got:
            assert self.got == self._wants(range(self.got[0], self.got[-1] + 1))
        wanted = self._wants(range(self._first, until + 1))
        assert not wanted or (self.got and self.got[0] <= wanted[0] and self.got[-1] >= wanted[-1])


class Client:
    """A socket that joins and leaves at random, and holds the server to its promise."""

    def __init__(self, websocket: ClientConnection, vsn: str, writer: Writer, seed: int) -> None:
        self._websocket = websocket
        self._vsn = vsn
        self._writer = writer
        self._random = random.Random(seed)
        self._refs = map(str, itertools.count(1))
        self._replies: dict[str, asyncio.Future[None]] = {}
        self._pending: dict[str, tuple[str, int | None]] = {}
        self._members: dict[str, Membership] = {}
        self.memberships = 0
        self.changes = 0

    async def run(self, operations: int) -> None:
        reading = asyncio.create_task(self._read())
        try:
            driving = asyncio.create_task(self._drive(operations))
            await asyncio.wait({reading, driving}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                driving.cancel()
                reading.result()
            await driving
        finally:
            reading.cancel()

    async def _drive(self, operations: int) -> None:
        for _ in range(operations):
            topic = self._random.choice(TOPICS)
            if topic not in self._members:
                await self._join(topic)
            elif self._random.random() < 0.8:
                await self._leave(topic)
            else:
                # A second join takes the first one's place.
                await self._join(topic)
            self._writer.operation()
        for topic in list(self._members):
            await self._leave(topic, patiently=True)

    async def _join(self, topic: str) -> None:
        bucket = self._random.choice([None, self._random.randrange(BUCKETS)])
        binding = {"event": "INSERT", "schema": "public", "table": "item"}
        if bucket is not None:
            binding["filter"] = f"bucket=eq.{bucket}"
        payload: Any = {"config": {"postgres_changes": [binding]}}
        if topic.endswith(":item") and bucket is None:
            payload = {}
        former = self._members.get(topic)
        ref = next(self._refs)
        self._pending[ref] = (topic, bucket)
        await self._ask(topic, "phx_join", payload, ref)
        self.memberships += 1
        if former is not None:
            former.check(until=0)

    async def _leave(self, topic: str, *, patiently: bool | None = None) -> None:
        member = self._members[topic]
        until = 0
        if self._random.random() < 0.5 if patiently is None else patiently:
            # A leave overtakes what is still on its way from the database, so that only who
            # waits for what is committed can count on having got it.
            until = self._writer.committed
            await member.has_all_until(until)
        await self._ask(topic, "phx_leave", {}, next(self._refs))
        assert topic not in self._members
        member.check(until)

    async def _ask(self, topic: str, event: str, payload: Any, ref: str) -> None:
        reply = self._replies[ref] = asyncio.get_running_loop().create_future()
        if self._vsn == "1.0.0":
            frame: Any = {"topic": topic, "event": event, "payload": payload, "ref": ref}
        else:
            frame = [None, ref, topic, event, payload]
        await self._websocket.send(json.dumps(frame))
        await reply

    async def _read(self) -> None:
        async for text in self._websocket:
            frame = json.loads(text)
            if self._vsn == "1.0.0":
                topic, event, payload = frame["topic"], frame["event"], frame["payload"]
                ref = frame["ref"]
            else:
                _, ref, topic, event, payload = frame
            match event:
                case "postgres_changes":
                    # Nothing comes after the leave's reply: then it is no member any more.
                    self.changes += 1
                    self._members[topic].receive(payload["data"]["record"]["id"])
                case "INSERT":
                    self._members[topic].receive(int(payload["record"]["id"]))
                case "phx_reply":
                    assert payload["status"] == "ok", payload
                    if ref in self._pending:
                        _, bucket = self._pending.pop(ref)
                        self._members[topic] = Membership(bucket, self._writer.begun + 1)
                    else:
                        del self._members[topic]
                    self._replies.pop(ref).set_result(None)
                case "system":
                    assert payload["status"] == "ok", payload
                case _:
                    assert event == "phx_close", frame
        raise AssertionError(f"the connection ended: {self._websocket.close_code}")


@pytest.fixture
def database(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int8 primary key, bucket int4)")
        database.execute("create publication shop for all tables")
        yield database


@contextlib.asynccontextmanager
async def writing(database: Database) -> AsyncIterator[Writer]:
    connection = await psycopg.AsyncConnection.connect(database.dsn, autocommit=True)
    async with connection:
        writer = Writer(connection)
        running = asyncio.create_task(writer.run())
        yield writer
        running.cancel()
        await asyncio.wait({running})


async def test_each_membership_gets_its_changes_once_in_order_and_whole(
    database: Database,
) -> None:
    with ServerProcess(database.dsn, PUBLICATIONS='["shop"]') as server:
        server.wait_until_streaming()
        async with asyncio.timeout(DEADLINE), writing(database) as writer:
            async with contextlib.AsyncExitStack() as stack:
                clients = []
                for number in range(SOCKETS):
                    vsn = ("1.0.0", "2.0.0")[number % 2]
                    uri = f"ws://127.0.0.1:{server.port}/socket/websocket?vsn={vsn}"
                    websocket = await stack.enter_async_context(
                        connect(uri, compression=None, proxy=None, open_timeout=None)
                    )
                    clients.append(Client(websocket, vsn, writer, seed=number))
                async with asyncio.TaskGroup() as tasks:
                    for client in clients:
                        tasks.create_task(client.run(JOINS_AND_LEAVES // SOCKETS))
            assert writer.committed >= JOINS_AND_LEAVES // OPERATIONS_FOR_A_CHANGE
            assert sum(client.memberships for client in clients) > JOINS_AND_LEAVES / 2
            assert sum(client.changes for client in clients) > 5 * JOINS_AND_LEAVES / 2
