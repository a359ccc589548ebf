"""The servers that clients come back to, which may be killed and started again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Literal, Self

from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, unique_name

__all__ = ["Servers", "Stop"]

Stop = Literal["kill", "terminate"]


class Servers:
    """Servers of one database, each with a permanent slot of its own; they run inside the block.

    Args:
        database: what they broadcast.
        count: how many.
        seed: of which one a connection goes to.
        environment: more variables.
    """

    def __init__(
        self,
        database: Database,
        *,
        count: int = 1,
        seed: int,
        environment: Mapping[str, str],
    ) -> None:
        self._database = database
        self._environment = environment
        self._slots = [unique_name("slot") for _ in range(count)]
        self._ports = [0] * count
        self._running: dict[int, ServerProcess] = {}
        self._random = random.Random(seed)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._stop_all)
            for which in range(len(self._slots)):
                self._start(which)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._slots)

    def pick(self) -> int:
        """Return the port of one that runs, or of one that does not if none does."""
        return self._ports[self._random.choice([*self._running] or [0])]

    async def stop(self, which: int, how: Stop) -> None:
        """End one, and return when it has ended."""
        server = self._running.pop(which)
        await asyncio.to_thread(server.kill if how == "kill" else server.stop)

    async def start(self, which: int) -> None:
        """Start one again, on its port and its slot; return when it streams."""
        await asyncio.to_thread(self._start, which)

    def _start(self, which: int) -> None:
        server = ServerProcess(
            self._database,
            publications='["changes"]',
            port=self._ports[which],
            SLOT_NAME=self._slots[which],
            **self._environment,
        )
        server.__enter__()
        self._ports[which] = server.port
        self._running[which] = server

    def _stop_all(self) -> None:
        for server in self._running.values():
            server.__exit__(None, None, None)
