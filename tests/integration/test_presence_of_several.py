"""Presence in rooms whose members are at several servers, with sockets, NATS and processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from realtime_server.cluster import room_node, shared_presence
from realtime_server.cluster.connection import NatsConnection
from realtime_server.cluster.presence_messages import (
    Change,
    encode_presence,
    room_id,
    room_subject,
)
from realtime_server.fanout.presence_state import Entry
from realtime_server.phoenix.broadcasts import RoomName
from realtime_server.server import RealtimeServer
from tests.integration.test_rooms import TOPIC
from tests.integration.test_rooms_of_several import (
    machines,
    on_latest,
    reached,
    settings,
)
from tests.integration.test_stream_http import NOWHERE
from tests.integration.test_workers import Workers
from tests.nats_server import NatsServer
from tests.server_helpers import PhoenixClient, dev_config, open_client
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


class Present:
    """A member that is told who is present, and adds it up as stock clients do."""

    def __init__(self, client: PhoenixClient, key: str) -> None:
        self.client = client
        self.key = key
        self.state: dict[str, dict[str, Any]] = {}
        self.diffs: list[tuple[set[str], set[str]]] = []
        """The keys that came and went with each."""

    @property
    def keys(self) -> set[str]:
        return {*self.state}

    async def track(self, **meta: Any) -> None:
        message = {"type": "presence", "event": "track", "payload": meta}
        await self.client.send(TOPIC, "presence", message, ref="2", join_ref="1")

    async def listen(self) -> None:
        async for frame in self.client.websocket:
            self._hear(*self._event(frame))

    def _event(self, frame: str | bytes) -> tuple[str, Any]:
        _, _, _, event, payload = json.loads(frame)
        return event, payload

    def _hear(self, event: str, payload: Any) -> None:
        if event == "presence_state":
            self._add(payload)
        elif event == "presence_diff":
            self._add(payload["joins"])
            for key, left in payload["leaves"].items():
                for meta in left["metas"]:
                    del self.state[key][meta["phx_ref"]]
                if not self.state[key]:
                    del self.state[key]
            self.diffs.append(({*payload["joins"]}, {*payload["leaves"]}))

    def _add(self, state: Any) -> None:
        for key, found in state.items():
            for meta in found["metas"]:
                self.state.setdefault(key, {})[meta["phx_ref"]] = meta


@contextlib.asynccontextmanager
async def present(
    port: int, key: str, *, pid: int = 0, of: Workers | None = None
) -> AsyncIterator[Present]:
    """Have a member that tracks itself, at one of the workers if that is said."""
    async with contextlib.AsyncExitStack() as stack:
        while True:
            one = await stack.enter_async_context(open_client(port, "2.0.0"))
            if of is None or one.websocket.local_address[1] in of.clients_of(pid):
                break
            await stack.aclose()
        member = Present(one, key)
        config = {"config": {"presence": {"key": key, "enabled": True}}}
        await one.send(TOPIC, "phx_join", config, ref="1", join_ref="1")
        listening = asyncio.create_task(member.listen())
        await member.track(name=key)
        try:
            yield member
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


@on_latest
async def test_members_at_two_servers_see_each_other(nats: NatsServer) -> None:
    async with machines(nats, "presence_two") as (one, two), present(one.port, "ann") as ann:
        await eventually(lambda: ann.keys == {"ann"})
        async with present(two.port, "bob") as bob, present(two.port, "ann") as again:
            for member in (ann, bob, again):
                await eventually(lambda member=member: member.keys == {"ann", "bob"})  # type: ignore[misc]
                await eventually(lambda member=member: len(member.state["ann"]) == 2)  # type: ignore[misc]
            await bob.track(name="bob", busy=True)
            await eventually(
                lambda: [meta["busy"] for meta in ann.state["bob"].values() if "busy" in meta]
            )
            assert len(ann.state["bob"]) == 1
        await eventually(lambda: ann.keys == {"ann"})
        assert len(ann.state["ann"]) == 1


@on_latest
async def test_a_server_that_stops_takes_its_members_along_in_one_flush(
    nats: NatsServer,
) -> None:
    shared = dev_config(NOWHERE, **settings(nats, "presence_stop"), DRAIN_TIMEOUT="100")
    async with machines(nats, "presence_stop") as (one, _), present(one.port, "ann") as ann:
        async with RealtimeServer(shared) as other, contextlib.AsyncExitStack() as stack:
            for number in range(20):
                await stack.enter_async_context(present(other.port, f"member {number}"))
            await eventually(lambda: len(ann.state) == 21)
            ann.diffs.clear()
            # Its sockets end together.
            stack.pop_all()
        await eventually(lambda: ann.keys == {"ann"})
        assert max(len(leaves) for _, leaves in ann.diffs) > 1


@on_latest
async def test_what_strangers_publish_of_presence_is_counted_and_left(nats: NatsServer) -> None:
    async with machines(nats, "presence_strange") as (one, _):
        config = dev_config(NOWHERE, **settings(nats, "presence_strange"))
        async with (
            await NatsConnection.open(config, name="stranger") as stranger,
            present(one.port, "ann") as ann,
        ):
            await eventually(lambda: ann.keys == {"ann"})
            room = room_id(RoomName(TOPIC))
            subject = f"{config.stream_name}.rt.{room_subject(room)}"
            bad = Entry(b'"bob"', b'{"phx_ref":"x"}', "r" * 16)
            good = Entry(b'"bob"', b'{"x":1}', "s" * 16)
            for entries in ({1: bad}, {2: good}):
                data = encode_presence(Change(b"stranger", room, 0, 1, entries))
                await stranger.publish(subject, data)
            await eventually(lambda: ann.keys == {"ann", "bob"})
            assert one.room_node is not None
            assert one.room_node.stats().strange == 1


async def test_after_nats_was_away_both_know_of_all(
    new_nats: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_node, "BEAT", 0.1)
    monkeypatch.setattr(shared_presence, "BEAT", 0.1)
    monkeypatch.setattr(shared_presence, "SILENT", 1.0)
    nats = new_nats()
    async with (
        machines(nats, "presence_away") as (one, two),
        present(one.port, "ann") as ann,
        present(two.port, "bob") as bob,
    ):
        for member in (ann, bob):
            await eventually(lambda member=member: member.keys == {"ann", "bob"})  # type: ignore[misc]
        with nats.down():
            # Who is not heard of is gone.
            await eventually(lambda: (ann.keys, bob.keys) == ({"ann"}, {"bob"}))
            await bob.track(name="bob", since="then")
        await reached(one)
        for member in (ann, bob):
            await eventually(lambda member=member: member.keys == {"ann", "bob"})  # type: ignore[misc]
        await eventually(lambda: [m.get("since") for m in ann.state["bob"].values()] == ["then"])
