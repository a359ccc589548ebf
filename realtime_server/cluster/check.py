"""The findings of ``--check`` about NATS, and the log that it is to keep; nothing is changed.

What a user may do is found out by asking for what cannot be done: NATS says first that it is not
allowed, and JetStream otherwise that it is impossible.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import nats.errors
from nats.aio.client import Client

from realtime_core import Finding

from ..config import ClusterSettings
from .errors import LogError
from .leader import check_payload
from .log import differences
from .login import connect
from .permissions import (
    Denied,
    denied_by,
    missing_permissions,
    publish_permissions,
    subscribe_permissions,
)
from .setup import log_settings

__all__ = ["cluster_findings"]

_CHECK: Final = "cluster"
_LEAST_VERSION: Final = (2, 10)
_ANSWER: Final = 3.0
"""Seconds that an answer may take."""
_SYNC: Final = 120_000
"""After how many milliseconds NATS writes a stream to its disk, unless it is set up otherwise:
https://docs.nats.io/running-a-nats-service/configuration, ``sync_interval``."""
_NO_STREAM: Final = 10059
_FULL: Final = 0.9
"""Which part of its bytes a log takes that lets go of changes for that reason."""


async def cluster_findings(config: ClusterSettings, *, replay_window: float = 0.0) -> list[Finding]:
    """Check whether NATS does what a server with these settings needs.

    Args:
        config: the settings, with ``NATS_URL``.
        replay_window: seconds for which a client may be away that gets what it missed from the log;
            0: none does.
    """
    denied: set[Denied] = set()

    async def note(error: Exception) -> None:
        what = denied_by(error)
        if what is not None:
            denied.add(what)

    try:
        client = await connect(config, name="realtime-server --check", error_cb=note)
    except LogError as exc:
        return [Finding.problem(_CHECK, str(exc))]
    try:
        findings = _findings(config, client, denied, replay_window)
        return [finding async for finding in findings]
    except (nats.errors.Error, OSError) as exc:
        return [Finding.problem(_CHECK, f"the connection to NATS has ended: {exc}")]
    finally:
        await client.close()


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
    answer = await _ask_all(client, stream, denied)
    if denied:
        missing = " or ".join(missing_permissions(stream, denied))
        yield Finding.problem(
            _CHECK,
            f"NATS does not let its user {missing}; permit it there: "
            f"publish {', '.join(publish_permissions(stream))}, and subscribe "
            f"{', '.join(subscribe_permissions(stream))}",
        )
        return
    if answer is None:
        yield Finding.problem(
            _CHECK,
            "JetStream does not answer; enable it in the configuration of NATS (jetstream { "
            "store_dir: … }), and for the user's account",
        )
        return
    error = answer.get("error")
    if error is None:
        yield Finding.ok(_CHECK, f"NATS is reached, and keeps the stream {stream!r}")
        for difference in differences(answer["config"], log_settings(config)):
            yield Finding.warning(
                _CHECK,
                f"{difference}; change one of both: nats stream edit {stream}, or the settings",
            )
        for finding in _of_replay(answer, replay_window):
            yield finding
    elif error.get("err_code") == _NO_STREAM:
        yield Finding.ok(
            _CHECK,
            f"NATS is reached; the first server to start makes the stream {stream!r}, for which "
            f"NATS sets {config.log_max_bytes} bytes of its max_file_store aside",
        )
    else:
        yield Finding.problem(_CHECK, f"JetStream refuses: {error.get('description')}")
        return
    for finding in _of_the_copies(config):
        yield finding


def _of_the_copies(config: ClusterSettings) -> Iterator[Finding]:
    if config.nats_replicas == 1 and config.log_ack_delay < _SYNC:
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
    """Try all that a server does; return what JetStream says of the stream, None if nothing."""
    inbox = await client.subscribe(client.new_inbox())
    beats = await client.subscribe(f"{stream}.beat.*")
    for verb, name in (
        ("STREAM.INFO", stream),
        ("STREAM.CREATE", stream),
        ("STREAM.MSG.GET", stream),
        ("CONSUMER.CREATE", f"{stream}.check"),
        ("CONSUMER.MSG.NEXT", f"{stream}.check"),
    ):
        await client.publish(f"$JS.API.{verb}.{name}", b"{}", reply=inbox.subject)
    # A stream of another name does not take it.
    elsewhere = {"Nats-Expected-Stream": f"{stream} is not checked"}
    await client.publish(f"{stream}.log", b"", reply=inbox.subject, headers=elsewhere)
    # NATS complains before it answers the ping.
    await client.flush()
    await inbox.unsubscribe()
    await beats.unsubscribe()
    with suppress(nats.errors.TimeoutError, nats.errors.NoRespondersError):
        message = await client.request(f"$JS.API.STREAM.INFO.{stream}", timeout=_ANSWER)
        answer: Mapping[str, Any] = json.loads(message.data)
        return answer
    return None
