"""A SyncSource that looks like a ChangeSource, so that the contract suite can read it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any, Self, TypeVar

from realtime_core import Event, SyncSource

__all__ = ["Threaded"]

T = TypeVar("T")


class Interrupted(BaseException):
    """Stands for Ctrl-C: a read is cancelled."""


class Threaded(SyncSource[Event]):
    """Each call that waits is made in a thread.

    Cancelling a read interrupts it as a signal does. If it has a result all the same, the next read
    returns that.
    """

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.interrupt = threading.Event()
        self.left: list[Any] = []

    def _fetch(self, until: float | None, collect_until: float | None = None) -> bool:
        while True:
            if self.interrupt.is_set():
                raise Interrupted
            try:
                return super()._fetch(monotonic() + 0.002, collect_until)
            except TimeoutError:
                pass

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *raised: Any) -> None:
        await asyncio.to_thread(self.__exit__, *raised)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await self.read(self.__next__)

    # What waits in a thread does not return what the synchronous method does.
    async def attached(self) -> None:  # type: ignore[override]
        await asyncio.to_thread(super().attached)

    def batches(self, **bounds: Any) -> Any:
        return Reads(self, super().batches(**bounds).__next__)

    def transactions(self, max_bytes: int) -> Any:
        return Reads(self, super().transactions(max_bytes).__next__)

    async def read(self, step: Callable[[], T]) -> T:
        if self.left:
            return self.left.pop(0)  # type: ignore[no-any-return]

        def run() -> list[T]:
            try:
                return [step()]
            except StopIteration:
                # A future cannot hold it.
                return []

        self.interrupt.clear()
        reading = asyncio.get_running_loop().run_in_executor(None, run)
        try:
            found = await asyncio.shield(reading)
        except asyncio.CancelledError:
            self.interrupt.set()
            await asyncio.wait([reading])
            if reading.exception() is None:
                self.left += reading.result()
            raise
        if not found:
            raise StopAsyncIteration
        return found[0]


class Reads(AsyncIterator[Any]):
    def __init__(self, source: Threaded, step: Callable[[], Any]) -> None:
        self.source = source
        self.step = step

    async def __anext__(self) -> Any:
        return await self.source.read(self.step)
