"""Whenever policies answer, each channel's messages are carried out in the order sent.

One connection's messages to public and private channels, with policies that answer at once, and
with the same ones that answer late and in any order: each topic gets the same replies in the same
order, and the same broadcasts go out.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_server.messages.policies.policy_checks import PolicyChecks
from realtime_server.messages.policies.questions import Answer, Question
from realtime_server.messages.stored_messages import StoredMessages
from realtime_server.net.private_channels import PrivateChannels
from tests.property.examples import examples
from tests.server.net.test_connection import open_connection
from tests.server.net.test_connection_private import Tokens
from tests.server.net.test_connection_rooms import make_rooms, received
from tests.server_helpers import make_metrics

TOPICS = ("realtime:open", "realtime:one", "realtime:two")
ACTIONS = ("join", "join", "push", "push", "leave", "good", "bad")


class Checks:
    """Policies that let in whose token is not bad; late, if there is chance."""

    def __init__(self, chance: Random | None) -> None:
        self.chance = chance
        self.waiting: list[asyncio.Future[None]] = []

    async def ask(self, question: Question) -> Answer:
        if self.chance is not None:
            self.waiting.append(asyncio.get_running_loop().create_future())
            await self.waiting[-1]
        is_good = '"bad"' not in question.viewer.claims
        return Answer(frozenset(question.extensions) if is_good else frozenset())

    def answer_one(self) -> None:
        if self.chance is not None and self.waiting:
            self.waiting.pop(self.chance.randrange(len(self.waiting))).set_result(None)


def frame(topic: str, action: str, ref: int) -> str:
    event, payload = {
        "join": ("phx_join", {"config": {"private": topic != TOPICS[0]}}),
        "push": ("broadcast", {"event": "m", "payload": ref}),
        "leave": ("phx_leave", {}),
        "good": ("access_token", {"access_token": "good"}),
        "bad": ("access_token", {"access_token": "bad"}),
    }[action]
    return json.dumps([None, str(ref), topic, event, payload])


async def replies(
    sent: list[tuple[str, str]], chance: Random | None
) -> tuple[dict[str, list[Any]], int]:
    checks, rooms = Checks(chance), make_rooms()
    private = PrivateChannels(
        cast(PolicyChecks, checks), cast(StoredMessages, None), (), make_metrics()
    )
    got: defaultdict[str, list[Any]] = defaultdict(list)
    async with open_connection(
        Tokens(), rooms=rooms, private=private, vsn="2.0.0", max_joins_per_second=1000
    ) as client:

        def hear() -> None:
            for _, ref, topic, event, payload in received(client):
                got[topic].append((ref, event, payload))

        for number, (topic, action) in enumerate(sent):
            client.websocket.incoming.put_nowait(frame(topic, action, number))
            await client.settle()
            if chance is not None and chance.random() < 0.4:
                checks.answer_one()
                await client.settle()
            hear()
        while checks.waiting:
            checks.answer_one()
            await client.settle()
            hear()
        # The connection does not end before what it has asked is answered.
        checks.chance = None
    return got, rooms.stats().broadcasts


async def soon(
    sent: list[tuple[str, str]], chance: Random | None
) -> tuple[dict[str, list[Any]], int]:
    """Fail rather than hang."""
    async with asyncio.timeout(30):
        return await replies(sent, chance)


@pytest.mark.slow
@examples(15)
@given(
    st.lists(st.tuples(st.sampled_from(TOPICS), st.sampled_from(ACTIONS)), max_size=12),
    st.randoms(),
)
def test_channels_get_the_same_whenever_policies_answer(
    sent: list[tuple[str, str]], chance: Random
) -> None:
    at_once = asyncio.run(soon(sent, None))
    assert asyncio.run(soon(sent, chance)) == at_once
