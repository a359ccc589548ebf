"""The load clients and the floor: programs in C, compiled when a benchmark begins."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any, Self

__all__ = ["Client", "Floor", "Joiner", "LineProgram", "compile_programs", "cpu_time"]

_SOURCES = Path(__file__).parent
_PATIENCE = 300.0
"""Seconds after which what should have happened will not: ten thousand join on a busy machine."""


def compile_programs(directory: Path) -> None:
    """Compile all into ``directory``, or end with what is missing."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("the load clients are written in C: install gcc, or set CC to a compiler")
    for name in ("client", "floor", "joins", "presence"):
        source, program = _SOURCES / f"{name}.c", directory / name
        subprocess.run([compiler, "-O2", "-o", program, source], check=True)


def cpu_time(pid: int) -> float:
    """Seconds of processor time that a process has used, in user and system mode."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


class LineProgram:
    """A program that is told a line and answers with a line."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def _start(cls, *arguments: object, **environment: str) -> Self:
        # A line of figures is short.
        return cls(
            await asyncio.create_subprocess_exec(
                *map(str, arguments), stdin=PIPE, stdout=PIPE, env={**os.environ, **environment}
            )
        )

    async def _told(self, *line: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, line)).encode() + b"\n")
        await self._process.stdin.drain()

    async def _line(self, within: float = _PATIENCE) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(within):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a program ended with {await self._process.wait()}")
        return line.decode().strip()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class Client(LineProgram):
    """Many connections of one thread, joined."""

    @classmethod
    async def join(cls, directory: Path, port: int, count: int, topic: str, **options: int) -> Self:
        """Connect ``count`` times and wait until all have joined. Options: see client.c."""
        client = await cls._start(
            directory / "client", port, count, topic, *(f"{n}={v}" for n, v in options.items())
        )
        assert await client._line() == "joined 0"
        return client

    async def expect(self, changes: int) -> None:
        """Begin to wait until each connection has got that many more."""
        await self._told("expect", changes)
        assert await self._line() == "expecting"

    async def arrived(self, within: float = _PATIENCE) -> float:
        """Wait for what is expected; return how long it took, in seconds.

        Raises:
            RuntimeError: if the server closes a connection before it has got everything.
        """
        word, number = (await self._line(within)).split()
        if word == "closed":
            raise RuntimeError(
                f"the server closed {number} of the client's connections before they had got"
                " everything; its log says why"
            )
        assert word == "done"
        return float(number) / 1e6

    async def discard(self, on: bool) -> None:
        """Look from now on into no change that comes, or do so again."""
        await self._told("discard", int(on))
        assert await self._line() == "so"

    async def cut(self) -> None:
        """Break all connections."""
        await self._told("cut")
        assert await self._line() == "cut"

    async def leave(self) -> None:
        """Close all connections, as pages do that go."""
        await self._told("leave")
        assert await self._line() == "left"

    async def back(self, changes: int) -> float:
        """Connect and join again, and begin to wait until each connection has got so many changes;
        return how long it took until all had joined, in seconds."""
        await self._told("back", changes)
        word, microseconds = (await self._line()).split()
        assert word == "joined"
        return float(microseconds) / 1e6

    async def report(self) -> dict[str, Any]:
        """Return what came since the last report."""
        await self._told("report")
        result: dict[str, Any] = json.loads(await self._line())
        if result["disorder"]:
            raise RuntimeError(f"changes are missing, twice there, or out of order: {result}")
        return result


class Floor(LineProgram):
    """A loop that writes frames to sockets."""

    @classmethod
    async def start(cls, directory: Path, connections: int, frame_bytes: int) -> tuple[Self, int]:
        """Return it and its port."""
        floor = await cls._start(directory / "floor", connections, frame_bytes)
        return floor, int(await floor._line())

    async def ready(self) -> None:
        assert await self._line() == "ready"

    async def write(self, frames: int) -> None:
        """Write to every connection."""
        await self._told("write", frames)
        assert await self._line() == "written"


class Joiner(LineProgram):
    """Connections that are open, and join when they are told to."""

    @classmethod
    async def open(
        cls, directory: Path, port: int, connections: int, at_once: int, joins: bytes, apikey: str
    ) -> Self:
        """Connect. What the arguments are is said in joins.c."""
        file = directory / "joins.txt"
        file.write_bytes(joins)
        joiner = await cls._start(
            directory / "joins", port, connections, at_once, file, APIKEY=apikey
        )
        assert await joiner._line() == "open"
        return joiner

    async def join(self) -> tuple[float, float, float, float]:
        """Join; return how many seconds that took, half of the answers, and 99 of 100, and how many
        of the processor."""
        await self._told("join")
        took, median, worst, used = map(float, (await self._line()).split())
        return took / 1e6, median / 1e6, worst / 1e6, used / 1e6
