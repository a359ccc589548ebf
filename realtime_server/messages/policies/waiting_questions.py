"""WaitingQuestions: a queue of questions in which the viewers have their turns.

When it is full, who has most in it has to make room for others: whoever asks without end harms
itself alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

import attrs

from ...rls.viewers import Viewer
from .questions import Answer, Question

__all__ = ["Waiting", "WaitingQuestions"]


@attrs.define(eq=False)
class Waiting:
    """A question that waits, and its answer."""

    question: Question
    answers: list[asyncio.Future[Answer]] = attrs.field(factory=list, init=False)
    """One for each who waits for it, since any of them may give up."""

    def resolve(self, answer: Answer) -> None:
        """Answer it, unless that was done."""
        for one in self.answers:
            if not one.done():
                one.set_result(answer)


class WaitingQuestions:
    """Questions that wait, and are taken from one viewer after the other.

    Args:
        most: how many may wait.
        most_of_one: how many of them one viewer may have.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._count = 0
        # In the order of the viewers' turns.
        self._queues: dict[Viewer, deque[Waiting]] = {}

    def __len__(self) -> int:
        return self._count

    def put(self, waiting: Waiting) -> Waiting | None:
        """Have a question wait.

        Returns:
            The question for which there is no room now: this one, or the last of the viewer that
            has most; None if there is room for all.
        """
        viewer = waiting.question.viewer
        queue = self._queues.get(viewer)
        own = 0 if queue is None else len(queue)
        if own >= self._most_of_one:
            return waiting
        crowded_out = None
        if self._count >= self._most:
            longest = max(self._queues.values(), key=len)
            if len(longest) <= own + 1:
                return waiting
            crowded_out = longest.pop()
            self._count -= 1
        if queue is None:
            queue = self._queues[viewer] = deque()
        queue.append(waiting)
        self._count += 1
        return crowded_out

    def put_back(self, taken: Iterable[Waiting]) -> None:
        """Have questions that were taken wait again, ahead of their viewers' others."""
        for waiting in reversed(list(taken)):
            self._queues.setdefault(waiting.question.viewer, deque()).appendleft(waiting)
            self._count += 1

    def take(self, most: int) -> list[Waiting]:
        """Take questions, each time one of the viewer whose turn it is."""
        taken: list[Waiting] = []
        while self._queues and len(taken) < most:
            viewer = next(iter(self._queues))
            queue = self._queues.pop(viewer)
            taken.append(queue.popleft())
            if queue:
                self._queues[viewer] = queue
        self._count -= len(taken)
        return taken
