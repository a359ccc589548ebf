"""A stream of NATS JetStream in memory, as a server's connections see it, for unit tests.

It answers what `cluster/log.py` and `cluster/log_reader.py` ask for, in the event loop's time, and
has the faults that a test asks for.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import attrs

from realtime_server.cluster.connection import Message
from realtime_server.cluster.errors import LogError

__all__ = ["FakeConnection", "FakeJetStream"]


@attrs.define
class _Consumer:
    next: int
    delivered: int = 0
    inbox: str = ""
    left: int = 0
    connection: FakeConnection | None = None


class FakeJetStream:
    """The server."""

    def __init__(self) -> None:
        self.max_payload = 1024 * 1024
        self.exists = False
        self.created = 0
        self.first = 1
        self.last = 0
        self.messages: dict[int, bytes] = {}
        self.last_id = ""
        self.times: dict[int, float] = {}
        """When each was appended, by the event loop's clock."""
        self.consumers: dict[str, _Consumer] = {}
        self.connections: list[FakeConnection] = []
        self.is_silent = False
        """Whether consumers send nothing, not even heartbeats."""
        self.requests: list[str] = []
        """The subjects of what was asked."""

    def connect(self) -> FakeConnection:
        connection = FakeConnection(self)
        self.connections.append(connection)
        return connection

    def break_connections(self) -> None:
        for connection in self.connections:
            connection.end()
        self.connections.clear()
        self.consumers.clear()

    def lose_behind(self, sequence: int) -> None:
        """Come back without what is behind a sequence."""
        for number in [number for number in self.messages if number > sequence]:
            del self.messages[number]
        self.last = sequence
        self.break_connections()

    def expire_before(self, sequence: int) -> None:
        for number in [number for number in self.messages if number < sequence]:
            del self.messages[number]
        self.first = max(self.first, sequence)

    def delete(self) -> None:
        self.exists = False
        self.messages.clear()
        self.first, self.last = 1, 0
        self.consumers.clear()

    def append(self, data: bytes, message_id: str = "") -> int:
        self.last += 1
        self.last_id = message_id
        self.messages[self.last] = data
        self.times[self.last] = asyncio.get_running_loop().time()
        self.deliver()
        return self.last

    def status(self, code: str, description: str = "") -> None:
        """Have every consumer send a status."""
        for consumer in self.consumers.values():
            self._send(consumer, "", b"", code, description)

    def deliver(self) -> None:
        """Send what was asked for."""
        for name, consumer in self.consumers.items():
            while consumer.left and not self.is_silent and consumer.next <= self.last:
                kept = range(max(consumer.next, self.first), self.last + 1)
                found = next((number for number in kept if number in self.messages), None)
                if found is None:
                    return
                consumer.next = found
                consumer.delivered += 1
                consumer.left -= 1
                numbers = f"1.{consumer.next}.{consumer.delivered}.0.{self.last - consumer.next}"
                reply = f"$JS.ACK.log.{name}.{numbers}"
                data = self.messages[consumer.next]
                consumer.next += 1
                self._send(consumer, reply, data)

    def _send(
        self, consumer: _Consumer, reply: str, data: bytes, status: str = "", description: str = ""
    ) -> None:
        connection = consumer.connection
        if connection is not None and not connection.closed.is_set():
            message = Message(
                "log.log" if reply else consumer.inbox, reply, data, status, description
            )
            take = connection.subscriptions.get(consumer.inbox)
            if take is not None:
                asyncio.get_running_loop().call_soon(take, message)

    def answer(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> Any:
        self.requests.append(subject)
        request = json.loads(payload) if subject.startswith("$JS") and payload else {}
        match subject.split("."):
            case ["$JS", "API", "STREAM", "CREATE", _]:
                self.exists = True
                self.created += 1
                return self._info()
            case _ if not self.exists:
                return _error(10059, "stream not found")
            case ["$JS", "API", "STREAM", "INFO", _]:
                return self._info()
            case ["$JS", "API", "STREAM", "MSG", "GET", _]:
                data = self.messages.get(request["seq"])
                if data is None:
                    return _error(10037, "no message found")
                time = datetime.fromtimestamp(self.times[request["seq"]], UTC).isoformat()
                encoded = base64.b64encode(data).decode()
                return {"message": {"seq": request["seq"], "data": encoded, "time": time}}
            case ["$JS", "API", "CONSUMER", "CREATE", _, name]:
                self.consumers[name] = _Consumer(request["config"]["opt_start_seq"])
                return {"name": name}
            case [_, "log"]:
                if int(headers["Nats-Expected-Last-Sequence"]) != self.last:
                    return _error(10071, f"wrong last sequence: {self.last}")
                if headers.get("Nats-Expected-Last-Msg-Id", self.last_id) != self.last_id:
                    return _error(10070, f"wrong last msg ID: {self.last_id}")
                return {"stream": "log", "seq": self.append(payload, headers["Nats-Msg-Id"])}
        raise AssertionError(subject)

    def _info(self) -> Any:
        state = {
            "messages": len(self.messages),
            "first_seq": self.first,
            "last_seq": self.last,
            "bytes": sum(map(len, self.messages.values())),
        }
        return {"config": {}, "state": state, "created": str(self.created)}


class FakeConnection:
    """A connection to it, with what is used of a NatsConnection."""

    def __init__(self, server: FakeJetStream) -> None:
        self.max_payload = server.max_payload
        self.closed = asyncio.Event()
        self.subscriptions: dict[str, Callable[[Any], None]] = {}
        self._server = server
        self._ids = itertools.count()
        self._on_closed: list[Callable[[], None]] = []

    def end(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            for call in self._on_closed:
                call()

    async def __aenter__(self) -> FakeConnection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self.end()

    def on_closed(self, call: Callable[[], None]) -> None:
        self._on_closed.append(call)

    def new_inbox(self) -> str:
        return f"_INBOX.{id(self)}.{next(self._ids)}"

    async def subscribe(self, subject: str, take: Callable[[Any], None]) -> Any:
        self.subscriptions[subject] = take
        return _Subscription(self, subject)

    async def request(self, subject: str, payload: bytes = b"") -> Message:
        return await self.ask(subject, payload).answer()

    def ask(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        within: float = 3.0,
    ) -> _Question:
        return _Question(
            self, subject, partial(self._server.answer, subject, payload, headers or {})
        )

    def send(self, subject: str, payload: bytes, *, reply: str = "") -> None:
        if self.closed.is_set():
            raise LogError("the connection has ended")
        consumer = self._server.consumers.get(subject.rpartition(".")[2])
        if consumer is not None:
            consumer.connection, consumer.inbox = self, reply
            consumer.left = json.loads(payload)["batch"]
            self._server.deliver()


@attrs.frozen
class _Question:
    connection: FakeConnection
    subject: str
    ask: Callable[[], Any]

    async def answer(self) -> Message:
        await asyncio.sleep(0.001)
        if self.connection.closed.is_set():
            raise LogError("the connection has ended")
        return Message("", "", json.dumps(self.ask()).encode())


@attrs.frozen
class _Subscription:
    connection: FakeConnection
    subject: str

    async def aclose(self) -> None:
        del self.connection.subscriptions[self.subject]


def _error(code: int, description: str) -> Any:
    return {"error": {"code": 400, "err_code": code, "description": description}}
