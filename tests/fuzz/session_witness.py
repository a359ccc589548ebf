"""Well-behaved clients beside the sessions: whatever others send, these live, and hear what they
should, and nothing else."""

from __future__ import annotations

import json
from typing import Any, Final

from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from tests.fuzz.session_frames import BINARY, TEXT, frame
from tests.fuzz.session_rooms import ROOM
from tests.fuzz.session_server import BrokenPromiseError, Session, TestedServer
from tests.fuzz.session_tokens import GOOD

__all__ = ["Witness", "Witnesses", "whispers_in"]

_CLOSE: Final = 8
_WHISPER: Final = "whisper"
"""The event that nobody else broadcasts."""


class Witness:
    """A client in a room, which joins it, and then says nothing.

    Args:
        server: whose client it is.
        room: that it joins.
        vsn: of the protocol.
    """

    def __init__(self, server: TestedServer, room: RoomName, vsn: str) -> None:
        self._server = server
        self._room = room
        self._vsn = vsn
        self._session = Session(server, vsn, is_secure=True, is_deflating=False, is_patient=True)
        self._read = 0
        self._heard_of = 0
        self._present: dict[str, dict[str, Any]] | None = None
        private = str(room.is_private).lower()
        config = f'{{"private":{private},"presence":{{"enabled":true}},"broadcast":{{}}}}'
        join = f'"{room.topic}","phx_join",{{"config":{config},"access_token":"{GOOD}"}}'
        text = f'["1","1",{join}]'
        if vsn == "1.0.0":
            topic, event, payload = join.split(",", 2)
            text = f'{{"topic":{topic},"event":{event},"payload":{payload},"ref":"1"}}'
        self._session.send(frame(text.encode()))
        self.check()
        if self._present is None:
            raise BrokenPromiseError(f"{room} is not joined")

    def check(self) -> None:
        """Raise BrokenPromiseError unless it lives, and has heard what it should."""
        if not self._session.is_open:
            # If with an error, that is told.
            self._session.end()
            raise BrokenPromiseError(f"the connection of a member of {self._room} has ended")
        heard = []
        data = self._session.received
        for opcode, payload in frames(data[self._read :]):
            if opcode == BINARY:
                heard.append(_bytes(payload))
            elif opcode == TEXT:
                topic, event, told = self._message(payload)
                if topic != (self._room.topic if event != "phx_reply" else topic):
                    raise BrokenPromiseError(f"heard of {topic}, not of {self._room}")
                if event == "broadcast":
                    heard.append(_broadcast(told))
                else:
                    self._note(event, told)
            elif opcode == _CLOSE:
                raise BrokenPromiseError(f"{self._room} is closed: {payload!r}")
        self._read = len(data)
        published = self._server.bus.published.get(self._room, [])
        takes_bytes = self._vsn == "2.0.0"
        expected = [
            _published(one) for one in published[self._heard_of :] if one.is_json or takes_bytes
        ]
        self._heard_of = len(published)
        if heard != expected:
            raise BrokenPromiseError(f"{self._room} hears {heard!r:.800}, not {expected!r:.800}")

    def end(self) -> None:
        """End it, when all others have: nobody may be shown to it any more."""
        self.check()
        if self._present:
            raise BrokenPromiseError(f"{self._present!r:.800} are still in {self._room}")
        self._session.end()

    def _message(self, payload: bytes) -> tuple[str, str, Any]:
        message = json.loads(payload, parse_constant=_no_json)
        if self._vsn == "1.0.0":
            return message["topic"], message["event"], message["payload"]
        _, _, topic, event, told = message
        return topic, event, told

    def _note(self, event: str, told: Any) -> None:
        if event == "presence_state":
            if self._present is not None:
                raise BrokenPromiseError("a second state")
            self._present = _metas(told)
        elif event == "presence_diff":
            if self._present is None or told.keys() != {"joins", "leaves"}:
                raise BrokenPromiseError(f"a diff ahead of the state, or an odd one: {told!r:.800}")
            self._present.update(_metas(told["joins"]))
            for ref in _metas(told["leaves"]):
                del self._present[ref]
        elif event != "phx_reply" or told["status"] != "ok":
            raise BrokenPromiseError(f"{event} {told!r:.800}")


class Witnesses:
    """The members of a public room and of a private one of the same name.

    Args:
        server: whose clients they are.
    """

    def __init__(self, server: TestedServer) -> None:
        self._server = server
        self._private = RoomName(ROOM, is_private=True)
        self._all = [
            Witness(server, RoomName(ROOM), "1.0.0"),
            Witness(server, self._private, "2.0.0"),
        ]
        self._count = 0
        self._secrets: set[int] = set()

    def whisper(self) -> None:
        """Broadcast in the private room, and note whether the client of the moment may hear it."""
        self._count += 1
        if not self._server.policies.lets_hear(ROOM.removeprefix("realtime:")):
            self._secrets.add(self._count)
        whisper = Broadcast(_WHISPER, str(self._count).encode())
        self._server.rooms.publish([(self._private, whisper)])
        self._server.loop.settle()

    def check(self) -> None:
        """Raise BrokenPromiseError unless all live, and have heard what they should."""
        for witness in self._all:
            witness.check()

    def check_ended(self, session: Session) -> None:
        """Raise BrokenPromiseError if a session that has ended has heard what it must not."""
        if not session.is_deflating and (heard := whispers_in(session.received) & self._secrets):
            raise BrokenPromiseError(f"a client has heard {heard} of a room that it may not hear")
        self._secrets.clear()

    def end(self) -> None:
        """End all, when no others are there."""
        # Until it is told who has left.
        for _ in range(2):
            self._server.loop.advance(1.0)
            self._server.loop.settle()
        for witness in self._all:
            witness.end()


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Return the frames that a server has sent, by opcode: whole ones, without masks."""
    found = []
    at = 0
    while at < len(data):
        opcode, size = data[at] & 0x0F, data[at + 1]
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + width])
            at += width
        found.append((opcode, data[at : at + size]))
        at += size
    return found


def whispers_in(data: bytes) -> set[int]:
    """Return which whispers a client has been sent."""
    marker = f'"event":"{_WHISPER}","payload":'.encode()
    pieces = data.split(marker)[1:]
    return {int(piece[: piece.index(b"}")].split(b",")[0]) for piece in pieces}


def _published(broadcast: Broadcast) -> tuple[str, Any]:
    if not broadcast.is_json:
        return broadcast.event, broadcast.payload
    return broadcast.event, json.loads(broadcast.payload)


def _broadcast(told: Any) -> tuple[str, Any]:
    if not {"type", "event", "payload"} <= told.keys() <= {"type", "event", "payload", "meta"}:
        raise BrokenPromiseError(f"a broadcast with other members: {told!r:.800}")
    return told["event"], told["payload"]


def _bytes(payload: bytes) -> tuple[str, bytes]:
    kind, topic, event, metadata, encoding = payload[:5]
    if (kind, encoding) != (4, 0):
        raise BrokenPromiseError(f"a binary frame of kind {kind}, encoding {encoding}")
    start = 5 + topic
    return payload[start : start + event].decode(), payload[start + event + metadata :]


def _metas(state: Any) -> dict[str, Any]:
    return {meta["phx_ref"]: meta for found in state.values() for meta in found["metas"]}


def _no_json(text: str) -> None:
    raise BrokenPromiseError(f"{text} is no JSON")
