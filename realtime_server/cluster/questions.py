"""Questions: the messages of one connection to NATS that were sent and are to be answered.

An answer comes on a subject of its own below the connection's inbox. It does no I/O.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Final

from .client import Message
from .errors import NO_JETSTREAM, LogError, NoResponderError

__all__ = ["Question", "Questions"]

_NOBODY: Final = "503"
"""The status of the answer that nobody listens to a request."""


class Question:
    """A message that is to be answered.

    Args:
        subject: where it is sent.
        reply: the subject that the answer comes on.
        within: seconds that the answer may take, from when it is waited for.
        of: has it as long as it is under way.
    """

    def __init__(self, subject: str, reply: str, within: float, of: Questions) -> None:
        self.subject = subject
        """Where it is sent."""
        self.reply = reply
        """The subject that the answer comes on."""
        self._within = within
        self._of = of
        self._answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def take(self, message: Message) -> None:
        """Take the answer."""
        if not self._answer.done():
            self._answer.set_result(message)

    def fail(self, error: LogError) -> None:
        """Take the reason why no answer comes."""
        if not self._answer.done():
            self._answer.set_exception(error)
            # Nobody has to be waiting for it.
            self._answer.exception()

    async def answer(self) -> Message:
        """Wait for the answer.

        Raises:
            LogError: if none comes.
        """
        subject = self.subject
        try:
            async with asyncio.timeout(self._within):
                message = await self._answer
        except TimeoutError:
            raise LogError(
                f"NATS has not answered a message to {subject} within {self._within:g} s"
                + self._of.complaint()
            ) from None
        finally:
            self._of.forget(self)
        if message.status == _NOBODY:
            raise NoResponderError(
                # Others are also not answered where the stream, or its consumer, is missing.
                NO_JETSTREAM
                if subject.startswith("$JS.API.STREAM.")
                else f"nobody listens to {subject}: JetStream is off, or the stream is missing"
            )
        return message


class Questions:
    """What is under way on one connection.

    Args:
        inbox: what the subjects of the answers begin with.
        complaint: returns what the server has complained about last, for errors; empty: nothing.
    """

    def __init__(self, inbox: str, complaint: Callable[[], str]) -> None:
        self.complaint = complaint
        """Returns what the server has complained about last."""
        self._inbox = inbox
        self._ids = count()
        # By the subject that the answer comes on.
        self._asked: dict[str, Question] = {}

    def add(self, subject: str, within: float) -> Question:
        """Return a question that is about to be sent.

        Args:
            subject: where to.
            within: seconds that the answer may take, from when it is waited for.
        """
        reply = f"{self._inbox}.{next(self._ids)}"
        question = self._asked[reply] = Question(subject, reply, within, self)
        return question

    def forget(self, question: Question) -> None:
        """Forget a question that nobody waits for any more."""
        self._asked.pop(question.reply, None)

    def answered(self, message: Message) -> None:
        """Take an answer."""
        question = self._asked.get(message.subject)
        if question is not None:
            question.take(message)

    def denied(self, subject: str) -> None:
        """Have those fail that the server does not permit: nothing answers them.

        Args:
            subject: where they were sent, in lower case.
        """
        for question in self._asked.values():
            if question.subject.lower() == subject:
                question.fail(
                    LogError(
                        f"NATS does not let its user publish to {question.subject}; permit it there"
                    )
                )

    def end(self, error: LogError) -> None:
        """Have all fail, since the connection has ended."""
        for question in self._asked.values():
            question.fail(error)
