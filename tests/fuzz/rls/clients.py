"""Clients: who they are, what they listen to, and what the server tells them.

They speak the protocol as it is documented, and know nothing else of the server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import attrs
from joserfc.jwk import OctKey
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.fuzz.rls.filters import Filter, columns_of
from tests.tokens import SECRET, sign_text

__all__ = [
    "FENCE_BINDING",
    "PATIENCE",
    "Absence",
    "Binding",
    "Channel",
    "Client",
    "Former",
    "Kind",
    "ProtocolError",
    "WriteObserver",
    "Viewer",
    "connect_to",
    "read_json",
]

FENCE: Final = "realtime:fence"
FENCE_REF: Final = "f"
FENCE_BINDING: Final = {"event": "INSERT", "schema": "public", "table": "fence"}
JOIN_REF: Final = "1"
BUSY: Final = "the database takes too long"
PATIENCE: Final = 300.0
"""Seconds after which what should have come will not."""

Kind: TypeAlias = Literal["INSERT", "UPDATE", "DELETE"]


class ProtocolError(Exception):
    """The server said what nobody had asked for, or nothing at all."""


class WriteObserver(NamedTuple):
    """What a subscriber is told of a change."""

    table: str
    kind: str
    columns: tuple[str, ...]
    record: Any
    old_record: Any
    error: str | None


@attrs.frozen(eq=False)
class Viewer:
    """A role and claims."""

    role: str
    claims: str
    """As JSON, as the token has them."""

    @property
    def token(self) -> str:
        return sign_text(self.claims, OctKey.import_key(SECRET), alg="HS256")


@attrs.frozen
class Former:
    """Whose a channel was before its token was replaced."""

    viewer: Viewer
    until: int
    """The number of the last change that may have been told in that name."""


@attrs.define(eq=False)
class Binding:
    """A subscriber: one wish of one channel, and what it was told."""

    viewer: Viewer
    table: str | None
    """None: all of the world's."""
    kind: Kind | None = None
    """None: all three."""
    filter: Filter | None = None
    select: tuple[str, ...] | None = None
    told: list[WriteObserver] = attrs.field(factory=list)

    @property
    def columns(self) -> frozenset[str]:
        return frozenset() if self.filter is None else frozenset(columns_of(self.filter))

    def listens_to(self, table: str, kind: str) -> bool:
        return self.table in (None, table) and self.kind in (None, kind)

    def as_config(self, schema: str) -> dict[str, Any]:
        config: dict[str, Any] = {"event": self.kind or "*", "schema": schema}
        if self.table is not None:
            config["table"] = self.table
        if self.filter is not None:
            config["filter"] = self.filter.text(in_group=False)
        if self.select is not None:
            config["select"] = list(self.select)
        return config

    def __str__(self) -> str:
        filtered = "" if self.filter is None else f" where {self.filter.text(in_group=False)}"
        selected = "" if self.select is None else f" of {', '.join(self.select)}"
        return f"{self.kind or '*'} on {self.table or '*'}{selected}{filtered}"


@attrs.define(eq=False)
class Absence:
    """What became of a channel whose client is away."""

    former: Viewer
    """Whose it was."""
    begin: int
    """The client has proven that it got all changes up to this number."""
    until: int = 0
    """The number of the last change that may have been told before the client went away."""
    told: dict[Binding, list[WriteObserver]] = attrs.field(factory=dict)
    """What was told of these changes before."""
    viewers: list[Viewer] = attrs.field(factory=list)
    """Whose it has been since the client came back."""
    is_resumed: bool | None = None
    """Whether the server said that it goes on where it was; None: it has not said."""


@attrs.define(eq=False)
class Channel:
    """A topic that a client joins as somebody."""

    viewer: Viewer
    topic: str
    bindings: Sequence[Binding]
    has_config: bool
    """Whether it is joined as binding clients do; else the topic is its only binding."""
    by_id: dict[int, list[Binding]] = attrs.field(factory=dict)
    last: tuple[int, int] = (0, 0)
    """The position of what it was told last."""
    refusal: str | None = None
    former: Former | None = None
    """Whose it was, until it got another token in the batch that is not judged yet."""
    has_gap: bool = False
    """Whether it was told of a gap since then."""
    absence: Absence | None = None
    """Where it is, or was in the batch that is not judged yet, away."""

    def give_to(self, viewer: Viewer) -> None:
        self.viewer = viewer
        for binding in self.bindings:
            binding.viewer = viewer

    def take(self, payload: Any) -> None:
        if self.has_config:
            data = payload["data"]
            chosen = [binding for one in payload["ids"] for binding in self.by_id[one]]
        else:
            data, chosen = payload, list(self.bindings)
        lsn, _, index = data["position"].partition("@")[0].partition(":")
        high, _, low = lsn.partition("/")
        position = ((int(high, 16) << 32) + int(low, 16), int(index))
        if position < self.last:
            raise ProtocolError(f"{self.topic} is told of {position} after {self.last}")
        self.last = position
        if data["table"] == "fence":
            return
        errors = data["errors"]
        told = WriteObserver(
            data["table"],
            data["type"],
            tuple(column["name"] for column in data["columns"]),
            data.get("record"),
            data.get("old_record"),
            errors[0] if errors else None,
        )
        for binding in chosen:
            binding.told.append(told)


class Client:
    """A socket with channels.

    Args:
        websocket: connected.
        vsn: the protocol's version.
        schema: of the world.
    """

    _further_bindings: Sequence[dict[str, Any]] = ()
    """That each channel with bindings has besides its own."""

    def __init__(self, websocket: ClientConnection, vsn: str, schema: str) -> None:
        self._websocket = websocket
        self._is_first = vsn == "1.0.0"
        self._schema = schema
        self._channels: dict[str, Channel] = {}
        # By token: what one viewer gets is in order, and others may get theirs earlier or later.
        self._fences: dict[str, str] = {}

    @classmethod
    async def open(cls, port: int, vsn: str, viewer: Viewer, schema: str) -> Client:
        """Connect, and listen to the fence."""
        client = cls(await connect_to(port, vsn, viewer), vsn, schema)
        await client._listen_to_the_fence(viewer)
        return client

    async def _listen_to_the_fence(self, viewer: Viewer) -> None:
        """Listen as whoever listens to something else."""
        if viewer.token in self._fences:
            return
        topic = f"{FENCE}{len(self._fences)}"
        self._fences[viewer.token] = topic
        asked = {"access_token": viewer.token, "config": {"postgres_changes": [FENCE_BINDING]}}
        await self._send(topic, "phx_join", asked, FENCE_REF)

        def is_reply(from_topic: str, event: str, payload: Any) -> bool:
            if from_topic != topic or event != "phx_reply":
                return False
            if payload["status"] != "ok":
                raise ProtocolError(f"{topic} is told {payload}")
            return True

        await self._until(is_reply)

    async def close(self) -> None:
        await self._websocket.close()

    async def join(self, channels: Sequence[Channel]) -> None:
        """Join topics; whether each was refused stands with it.

        Where a busy machine took too long to check a join, it is sent again.
        """
        left = channels
        while left:
            await self._join(left)
            left = [one for one in left if (one.refusal or "").startswith(BUSY)]
            for channel in left:
                channel.refusal = None
        for channel in channels:
            if channel.refusal is not None:
                del self._channels[channel.topic]
            else:
                await self._listen_to_the_fence(channel.viewer)

    async def _join(self, channels: Sequence[Channel]) -> None:
        for channel in channels:
            self._channels[channel.topic] = channel
            payload: dict[str, Any] = {"user_token": channel.viewer.token}
            if channel.has_config:
                wanted = [binding.as_config(self._schema) for binding in channel.bindings]
                wanted += self._further_bindings
                payload = {
                    "access_token": channel.viewer.token,
                    "config": {"postgres_changes": wanted},
                }
            await self._send(channel.topic, "phx_join", payload, JOIN_REF)
        left = {channel.topic for channel in channels}

        def is_last(topic: str, event: str, payload: Any) -> bool:
            if event == "phx_reply" and topic in left:
                left.discard(topic)
                _answer(self._channels[topic], payload)
            return not left

        await self._until(is_last)

    async def replace(self, channel: Channel, viewer: Viewer) -> None:
        """Give a channel another's token; from the end of this on it is that viewer's."""
        await self._send(channel.topic, "access_token", {"access_token": viewer.token}, "2")
        await self._send("phoenix", "heartbeat", {}, "h")
        # One message after the other is dealt with.
        await self._until(lambda topic, event, _: topic == "phoenix" and event == "phx_reply")
        await self._listen_to_the_fence(viewer)

    async def read_until_fence(self, number: int) -> None:
        """Take all that was written before that row of the fence."""
        left = set(self._fences.values())

        def is_it(topic: str, event: str, payload: Any) -> bool:
            if (
                topic in left
                and event == "postgres_changes"
                and payload["data"]["record"]["n"] == number
            ):
                left.discard(topic)
            return not left

        await self._until(is_it)

    async def _until(self, is_it: Callable[[str, str, Any], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    topic, event, payload = self._parse(await self._websocket.recv(decode=False))
                    if is_it(topic, event, payload):
                        return
                    self._take(topic, event, payload)
        except TimeoutError:
            raise ProtocolError(
                f"nothing came for {PATIENCE} s, of {list(self._channels)}"
            ) from None
        except ConnectionClosed as exc:
            raise ProtocolError(f"the connection was closed: {exc}") from exc

    def _take(self, topic: str, event: str, payload: Any) -> None:
        if event in ("postgres_changes", "INSERT", "UPDATE", "DELETE"):
            if not topic.startswith(FENCE):
                self._channels[topic].take(payload)
        elif event == "system":
            channel = self._channels.get(topic)
            if "gap" in payload and channel is not None and channel.former is not None:
                channel.has_gap = True
            elif "gap" in payload or payload["status"] != "ok":
                raise ProtocolError(f"{topic} is told {payload}")
        elif event != "phx_reply":
            raise ProtocolError(f"{topic} is told {event} {payload}")

    async def _send(self, topic: str, event: str, payload: Any, ref: str) -> None:
        join_ref = (
            None if topic == "phoenix" else FENCE_REF if topic.startswith(FENCE) else JOIN_REF
        )
        await self._write(join_ref, ref, topic, event, payload)

    async def _write(
        self, join_ref: str | None, ref: str, topic: str, event: str, payload: Any
    ) -> None:
        frame: Any = [join_ref, ref, topic, event, payload]
        if self._is_first:
            frame = {
                "topic": topic,
                "event": event,
                "payload": payload,
                "ref": ref,
                "join_ref": join_ref,
            }
        await self._websocket.send(json.dumps(frame))

    def _parse(self, data: bytes) -> tuple[str, str, Any]:
        frame = read_json(data)
        if self._is_first:
            return frame["topic"], frame["event"], frame["payload"]
        _, _, topic, event, payload = frame
        return topic, event, payload


async def connect_to(port: int, vsn: str, viewer: Viewer, more: str = "") -> ClientConnection:
    """Connect to a server, with a viewer's token and perhaps more in the query."""
    return await connect(
        f"ws://127.0.0.1:{port}/socket/websocket?vsn={vsn}&apikey={viewer.token}{more}",
        compression=None,
        proxy=None,
        ping_interval=None,
        max_size=None,
        max_queue=None,
    )


def _answer(channel: Channel, payload: Any) -> None:
    response = payload["response"]
    if payload["status"] != "ok":
        channel.refusal = response["reason"]
    elif channel.has_config:
        answers = response["postgres_changes"]
        for binding, answer in zip(channel.bindings, answers, strict=False):
            channel.by_id.setdefault(answer["id"], []).append(binding)
        for answer in answers[len(channel.bindings) :]:
            channel.by_id.setdefault(answer["id"], [])


def read_json(text: str | bytes) -> Any:
    """Read JSON with numbers as they are, not as floats."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)
