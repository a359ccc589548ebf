"""Request: a body on its way to one endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from .signature import sign

__all__ = ["Request"]

_OVERHEAD: Final = 1000
"""Bytes of memory that a request takes besides its body, about."""


def _nothing() -> None:
    """Nobody waits for it."""


@attrs.frozen(eq=False)
class Request:
    """A body, and what identifies it.

    Attributes:
        id: the request's id, the same at each attempt, after each restart, and when it is sent
        again. position: the position of the last change, as text. body: JSON. part: its number
        among the transaction's parts, from 1. is_last: whether no other part follows. commit_time:
        the transaction's commit time, as seconds since 1970. done: to be called once, when it was
        delivered or given up.
    """

    id: str
    position: str
    body: bytes = attrs.field(repr=False)
    part: int
    is_last: bool
    commit_time: float
    done: Callable[[], None] = attrs.field(default=_nothing, repr=False)

    @property
    def size(self) -> int:
        """Bytes of memory that the request takes."""
        return len(self.body) + _OVERHEAD

    def headers(self, secrets: Iterable[str], now: float) -> Mapping[str, str]:
        """Return the headers of an attempt.

        Args:
            secrets: to sign with; without one there is no signature.
            now: seconds since 1970.
        """
        timestamp = int(now)
        headers = {
            "idempotency-key": self.id,
            "x-realtime-position": self.position,
            "x-realtime-part": str(self.part),
            "x-realtime-last-part": "true" if self.is_last else "false",
            "webhook-id": self.id,
            "webhook-timestamp": str(timestamp),
        }
        if signature := sign(secrets, self.id, timestamp, self.body):
            headers["webhook-signature"] = signature
        return headers
