"""Plays a world whose clients lose their connections and come back, with the same token or another.

While they are away rows are written, and policies, privileges and roles change. Once a client has
come back, it has to have been told of what it missed as its token of now sees it *now*: what a
SELECT in that token's name shows, and only rows that still are as the change says. What was on its
way when the connection was lost comes again, unless the client has proven that it got it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from random import Random

import attrs

from tests.fuzz.rls.clients import Absence, Binding, Channel, Client, ProtocolError, Viewer
from tests.fuzz.rls.look import Look
from tests.fuzz.rls.oracle import Oracle
from tests.fuzz.rls.play import BATCHES, Player, Result, WrongDecisionError
from tests.fuzz.rls.returning import ReturningClient
from tests.fuzz.rls.rules import Change, Expected, either
from tests.fuzz.rls.stage import Stage, execute

__all__ = ["ReplayPlayer"]

_LEAST_HERE = 2
"""Clients that are always there: they say when the server has handed out what was written."""


class ReplayPlayer(Player):
    """Plays one world whose clients go away and come back."""

    # What a topic client is told last of what it missed, nothing says.
    _topic_share = 0.0

    def __init__(self, stage: Stage, random: Random, schema: str, result: Result) -> None:
        super().__init__(stage, random, schema, result)
        # By binding and change: what was to be told before the client went away.
        self._was: dict[tuple[Binding, int], Expected] = {}
        # By channel and subject: where somebody left whom nobody has come back as.
        self._left: dict[Channel, dict[object, Absence]] = {}

    async def _open(self, vsn: str, viewer: Viewer) -> Client:
        return await ReturningClient.begin(
            self._stage.port, vsn, viewer, self._world.schema, self._random
        )

    async def _play_batch(
        self, oracle: Oracle, clients: Sequence[Client], joined: dict[Channel, Client], number: int
    ) -> None:
        random, connection = self._random, self._stage.connection
        here, away = _sorted_out(clients)
        if not any(self._left.values()) and number and random.random() < 0.6:
            self._migrate()
        most = min(3, max(len(here) - _LEAST_HERE, 0))
        leaving = [one for one in random.sample(here, random.randint(0, most)) if one.channels]
        for client in leaving:
            await client.until_proven()
        is_amid = random.random() < 0.4
        if not is_amid:
            await self._cut(oracle, leaving)
        if (away or leaving) and random.random() < 0.4:
            self._migrate(keeps_columns=True)
        batch = self._writer.batch(oracle.keys(), random.randint(3, 40))
        cutting = random.randint(0, len(batch)) if is_amid else None
        for place, transaction in enumerate(batch):
            if place == cutting:
                await self._cut(oracle, leaving)
            await asyncio.to_thread(execute, connection, "BEGIN", *transaction, "COMMIT")
        if cutting == len(batch):
            await self._cut(oracle, leaving)
        here, away = _sorted_out(clients)
        await self._fence(here)
        await asyncio.to_thread(self._judge_leaving, oracle, leaving, number)
        await asyncio.to_thread(self._judge, oracle, number)
        is_last = number == BATCHES - 1
        returning = [one for one in away if is_last or random.random() < 0.6]
        if away and random.random() < 0.5:
            self._migrate(keeps_columns=True)
        for client in returning:
            await self._come_back(oracle, client)
        for client in returning:
            await self._replace_soon(oracle, client)
        await self._fence([*here, *returning])
        await asyncio.to_thread(self._judge_returned, oracle, returning, joined, number)

    async def _cut(self, oracle: Oracle, clients: Collection[ReturningClient]) -> None:
        for client in clients:
            for channel in client.channels.values():
                channel.absence = absence = Absence(channel.viewer, oracle.seen)
                self._left.setdefault(channel, {})[_subject(channel.viewer)] = absence
            await client.cut()
            until = oracle.now()
            for channel in client.channels.values():
                assert channel.absence is not None
                channel.absence.until = until
                for binding in channel.bindings:
                    channel.absence.told[binding], binding.told = binding.told, []
            self._result.outcomes["a client goes away"] += 1

    async def _come_back(self, oracle: Oracle, client: ReturningClient) -> None:
        """Let a client join its channels again, some of them with another's token."""
        random = self._random
        channels = list(client.channels.values())
        for channel in channels:
            absence = _absence_of(channel)
            likely = random.random()
            viewers = self._viewers
            if likely < 0.75:
                # In another's name nobody goes on where somebody was.
                subject = _subject(absence.former)
                viewers = [one for one in viewers if _subject(one) == subject]
            if likely > 0.35:
                channel.give_to(random.choice(viewers))
            # With the same subject it goes on where that one was, even if another came meanwhile.
            found = self._left[channel].get(_subject(channel.viewer), absence)
            channel.absence = attrs.evolve(found, viewers=[channel.viewer])
        may = {channel: self._may_join(oracle, channel.viewer, channel) for channel in channels}
        await client.come_back(random.choice(self._viewers))
        for channel in channels:
            self._judge_return(channel, may[channel])

    def _judge_return(self, channel: Channel, may: bool) -> None:
        absence = _absence_of(channel)
        if may != (channel.refusal is None):
            raise WrongDecisionError(
                f"{channel.viewer} joins {channel.topic} again with "
                f"{[*map(str, channel.bindings)]}: expected {'ok' if may else 'a refusal'}, got "
                f"{channel.refusal or 'ok'}"
            )
        if channel.refusal is not None:
            self._result.outcomes["a channel that comes back is refused"] += 1
            del self._left[channel]
            return
        expected = self._left[channel].pop(_subject(channel.viewer), None) is not None
        if absence.is_resumed is not expected:
            raise WrongDecisionError(
                f"{channel.topic} of {absence.former} comes back as {channel.viewer}'s: expected "
                f"resumed to be {expected}, got {absence.is_resumed}"
            )
        how = "goes on where it was" if expected else "begins anew"
        self._result.outcomes[f"a channel that comes back {how}"] += 1

    async def _replace_soon(self, oracle: Oracle, client: ReturningClient) -> None:
        """Give some channels yet another token, perhaps while they are told what they missed."""
        for channel in list(client.channels.values()):
            viewer = self._random.choice(self._viewers)
            if self._random.random() < 0.1 and self._may_join(oracle, viewer, channel):
                channel.give_to(viewer)
                _absence_of(channel).viewers.append(viewer)
                await client.replace(channel, viewer)
                self._result.outcomes["a channel that has just come back gets a token"] += 1

    def _judge_leaving(
        self, oracle: Oracle, clients: Collection[ReturningClient], number: int
    ) -> None:
        """Judge what clients were told before they went away in the midst of a batch."""
        channels = [one for client in clients for one in client.channels.values()]
        if not channels:
            return
        look = oracle.look(_absence_of(one).former for one in channels)
        for channel in channels:
            absence = _absence_of(channel)
            for binding in channel.bindings:
                expected = [
                    look.expect(binding, absence.former, change)
                    for change in look.changes
                    if change.number <= absence.until
                    and binding.listens_to(change.table.name, change.kind)
                ]
                self._was.update(((binding, one.change.number), one) for one in expected)
                expected = [attrs.evolve(one, is_optional=True) for one in expected]
                told = absence.told[binding]
                self._compare(oracle, f"batch {number}, before the cut", binding, expected, told)

    def _judge_returned(
        self,
        oracle: Oracle,
        clients: Collection[ReturningClient],
        joined: dict[Channel, Client],
        number: int,
    ) -> None:
        channels = [channel for channel, client in joined.items() if client in clients]
        if not channels:
            return
        absences = [_absence_of(channel) for channel in channels]
        look = oracle.look(
            (viewer for one in absences for viewer in (one.former, *one.viewers)),
            min(one.begin for one in absences),
        )
        for channel, absence in zip(channels, absences, strict=True):
            for binding in channel.bindings:
                expected = [
                    self._missed(look, channel, absence, binding, change)
                    for change in look.changes
                    if change.number > absence.begin
                    and binding.listens_to(change.table.name, change.kind)
                ]
                told, binding.told = binding.told, []
                when = f"batch {number}, when {absence.former} has come back"
                self._compare(oracle, when, binding, expected, told)
                self._count(expected, "missed: ")
            if channel.has_gap:
                self._result.outcomes["a channel that comes back is told of a gap"] += 1
            channel.absence, channel.has_gap = None, False
            if channel.refusal is not None:
                del joined[channel]

    def _missed(
        self, look: Look, channel: Channel, absence: Absence, binding: Binding, change: Change
    ) -> Expected:
        """Say what a channel that is back is to be told of a change that it may have missed."""
        if channel.refusal is not None or not absence.is_resumed:
            return Expected(change, None, "the channel begins anew")
        each = [look.expect(binding, one, change, is_strict=True) for one in absence.viewers]
        expected = reduce(lambda now, former: either(now, former, may_be_lost=False), each)
        is_optional = channel.has_gap or self._may_be_proven(absence, binding, change)
        return attrs.evolve(expected, is_optional=True) if is_optional else expected

    def _may_be_proven(self, absence: Absence, binding: Binding, change: Change) -> bool:
        """Return whether a client may have proven, before it was away, that it knew of a change."""
        if change.number > absence.until:
            return False
        before = self._was[binding, change.number]
        # Who was to be told nothing had nothing to prove.
        is_sure = before.told is not None and not before.is_optional and not before.others
        return not is_sure or before.told in absence.told[binding]


def _sorted_out(
    clients: Sequence[Client],
) -> tuple[list[ReturningClient], list[ReturningClient]]:
    """Return the clients that are there, and those that are away."""
    here: list[ReturningClient] = []
    away: list[ReturningClient] = []
    for client in clients:
        assert isinstance(client, ReturningClient)
        (away if client.is_away else here).append(client)
    return here, away


def _absence_of(channel: Channel) -> Absence:
    if channel.absence is None:
        raise ProtocolError(f"{channel.topic} was not away")
    return channel.absence


def _subject(viewer: Viewer) -> object:
    """Return in whose name a channel goes on: its token's ``sub``, else its role."""
    claims: Mapping[str, object] = json.loads(viewer.claims)
    sub = claims.get("sub")
    return viewer.role if sub is None else sub
