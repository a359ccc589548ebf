"""What a server asks about private rooms in sessions: policies and a table that chance answers for.

They answer at once or late, grant some of what is asked, or cannot be asked. They know what the one
client of the moment may hear, so that it can be seen whether it hears more.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Final

from realtime_server.fanout.bus import LocalBus
from realtime_server.messages.policies.questions import Answer, Extension, Problem, Question
from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from realtime_server.phoenix.joins import ReplayConfig
from realtime_server.phoenix.reasons import BroadcastReason

__all__ = ["KnownBus", "Policies", "Stored"]

_LATE: Final = (0.0, 0.0, 0.0, 0.02, 1.0, 10.0)
"""Seconds that an answer may take."""


class Policies:
    """Answers as chance has it.

    Args:
        chance: decides; None: all is granted, at once.
    """

    def __init__(self, chance: Random | None) -> None:
        self.chance = chance
        self._granted: set[str] = set()
        self._asked: list[str] = []

    def begin(self) -> None:
        """Forget what the client before might hear."""
        self._granted.clear()

    def lets_hear(self, topic: str) -> bool:
        """Return whether the client may hear a private room now, or is being decided on."""
        return topic in self._granted or topic in self._asked

    async def ask(self, question: Question) -> Answer:
        """Answer a question, as PolicyChecks does."""
        is_about_hearing = not question.is_write and Extension.BROADCAST in question.extensions
        if is_about_hearing:
            self._asked.append(question.topic)
        answer = await self._answer(question)
        if is_about_hearing:
            self._asked.remove(question.topic)
            if Extension.BROADCAST in answer.granted:
                self._granted.add(question.topic)
            else:
                self._granted.discard(question.topic)
        return answer

    async def _answer(self, question: Question) -> Answer:
        chance = self.chance
        if chance is None:
            return Answer(frozenset(question.extensions))
        await _wait(chance)
        kind = chance.random()
        if kind < 0.15:
            return Answer(problem=chance.choice([*Problem]))
        if kind < 0.65:
            return Answer(frozenset(question.extensions))
        return Answer(frozenset(one for one in question.extensions if chance.random() < 0.5))


class Stored:
    """A table whose messages chance chooses.

    Args:
        chance: decides.
    """

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    async def read(
        self, topic: str, wanted: ReplayConfig, *, takes_bytes: bool
    ) -> list[Broadcast] | None:
        """Read messages, as StoredMessages does."""
        await _wait(self._chance)
        if self._chance.random() < 0.2:
            return None
        found = [
            Broadcast("stored", b"{}", meta=b'{"id":"11111111-1111-4111-8111-111111111111"}'),
            Broadcast(
                "stored bytes",
                b"\xff",
                is_json=False,
                meta=b'{"id":"22222222-2222-4222-8222-222222222222"}',
            ),
        ]
        return [one for one in found if one.is_json or takes_bytes][: wanted.limit]


class KnownBus(LocalBus):
    """The way to no other process, which knows what would go there: all that is broadcast."""

    def __init__(self) -> None:
        self.published: dict[RoomName, list[Broadcast]] = {}
        """By room, in its order."""

    def publish(self, room: RoomName, broadcast: Broadcast) -> BroadcastReason | None:
        """Keep it."""
        self.published.setdefault(room, []).append(broadcast)
        return None


async def _wait(chance: Random) -> None:
    late = chance.choice(_LATE)
    if late:
        await asyncio.sleep(late)
