"""What workers broadcast to each other through their supervisor, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from realtime_core.errors import ServerError
from realtime_server.cluster.carrier import NotSent
from realtime_server.workers import room_writer
from realtime_server.workers.room_frames import STANDING, decode_room_frame, encode_room_frame
from realtime_server.workers.room_link import RoomLink
from realtime_server.workers.room_switch import RoomSwitch
from tests.server.cluster.carriers import Wire, Wires
from tests.waiting import eventually


class Outside(Wire):
    """Other machines."""

    def __init__(self) -> None:
        super().__init__(Wires())
        self.is_away = True
        self.sent: list[tuple[str, bytes]] = []
        self.changed: Callable[[], None]

    def send(self, subject: str, data: bytes) -> NotSent | None:
        if self.is_away:
            return NotSent.AWAY
        self.sent.append((subject, data))
        return None


class Linked:
    """A worker's end of its link, with what came."""

    def __init__(self, link: RoomLink, transport: asyncio.Transport) -> None:
        self.link = link
        self.transport = transport
        self.heard: list[tuple[str, bytes]] = []
        link.begin(lambda subject, data: self.heard.append((subject, data)))
        self.running = asyncio.create_task(link.run())


@contextlib.asynccontextmanager
async def workers(
    switch: RoomSwitch, count: int, *, is_away: bool = False
) -> AsyncIterator[list[Linked]]:
    async with contextlib.AsyncExitStack() as stack:
        found: list[Linked] = []
        for number in range(1, count + 1):
            ours, theirs = socket.socketpair()
            serving = asyncio.create_task(
                switch.serve(number, *await asyncio.open_connection(sock=ours))
            )
            reader, writer = await asyncio.open_connection(sock=theirs)
            linked = Linked(RoomLink(reader, writer, is_away=is_away), writer.transport)
            found.append(linked)
            for task in (serving, linked.running):
                stack.push_async_callback(_end, task)
        yield found


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.asyncio
async def test_a_message_goes_to_the_other_workers_that_listen() -> None:
    async with workers(RoomSwitch(), 3) as (one, two, three):
        for linked in (one, two):
            linked.link.listen("b.1")
        three.link.listen("b.2")
        # It is certain that the others listen when they hear of what was sent afterwards.
        await until_heard(three, one, "b.2")
        sent = [("b.1", bytes([number]) * number) for number in range(100)]
        for message in sent:
            assert one.link.send(*message) is None
        await eventually(lambda: two.heard == sent)
        assert one.heard == []
        assert {subject for subject, _ in three.heard} == {"b.2"}

        two.link.ignore("b.1")
        two.link.listen("b.3")
        await until_heard(two, one, "b.3")
        one.link.send("b.1", b"")
        one.link.send("b.3", b"last")
        await eventually(lambda: ("b.3", b"last") in two.heard)
        assert ("b.1", b"") not in two.heard[100:]


async def until_heard(listener: Linked, sender: Linked, subject: str) -> None:
    def hears() -> bool:
        sender.link.send(subject, b"?")
        return (subject, b"?") in listener.heard

    await eventually(hears)


@pytest.mark.asyncio
async def test_a_worker_that_ends_listens_no_more() -> None:
    outside = Outside()
    async with workers(RoomSwitch(outside), 2) as (one, two):
        one.link.listen("b.1")
        two.link.listen("b.1")
        two.link.listen("b.2")
        two.link.leave("n", b"bye")
        await eventually(lambda: outside.subjects == {"b.1", "b.2"})
        one.link.listen("n")
        await until_heard(one, two, "n")
        outside.is_away = False
        assert ("n", b"bye") not in one.heard
        await _end(two.running)
        await eventually(lambda: outside.subjects == {"b.1", "n"})
        # Whoever is left is told, here and elsewhere.
        await eventually(lambda: ("n", b"bye") in one.heard)
        assert ("n", b"bye") in outside.sent


@pytest.mark.asyncio
async def test_workers_are_told_whether_other_machines_can_be_reached() -> None:
    outside = Outside()
    switch = RoomSwitch(outside)
    async with workers(switch, 2, is_away=True) as (one, two):
        two.link.listen("b.1")
        # The other workers get it all the same.
        await until_heard(two, one, "b.1")
        assert one.link.send("b.1", b"alone") is NotSent.AWAY
        await eventually(lambda: ("b.1", b"alone") in two.heard)
        assert outside.sent == []
        # One for each that went nowhere.
        assert switch.stats().bus.lost >= 2

        outside.is_away = False
        outside.changed()
        await eventually(lambda: one.link.send("b.1", b"both") is None)
        await eventually(lambda: ("b.1", b"both") in outside.sent)
        assert one.link.send("b.1", bytes(outside.max_bytes + 1)) is NotSent.TOO_LARGE
        outside.sent.clear()
        outside.take("b.1", b"from outside")
        outside.take("b.2", b"nobody listens")
        await eventually(lambda: ("b.1", b"from outside") in two.heard)
        # It goes back to no machine.
        assert ("b.1", b"from outside") not in outside.sent

        outside.is_away = True
        outside.changed()
        await eventually(lambda: one.link.send("b.1", b"") is NotSent.AWAY)


@pytest.mark.asyncio
async def test_a_worker_that_does_not_read_loses_messages_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room_writer, "MAX_WAITING_BYTES", 100_000)
    switch = RoomSwitch()
    async with workers(switch, 3) as (one, two, stuck):
        for linked in (two, stuck):
            linked.link.listen("b.1")
        await until_heard(two, one, "b.1")
        await until_heard(stuck, one, "b.1")
        # It reads nothing more, with its link open.
        stuck.transport.pause_reading()
        message = bytes(20_000)
        for number in range(4, 52, 4):
            for _ in range(4):
                assert one.link.send("b.1", message) is None
            await eventually(lambda number=number: two.heard.count(("b.1", message)) == number)  # type: ignore[misc]
        assert 0 < switch.stats().bus.lost < 48


@pytest.mark.asyncio
async def test_another_version_of_the_server_is_told_apart() -> None:
    with pytest.raises(ServerError, match="run one version of the server"):
        decode_room_frame(b"")
    for content in (b"X\0", b"M\x05abc"):
        with pytest.raises(ServerError, match="run one version of the server"):
            decode_room_frame(content)
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(encode_room_frame(STANDING, "", b""))
        with pytest.raises(ServerError, match="worker 1 has sent a frame of rooms"):
            await RoomSwitch().serve(1, *await asyncio.open_connection(sock=ours))
