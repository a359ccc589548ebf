"""A server in this process whose rows are made by hand, and what each connection was proven to have
received when it ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Self

from websockets.asyncio.server import ServerConnection

from realtime_core import LSN, Event, Insert, Record, SourceStats, Transaction
from realtime_server.auth.authorizer import AllowAll, ConnectRequest
from realtime_server.config import IpVersion
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.source_attachment import Attachment
from realtime_server.fanout.turns import run_steps
from realtime_server.net.connection import Connection
from realtime_server.net.filter_limits import FilterBudget
from realtime_server.net.frame_limits import BoundedConnection
from realtime_server.net.http import Site
from realtime_server.net.listener import Listener, bind
from realtime_server.net.outbox import SocketOutbox
from realtime_server.net.services import Services
from realtime_server.phoenix.serializers import Serializer
from realtime_server.replay.connection_proof import ConnectionProof
from realtime_server.replay.guarded_replay import GuardedReplay
from realtime_server.replay.places import Place
from realtime_server.replay.proofs import Proofs
from realtime_server.replay.publishing import one_at_a_time
from realtime_server.replay.setup import make_replay
from tests.server_helpers import (
    COMMIT_TIME,
    NullRegistrar,
    make_backlog,
    make_metrics,
    make_relation,
    open_config,
)

__all__ = ["Ended", "ProofServer"]

_ITEM: Final = make_relation("public", "item", (("id", "int8", True), ("note", "text", False)))
_SIZES: Final = (1, 1, 1, 2, 5, 20, 100)
"""Rows of a batch."""
_LENGTHS: Final = (5, 40, 40, 200, 3000)
"""Characters of a row."""
_TEXT: Final = "".join(random.Random(0).choices("etaoin shrdlu", k=10_000))
_SITE: Final = Site(why_not_ready=lambda: None, metrics=None, metrics_type="text/plain")


class Ended(NamedTuple):
    """A connection that has ended, as the server saw it."""

    client: str
    joined_after: int
    """A row: all later ones were written to the connection."""
    proven: int
    """The last row of which it is proven that the client has it, and all before."""
    last: int
    """The last row that was written to it."""
    close_codes: tuple[object, object]
    """Of the server's close frame, and of the client's; None where there was none."""


class _NotingHub(Hub):
    """Notes with which row each connection's subscription begins and ends."""

    def __init__(self, row: Callable[[], int], proofs: Proofs) -> None:
        super().__init__(ordinals=proofs)
        self._row = row
        self._proofs = proofs
        self.begins: dict[object, int] = {}
        self.ends: dict[object, Place] = {}

    def subscribe(self, subscription: Subscription) -> None:
        super().subscribe(subscription)
        self.begins[_websocket_of(subscription)] = self._row()

    def unsubscribe(self, subscription: Subscription) -> None:
        super().unsubscribe(subscription)
        # A client whose join took too long leaves, and joins again on the same connection.
        self.ends[_websocket_of(subscription)] = self._proofs.place_at(self._proofs.ordinal)


def _websocket_of(subscription: Subscription) -> ServerConnection:
    outbox = subscription.outbox
    assert isinstance(outbox, SocketOutbox)
    return outbox.websocket


class ProofServer:
    """Serves clients, each at a port of its own, while it is open.

    Args:
        proofs: say what each client is proven to have received.
        settings: of the server.
    """

    def __init__(self, proofs: Proofs, **settings: Any) -> None:
        self.proofs = proofs
        # Nobody is known when it comes back: what was replayed would hide what was lost.
        self._config = open_config(replay_identity=(), replay_wal_mb=0, **settings)
        self.row = 0
        """The last row that is being published, or has been."""
        self.ended: list[Ended] = []
        self.connections: dict[str, ServerConnection] = {}
        """The newest of each client."""
        self.hub = _NotingHub(lambda: self.row, proofs)
        self._metrics = make_metrics()
        backlog = make_backlog(max_bytes=1 << 24, max_age=60)
        replay = make_replay(
            self._config,
            self.hub,
            Hub,
            proofs,
            one_at_a_time(),
            attached=no_stream,
            stats=SourceStats,
        )
        self._services = Services(
            hub=self.hub,
            attachment=Attachment(lambda: True, asyncio.Event().wait),
            authorizer=AllowAll(),
            registrar=NullRegistrar(),
            backlog=backlog,
            budget=FilterBudget(self._config),
            config=self._config,
            metrics=self._metrics,
            replay=GuardedReplay(replay, self.hub),
        )
        self._listeners: list[Listener] = []
        self.is_busy = True
        """Whether rows are written all the time, or now and then."""
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks.append(asyncio.create_task(self._tick()))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._listeners:
            await listener.close()

    async def listen(self, client: str) -> int:
        """Return a port for one client."""
        sock = bind(0, loopback=True, ip_version=IpVersion.IPV4)

        async def serve(
            websocket: ServerConnection, request: ConnectRequest, serializer: Serializer
        ) -> None:
            self.connections[client] = websocket
            connection = Connection(websocket, request, serializer, self._services, peer=client)
            assert isinstance(websocket, BoundedConnection)
            # It lets go of it when it ends.
            proof = websocket.proof
            assert proof is not None
            await connection.run()
            self._note_end(client, websocket, proof)

        listener = Listener(
            sock,
            serve,
            AllowAll(),
            site=_SITE,
            config=self._config,
            metrics=self._metrics,
            backlog=self._services.backlog,
        )
        await listener.start()
        self._listeners.append(listener)
        port: int = sock.getsockname()[1]
        return port

    def write_rows(self, seed: int) -> None:
        """Write rows from now on."""
        self._tasks.append(asyncio.create_task(self._write(random.Random(seed))))

    async def _write(self, chance: random.Random) -> None:
        while True:
            count = chance.choice(_SIZES) if self.is_busy else 1
            first, self.row = self.row + 1, self.row + count
            rows = [row(number, chance) for number in range(first, self.row + 1)]
            await self.publish(rows)
            await asyncio.sleep(chance.uniform(0, 0.2) if self.is_busy else 0.5)

    async def publish(self, rows: Sequence[Event]) -> None:
        """Publish a batch, up to :attr:`row`."""
        await run_steps(self.hub.publishing(rows))
        self.proofs.note((self.row, 0))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.proofs.tick_interval)
            self.proofs.tick()

    def _note_end(self, client: str, websocket: BoundedConnection, proof: ConnectionProof) -> None:
        if websocket not in self.hub.begins:
            return
        proofs, protocol = self.proofs, websocket.protocol
        place = self.hub.ends.pop(websocket)
        if proof.written > proof.proven:
            place = min(place, proofs.place_at(proof.proven))
        sent, received = protocol.close_sent, protocol.close_rcvd
        self.ended.append(
            Ended(
                client,
                joined_after=self.hub.begins.pop(websocket),
                proven=max(place[0], 0),
                last=self.row,
                close_codes=(sent and sent.code, received and received.code),
            )
        )


async def no_stream() -> None:
    """Stands for the wait until the stream runs: there is none."""


def row(number: int, chance: random.Random) -> Insert:
    length = chance.choice(_LENGTHS)
    start = chance.randrange(len(_TEXT) - length)
    note = _TEXT[start : start + length]
    transaction = Transaction(number, LSN(number), COMMIT_TIME)
    return Insert(transaction, 0, _ITEM, Record(_ITEM.shape, (str(number), note)))
