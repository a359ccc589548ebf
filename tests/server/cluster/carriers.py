"""Carriers that bring messages to each other within a test."""

from __future__ import annotations

from collections.abc import Callable

from realtime_server.cluster.carrier import NotSent, TakeMessage

__all__ = ["Wire", "Wires"]


class Wires:
    """What brings messages from each carrier to the others that listen, at once."""

    def __init__(self) -> None:
        self.carriers: list[Wire] = []
        self.loses: Callable[[Wire, Wire], bool] = lambda sender, taker: False
        """Whether a message from one to another is lost."""
        self.count = 0
        """How many messages were taken."""


class Wire:
    """One of them."""

    max_bytes = 32 * 1024
    lost = 0

    def __init__(self, wires: Wires) -> None:
        self._wires = wires
        wires.carriers.append(self)
        self.subjects: set[str] = set()
        self.problem: NotSent | None = None
        self.last: tuple[str, bytes] = "", b""
        """What is sent when the process ends."""
        self.take: TakeMessage

    def begin(self, take: TakeMessage) -> None:
        self.take = take

    def send(self, subject: str, data: bytes) -> NotSent | None:
        assert len(data) <= self.max_bytes
        if self.problem is None:
            for other in self._wires.carriers:
                hears = other is not self and subject in other.subjects
                if hears and not self._wires.loses(self, other):
                    self._wires.count += 1
                    other.take(subject, data)
        return self.problem

    def listen(self, subject: str) -> None:
        self.subjects.add(subject)

    def ignore(self, subject: str) -> None:
        self.subjects.remove(subject)

    def leave(self, subject: str, data: bytes) -> None:
        self.last = subject, data

    def end(self) -> None:
        """End as a process does whose end is noticed."""
        self._wires.carriers.remove(self)
        subject, data = self.last
        self.send(subject, data)

    def vanish(self) -> None:
        """End as one does whose end nobody sees."""
        self._wires.carriers.remove(self)
        self.subjects.clear()

    async def run(self) -> None: ...
