"""One run: clients, a writer, faults, and what each client missed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from tests.e2e.replay.clients import StockClient, until_joined
from tests.e2e.replay.faults import draw
from tests.e2e.replay.passed import REPEATED_FOR_NOTHING, repetitions
from tests.e2e.replay.rows import Writer
from tests.e2e.replay.servers import Servers
from tests.e2e.replay.verdict import Row, Told, Verdict, judge
from tests.waiting import eventually

__all__ = ["Run"]

_BETWEEN = (0.3, 2.0)
"""Seconds between two faults."""
_PATIENCE = 120.0
"""Seconds that clients have to come back when all is well again."""
_LONGEST_REJOIN = 25.0
"""Seconds after which one that does not always join again will not: its longest pause is 10."""


class Run:
    """One run.

    Args:
        servers: are running.
        clients: have been started, and were told to join.
        seed: of everything that is drawn.
    """

    def __init__(self, servers: Servers, clients: Sequence[StockClient], *, seed: int) -> None:
        self._servers = servers
        self._clients = clients
        self._random = random.Random(seed)
        self._begin = time.monotonic()
        self._kills: list[float] = []

    @contextlib.asynccontextmanager
    async def rows(self, writer: Writer) -> AsyncIterator[None]:
        """Write rows inside the block, and at its end until every client is well again."""
        await until_joined(self._clients, within=_PATIENCE)
        async with writer:
            yield
            for client in self._clients:
                client.wire.forget()
            self._last = writer.written.last
            await self._until_all_is_seen(writer)
        self._written = writer.written

    async def faults(self, count: int, *, server_faults: float = 0) -> None:
        """Break things, one after the other, while rows are written.

        Args:
            count: of the faults.
            server_faults: which part of them is a server that is killed or stopped.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                await asyncio.sleep(self._random.uniform(*_BETWEEN))
                if self._random.random() < server_faults:
                    await self._break_server(number)
                    continue
                fault = draw(self._random, self._clients)
                self._say(f"{number}: {fault}")
                group.create_task(fault.happen())

    async def restarts(self, count: int) -> None:
        """Stop the server and start it again, so many times, when every client has a new row."""
        for number in range(count):
            await self._until_all_have_new_rows()
            self._say(f"{number}: restart")
            await self._servers.stop(0, "terminate")
            await self._servers.start(0)
        await self._until_all_have_new_rows()

    async def lose_a_message(self, client: StockClient) -> None:
        """Lose one message on the way to a client, of which nobody can know."""
        await self._until_all_have_new_rows()
        link = client.wire.link
        assert link is not None
        link.drop(b"postgres_changes")
        await eventually(lambda: not link.will_drop)
        await self._until_all_have_new_rows()

    def said(self) -> str:
        """Return what the servers have logged."""
        return self._servers.said()

    def verdicts(self) -> dict[str, Verdict]:
        """Return what each client missed, by its name."""
        return {
            client.name: judge(
                client.told,
                self._written,
                last=self._last,
                is_named=client.is_named,
                comes_back=client.comes_back,
                may_see=client.may_see,
            )
            for client in self._clients
        }

    def told_before(self, name: str, row: int) -> list[Told]:
        """Return what a client was told between the last row before one and the next row behind
        it."""
        (client,) = (one for one in self._clients if one.name == name)
        told: list[Told] = []
        is_behind = False
        for event in client.told:
            if isinstance(event, Row):
                if event.id > row and is_behind:
                    return [*told, event]
                if event.id < row:
                    told, is_behind = [event], True
            else:
                told.append(event)
        return told

    def repetitions(self) -> dict[str, Counter[str]]:
        """Return how many rows were passed again to each client, by the reason; print when those
        were proven that have none."""
        found = {}
        for client in self._clients:
            rows = repetitions(client.wire.passed, self._kills)
            found[client.name] = Counter(one.reason for one in rows)
            times = Counter(
                (self._seconds(one.proven), self._seconds(one.former.ended))
                for one in rows
                if one.reason == REPEATED_FOR_NOTHING
            )
            for (proven, ended), count in times.items():
                print(f"{client.name}: {count} again, proven {proven}, ended {ended}")
        return found

    def repeated_after_stops(self) -> dict[str, Counter[str]]:
        """Return the same of those rows that were passed on a connection which its client had not
        closed by itself, as for a heartbeat that was not answered, and whose join was answered in
        time. At least one client has answered the server's close frame."""
        passed = [connection for client in self._clients for connection in client.wire.passed]
        assert any(connection.has_answered_close for connection in passed)
        return {
            client.name: Counter(
                one.reason
                for one in repetitions(client.wire.passed, self._kills)
                if not (one.former.is_closed_by_client or one.former.is_late)
            )
            for client in self._clients
        }

    def _seconds(self, at: float | None) -> str:
        """Return a time as faults are printed with it."""
        return "never" if at is None else f"{at - self._begin:.1f} s"

    async def _break_server(self, number: int) -> None:
        which = self._random.randrange(len(self._servers))
        how = self._random.choice(self._servers.ways)
        broken = self._random.choice(((), (), self._clients))
        self._say(f"{number}: {how} server {which}, {len(broken)} connections broken before")
        for client in broken:
            # It does not hear of the server's end.
            if (link := client.wire.link) is not None:
                link.break_()
        await asyncio.sleep(self._random.uniform(0, 0.5) if broken else 0)
        if how.startswith("kill"):
            self._kills.append(time.monotonic())
        await self._servers.stop(which, how)
        self._say(f"{number}: it has ended")
        await self._servers.start(which)
        self._say(f"{number}: it has started")
        for client in broken:
            client.wire.forget()

    async def _until_all_have_new_rows(self) -> None:
        former = {client: client.highest for client in self._clients}
        async with asyncio.timeout(_PATIENCE):
            while not all(client.highest > highest for client, highest in former.items()):
                await self._look()

    async def _until_all_is_seen(self, writer: Writer) -> None:
        """Wait until each has seen a row behind the last that counts, or has lost its chance."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                begin = time.monotonic()
                while writer.is_writing:
                    await self._look()
                    waiting = [one for one in self._clients if one.highest <= self._last]
                    if time.monotonic() > begin + _LONGEST_REJOIN:
                        waiting = [one for one in waiting if one.is_joined or one.comes_back]
                    if not waiting:
                        return

    async def _look(self) -> None:
        for client in self._clients:
            await client.look()
        await asyncio.sleep(0.02)

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begin:7.1f} s  {text}", flush=True)
