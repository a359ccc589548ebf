"""NatsConnection: a connection to NATS that ends when it breaks.

It never connects again by itself: whoever uses it has to look anew at what the log has before it
goes on, and nothing may wait in a buffer that is sent to another server later. This module,
:mod:`.client` and :mod:`.login` alone know the client library; they are imported only where
NATS_URL is set.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Self

import nats.errors

from ..config import ClusterSettings
from .client import Message, PromptClient, Take
from .errors import LogError
from .login import connect
from .permissions import denied_by
from .questions import Question, Questions

__all__ = ["ANSWER", "Message", "NatsConnection", "Subscription"]

logger = logging.getLogger("realtime.cluster")

_PING: Final = 2
"""Seconds between two pings; the second one without an answer ends the connection."""
ANSWER: Final = 3.0
"""Seconds that a request may take, unless it says otherwise."""
_CLOSE: Final = 1.0
"""Seconds that closing may take. A server that stands still takes no more bytes."""


class NatsConnection:
    """An open connection. Make it with :meth:`open`.

    Args:
        client: of the library, connected.
        closed: set when the connection has ended.
        complaints: what the server complains about.
    """

    def __init__(
        self, client: PromptClient, closed: asyncio.Event, complaints: _Complaints
    ) -> None:
        self.closed = closed
        """Set when the connection has ended, whoever has ended it."""
        self._client = client
        self._complaints = complaints
        self._inbox = client.new_inbox()
        self._questions = Questions(self._inbox, complaints.told)
        self._on_closed: list[Callable[[], None]] = []
        self._watching = asyncio.create_task(self._watch())

    @classmethod
    async def open(
        cls,
        config: ClusterSettings,
        *,
        name: str,
        complaint: Callable[[Exception], None] | None = None,
        no_echo: bool = False,
    ) -> Self:
        """Connect to one of the servers.

        Args:
            config: where, and as whom.
            name: what the servers' monitoring calls the connection.
            complaint: called with what the server complains about.
            no_echo: whether what is sent on the connection does not come back on it.

        Raises:
            LogError: if none accepts the connection.
        """
        closed = asyncio.Event()
        complaints = _Complaints(complaint)

        async def end() -> None:
            closed.set()

        client = await connect(
            config,
            name=name,
            error_cb=complaints.note,
            closed_cb=end,
            ping_interval=_PING,
            max_outstanding_pings=2,
            no_echo=no_echo,
        )
        connection = cls(client, closed, complaints)
        complaints.hear = connection._complained
        try:
            await connection._listen()
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; requests under way fail."""
        await _close(self._client)
        self.closed.set()
        await asyncio.gather(self._watching, return_exceptions=True)

    @property
    def max_payload(self) -> int:
        """How many bytes a message may have, with its headers."""
        return self._client.max_payload

    @property
    def version(self) -> tuple[int, int]:
        """The server's version."""
        version = self._client.connected_server_version
        return (version.major, version.minor)

    async def request(self, subject: str, payload: bytes = b"") -> Message:
        """Send a message, and return the answer.

        Args:
            subject: where to.
            payload: what.

        Raises:
            LogError: if there is no answer.
        """
        return await self.ask(subject, payload).answer()

    def ask(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        within: float = ANSWER,
    ) -> Question:
        """Send a message at once; return what waits for the answer.

        Args:
            subject: where to.
            payload: what.
            headers: of the message.
            within: seconds that the answer may take, from when it is waited for.

        Raises:
            LogError: if it cannot be sent.
        """
        question = self._questions.add(subject, within)
        try:
            self.send(subject, payload, reply=question.reply, headers=headers)
        except LogError:
            self._questions.forget(question)
            raise
        return question

    async def publish(
        self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a message, and wait while too many bytes are under way.

        Raises:
            LogError: if it cannot be sent.
        """
        self.send(subject, payload, headers=headers)
        try:
            await self._client.taken()
        except OSError as exc:
            raise _unsent(subject, exc) from exc

    def send(
        self,
        subject: str,
        payload: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a message at once. Whoever sends many of them waits for answers in between.

        Raises:
            LogError: if it cannot be sent.
        """
        self._check()
        try:
            self._client.send(subject, payload, reply, headers)
        except nats.errors.Error as exc:
            raise _unsent(subject, exc) from exc

    async def subscribe(self, subject: str, take: Take) -> Subscription:
        """Have a function called with each message of a subject.

        Nothing is dropped when many wait: whoever subscribes bounds what is sent to it.

        Args:
            subject: the subject.
            take: the function.

        Raises:
            LogError: if that cannot be asked for.
        """
        self._check()
        try:
            return Subscription(await self._client.hand_over(subject, take))
        except (OSError, nats.errors.Error) as exc:
            raise LogError(f"{subject} cannot be subscribed to: {_told(exc)}") from exc

    def on_closed(self, call: Callable[[], None]) -> None:
        """Have a function called when the connection has ended."""
        self._on_closed.append(call)

    def new_inbox(self) -> str:
        """Return a subject that nobody else uses."""
        return self._client.new_inbox()

    async def _listen(self) -> None:
        await self.subscribe(f"{self._inbox}.*", self._questions.answered)

    def _complained(self, error: Exception) -> None:
        verb, denied = denied_by(error) or ("", "")
        if verb == "publish":
            self._questions.denied(denied)

    async def _watch(self) -> None:
        await self.closed.wait()
        self._questions.end(self._lost())
        for call in self._on_closed:
            call()

    def _check(self) -> None:
        if self.closed.is_set() or self._client.is_closed:
            raise self._lost()

    def _lost(self) -> LogError:
        return LogError(f"the connection to NATS has ended{self._complaints.told()}")


class _Complaints:
    """What the server complains about on a connection.

    Args:
        tell: called with each complaint; None for nothing.
    """

    def __init__(self, tell: Callable[[Exception], None] | None) -> None:
        self._last: Exception | None = None
        self.hear: Callable[[Exception], None] | None = None
        """Called with each complaint, too, as soon as there is a connection."""
        self._tell = tell

    def told(self) -> str:
        """Return what was complained about last, in parentheses; nothing if nothing was."""
        return "" if self._last is None else f" ({_told(self._last)})"

    async def note(self, error: Exception) -> None:
        self._last = error
        for call in (self._tell, self.hear):
            if call is not None:
                call(error)


class Subscription:
    """One subscription.

    Args:
        end: ends it.
    """

    def __init__(self, end: Callable[[], Awaitable[None]]) -> None:
        self._end = end

    async def aclose(self) -> None:
        """End it; if the connection has ended, do nothing."""
        try:
            await self._end()
        except (OSError, nats.errors.Error) as exc:
            logger.debug("a subscription ended with its connection: %s", exc)


async def _close(client: PromptClient) -> None:
    try:
        async with asyncio.timeout(_CLOSE):
            await client.close()
    except (OSError, TimeoutError, nats.errors.Error) as exc:
        logger.debug("a connection to NATS could not be closed: %s", exc)
        client.abort()


def _unsent(subject: str, exc: Exception) -> LogError:
    return LogError(f"a message to {subject} cannot be sent: {_told(exc)}")


def _told(exc: BaseException | None) -> str:
    """Return an error as one line; some of the library's have no text."""
    text = " ".join(str(exc).split())
    return text or type(exc).__name__
