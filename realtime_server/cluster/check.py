"""The findings of ``--check`` about NATS, and the log that it is to keep; nothing is changed.

What a user may do is found out by asking for what cannot be done: NATS says first that it is not
allowed, and JetStream otherwise that it is impossible.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import attrs
import nats.errors
from nats.aio.client import Client

from realtime_core import Finding

from ..config import ClusterSettings
from .errors import NO_JETSTREAM, ApiError, LogError
from .leader import check_payload
from .log import differences
from .login import OnError, connect
from .permissions import (
    Denied,
    denied_by,
    missing_permissions,
    publish_permissions,
    subscribe_permissions,
)
from .setup import log_settings

__all__ = ["ask_of_stream", "cluster_findings", "missing_copies"]

_CHECK: Final = "cluster"
_LEAST_VERSION: Final = (2, 10)
_ANSWER: Final = 3.0
"""Seconds that an answer may take."""
_TRIES: Final = 3
"""How often it is asked for."""
_SYNC: Final = 120_000
"""After how many milliseconds NATS writes a stream to its disk, unless it is set up otherwise:
https://docs.nats.io/running-a-nats-service/configuration, ``sync_interval``."""
_NAMES: Final = 1024
"""Bytes that the message of a broadcast has besides, unless its topic is very long."""
_NO_STREAM: Final = 10059
_NAMED: Final = 2
"""How many missing permissions are named before all that a server needs."""
_FULL: Final = 0.9
"""Which part of its bytes a log takes that lets go of changes for that reason."""


async def cluster_findings(
    config: ClusterSettings, *, replay_window: float = 0.0, broadcast_bytes: int = 0
) -> list[Finding]:
    """Check whether NATS does what a server with these settings needs.

    Args:
        config: the settings, with ``NATS_URL``.
        replay_window: seconds for which a client may be away that gets what it missed from the log;
            0: none does.
        broadcast_bytes: how large a broadcast of a client may be; 0: none sends any.
    """
    denied: set[Denied] = set()

    async def note(error: Exception) -> None:
        what = denied_by(error)
        if what is not None:
            denied.add(what)

    clients, refusals = await _connect_to_all(config, note)
    if not clients:
        return [Finding.problem(_CHECK, refusal) for refusal in refusals]
    unreached = [
        Finding.warning(
            _CHECK,
            refusal,
            remedy="the servers use another one of NATS_URL meanwhile",
        )
        for refusal in refusals
    ]
    try:
        findings = _findings(config, clients[0], denied, replay_window)
        found = [finding async for finding in findings]
        return [*found, *_of_broadcasts(clients[0], broadcast_bytes), *unreached]
    except (nats.errors.Error, OSError) as exc:
        return [Finding.problem(_CHECK, f"the connection to NATS has ended: {exc}")]
    finally:
        for client in clients:
            await client.close()


async def _connect_to_all(config: ClusterSettings, note: OnError) -> tuple[list[Client], list[str]]:
    """Return a client of each server that can be reached, and why the others cannot."""
    assert config.nats_url is not None
    name = "realtime-server --check"
    attempts = await asyncio.gather(
        *(
            connect(attrs.evolve(config, nats_url=url), name=name, error_cb=note)
            for url in config.nats_url.split(",")
        ),
        return_exceptions=True,
    )
    for attempt in attempts:
        if isinstance(attempt, BaseException) and not isinstance(attempt, LogError):
            raise attempt
    clients: list[Client] = [attempt for attempt in attempts if isinstance(attempt, Client)]
    return clients, [str(attempt) for attempt in attempts if isinstance(attempt, LogError)]


async def _findings(
    config: ClusterSettings, client: Client, denied: set[Denied], replay_window: float
) -> AsyncIterator[Finding]:
    version = client.connected_server_version
    if (version.major, version.minor) < _LEAST_VERSION:
        yield Finding.problem(
            _CHECK,
            f"NATS has the version {version.major}.{version.minor}, and what the log needs came "
            "with 2.10; update NATS",
        )
        return
    try:
        check_payload(client.max_payload)
    except LogError as exc:
        yield Finding.problem(_CHECK, str(exc))
    stream = config.stream_name
    try:
        answer = await _ask_all(client, stream, denied)
    except TimeoutError:
        yield Finding.problem(
            _CHECK,
            f"NATS is reached, and its JetStream has not answered within {_TRIES * _ANSWER:.0f} s",
            remedy="see what NATS has logged: of several servers that are one cluster, more than "
            "half have to run and reach each other; if they have just begun, try again",
        )
        return
    if denied:
        missing = list(missing_permissions(stream, denied))
        what = " or ".join(missing)
        if len(missing) > _NAMED:
            what = f"use the stream {stream!r}"
        yield Finding.problem(
            _CHECK,
            f"NATS does not let its user {what}; permit it there: "
            f"publish {', '.join(publish_permissions(stream))}, and subscribe "
            f"{', '.join(subscribe_permissions(stream))}",
            remedy=f"or, if NATS permits this of another name than {stream}, set CLUSTER_NAME to "
            "that name",
        )
        return
    if answer is None:
        yield Finding.problem(_CHECK, NO_JETSTREAM)
        return
    error = answer.get("error")
    if error is None:
        yield Finding.ok(_CHECK, f"NATS is reached, and keeps the stream {stream!r}")
        for difference in differences(answer["config"], log_settings(config)):
            yield Finding.warning(_CHECK, difference)
        copies = int(answer["config"]["num_replicas"])
        for finding in (*missing_copies(stream, answer), *_of_replay(answer, replay_window)):
            yield finding
    elif error.get("err_code") == _NO_STREAM:
        yield Finding.ok(
            _CHECK,
            f"NATS is reached; the first server to start makes the stream {stream!r}, for which "
            f"NATS sets {config.log_max_bytes} bytes of its max_file_store aside",
        )
        copies = config.nats_replicas
        known = 1 + len(client.discovered_servers)
        if copies > known:
            yield Finding.warning(
                _CHECK,
                f"NATS_REPLICAS is {copies}, and NATS tells of "
                f"{'one server' if known == 1 else f'{known} servers'} only, too few for as many "
                "copies of the log",
                remedy="have the NATS servers form one cluster, or set fewer NATS_REPLICAS; "
                "servers with no_advertise do not tell of each other, which is no fault",
            )
    else:
        code, description = int(error.get("err_code", 0)), str(error.get("description", ""))
        refusal = ApiError(f"what was asked about the stream {stream!r}", code, description)
        yield Finding.problem(_CHECK, str(refusal))
        return
    for finding in _of_the_number_of_copies(config, copies):
        yield finding


def missing_copies(stream: str, info: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the servers of NATS that have a copy of a stream and do not keep up.

    Args:
        stream: its name.
        info: what JetStream says of it; a single server says nothing of a cluster.
    """
    for copy in info.get("cluster", {}).get("replicas", ()):
        if copy.get("offline") or not copy.get("current"):
            yield Finding.warning(
                _CHECK,
                f"the NATS server {copy.get('name')!r}, which has a copy of the stream "
                f"{stream!r}, is away or has not caught up",
                remedy="see to that server: with more than half of the copies away nothing can be "
                "appended",
            )


def _of_broadcasts(client: Client, most: int) -> Iterator[Finding]:
    if most and client.max_payload < most + _NAMES:
        yield Finding.warning(
            _CHECK,
            f"NATS takes messages of {client.max_payload} bytes at most, and clients may broadcast "
            f"{most} (MAX_PAYLOAD_BYTES): what is larger is refused",
            remedy=f"set max_payload to {most + _NAMES} or more in its configuration, or a smaller "
            "MAX_PAYLOAD_BYTES",
        )


def _of_the_number_of_copies(config: ClusterSettings, copies: int) -> Iterator[Finding]:
    assert config.nats_url is not None
    if copies > 1:
        return
    urls = config.nats_url.split(",")
    if len(urls) > 2:
        yield Finding.warning(
            _CHECK,
            f"NATS_URL names {len(urls)} servers, and one of them alone keeps the log: while that "
            "one is away, no changes come",
            remedy="set NATS_REPLICAS=3 before the stream is made, or change it with nats stream "
            "edit --replicas=3",
        )
    if config.log_ack_delay < _SYNC:
        yield Finding.warning(
            _CHECK,
            "one NATS server keeps the log, and by itself it writes its disk every two minutes: "
            "when its machine loses power, changes older than LOG_ACK_DELAY, "
            f"{config.log_ack_delay} ms, may be lost, and clients are told of a gap",
            remedy="set LOG_ACK_DELAY=130000, or a shorter sync_interval in NATS, or "
            "NATS_REPLICAS=3 with three NATS servers",
        )


def _of_replay(stream: Mapping[str, Any], window: float) -> Iterator[Finding]:
    """Say that the log has lost what clients may come back for, since its bytes are full."""
    state, most = stream["state"], stream["config"]["max_bytes"]
    # Its last message may be larger than what is free.
    if not window or state["bytes"] < _FULL * most:
        return
    first, last = (datetime.fromisoformat(state[name]) for name in ("first_ts", "last_ts"))
    age = (last - first).total_seconds()
    if age < window:
        yield Finding.warning(
            _CHECK,
            f"the log has the changes of {age:.0f} s, as its {most} bytes are full, and clients "
            f"may be away for {window:.0f} s (REPLAY_WINDOW): who was away for longer, and comes "
            "back to another server, or after a restart, is told of a gap",
            remedy="set LOG_MAX_BYTES higher, on all servers and with nats stream edit, or "
            "REPLAY_WINDOW lower",
        )


async def _ask_all(client: Client, stream: str, denied: set[Denied]) -> Mapping[str, Any] | None:
    """Try all that a server does; return what JetStream says of the stream, None if nothing.

    If something was denied, its answer is not waited for.
    """
    inbox = await client.subscribe(client.new_inbox())
    others = [await client.subscribe(f"{stream}.{kind}") for kind in ("beat.*", "rt.check")]
    for verb, name in (
        ("STREAM.INFO", stream),
        ("STREAM.CREATE", stream),
        ("STREAM.MSG.GET", stream),
        ("CONSUMER.CREATE", f"{stream}.check"),
        ("CONSUMER.MSG.NEXT", f"{stream}.check"),
    ):
        await client.publish(f"$JS.API.{verb}.{name}", b"{}", reply=inbox.subject)
    await client.publish(f"{stream}.rt.check", b"")
    # A stream of another name does not take it.
    elsewhere = {"Nats-Expected-Stream": f"{stream} is not checked"}
    await client.publish(f"{stream}.log", b"", reply=inbox.subject, headers=elsewhere)
    # NATS complains before it answers the ping.
    await client.flush()
    await inbox.unsubscribe()
    for subscription in others:
        await subscription.unsubscribe()
    return None if denied else await ask_of_stream(client, stream)


async def ask_of_stream(client: Client, stream: str) -> Mapping[str, Any] | None:
    """Return what JetStream says of a stream; None if there is no JetStream.

    Servers of NATS that have just begun do not answer before they have agreed on a leader.

    Raises:
        TimeoutError: if there is no answer, however often it is asked for.
    """
    for _ in range(_TRIES):
        with suppress(nats.errors.TimeoutError):
            try:
                message = await client.request(f"$JS.API.STREAM.INFO.{stream}", timeout=_ANSWER)
            except nats.errors.NoRespondersError:
                return None
            answer: Mapping[str, Any] = json.loads(message.data)
            return answer
    raise TimeoutError
