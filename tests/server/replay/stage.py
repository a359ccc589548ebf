"""A server's replay without the server: a live hub, clients whose outboxes are lists, a clock."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from typing import Any

from realtime_core import (
    LSN,
    Begin,
    Commit,
    Event,
    Gap,
    GapReason,
    Insert,
    Position,
    Record,
    StreamIdentity,
    Transaction,
)
from realtime_server.auth.authorizer import ConnectRequest
from realtime_server.config.choices import IdentityKind
from realtime_server.fanout.frames import Frames
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.actions import Departure
from realtime_server.phoenix.serializers import SERIALIZERS
from realtime_server.replay.connection_proof import ping_payload
from realtime_server.replay.guarded_replay import GuardedReplay
from realtime_server.replay.identity import Identifier
from realtime_server.replay.notices import Start
from realtime_server.replay.proofs import Proofs
from realtime_server.replay.publishing import Publish, one_at_a_time
from realtime_server.replay.replay import Replay

from ...server_helpers import COMMIT_TIME, make_relation

__all__ = ["GAP", "STREAM", "Client", "Stage", "batch"]

TODOS = make_relation()
STREAM = StreamIdentity(7, 1, ("shop",))
GAP: Event = Gap(None, Position(LSN(0), 0, STREAM), GapReason.WAL_REMOVED)
SESSION = "a session of a client "


def batch(lsn: int, *ids: int, stream: StreamIdentity = STREAM) -> list[Event]:
    """Return a transaction that inserts rows."""
    one = Transaction(lsn, LSN(lsn), COMMIT_TIME, stream=stream)
    rows = [
        Insert(one, index, TODOS, Record(TODOS.shape, (str(number), "x")))
        for index, number in enumerate(ids)
    ]
    return [Begin(one), *rows, Commit(one, LSN(lsn + 8), len(rows))]


class Client:
    """A client, over all its connections."""

    def __init__(
        self, stage: Stage, name: str = "a", *, session: bool = True, topic: str = "realtime:*"
    ) -> None:
        self._stage = stage
        self._session = f"{SESSION}{name}" if session else ""
        self.topic = topic
        self.ref = 0
        self.written = 0
        self.is_behind = False
        self.starts: list[Start] = []
        self.messages: list[Any] = []
        self.pings: list[int] = []

    @property
    def ids(self) -> list[int]:
        """The rows that came."""
        rows = [one["payload"] for one in self.messages if one["event"] == "INSERT"]
        return [int(one["record"]["id"]) for one in rows]

    @property
    def gaps(self) -> list[str]:
        """The reasons of the gaps that it was told of."""
        told = [one["payload"] for one in self.messages if one["event"] == "system"]
        return [one["gap"]["reason"] for one in told]

    def connect(self, address: str = "192.0.2.1") -> None:
        self.proof = self._stage.replay.proofs.connect(self)
        query = {"session": self._session} if self._session else {}
        request = ConnectRequest("/socket/websocket", query, {})
        self.sent = sent = [0]
        self.visit = self._stage.guarded.visit(request, address, self, lambda: sent[-1])
        assert self.visit is not None

    def join(self, claims: Mapping[str, Any] | None = None, *, waited: float = 0) -> None:
        """Join, with a message that has waited in the server for some seconds."""
        self.ref += 1
        self.sent.append(self.ref)
        self.subscription = Subscription(Topic.parse(self.topic), SERIALIZERS["1.0.0"], self)
        self._stage.guarded.enter(
            self.visit,
            self.subscription,
            ref=self.ref,
            came=self._stage.now - waited,
            claims=claims or {},
            on_start=self._start,
        )

    def _start(self, start: Start) -> None:
        self.starts.append(start)
        self.visit.note_told(self.subscription)

    def renew(self, claims: Mapping[str, Any], viewer: Hashable = None) -> None:
        self._stage.guarded.renew(self.visit, self.subscription, viewer, claims)

    def come(self, claims: Mapping[str, Any] | None = None) -> Start:
        """Connect and join; return where the channel begins."""
        known = len(self.starts)
        self.connect()
        self.join(claims)
        assert len(self.starts) == known + 1
        return self.starts[-1]

    def leave(self, how: Departure = Departure.LOST) -> None:
        """End the connection."""
        self.proof.close()
        self._stage.guarded.leave(self.visit, self.subscription, how)
        self._stage.guarded.close(self.visit, how)

    def rejoin(self, *, leaves: bool) -> None:
        """Join again on the same connection, with or without leaving the channel before."""
        how = Departure.LEFT if leaves else Departure.REJOINING
        self._stage.guarded.leave(self.visit, self.subscription, how)
        self.join()

    def prove(self) -> None:
        """Answer all pings."""
        pings, self.pings = self.pings, []
        for ordinal in pings:
            self.proof.pong(ping_payload(ordinal))

    def write(self, frames: Frames) -> None:
        self.messages += map(json.loads, frames.payloads)
        if frames.ordinal:
            self.written = frames.ordinal
        if frames.ping:
            self.pings.append(frames.ordinal)
            self.proof.asked(frames.ordinal)


class Stage:
    """A server."""

    def __init__(
        self,
        *,
        kinds: tuple[IdentityKind, ...] = tuple(IdentityKind),
        publish: Publish | None = None,
    ) -> None:
        self.now = 100.0
        self.proofs = Proofs(interval=1.0, clock=lambda: self.now)
        self.hub = self.new_hub()
        self.replay = Replay(
            self.hub,
            self.new_hub,
            publish=publish or one_at_a_time(),
            proofs=self.proofs,
            identifier=Identifier(b"secret", kinds=kinds, claims=("sub",)),
            window=300.0,
            max_bytes=1 << 30,
            most_away=100_000,
            clock=lambda: self.now,
        )
        self.guarded = GuardedReplay(self.replay, self.hub)

    def new_hub(self) -> Hub:
        return Hub(ordinals=self.proofs)

    def publish(self, *events: Event) -> None:
        """Publish a batch, as the broadcaster does."""
        self.guarded.before(events)
        self.hub.publish(events)
        self.guarded.after()
