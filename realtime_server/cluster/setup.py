"""Makes a server's part of a cluster from its settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from realtime_core import SourceStats

from ..config import ClusterSettings, ServerConfig
from ..config.database.source import make_leader_source
from .connection import NatsConnection
from .leader import Leader
from .log import Log, LogSettings
from .log_reader import LogReader
from .node import ClusterNode, LogView
from .nodes import Nodes
from .patient_reader import PatientReader

__all__ = ["log_settings", "make_node"]

Feed = TypeVar("Feed", bound=LogView)

_REPEATS: Final = 3
"""How often the end of the log is said within the time that the log keeps a message."""


def log_settings(config: ClusterSettings) -> LogSettings:
    """Return what the stream is to be."""
    return LogSettings(
        name=config.stream_name,
        replicas=config.nats_replicas,
        max_bytes=config.log_max_bytes,
        max_age=config.log_max_age,
    )


def make_node(
    config: ServerConfig,
    make_feed: Callable[[PatientReader, Callable[[], SourceStats | None]], Feed],
) -> ClusterNode[Feed]:
    """Return a server's place among those that share a log.

    Args:
        config: of the server, with ``NATS_URL``.
        make_feed: makes what the server reads the log with, from what reads it, and from a function
            that returns what the source of the server that leads counts, if one was heard.
    """
    clock = time.monotonic
    settings = log_settings(config)
    nodes = Nodes(settings.max_bytes)

    async def connect() -> NatsConnection:
        return await NatsConnection.open(config, name="realtime_server")

    def log(connection: NatsConnection) -> Log:
        return Log(connection, settings)

    def leader_stats() -> SourceStats | None:
        return nodes.leader(clock())

    leader: Leader | None = None
    if config.may_lead:
        leader = Leader(
            connect,
            log,
            partial(make_leader_source, config),
            publications=config.publications,
            nodes=nodes,
            ack_delay=config.log_ack_delay / 1000,
            repeat=config.log_max_age / 1000 / _REPEATS,
            clock=clock,
        )
    feed = make_feed(PatientReader(LogReader(connect, log), clock), leader_stats)
    return ClusterNode(settings.name, connect, nodes, feed, leader, clock=clock)
