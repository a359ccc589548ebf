"""Makes a server's part of a cluster from its settings."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from realtime_core import LogicalMessage, SourceStats

from ..config import ClusterSettings, ServerConfig
from ..config.database.source import make_leader_source
from ..fanout.logical_broadcasts import LOGICAL_PREFIX
from ..replay.record_filter import RecordFilter
from ..replay.records import digest, journal_secret
from .connection import NatsConnection
from .feed import LogFeed
from .leader import Leader
from .log import Log, LogSettings
from .log_reader import LogReader
from .node import ClusterNode, LogView
from .nodes import Nodes
from .past import FeedOfLog, LogPast
from .patient_reader import PatientReader
from .permissions import Denials

__all__ = ["log_settings", "make_node", "make_past", "make_server_node"]

_PART_OF_STRANGERS: Final = 16
"""Which part of the log's bytes messages may take that look like records and are not signed with
the servers' secret, within the time that the log keeps a message."""

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
    connect, log = _ways_to_log(config, Denials(settings.name))

    def leader_stats() -> SourceStats | None:
        return nodes.leader(clock())

    leader: Leader | None = None
    if config.may_lead:
        assert config.slot_name is not None
        leader = Leader(
            connect,
            log,
            partial(make_leader_source, config),
            publications=config.stream_publications,
            slot=config.slot_name,
            nodes=nodes,
            ack_delay=config.log_ack_delay / 1000,
            repeat=config.log_max_age / 1000 / _REPEATS,
            clock=clock,
            is_read=_is_read(config),
        )
    feed = make_feed(PatientReader(LogReader(connect, log), clock), leader_stats)
    return ClusterNode(settings.name, connect, nodes, feed, leader, clock=clock)


def make_server_node(config: ServerConfig) -> tuple[ClusterNode[LogFeed], LogPast | None]:
    """Return the place of a server of one process, and what it finds of former ones in the log.

    Args:
        config: of the server, with ``NATS_URL``.
    """
    node = make_node(config, LogFeed)
    past = make_past(config, node.feed, node.id, node.all_writers)
    if past is not None:
        node.writers.add(node.id)
    return node, past


def make_past(
    config: ServerConfig, feed: FeedOfLog, name: str, writers: Callable[[], set[str] | None]
) -> LogPast | None:
    """Return what a process finds of former ones in the log; None: their clients begin anew.

    Args:
        config: of the server, with ``NATS_URL``.
        feed: the changes of this process.
        name: its name, 16 hexadecimal digits.
        writers: returns the names of all processes that write into the journal; None if they are
            not known.
    """
    if not config.keeps_journal:
        return None
    window, max_age = config.replay_window / 1000, config.log_max_age / 1000
    # The log has what was told last for as long as a client may be away.
    interval = min(max((max_age - window) / 2, window / 10), window / 2)
    denials = Denials(config.stream_name)

    def others() -> set[str] | None:
        known = writers()
        return None if known is None else known - {name}

    return LogPast(
        lambda: LogReader(*_ways_to_log(config, denials)),
        feed,
        cluster=digest(config.stream_name, str(config.slot_name)),
        node=name,
        others=others,
        span=window + 2 * interval,
        interval=interval,
        max_bytes=config.log_max_bytes,
        clock=time.monotonic,
    )


def _ways_to_log(
    config: ClusterSettings, denials: Denials
) -> tuple[Callable[[], Awaitable[NatsConnection]], Callable[[NatsConnection], Log]]:
    """Return what opens a connection to NATS, and what makes the log's view of one."""
    settings = log_settings(config)

    async def connect() -> NatsConnection:
        return await NatsConnection.open(config, name="realtime_server", complaint=denials.note)

    def log(connection: NatsConnection) -> Log:
        return Log(connection, settings)

    return connect, log


def _is_read(config: ServerConfig) -> Callable[[LogicalMessage], bool]:
    """Return what says whether a server reads the content of a message."""
    is_record = RecordFilter(
        journal_secret(config.db_password, config.jwt_secret, config.replay_secret),
        most=config.log_max_bytes / _PART_OF_STRANGERS,
        within=config.log_max_age / 1000,
        clock=time.monotonic,
    )
    if not config.broadcast_messages:
        return is_record
    return lambda message: message.prefix == LOGICAL_PREFIX or is_record(message)
