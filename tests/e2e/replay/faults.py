"""The faults: what may break, drawn at random from a seed, and how each is made."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Final

from tests.e2e.replay.clients import StockClient
from tests.e2e.replay.wire import End, Link
from tests.waiting import eventually

__all__ = ["CLIENT_FAULTS", "Fault", "draw"]

_ENDS: Final[tuple[tuple[End, End], ...]] = (
    # What the client is told of its end, and what the server is told. A server that is told
    # nothing has a half-open connection, until its pings have had no answer.
    ("reset", "reset"),
    ("finish", "finish"),
    ("reset", "finish"),
    ("finish", "reset"),
    ("reset", "nothing"),
    ("finish", "nothing"),
)
_LATE: Final = 4.0
"""Seconds after which a client is told of the end that the server was told of at once."""


async def cut(client: StockClient, link: Link, chance: random.Random) -> None:
    """Break the connection; both sides are told, or the client alone."""
    _end(link, chance)


async def cut_in_a_frame(client: StockClient, link: Link, chance: random.Random) -> None:
    """Break it when some more bytes have gone to the client."""
    link.break_after(chance.randrange(1, 3000))
    await eventually(lambda: link.is_broken)
    _end(link, chance)


async def cut_at_the_server(client: StockClient, link: Link, chance: random.Random) -> None:
    """Break it; the server is told, and the client notices by its heartbeat, or is told later."""
    link.end("server", chance.choice(("reset", "finish")))
    await asyncio.sleep(chance.uniform(0.5, _LATE))
    link.end("client", "reset")


async def black_hole(client: StockClient, link: Link, chance: random.Random) -> None:
    """Let nothing pass; nobody is told before the client has had time to notice."""
    link.break_()
    await asyncio.sleep(chance.uniform(1, 1.5 * _LATE))
    link.end("client", "reset")
    link.end("server", chance.choice(("reset", "nothing")))


async def hold(client: StockClient, link: Link, chance: random.Random) -> None:
    """Hold back what the server sends until the client may have closed by itself, then pass it."""
    link.hold("client")
    await asyncio.sleep(chance.uniform(0.2, 1.5 * _LATE))
    link.flow()


async def hold_and_cut(client: StockClient, link: Link, chance: random.Random) -> None:
    """Hold back what both send for a while, pass it, and break the connection at once."""
    link.hold("client")
    link.hold("server")
    await asyncio.sleep(chance.uniform(0.2, 2))
    link.flow()
    await asyncio.sleep(chance.uniform(0, 0.05))
    _end(link, chance)


async def sleep(client: StockClient, link: Link, chance: random.Random) -> None:
    """Stop the client, as when a laptop's lid is closed, and break its connection meanwhile."""
    await client.stop()
    try:
        await asyncio.sleep(chance.uniform(0, 1))
        _end(link, chance)
        await asyncio.sleep(chance.uniform(0, 1))
    finally:
        await client.go()


async def join_again(client: StockClient, link: Link, chance: random.Random) -> None:
    """Have the client join again on the connection that it has."""
    link.inject(client.channel_error)


def _end(link: Link, chance: random.Random) -> None:
    of_client, of_server = chance.choice(_ENDS)
    link.end("client", of_client)
    link.end("server", of_server)


ClientFault = Callable[[StockClient, Link, random.Random], Coroutine[None, None, None]]

CLIENT_FAULTS: Final[tuple[ClientFault, ...]] = (
    cut,
    cut,
    cut,
    cut_in_a_frame,
    cut_at_the_server,
    black_hole,
    hold,
    hold_and_cut,
    sleep,
    join_again,
)


@dataclass(frozen=True)
class Fault:
    """One fault of some clients' connections, all at once."""

    make: ClientFault
    clients: Sequence[StockClient]
    seed: int

    def __str__(self) -> str:
        names = ", ".join(client.name for client in self.clients)
        return f"{self.make.__name__}: {names}"

    async def happen(self) -> None:
        chance = random.Random(self.seed)
        async with asyncio.TaskGroup() as group:
            for client in self.clients:
                # One that is just connecting has none.
                if (link := client.wire.link) is not None:
                    group.create_task(self.make(client, link, random.Random(chance.random())))


def draw(chance: random.Random, clients: Sequence[StockClient]) -> Fault:
    """Draw a fault: of one client half of the time, of some, or of all."""
    count = chance.choice((1, 1, 1, 2, 3, len(clients)))
    hit = chance.sample(list(clients), min(count, len(clients)))
    return Fault(chance.choice(CLIENT_FAULTS), hit, chance.getrandbits(32))
