"""Forks: starts a supervisor's workers from a template, which has imported what they need."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

__all__ = ["MOST_FILES", "MOST_TEXT", "ForkedProcess", "Forks", "Start", "WorkerProcess"]

MOST_FILES: Final = 3
"""How many links a worker has."""
MOST_TEXT: Final = 256
"""How many bytes a request may take, and an answer."""
_PATIENCE: Final = 60.0
"""Seconds that the template may take to import everything, and to fork."""
_PR_SET_CHILD_SUBREAPER: Final = 36
"""From Linux's sys/prctl.h."""


class WorkerProcess(Protocol):
    """A process that was started."""

    @property
    def returncode(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs."""
        ...

    def send_signal(self, signal: signal.Signals, /) -> None: ...

    async def wait(self) -> int:
        """Wait until it has ended; return the exit code."""
        ...


Start: TypeAlias = Callable[[int, Sequence[int], str], Awaitable[WorkerProcess]]
"""Starts a process: takes the number of the worker, the file descriptors of its links, and the name
of the process. It raises an OSError if the system cannot start it for now."""


class ForkedProcess:
    """A worker's process, a child of this one that a template has forked.

    Args:
        pid: its process ID.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        """Its process ID."""
        self.returncode: int | None = None
        """The exit code, or the negative number of the signal that has ended it; None while it
        runs."""
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        # Its process ID stays its own until it is reaped, which signals rely on.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            self._loop.call_soon_threadsafe(self._reap)

    def _reap(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        self._ended.set()

    async def wait(self) -> int:
        """Wait until it has ended; return the exit code, or the negative number of the signal."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)


class Forks:
    """Starts workers, and a template when there is none.

    Args:
        options: of each worker's command line, besides what says which one it is.
        environment: of the workers.
    """

    def __init__(self, options: Sequence[str], environment: Mapping[str, str]) -> None:
        self._options = options
        self._environment = environment
        self._template: asyncio.subprocess.Process | None = None
        self._link: socket.socket | None = None
        # One request is under way at a time.
        self._lock = asyncio.Lock()
        self._is_closed = False

    async def start(self, worker: int, files: Sequence[int], name: str) -> ForkedProcess:
        """Start a worker.

        Args:
            worker: its number.
            files: the file descriptors of its links, which stay open here.
            name: of the process.

        Raises:
            OSError: if the system has too little for one more process, or the template has ended.
        """
        async with self._lock:
            try:
                async with asyncio.timeout(_PATIENCE):
                    pid = await self._request(f"{worker},{name}".encode(), files)
            except BaseException:
                # What it would answer next is nobody's.
                self._end_template()
                raise
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return ForkedProcess(pid)

    async def _request(self, text: bytes, files: Sequence[int]) -> int:
        if not self._send(text, files):
            await self._start_template()
            self._send(text, files)
        answer = b""
        if self._link is not None:
            with contextlib.suppress(ConnectionError):
                answer = await asyncio.get_running_loop().sock_recv(self._link, MOST_TEXT)
        if not answer:
            raise OSError("the process that it is forked from has ended")
        return int(answer)

    def _send(self, text: bytes, files: Sequence[int]) -> bool:
        """Send the template a request; return False if there is none."""
        if self._link is None:
            return False
        try:
            socket.send_fds(self._link, [text], list(files))
        except BrokenPipeError:
            # Somebody has killed it, as the system does when memory runs out.
            self._end_template()
            return False
        return True

    async def _start_template(self) -> None:
        if self._is_closed:
            raise OSError("the server is being stopped")
        # What the template forks becomes this process's child.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                self._template = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "realtime_server.workers.template"),
                    *(str(theirs.fileno()), *self._options),
                    env=dict(self._environment),
                    pass_fds=[theirs.fileno()],
                )
            except BaseException:
                ours.close()
                raise
        self._link = ours

    def _end_template(self) -> None:
        if self._template is not None and self._template.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._template.kill()
        if self._link is not None:
            self._link.close()
        self._template = self._link = None

    def close(self) -> None:
        """End the template; the workers go on."""
        self._is_closed = True
        if self._template is not None and self._template.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # Whoever waits for its answer sees its end.
                self._template.kill()
