"""Carrier: brings messages to the other processes that listen to a subject.

There are two: over NATS, and over a worker's link to its supervisor. Messages are carried once at
most, and those of one sender in the order sent. What is in them is no business of a carrier.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final, Protocol, TypeAlias

__all__ = ["MAX_WAITING_BYTES", "Carrier", "NotSent", "Outside", "TakeMessage"]

MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Bytes of messages that may wait to be sent one way. What comes then is lost, and counted."""

TakeMessage: TypeAlias = Callable[[str, bytes], None]
"""Takes a message, with the subject it was sent to."""


class NotSent(Enum):
    """Why a message goes nowhere, or not everywhere."""

    AWAY = auto()
    """Some of the others cannot be reached now."""
    FULL = auto()
    """Too much waits to be sent."""
    TOO_LARGE = auto()
    """It has more bytes than a message may have."""


class Carrier(Protocol):
    """A way to other processes. None of its methods waits or fails."""

    @property
    def max_bytes(self) -> int:
        """How many bytes a message may have."""
        ...

    def begin(self, take: TakeMessage) -> None:
        """Have a function called with each message of others on the subjects listened to."""
        ...

    def send(self, subject: str, data: bytes) -> NotSent | None:
        """Send a message to the others that listen to a subject.

        Args:
            subject: 1 to 255 ASCII characters that NATS takes in a subject.
            data: the message.

        Returns:
            Why it does not go to all of them; None if it was handed over.
        """
        ...

    def listen(self, subject: str) -> None:
        """Begin to take what others send to a subject."""
        ...

    def ignore(self, subject: str) -> None:
        """Take nothing more of a subject."""
        ...

    def leave(self, subject: str, data: bytes) -> None:
        """Have others sent a message when this process ends, where that is noticed."""
        ...

    async def run(self) -> None:
        """Carry, until this is cancelled."""
        ...

    @property
    def lost(self) -> int:
        """How many messages were handed over, and then lost because the way had broken."""
        ...


class Outside(Carrier, Protocol):
    """A way to other machines, which may be gone for a while."""

    changed: Callable[[], None]
    """Called when the others become reachable, and when they are no more."""

    @property
    def is_away(self) -> bool:
        """Whether the others cannot be reached now."""
        ...
