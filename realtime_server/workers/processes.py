"""Processes: starts a supervisor's workers, and starts each again that ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from itertools import count as itertools_count
from typing import Any, Final

import attrs

from realtime_core.errors import ServerError

from .control import ControlLink
from .forks import Start, WorkerProcess
from .links import Links
from .metric_sums import MetricSums
from .room_switch import RoomSwitch

__all__ = ["Pace", "Processes"]

logger = logging.getLogger("realtime.server")

_AT_ONCE: Final = 3
"""How many times within ``_WITHIN`` a worker that has ended is started again without a pause."""
_WITHIN: Final = 10.0
"""Seconds within which the starts of ``_AT_ONCE`` are counted."""
_RETRY: Final = 1.0
"""Seconds until a process is tried again, at least, that the system could not start."""
_ANSWER: Final = 2.0
"""Seconds that a worker may take to answer what it counts; then what it has answered last is
taken."""
_SILENT: Final = 30
"""How many questions in a row, one a second, a worker may leave unanswered until it is ended."""
_SLOW: Final = 10
"""After how many seconds, again and again, it is said that a worker has not started yet."""
_LINGER: Final = 1.0
"""Seconds in which the last words of a process that has ended are read."""
_CANNOT_START: Final = 2
"""The exit code of a process whose settings cannot work, or which cannot listen."""


class Pace:
    """Bounds how often something is begun again.

    Args:
        clock: seconds, which only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: deque[float] = deque(maxlen=_AT_ONCE)

    def pause(self) -> float:
        """Return how many seconds to wait until it is begun the next time, and count that."""
        now = self._clock()
        due = now if len(self._times) < _AT_ONCE else max(now, self._times[0] + _WITHIN)
        self._times.append(due)
        return due - now


@attrs.define
class _Running:
    """A worker's process."""

    process: WorkerProcess
    control: ControlLink
    has_started: bool = False
    """Whether it accepts connections."""
    signals: list[signal.Signals] = attrs.field(factory=list)
    """The signals that it is sent when it does."""
    unanswered: int = 0
    """How often it was asked, or would have been, whether it is alive since something came."""
    answers: dict[int, asyncio.Future[None]] = attrs.field(factory=dict)
    """The requests for its metrics that it has not answered."""


class Processes:
    """A supervisor's workers.

    Args:
        count: how many.
        start: starts a process.
        links: serves the links that bring the changes.
        rooms: serves the links for what clients broadcast.
        names: gets a name for each process, 16 hexadecimal digits, for as long as it runs.
        metrics: returns the supervisor's own metrics, which are added to those of the workers.
    """

    def __init__(
        self,
        count: int,
        *,
        start: Start,
        links: Links[Any],
        rooms: RoomSwitch,
        names: set[str],
        metrics: Callable[[], bytes],
    ) -> None:
        self._count = count
        self._start = start
        self._links = links
        self._rooms = rooms
        self._names = names
        self._metrics = metrics
        self._running: dict[int, _Running] = {}
        self._keeping: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._ids = itertools_count()
        self._sums = MetricSums()
        # The requests for the metrics of all that are not being answered yet, as functions that
        # take the answer as ``text``; and the task that answers requests, if there are any.
        self._asking: list[Callable[..., None]] = []
        self._answering: asyncio.Task[None] | None = None
        # Which have once accepted connections.
        self._proven: set[int] = set()
        self.all_started = asyncio.Event()
        """Set when every worker has begun to accept connections."""
        self.restarts = 0
        """How often a worker was started in place of one that had ended."""
        # What every worker was told last.
        self._told: dict[str, Any] | None = None

    @property
    def running(self) -> int:
        """How many workers accept connections now."""
        return sum(running.has_started for running in self._running.values())

    def start(self) -> None:
        """Start all workers, in the background."""
        self._keeping = [
            asyncio.create_task(self._keep(number)) for number in range(1, self._count + 1)
        ]

    async def wait(self) -> None:
        """Wait until a worker cannot be started, or starting it again brings nothing.

        Raises:
            ServerError: if one cannot be started.
            RealtimeError: if one ends again and again at the same change.
        """
        done, _ = await asyncio.wait(self._keeping, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def tell(
        self, stats: dict[str, Any], why_not_ready: str | None, writers: Iterable[str] | None
    ) -> None:
        """Tell every worker of the source, also those that come later.

        Args:
            stats: what it counts.
            why_not_ready: why it may bring no changes, besides what its counts say; None if it
                does.
            writers: the names of all processes, also of other machines, that write into the
                journal; None if they are not known.
        """
        names = None if writers is None else list(writers)
        self._told = {"stats": stats, "why": why_not_ready, "writers": names}
        for running in self._running.values():
            running.control.send("stats", **self._told)

    def look(self) -> None:
        """Ask every worker whether it is alive; end one that has not answered for half a minute.

        To be called each second. The questions are counted, and not the time: where the supervisor
        or the machine has stood still, no worker is to blame.
        """
        if self._stopping.is_set():
            # Workers that drain do not listen.
            return
        for worker, running in self._running.items():
            if not running.has_started:
                running.unanswered += 1
                if running.unanswered % _SLOW == 0:
                    logger.warning("worker %d has not started for %d s", worker, running.unanswered)
                continue
            if running.unanswered == _SILENT:
                logger.error(
                    "worker %d has not answered for %d s: it is ended, and another one started",
                    *(worker, _SILENT),
                )
                self.kill(worker)
            elif running.unanswered < _SILENT:
                running.control.send("ping")
            running.unanswered += 1

    def send_signal(self, number: signal.Signals) -> None:
        """Send every worker a signal; one that does not accept connections yet gets it then."""
        for running in self._running.values():
            if running.has_started:
                _send(running.process, number)
            else:
                # It may not handle signals yet, and would end.
                running.signals.append(number)

    def kill(self, worker: int) -> None:
        """End a worker that hangs; another one is started in its place."""
        running = self._running.get(worker)
        if running is not None:
            _send(running.process, signal.SIGKILL)

    async def stop(self, within: float) -> None:
        """Have all workers drain and end, and wait until they have.

        Args:
            within: seconds until those that are left are killed.
        """
        self._stopping.set()
        for running in self._running.values():
            _send(running.process, signal.SIGTERM)
        if not self._keeping:
            return
        _, pending = await asyncio.wait(self._keeping, timeout=within)
        if pending:
            for worker in list(self._running):
                logger.error("worker %d has not ended within %.0f s, and is killed", worker, within)
                self.kill(worker)
            await asyncio.wait(pending)

    # The metrics of all

    def _ask(self, answer: Callable[..., None]) -> None:
        self._asking.append(answer)
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer_all())

    async def _answer_all(self) -> None:
        """Answer all requests. Those that come meanwhile share the next answer.

        Adding up what each worker counts takes milliseconds, in which no changes are read.
        """
        while self._asking:
            asking, self._asking = self._asking, []
            await self._collect()
            text = self._sums.render(self._metrics()).decode()
            for answer in asking:
                answer(text=text)

    async def _collect(self) -> None:
        """Ask every worker what it counts."""
        number = next(self._ids)
        waiting: list[asyncio.Future[None]] = []
        for running in self._running.values():
            if running.has_started:
                answer = asyncio.get_running_loop().create_future()
                running.answers[number] = answer
                waiting.append(answer)
                running.control.send("collect", id=number)
        if waiting:
            await asyncio.wait(waiting, timeout=_ANSWER)
        for running in self._running.values():
            running.answers.pop(number, None)

    # One worker

    async def _keep(self, worker: int) -> None:
        pace = Pace(asyncio.get_running_loop().time)
        while not self._stopping.is_set():
            least = 0.0
            try:
                code = await self._run(worker)
            except OSError as exc:
                if self._stopping.is_set():
                    return
                # There may be too many processes, or too little memory, for a while.
                least = _RETRY
                logger.error("worker %d cannot be started, and is tried again: %s", worker, exc)
            else:
                if self._stopping.is_set():
                    return
                if code == _CANNOT_START and worker not in self._proven:
                    raise ServerError(f"worker {worker} cannot start: its error is above")
                self._links.check_can_go_on(worker)
                logger.error("worker %d has ended (%s); it is started again", worker, _told(code))
                self.restarts += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(pace.pause(), least)):
                    await self._stopping.wait()

    async def _run(self, worker: int) -> int:
        """Run one process to its end; return its exit code."""
        name = secrets.token_hex(8)
        # Others have to know of it before it writes anything.
        self._names.add(name)
        try:
            return await self._run_as(worker, name)
        finally:
            self._names.discard(name)

    async def _run_as(self, worker: int, name: str) -> int:
        with (
            _pair() as (changes, their_changes),
            _pair() as (rooms, their_rooms),
            _pair() as (control, their_control),
        ):
            theirs = their_changes, their_rooms, their_control
            files = [link.fileno() for link in theirs]
            control_link = await ControlLink.over(control.dup())
            try:
                process = await self._start(worker, files, name)
            except OSError:
                control_link.close()
                raise
            for each in theirs:
                each.close()
            # From now on it gets signals.
            running = self._running[worker] = _Running(process, control_link)
            if self._stopping.is_set():
                _send(process, signal.SIGTERM)
            if self._told is not None:
                running.control.send("stats", **self._told)
            link = await asyncio.open_connection(sock=changes.dup())
            room_link = await asyncio.open_connection(sock=rooms.dup())
        talking = [
            asyncio.create_task(self._talk(worker, process, talk))
            for talk in (
                self._links.serve(worker, *link),
                self._rooms.serve(worker, *room_link),
                self._listen(worker, running),
            )
        ]
        try:
            code = await process.wait()
            # What it has said last counts.
            await asyncio.wait(talking, timeout=_LINGER)
            return code
        finally:
            _send(process, signal.SIGKILL)
            for task in talking:
                task.cancel()
            await asyncio.gather(*talking, return_exceptions=True)
            running.control.close()
            del self._running[worker]
            self._sums.end(worker)

    async def _talk(
        self, worker: int, process: WorkerProcess, talk: Coroutine[Any, Any, None]
    ) -> None:
        """Serve one of a process's links; if that fails, end the process."""
        try:
            await talk
        except Exception as exc:
            logger.error("worker %d is ended: %s", worker, exc)
            _send(process, signal.SIGKILL)

    async def _listen(self, worker: int, running: _Running) -> None:
        control = running.control
        async for message in control.messages():
            running.unanswered = 0
            match message:
                case {"kind": "started"}:
                    running.has_started = True
                    for each in running.signals:
                        _send(running.process, each)
                    self._proven.add(worker)
                    if len(self._proven) == self._count:
                        self.all_started.set()
                case {"kind": "metrics", "id": number, "text": text}:
                    self._sums.take(worker, text)
                    answer = running.answers.pop(number, None)
                    if answer is not None:
                        answer.set_result(None)
                case {"kind": "ask", "id": number}:
                    self._ask(partial(control.send, "answer", id=number))


@contextlib.contextmanager
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def _send(process: WorkerProcess, number: signal.Signals) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


def _told(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
