"""The servers that clients come back to, which may be killed and started again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Final, Literal, Self

from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database, unique_name
from tests.server_process import worker_pids
from tests.waiting import eventually_sync

__all__ = ["Servers", "Stop"]

Stop = Literal["kill", "terminate", "kill a worker of", "stall"]

_PATIENCE: Final = 90.0
"""Seconds that a server may take to be ready."""
_LONGEST_STALL: Final = 14.0
"""Seconds. Stock clients wait ten for the answer to a join."""


class Servers:
    """Servers of one database; they run inside the block.

    Args:
        database: what they broadcast.
        count: how many, each with a permanent slot of its own, or with one that they share.
        nats_url: of NATS, with the log of servers that share a slot; empty: they share none.
        has_standby: whether one more waits for the slot of the first, and is the one that
            connections go to when it has it.
        workers: how many processes each is.
        seed: of which server a connection goes to.
        environment: more variables.
    """

    def __init__(
        self,
        database: Database,
        *,
        count: int = 1,
        nats_url: str = "",
        has_standby: bool = False,
        workers: int = 1,
        seed: int,
        environment: Mapping[str, str],
    ) -> None:
        self._database = database
        self._environment = {**environment, "WORKERS": str(workers)}
        self.ways: Sequence[Stop] = ("kill", "terminate")
        """How one may be stopped."""
        if workers > 1:
            self.ways = (*self.ways, "kill a worker of")
        self._slots = [unique_name("slot") for _ in range(count)]
        self._shares_log = bool(nats_url)
        if nats_url:
            self._slots = self._slots[:1] * count
            self._environment["NATS_URL"] = nats_url
        if has_standby:
            self._slots.append(self._slots[0])
        self._has_standby = has_standby
        self._ports = [0] * len(self._slots)
        self._running: dict[int, ServerProcess] = {}
        self._random = random.Random(seed)
        self._stack = ExitStack()
        self._logs: list[list[str]] = []

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

    def said(self) -> str:
        """Return what each has logged, one after the other."""
        return "".join(line for log in self._logs for line in log)

    def pick(self) -> int:
        """Return the port of one that serves, or of one that does not run if none does."""
        serving = [*self._running][: 1 if self._has_standby else None]
        return self._ports[self._random.choice(serving or [0])]

    async def stop(self, which: int, how: Stop) -> None:
        """End one, or a worker of it, and return when it has ended, and its standby streams.

        Or have it do nothing for a while, as on a machine that has no time for it, and return then.
        """
        if how == "stall":
            pid = self._running[which].pid
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(self._random.uniform(0, _LONGEST_STALL))
            os.kill(pid, signal.SIGCONT)
            return
        if how == "kill a worker of":
            self._kill_worker(self._running[which].pid)
            return
        server = self._running.pop(which)
        await asyncio.to_thread(server.kill if how == "kill" else server.stop)
        if self._has_standby:
            (other,) = self._running.values()
            await asyncio.to_thread(other.wait_for_log, "streaming from database")

    async def start(self, which: int) -> None:
        """Start one again, on its port; return when it is ready, or waits for the slot.

        A worker is started by its server.
        """
        if which not in self._running:
            await asyncio.to_thread(self._start, which)

    def _start(self, which: int) -> None:
        # The first that runs has the slot.
        is_standby = self._has_standby and bool(self._running)
        server = ServerProcess(
            self._database,
            publications='["changes"]',
            port=self._ports[which],
            streaming=not (is_standby or self._shares_log),
            SLOT_NAME=self._slots[which],
            REPLAY_WAL_MB="1024",
            REPLAY_SECRET="the same for all servers".ljust(32, "."),
            **self._environment,
        )
        server.__enter__()
        self._logs.append(server.log)
        if is_standby:
            server.wait_for_log("waiting until it is free")
        if self._shares_log:
            eventually_sync(partial(_is_ready, server.port), within=_PATIENCE)
        self._ports[which] = server.port
        self._running[which] = server

    def _kill_worker(self, pid: int) -> None:
        if workers := worker_pids(pid):
            os.kill(self._random.choice(workers), signal.SIGKILL)

    def _stop_all(self) -> None:
        for server in self._running.values():
            server.__exit__(None, None, None)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
