"""What a source's ways of reading have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from types import coroutine
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from ..changes import Change, Commit, CommittedTransaction, Idle, RawRows
from ..snapshot import SnapshotComplete

__all__ = ["Handed", "More", "Steps", "SyncSteps", "pause"]

T = TypeVar("T")

Handed: TypeAlias = Change | RawRows | Commit | Idle | SnapshotComplete | CommittedTransaction[Any]
"""The events that have a position, and transactions."""


class More(Protocol):
    """A function that waits for the next events, and puts them into the queue."""

    def __call__(self, until: float | None = None) -> Awaitable[bool]:
        """Wait for the next events; return False if none have come until then.

        Args:
            until: the time to give up, as monotonic() tells it; None for never.
        """
        ...


class Steps(AsyncIterator[T], Generic[T]):
    """An async iterator over the results of one function.

    It is a class and not an async generator, because a cancelled step must not end it.
    """

    def __init__(self, step: Callable[[], Awaitable[T]]) -> None:
        self._step = step

    def __anext__(self) -> Awaitable[T]:
        return self._step()


class SyncSteps(Iterator[T], Generic[T]):
    """An iterator over the results of one function.

    It is a class and not a generator, because an error in a step must not end it.
    """

    def __init__(self, step: Callable[[], T]) -> None:
        self._step = step

    def __next__(self) -> T:
        return self._step()


@coroutine
def pause(until: float | None = None) -> Generator[float | None, bool, bool]:
    """Wait for more events, in a step that :meth:`SyncSource._read` runs."""
    return (yield until)
