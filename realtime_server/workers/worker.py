"""Worker: one server process of several, and its links to the supervisor."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import time
from collections.abc import Callable
from itertools import count
from typing import Final, Self

from realtime_core import LSN
from realtime_core.errors import ServerError

from ..cluster.source_stats import stats_from_json
from ..config import ServerConfig
from ..replay.one_of_several import OneOfSeveral
from ..replay.past import Shared
from .control import ControlLink
from .feed import LinkFeed
from .room_link import RoomLink

__all__ = ["Worker"]

_SILENT: Final = 10.0
"""After how many seconds the supervisor counts as one that stands still. It says something each
second."""
_ANSWER: Final = 8.0
"""Seconds that the supervisor may take to answer. Prometheus waits for ten."""
_PR_SET_PDEATHSIG: Final = 1
"""From Linux's sys/prctl.h."""


class Worker:
    """What a server has that is one of several workers.

    Args:
        number: of the worker, from 1 on.
        source: the changes, which the supervisor reads.
        rooms: the way to the other workers.
        control: the link for everything else.
        name: of the process, 16 hexadecimal digits.
        clock: seconds, which only grow.
    """

    def __init__(
        self,
        number: int,
        source: LinkFeed,
        rooms: RoomLink,
        control: ControlLink,
        *,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.number = number
        """The worker's number, from 1 on. One that takes the place of another has the same."""
        self.source = source
        """The changes, which the supervisor reads."""
        self.rooms = rooms
        """The way to the other workers, and with NATS_URL to other machines."""
        self._control = control
        self._clock = clock
        self._heard_at = clock()
        self._name = name
        # What the supervisor has said: why it may bring no changes, and which processes write into
        # the journal.
        self._why_not_ready: str | None = None
        self._writers: set[str] | None = None
        self._ids = count()
        # The requests for the metrics of all that were not answered yet.
        self._asked: dict[int, asyncio.Future[str]] = {}

    @classmethod
    async def open(
        cls, config: ServerConfig, number: int, changes: int, rooms: int, control: int, name: str
    ) -> Self:
        """Return a worker on the links that the supervisor has made.

        From now on the system kills this process when the supervisor's has ended.

        Args:
            config: of the server.
            number: of the worker.
            changes: file descriptor of the link that brings the changes.
            rooms: file descriptor of the link for what clients broadcast.
            control: file descriptor of the link for everything else.
            name: of the process.
        """
        # A worker that stands still does not see its links end. It would keep its place on the
        # port, and the system would go on giving it a share of the new connections.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        is_cluster = config.nats_url is not None
        feed = await LinkFeed.over(socket.socket(fileno=changes), tells_holes=is_cluster)
        link = await asyncio.open_connection(sock=socket.socket(fileno=rooms))
        room_link = RoomLink(*link, is_away=is_cluster)
        control_link = await ControlLink.over(socket.socket(fileno=control))
        return cls(number, feed, room_link, control_link, name=name)

    def share(self, config: ServerConfig) -> Shared | None:
        """Return what replay has to know of the worker; None where there is no journal."""
        if config.nats_url is not None:
            # Only then is the client of NATS needed.
            from ..cluster.setup import make_past

            return make_past(config, self.source, self._name, lambda: self._writers)

        def begin() -> tuple[int, int]:
            assert self.source.begin is not None
            return self.source.begin[1:]

        def passed() -> LSN:
            return self.source.stats().confirmed_lsn

        return OneOfSeveral(config, self.number, begin, passed)

    def started(self) -> None:
        """Tell the supervisor that this worker accepts connections."""
        self._control.send("started")

    async def run(self, render: Callable[[], bytes]) -> None:
        """Listen to the supervisor; never return.

        Args:
            render: returns this worker's metrics.

        Raises:
            ServerError: when the supervisor has ended.
        """
        async for message in self._control.messages():
            self._heard_at = self._clock()
            match message:
                case {"kind": "stats", "stats": stats, "why": why, "writers": writers}:
                    self._why_not_ready = why
                    self._writers = None if writers is None else set(writers)
                    self.source.note(stats_from_json(stats))
                case {"kind": "ping"}:
                    self._control.send("pong")
                case {"kind": "collect", "id": number}:
                    self._control.send("metrics", id=number, text=render().decode())
                case {"kind": "answer", "id": number, "text": text}:
                    asked = self._asked.get(number)
                    if asked is not None and not asked.done():
                        asked.set_result(text)
        raise ServerError(f"the supervisor has ended, and so does worker {self.number}")

    def why_not_ready(self) -> str | None:
        """Return why the supervisor may bring no changes, None if it is there; for ``/ready``."""
        silent = self._clock() - self._heard_at
        if silent < _SILENT:
            return self._why_not_ready
        return f"the supervisor has said nothing for {silent:.0f} s"

    async def metrics(self) -> bytes:
        """Return the metrics of all workers together.

        Raises:
            TimeoutError: if the supervisor does not answer.
        """
        number = next(self._ids)
        self._asked[number] = answer = asyncio.get_running_loop().create_future()
        try:
            self._control.send("ask", id=number)
            async with asyncio.timeout(_ANSWER):
                text: str = await answer
            return text.encode()
        finally:
            del self._asked[number]
