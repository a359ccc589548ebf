"""Attacks by joins and tokens, of those who may join. Each function is one attempt."""

from __future__ import annotations

import asyncio
import contextlib

from tests.hostile.wire import (
    flood,
    frame,
    join,
    message,
    new_token,
    until_closed,
    websocket,
)

__all__ = [
    "forged_tokens",
    "hanging_policy",
    "join_flood",
    "large_regexes",
    "like_on_long_values",
    "long_lists",
    "long_topics",
    "many_channels",
    "many_conditions",
    "many_problems",
    "many_tokens",
    "raising_policy",
    "refusals",
    "regexes_on_long_values",
    "slow_policy",
    "unknown_tables",
    "viewers_that_hang",
]

_APART = 0.3
"""Seconds between two long joins: each counts as some hundred of the thousand a second."""


async def join_flood(port: int) -> None:
    """Join one topic after the other, and read the answers."""
    joins = b"".join(
        frame(b'{"topic":"realtime:x:y%d","event":"phx_join","payload":{},"ref":"1"}' % number)
        for number in range(5000)
    )
    await flood(port, joins)


async def many_channels(port: int) -> None:
    """Join as many topics as may be, and stay."""
    joins = b"".join(join(topic=f"realtime:public:item:id=eq.{number}") for number in range(1000))
    await _stay(port, joins)


async def large_regexes(port: int) -> None:
    """Join with a hundred patterns, each of which is large for RE2."""
    await flood(port, join([rf'data=match."\\w{{90}}{number}"' for number in range(100)]) * 50)


async def many_conditions(port: int) -> None:
    """Join with as many conditions as a join may have, and again."""
    filters = [
        ",".join(f"data=not.like.*{place}x{number}*" for number in range(50)) for place in range(10)
    ]
    joins = (join(filters, topic=f"realtime:room{number}") for number in range(60))
    await flood(port, b"".join(joins))


async def long_lists(port: int) -> None:
    """Join with a list of what is no binding: 120,000 in a quarter of a megabyte."""
    await flood(port, join(bindings=[1] * 120_000) * 10)


async def many_problems(port: int) -> None:
    """Join with bindings of which each has all members wrong."""
    wrong = {"event": 1, "schema": 2, "table": 3, "filter": 4, "select": 5, "leaves": 6}
    joins = join(bindings=[wrong] * 2_500) + join(bindings=[{"select": [1] * 1600}] * 30)
    await flood(port, joins * 10)


async def long_topics(port: int) -> None:
    """Join topics whose filters are none."""
    topics = (f"realtime:public:todos:{number:04}{'x' * 4000}" for number in range(500))
    await flood(port, b"".join(join(topic=topic) for topic in topics))


async def refusals(port: int) -> None:
    """Have as much refused as there is time for, each for another reason that the log quotes."""
    joins = (join([f"{'x' * 900}{number}=nosuch.1"]) for number in range(5000))
    await flood(port, b"".join(joins))


async def unknown_tables(port: int) -> None:
    """Join with filters on tables that there are not."""
    joins = (
        join(["id=eq.1", "name=like.*x*"], topic=f"realtime:room{number}", table=f"no{number}")
        for number in range(1000)
    )
    await _stay(port, b"".join(joins))


async def regexes_on_long_values(port: int) -> None:
    """Join a table of large rows with the dearest patterns that are taken, and stay."""
    filters = [rf"data=match.(a|b)*{number}.*yz" for number in range(40)]
    parts = (filters[start : start + 10] for start in range(0, 40, 10))
    joins = (
        join(part, topic=f"realtime:room{number}", table="large")
        for number, part in enumerate(parts)
    )
    await _stay(port, *joins)


async def like_on_long_values(port: int) -> None:
    """Join a table of large rows with thousands of conditions on their text, and stay."""
    filters = [
        ",".join(f"data=not.like.*x*{place}x{number}*" for number in range(25))
        for place in range(100)
    ]
    parts = (filters[start : start + 10] for start in range(0, 100, 10))
    joins = (
        join(part, topic=f"realtime:room{number}", table="large")
        for number, part in enumerate(parts)
    )
    await _stay(port, *joins)


async def many_tokens(port: int) -> None:
    """Have a channel joined in another name with each message."""
    joined = join(["id=gt.0"])
    tokens = (
        message("realtime:room", "access_token", {"access_token": new_token()}) for _ in range(300)
    )
    await _stay(port, joined + b"".join(tokens))


async def forged_tokens(port: int) -> None:
    """Join, and join, with tokens that nobody signed."""
    token = new_token()[:-4]
    joins = (
        join(["id=gt.0"], topic=f"realtime:room{number}", access_token=f"{token}{number:04}")
        for number in range(3000)
    )
    await flood(port, b"".join(joins))


# Those whose policies take time or fail, where row level security is asked for.


async def slow_policy(port: int) -> None:
    await _listen(port, role="slow")


async def hanging_policy(port: int) -> None:
    await _listen(port, role="hanging")


async def raising_policy(port: int) -> None:
    await _listen(port, role="raising")


async def viewers_that_hang(port: int) -> None:
    """Come again with another token as soon as the last one was found out."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await _listen(port, role="hanging")


async def _listen(port: int, role: str) -> None:
    """Listen to the table that all listen to, with new claims of a role."""
    await _stay(port, join(topic="realtime:public:item"), token=new_token(role))


async def _stay(port: int, *joins: bytes, token: str | None = None) -> None:
    """Join, several times no faster than long joins may come, send heartbeats, and read."""
    async with websocket(port, **({} if token is None else {"token": token})) as (reader, writer):
        for each in joins:
            writer.write(each)
            if len(joins) > 1:
                await asyncio.sleep(_APART)
        closed = asyncio.ensure_future(until_closed(reader))
        while not closed.done():
            await asyncio.wait({closed}, timeout=5)
            writer.write(message("phoenix", "heartbeat", {}))
