"""What a stock client's WebSocket is proven to have received, its application has handled.

Connections are cut at random while rows are written. For each one that has ended, the rows up to
the one that the client's pongs have proven are compared with those that its handlers were given.
REPLAY_CUTS is how many connections of each client are cut, REPLAY_CUTS_SEED says how. Many are cut
in runs of 25, each with the next seed; REPLAY_RESULTS names a file that remembers which have been
(:mod:`tests.e2e.replay.results`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from realtime_server.net.frame_limits import close_within
from realtime_server.phoenix.reasons import CloseReason
from realtime_server.replay.proofs import Proofs
from tests.e2e.browser import Browser, served
from tests.e2e.replay.clients import StockClient, start_page, start_program, until_joined
from tests.e2e.replay.proof_server import Ended, ProofServer
from tests.e2e.replay.results import note_part, skip_if_noted
from tests.e2e.replay.verdict import Row
from tests.e2e.replay.wire import Wire
from tests.waiting import eventually

CUTS = int(os.environ.get("REPLAY_CUTS", "6"))
SEED = int(os.environ.get("REPLAY_CUTS_SEED", "1"))
MOST_IN_A_RUN = 25

PROGRAMS: Final = tuple(os.environ.get("REPLAY_CUTS_CLIENTS", "js js-vsn1 js-1 py").split())
RECONNECT_AFTER: Final = 50
"""Milliseconds. More cuts fit into the time of a test."""
HEARTBEAT: Final = 25_000
"""Milliseconds, as stock clients have it: they do not close their connections by themselves."""
PATIENCE: Final = 40
"""Seconds in which a client that has lost its connection joins again."""
SLOW: Final = 100
"""Milliseconds that handlers take now and then, at most."""
WAYS: Final = {"busy-deflated": (True, True), "idle-plain": (False, False)}
"""Whether clients get changes all the time, and whether these are compressed."""
if "REPLAY_CUTS" in os.environ:
    WAYS.update({"busy-plain": (True, False), "idle-deflated": (False, True)})

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(300 + 10 * CUTS),
]


@pytest.fixture(scope="module")
def page_url(clients: Path) -> Iterator[str]:
    with served(clients) as url:
        yield f"{url}/supabase.html"


class Cutter:
    """Cuts the connections of one client, again and again, and remembers what it has handled.

    Args:
        client: has been started.
        server: that it connects to.
        seed: of when and how.
    """

    def __init__(self, client: StockClient, server: ProofServer, *, seed: int) -> None:
        self._client = client
        self._server = server
        self._random = random.Random(seed)
        self.ways: Counter[str] = Counter()

    @property
    def name(self) -> str:
        return self._client.name

    @property
    def may_stay_away(self) -> bool:
        """Whether it is one of the first generation, which may connect and never join again."""
        return self.name.startswith("js-1")

    @property
    def handled(self) -> set[int]:
        """The rows that the application was given."""
        return {event.id for event in self._client.told if isinstance(event, Row)}

    async def cut(self, count: int) -> None:
        """Cut the client's connection so many times, each time after it has got something."""
        ways = (self._reset, self._reset, self._finish, self._in_a_frame, self._abort, self._close)
        for _ in range(count):
            if not await self.gets(self._server.row + 1):
                assert self.may_stay_away, f"{self.name} gets nothing"
                return
            await asyncio.sleep(self._random.choice((0, 0.05, 0.2, 0.6)) * self._random.random())
            way = self._random.choice(ways)
            ended = self._ended()
            deadline = time.monotonic() + 60
            # It may just be connecting, or be about to close by itself.
            while self._ended() == ended:
                assert time.monotonic() < deadline, f"{way.__name__} does not end {self.name}"
                await way()
                await asyncio.sleep(0.05)
            self.ways[way.__name__] += 1

    async def gets(self, row: int) -> bool:
        """Return whether it handles a row, or a later one, within some time."""
        deadline = time.monotonic() + PATIENCE
        while self._client.highest < row and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            await self._client.look()
        return self._client.highest >= row

    def _ended(self) -> int:
        """How many of its connections have ended."""
        return sum(one.client == self.name for one in self._server.ended)

    # Ways.

    async def _reset(self) -> None:
        """Both ends see that the connection was reset."""
        if (link := self._client.wire.link) is not None:
            link.end("client", "reset")
            link.end("server", "reset")

    async def _finish(self) -> None:
        """Either end sees that the other one closes, or a reset."""
        if (link := self._client.wire.link) is not None:
            link.end("client", self._random.choice(("finish", "reset")))
            link.end("server", self._random.choice(("finish", "reset")))

    async def _in_a_frame(self) -> None:
        """The client gets some bytes more."""
        if (link := self._client.wire.link) is not None:
            link.break_after(self._random.randrange(1, 3000))
            await eventually(lambda: link.is_broken)
            link.end("client", "reset")
            link.end("server", "reset")

    async def _abort(self) -> None:
        """The server drops the connection, as that of a client which is too slow."""
        self._server.connections[self.name].transport.abort()

    async def _close(self) -> None:
        """The server closes the connection, as when it stops."""
        websocket = self._server.connections[self.name]
        reason = CloseReason.RESTART
        await close_within(websocket, reason.code, reason.told(), within=10)


@contextlib.asynccontextmanager
async def stock_clients(
    server: ProofServer, clients: Path, python: Path, browser: Browser, page_url: str
) -> AsyncIterator[list[StockClient]]:
    """Yield clients that have been told to join: programs, and one in a page."""
    options = {"slow": SLOW, "heartbeatIntervalMs": HEARTBEAT}
    async with contextlib.AsyncExitStack() as stack:
        makers: list[Callable[[], StockClient]] = []
        for number, name in enumerate(PROGRAMS):
            wire = await stack.enter_async_context(await wired(server, f"{name} {number}"))
            # The first generation waits as long for the reply to a join.
            options["reconnectAfter"] = 0 if name == "js-1" else RECONNECT_AFTER
            program, make = start_program(
                name, number, wire, "session", folder=clients, python=python, **options
            )
            stack.enter_context(program)
            makers.append(make)
        wire = await stack.enter_async_context(await wired(server, "chromium"))
        page = stack.enter_context(browser.page(page_url))
        page_client = await asyncio.to_thread(
            start_page,
            page,
            wire,
            reconnectAfter=RECONNECT_AFTER,
            heartbeatIntervalMs=HEARTBEAT,
        )
        found = [*(make() for make in makers), page_client]
        names = (*(f"{name} {number}" for number, name in enumerate(PROGRAMS)), "chromium")
        for client, name in zip(found, names, strict=True):
            client.name = name
        yield found


async def wired(server: ProofServer, client: str) -> Wire:
    port = await server.listen(client)
    return Wire(lambda: port)


def not_handled(ended: Ended, handled: set[int], until: int) -> list[int]:
    """Return the rows that were written to a connection up to one, and not handled."""
    return [row for row in range(ended.joined_after + 1, until + 1) if row not in handled]


def counts_of(all_ended: Sequence[Ended], cutter: Cutter) -> dict[str, int]:
    """Return what was counted of the connections of a client that have ended."""
    handled, ended = cutter.handled, [one for one in all_ended if one.client == cutter.name]
    return {
        "connections": len(ended),
        "lost something": sum(bool(not_handled(one, handled, one.last)) for one in ended),
        "proved something": sum(one.proven > one.joined_after for one in ended),
        "proven and not handled": sum(len(not_handled(one, handled, one.proven)) for one in ended),
    }


def judge(all_ended: Sequence[Ended], cutter: Cutter) -> None:
    """Compare what was proven on a client's connections with what it has handled."""
    print(f"{cutter.name}: {counts_of(all_ended, cutter)}, {dict(cutter.ways)}")
    ended = [one for one in all_ended if one.client == cutter.name]
    bad = {one: rows for one in ended if (rows := not_handled(one, cutter.handled, one.proven))}
    assert bad == {}


@pytest.mark.parametrize(("is_busy", "is_deflated"), WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("run", range(-(-CUTS // MOST_IN_A_RUN)))
async def test_what_is_proven_is_handled(
    run: int,
    is_deflated: bool,
    is_busy: bool,
    clients: Path,
    python_client: Path,
    browser: Browser,
    page_url: str,
) -> None:
    seed = SEED + run
    count = min(MOST_IN_A_RUN, CUTS - run * MOST_IN_A_RUN)
    count = count if is_busy else max(count // 5, 1)
    print(f"REPLAY_CUTS={count} REPLAY_CUTS_SEED={seed}")
    part = {"kind": "cuts", "seed": seed, "count": count}
    part |= {"is_busy": is_busy, "is_deflated": is_deflated}
    skip_if_noted(**part)
    proofs = Proofs(interval=0.1, clock=time.monotonic)
    async with ProofServer(
        proofs, websocket_compression=is_deflated, allowed_origins=(origin_of(page_url),)
    ) as server:
        server.is_busy = is_busy
        async with stock_clients(server, clients, python_client, browser, page_url) as found:
            await until_joined(found, within=60)
            server.write_rows(seed)
            cutters = [Cutter(one, server, seed=100 * seed + at) for at, one in enumerate(found)]
            async with asyncio.TaskGroup() as group:
                for cutter in cutters:
                    group.create_task(cutter.cut(count))
            # Then each has handled all that came before.
            last = server.row + 1
            for cutter in cutters:
                assert await cutter.gets(last) or cutter.may_stay_away, f"{cutter.name} is behind"
            note_part({one.name: counts_of(server.ended, one) for one in cutters}, **part)
            for cutter in cutters:
                judge(server.ended, cutter)
            # Something was there to be found.
            assert any(not_handled(one, set(), one.last) for one in server.ended)


async def test_a_busy_page_that_closes_its_connection_by_itself_has_what_counts_as_proven(
    browser: Browser, page_url: str
) -> None:
    """The browser answers pings for a page that is far behind, and the page closes the connection
    when a heartbeat had no reply: what comes then is dropped."""
    print(f"REPLAY_CUTS={CUTS} REPLAY_CUTS_SEED={SEED}")
    chance = random.Random(SEED)
    # Its heartbeats come so often that they count.
    proofs = Proofs(interval=0.05, clock=time.monotonic, apart=0.1)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            ProofServer(proofs, allowed_origins=(origin_of(page_url),))
        )
        wire = await stack.enter_async_context(await wired(server, "chromium"))
        page = stack.enter_context(browser.page(page_url))
        client = await asyncio.to_thread(
            start_page, page, wire, reconnectAfter=RECONNECT_AFTER, heartbeatIntervalMs=400
        )
        client.name = "chromium"
        await until_joined([client], within=60)
        await client.stay_busy(300)
        server.write_rows(SEED)
        cutter = Cutter(client, server, seed=SEED)
        for _ in range(max(CUTS // 4, 1)):
            ended = len(server.ended)
            assert await cutter.gets(server.row + 1)
            await asyncio.sleep(chance.uniform(0, 2))
            while len(server.ended) == ended:
                # A heartbeat's reply, and rows, come too late, or just in time.
                if (link := wire.link) is not None:
                    link.hold("client")
                    await asyncio.sleep(chance.uniform(0.3, 1.2))
                    link.flow()
                await asyncio.sleep(chance.uniform(0, 0.2))
        assert await cutter.gets(server.row + 1)
        assert any(one.close_codes[1] is not None for one in server.ended)
        judge(server.ended, cutter)


def origin_of(url: str) -> str:
    return url.removesuffix("/supabase.html")
