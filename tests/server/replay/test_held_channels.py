"""Channels wait until the journal was read up to their joins, where others write it, too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import attrs
import pytest

from realtime_server.phoenix.actions import Departure
from realtime_server.replay.absences import Absence
from realtime_server.replay.held_channels import HeldChannels
from realtime_server.replay.identity import Key
from realtime_server.replay.membership import Membership
from realtime_server.replay.standing import Standing
from tests.virtual_time import run_in_virtual_time
from tests.waiting import eventually

from .stage import Client, Stage, batch

KEY = Key(b"k" * 16, is_exact=True)


@attrs.define
class Marks:
    """A journal of which the test says what is read."""

    heard: int = 0
    number: int = 0
    has_company: bool = True

    def mark(self) -> int:
        return self.number + 1


class World:
    """A server that is not the only one."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.held = self.stage.replay.held
        self.marks = Marks()
        self.held.marks = self.marks

    def come(self, name: str = "a", *, ref: int = 7, session: bool = True) -> Client:
        client = Client(self.stage, name, session=session)
        client.ref = ref - 1
        client.connect()
        client.join()
        return client

    def become_known(self, client: Client, place: int) -> None:
        """Have it become known where a client was on another server."""
        assert client.visit is not None
        key = client.visit.visitor.key({}, client.topic, client.subscription.bindings)
        assert key is not None
        before = Absence(key, 5, (place, 0), self.stage.now)
        self.stage.replay.memberships.absences.elsewhere = lambda key: [before]

    def read(self) -> None:
        """Have everything come that was written up to now."""
        self.marks.number += 1
        self.marks.heard = self.marks.number
        self.held.look()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(run()) for run in (self.held.run, self.stage.guarded.run)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def test_who_comes_back_goes_on_from_what_is_known_when_all_was_read() -> None:
    world = World()
    async with world.running():
        world.stage.publish(*batch(16, 1))
        world.stage.publish(*batch(32, 2))
        client = world.come()
        world.become_known(client, 0)
        world.held.look()
        world.stage.publish(*batch(48, 3))
        await asyncio.sleep(0.01)
        assert client.starts == []
        # The other server has written that it has the first one.
        world.become_known(client, 16)
        world.read()
        await eventually(lambda: client.ids == [2, 3])
        assert [one.resumed for one in client.starts] == [True]


@pytest.mark.parametrize("is_alone", [True, False])
async def test_nobody_waits_for_a_journal_that_nobody_else_writes_nor_with_a_first_message(
    is_alone: bool,
) -> None:
    world = World()
    world.marks.has_company = not is_alone
    client = world.come(ref=7 if is_alone else 1)
    assert [one.resumed for one in client.starts] == [False]


async def test_no_channel_waits_whose_client_has_begun_on_its_connection() -> None:
    world = World()
    client = world.come(ref=1)
    client.topic = "realtime:public:todos"
    client.join()
    assert client.ref == 2
    assert len(client.starts) == 2
    client.leave()
    client.connect()
    client.join()
    assert len(client.starts) == 2


async def test_whose_token_or_address_is_known_to_no_other_server_does_not_wait() -> None:
    world = World()
    client = world.come(session=False)
    assert len(client.starts) == 1
    world.become_known(client, 0)
    client.leave(Departure.LEFT)
    async with world.running():
        other = world.come(session=False, ref=9)
        await asyncio.sleep(0.01)
        assert other.starts == []
        world.read()
        await eventually(lambda: len(other.starts) == 1)


async def test_who_is_lost_while_it_waits_goes_on_from_what_is_known_then() -> None:
    world = World()
    async with world.running():
        world.stage.publish(*batch(16, 1))
        client = world.come()
        world.stage.publish(*batch(32, 2))
        client.leave()
        client.connect()
        client.join()
        world.become_known(client, 0)
        world.read()
        await eventually(lambda: client.ids == [1, 2])
        assert [one.resumed for one in client.starts] == [True]


async def test_who_is_lost_while_it_waits_and_is_new_goes_on_from_its_join() -> None:
    world = World()
    async with world.running():
        world.stage.publish(*batch(16, 1))
        client = world.come()
        world.stage.publish(*batch(32, 2))
        client.leave()
        await asyncio.sleep(0.01)
        assert len(world.stage.replay.memberships.absences) == 0
        world.read()
        await eventually(lambda: len(world.stage.replay.memberships.absences) == 1)
        client.connect()
        client.join()
        world.read()
        await eventually(lambda: client.ids == [2])


async def test_who_leaves_while_it_waits_has_left() -> None:
    world = World()
    async with world.running():
        client = world.come()
        client.leave(Departure.LEFT)
        world.read()
        await asyncio.sleep(0.01)
        assert client.starts == []
        assert len(world.stage.replay.memberships.absences) == 0


def test_nobody_waits_for_ever_for_a_record_that_does_not_come() -> None:
    began: list[Any] = []
    ended: list[Any] = []

    async def play() -> None:
        held = HeldChannels(began.append, lambda member: True)
        held.on_gone = ended.append
        held.marks = Marks()
        running = asyncio.create_task(held.run())
        await asyncio.sleep(0)
        standings = [standing_of(number) for number in (3, 4, 5)]
        for standing in standings:
            assert held.take(standing, is_new=False)
            await asyncio.sleep(1)
        held.discard(standings[1].member)
        assert held.put_off(standings[1])
        await asyncio.sleep(6.9)
        assert (began, ended) == ([], [])
        await asyncio.sleep(0.2)
        assert began == [standings[0].member]
        await asyncio.sleep(10)
        assert (began, ended) == ([standings[0].member, standings[2].member], [standings[1]])
        running.cancel()
        await asyncio.wait({running})

    run_in_virtual_time(play())


def standing_of(ref: int) -> Standing:
    none = cast(Any, None)
    return Standing(none, Membership(KEY, ref, none), none, (0, -1), 0, 0.0)
