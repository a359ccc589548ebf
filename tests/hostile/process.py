"""HostileProcess: attackers in a process of their own.

    python -m tests.hostile PORT [ATTACK ...]

It says "ready" when all of them are at it, goes on until its input ends, and then says how
often each did what it does, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from tests.hostile import joins, sockets

__all__ = ["ATTACKS", "HostileProcess", "main"]

Attack: TypeAlias = Callable[[int], Awaitable[None]]

PAUSE: Final = 0.05
"""Seconds between two attempts of one client: who is cut off comes back, and not at once."""

# Each with how many clients do it.
_CLIENTS: Final[dict[Attack, int]] = {
    sockets.half_open: 1000,
    sockets.slow_handshake: 10,
    sockets.reconnect_storm: 20,
    sockets.forged_handshake: 10,
    sockets.http_flood: 2,
    sockets.giant_frame: 2,
    sockets.deflate_bomb: 2,
    sockets.heartbeat_flood: 2,
    sockets.ping_flood: 2,
    sockets.fragment_flood: 1,
    sockets.unmatched_events: 2,
    sockets.deaf: 2,
    sockets.deaf_to_large_rows: 120,
    sockets.slow_reader: 20,
    sockets.invalid_utf8: 2,
    sockets.binary_frame: 2,
    sockets.no_frame: 2,
    sockets.large_post: 1,
    joins.join_flood: 2,
    joins.many_channels: 10,
    joins.large_regexes: 2,
    joins.many_conditions: 2,
    joins.long_lists: 2,
    joins.many_problems: 2,
    joins.long_topics: 2,
    joins.refusals: 2,
    joins.unknown_tables: 2,
    joins.regexes_on_long_values: 5,
    joins.like_on_long_values: 5,
    joins.many_tokens: 2,
    joins.forged_tokens: 2,
    joins.slow_policy: 2,
    joins.hanging_policy: 2,
    joins.raising_policy: 2,
    joins.viewers_that_hang: 4,
}
ATTACKS: Final = {attack.__name__: attack for attack in _CLIENTS}

TOGETHER: Final = (
    "half_open",
    "slow_handshake",
    "giant_frame",
    "join_flood",
    "large_regexes",
    "many_conditions",
    "long_lists",
    "many_problems",
    "long_topics",
    "refusals",
    "heartbeat_flood",
    "ping_flood",
    "fragment_flood",
    "unmatched_events",
    "deaf",
    "invalid_utf8",
    "binary_frame",
    "no_frame",
    "large_post",
)
"""What is tried where none is named: what asks nothing of the server's database and settings."""


class HostileProcess:
    """Attackers at a server on this machine.

    Args:
        port: of the server.
        attacks: names of :data:`ATTACKS`; none: :data:`TOGETHER`.
        nice: by how much others go first when they want the processor.
        share: of a processor that it takes on average; it waits before its next attempt when
            it had more.
    """

    def __init__(self, port: int, *attacks: str, nice: int = 0, share: float = 2.0) -> None:
        self._arguments = [str(port), *attacks, f"--nice={nice}", f"--share={share}"]
        self.attempts: dict[str, int] = {}
        """How often each kind of attacker did what it does; known at the end."""
        self.cpu_time = 0.0
        """Seconds of processor time that they took; known at the end."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        out, _ = self._process.communicate(timeout=30)
        said: dict[str, Any] = json.loads(out)
        self.attempts, self.cpu_time = said["attempts"], said["cpu_time"]


class _Throttle:
    """Keeps this process's share of a processor."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._began = time.monotonic()
        self._used = time.process_time()

    async def wait(self) -> None:
        used = time.process_time() - self._used
        await asyncio.sleep(max(used / self._share - (time.monotonic() - self._began), PAUSE))


async def attack(port: int, names: list[str], share: float) -> None:
    """Go on until the input ends."""
    attempts: Counter[str] = Counter()
    began = asyncio.Event()
    throttle = _Throttle(share)
    attackers = [each for each in map(ATTACKS.__getitem__, names) for _ in range(_CLIENTS[each])]

    async def again_and_again(one: Attack) -> None:
        while True:
            attempts[one.__name__] += 1
            if attempts.total() >= len(attackers):
                began.set()
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await one(port)
            await throttle.wait()

    tasks = [asyncio.create_task(again_and_again(one)) for one in attackers]
    await began.wait()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    print(json.dumps({"attempts": attempts, "cpu_time": time.process_time()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=inspect.getdoc(HostileProcess))
    parser.add_argument("port", type=int)
    parser.add_argument("attacks", nargs="*", metavar="attack", help=", ".join(ATTACKS))
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--share", type=float, default=2.0)
    arguments = parser.parse_args()
    if unknown := set(arguments.attacks) - set(ATTACKS):
        parser.error(f"there is no attack {', '.join(sorted(unknown))}")
    os.nice(arguments.nice)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    asyncio.run(attack(arguments.port, arguments.attacks or list(TOGETHER), arguments.share))
