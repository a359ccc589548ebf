"""Inbox: the messages that have come from a consumer, and the wait for more of them."""

from __future__ import annotations

import asyncio
from collections import deque

from realtime_core.sources.prompt_future import PromptFuture

from .client import Message
from .errors import LogError

__all__ = ["Inbox"]


class Inbox:
    """Messages that were not looked at yet, for one task.

    Args:
        silence: seconds after which the consumer is taken to be gone if nothing has come.
    """

    def __init__(self, silence: float) -> None:
        self.messages: deque[Message] = deque()
        """What has come, in order."""
        self._silence = silence
        self._waiting: PromptFuture | None = None
        # Since when the task waits, on the event loop's clock, and what looks whether that is too
        # long. A timer for each message would take as long as to read it.
        self._since = 0.0
        self._looking: asyncio.TimerHandle | None = None

    def put(self, message: Message) -> None:
        """Take a message; the task goes on."""
        self.messages.append(message)
        self.wake()

    def wake(self) -> None:
        """Have the task go on."""
        if self._waiting is not None:
            self._waiting.resume()

    async def something(self) -> None:
        """Wait until :meth:`put` or :meth:`wake` is called.

        Raises:
            LogError: if neither is for too long.
        """
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        if self._looking is None:
            self._looking = loop.call_later(self._silence, self._look)
        self._waiting = PromptFuture()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def close(self) -> None:
        """Stop looking at the clock."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _look(self) -> None:
        """Have the wait end in an error if it takes too long; come again if it does not yet."""
        self._looking = None
        waiting = self._waiting
        if waiting is None or waiting.done():
            # The next wait looks again.
            return
        loop = asyncio.get_running_loop()
        due = self._since + self._silence
        if loop.time() >= due:
            waiting.set_exception(
                LogError(f"nothing has come from the log for {self._silence:g} s")
            )
        else:
            self._looking = loop.call_at(due, self._look)
