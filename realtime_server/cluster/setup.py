"""Makes a server's part of a cluster from its settings."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from realtime_core import SourceStats

from ..config import ClusterSettings, ServerConfig
from ..config.database.source import make_leader_source
from .connection import NatsConnection
from .feed import LogFeed
from .leader import Leader
from .log import Log, LogSettings
from .log_reader import LogReader
from .node import ClusterNode
from .nodes import Nodes

__all__ = ["log_settings", "make_node"]

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


def make_node(config: ServerConfig) -> ClusterNode:
    """Return a server's place among those that share a log.

    Args:
        config: of the server, with ``NATS_URL``.
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
    feed = LogFeed(LogReader(connect, log), leader=leader_stats, clock=clock)
    return ClusterNode(settings.name, connect, nodes, feed, leader, clock=clock)
