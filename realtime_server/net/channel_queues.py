"""ChannelQueues: what one client sends to channels that wait for an answer of the database.

Policies of private channels, and a database that does not answer, take their time. What the client
sends to its other channels is carried out meanwhile, while what it sends to the same channel
waits: so each channel's messages are carried out in the order in which they were sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

__all__ = ["ChannelQueues"]

logger = logging.getLogger("realtime.connection")

MAX_HELD: Final = 1024 * 1024
"""Characters and bytes of messages that wait, for an answer or for those before them; with more the
client is read no further."""
_EACH: Final = 256
"""Characters that a message counts at least."""
_AT_ONCE: Final = 8
"""Channels of one client about which the database is asked at the same time."""

_Work = Callable[[], Awaitable[object]]


class ChannelQueues:
    """The channels of one connection that wait, and their further messages.

    Args:
        carry_out: carries out a message whose turn has come.
        fail: ends the connection, after a defect of the server.
    """

    __slots__ = ("_at_once", "_carry_out", "_fail", "_held", "_size", "_tasks")

    def __init__(self, carry_out: Callable[[str | bytes], Awaitable[object]], fail: _Work) -> None:
        self._carry_out = carry_out
        self._fail = fail
        # The messages that wait, by the topic of a channel that waits.
        self._held: dict[str, deque[str | bytes]] = {}
        self._size = 0
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, topic: str) -> bool:
        """Return whether messages to a topic have to wait."""
        return topic in self._held

    async def begin(self, topic: str, work: _Work, data: str | bytes) -> None:
        """Do what may take its time, because of a message; messages to the topic wait until it is
        done, and the client too, while too many do."""
        self._held[topic] = deque()
        size = max(len(data), _EACH)
        self._size += size
        task = asyncio.create_task(self._run(topic, work, size))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await self._room()

    async def put(self, topic: str, data: str | bytes) -> None:
        """Have a message to a topic wait, and the client too, while too many do."""
        self._held[topic].append(data)
        self._size += max(len(data), _EACH)
        await self._room()

    async def _room(self) -> None:
        while self._size > MAX_HELD and self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def aclose(self) -> None:
        """Wait for what has begun, as the connection has ended: the database is asked for a
        bounded time."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        # Else they would refer to each other, and stay until a collection of garbage.
        del self._carry_out, self._fail

    async def _run(self, topic: str, work: _Work, size: int) -> None:
        held = self._held[topic]
        try:
            async with self._at_once:
                await work()
                self._size -= size
                size = 0
                while held:
                    # Others have their turn, and what was published is written.
                    await asyncio.sleep(0)
                    data = held.popleft()
                    self._size -= max(len(data), _EACH)
                    await self._carry_out(data)
        except Exception:
            logger.exception("a message failed (a bug in realtime_server: please report it)")
            await self._fail()
        finally:
            self._size -= size + sum(max(len(data), _EACH) for data in held)
            del self._held[topic]
