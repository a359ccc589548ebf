"""LoopThread: an event loop on a thread of its own, for programs that have none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["Errand", "LoopThread", "StoppedError"]

T = TypeVar("T")


class StoppedError(RuntimeError):
    """The thread was stopped, so that what it was asked to do will not be done."""


class LoopThread:
    """Runs an event loop until it is stopped.

    The thread is a daemon, so a program that never stops it can end all the same.

    Args:
        name: the thread's name.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # Whether it takes nothing more, because what comes behind the stop would never be run.
        self._stopped = False
        # Guards it. A signal handler may come while it is held, on the same thread.
        self._guard = threading.RLock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the thread, and wait for its result.

        If waiting is interrupted, the coroutine is cancelled.

        Raises:
            RuntimeError: on the thread itself, which would wait for ever.
            StoppedError: if the thread was stopped.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a function that the source calls cannot wait for the source")
        future: Future[T]
        with self._guard:
            if self._stopped:
                work.close()
                raise StoppedError("this source was closed: make a new one")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def soon(self, callback: Callable[[], object]) -> None:
        """Have a function called on the thread.

        Raises:
            StoppedError: if the thread was stopped.
        """
        with self._guard:
            if self._stopped:
                raise StoppedError("this source was closed: make a new one")
            self._loop.call_soon_threadsafe(callback)

    def later(self, delay: float, callback: Callable[[], object]) -> None:
        """Have a function called on the thread in so many seconds."""
        self.soon(lambda: self._loop.call_later(delay, callback))

    def stop(self) -> None:
        """End the tasks that still run, and the thread."""
        with self._guard:
            self._stopped = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


class Errand:
    """Something that a thread with a loop does once, when another thread first waits for it.

    The wait may be interrupted at any moment, and repeated.

    Args:
        thread: the thread that does it.
        work: what it does: a function that returns a coroutine.
    """

    __slots__ = ("_asked", "_ended", "_lock", "_task", "_thread", "_work", "error", "result")

    def __init__(self, thread: LoopThread, work: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        self.error: BaseException | None = None
        """What it has raised, once it has ended."""
        self.result = False
        """What it has returned."""
        self._thread = thread
        self._work = work
        self._asked = False
        self._ended = False
        # Held until it has ended.
        self._lock = threading.Lock()
        self._lock.acquire()
        # The loop itself keeps no task alive.
        self._task: asyncio.Task[None] | None = None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; return whether it has.

        Args:
            timeout: the most seconds to wait; None for no bound.

        Raises:
            StoppedError: if the thread was stopped before.
        """
        if not self._asked:
            self._thread.soon(self._start)
            self._asked = True
        if not self._ended:
            self._lock.acquire(timeout=-1 if timeout is None else max(timeout, 0))
        return self._ended

    def _start(self) -> None:
        # It is asked for again if asking was interrupted.
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._cancelled)

    async def _run(self) -> None:
        try:
            self.result = await self._work()
        except BaseException as exc:
            self.error = exc
        self._end()

    def _cancelled(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            # It had not even begun.
            self.error = asyncio.CancelledError()
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._lock.release()
