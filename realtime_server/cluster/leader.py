"""Leader: waits for the slot, and passes the database's changes on to the log while it has it.

The slot is the lock: PostgreSQL gives it to one connection at a time. Whoever has it looks where
the log ends, and goes on there. Should two servers take themselves for the leader, because one was
paused, or is cut off from the database only, then the log refuses what the former one appends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs

from realtime_core import (
    Gap,
    GapReason,
    LogicalMessage,
    Position,
    RawPgoutputSource,
    SourceStats,
    StreamIdentity,
)
from realtime_core.errors import PositionMismatchError, RealtimeError
from realtime_core.lsn import LSN
from realtime_core.positions import LAST_INDEX
from realtime_core.sources.stream_options import AskStart

from ..replay.journal_reader import may_be_record
from .connection import NatsConnection
from .envelope import Envelope, begin_of_log, encode, position_at
from .errors import FencedError, LogError
from .log import Log
from .nodes import Nodes
from .packer import LEAST_PAYLOAD, Packed, Packer
from .stats import LeaderStats
from .term import Term, first_to_end

__all__ = ["Leader", "check_payload"]

logger = logging.getLogger("realtime.cluster")

_PAUSES: Final = (0.3, 5.0)
"""The least and the most seconds until a server tries to lead again."""
_LISTENS: Final = 2.0
"""Seconds after which a server that leads has been heard: each says something each second."""
_HEADERS: Final = 512
"""How many bytes a message's headers may take."""


@attrs.define
class _Begin:
    """Where a term begins, which is known once the slot is held."""

    sequence: int = 0
    tail: Envelope | None = None


class Leader:
    """A server that may lead.

    Args:
        connect: opens a connection to NATS.
        log: makes the log's view of a connection.
        make_source: makes the source, of which the argument is what it asks for its start.
        publications: the names of the publications that it reads.
        slot: the name of the slot that it reads.
        nodes: the servers that read the log.
        ack_delay: seconds for which the slot keeps what the log has taken.
        repeat: seconds after which the last place is appended once more while there are no changes.
        clock: seconds, which only grow.
        is_read: whether a server reads the content of a message.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[NatsConnection]],
        log: Callable[[NatsConnection], Log],
        make_source: Callable[[AskStart], RawPgoutputSource],
        *,
        publications: tuple[str, ...],
        slot: str,
        nodes: Nodes,
        ack_delay: float,
        repeat: float,
        clock: Callable[[], float],
        is_read: Callable[[LogicalMessage], bool] = may_be_record,
    ) -> None:
        self.stats = LeaderStats()
        """Counts."""
        self.slot = slot
        """The name of the slot."""
        self._connect = connect
        self._log_of = log
        self._make_source = make_source
        self._publications = tuple(sorted(set(publications)))
        self._nodes = nodes
        self._ack_delay = ack_delay
        self._repeat = repeat
        self._clock = clock
        self._is_read = is_read
        # Of the database cluster; None until the slot was held once.
        self._identifier: int | None = None
        # The source while this leads.
        self._source: RawPgoutputSource | None = None
        self._term: Term | None = None
        # Where the last term has begun, or would have; and the end of the log that the database
        # turned out not to be the one of.
        self._begin = _Begin()
        self._refused: Envelope | None = None

    def source_stats(self) -> SourceStats | None:
        """Return what the source counts; None while this does not lead."""
        if self._source is None or self._term is None:
            return None
        stats = self._source.stats()
        if not stats.connected:
            return None
        return attrs.evolve(stats, lag_bytes=self._term.lag(stats))

    def foreign(self) -> str | None:
        """Return why this server must not lead: a server of another database leads in its log.

        None if none does, or if this server has not had its slot so far.
        """
        identifier = self._identifier
        if identifier is None:
            return None
        other = self._nodes.foreign_leader(identifier, self.slot, self._clock())
        if other is None:
            return None
        return (
            f"the log is that of another database: a server leads that reads the {other}, and "
            f"this one has the slot {self.slot!r} of the database cluster {identifier}; give the "
            "servers of each database a CLUSTER_NAME of their own"
        )

    async def run(self) -> None:
        """Lead whenever it is possible; never return."""
        pause, most = _PAUSES
        told = ""
        while True:
            terms = self.stats.terms
            try:
                connection = await self._connect()
                async with connection:
                    await first_to_end(self._lead(self._log_of(connection)), _end_of(connection))
            except PositionMismatchError as exc:
                logger.warning("the log is of another database: %s", exc)
                self._refused = self._begin.tail
                # Whoever leads for that database is heard by then.
                pause = max(pause, _LISTENS)
            except FencedError as exc:
                logger.warning("another server leads: %s", exc)
            except RealtimeError as exc:
                if str(exc) != told:
                    # Not again and again while NATS or the database is away.
                    logger.warning("this server cannot lead: %s", exc)
                    told = str(exc)
            finally:
                self._source = self._term = None
            if self.stats.terms > terms:
                pause, told = _PAUSES[0], ""
            await asyncio.sleep(pause)
            pause = min(2 * pause, most)

    async def _lead(self, log: Log) -> None:
        for difference in await log.prepare():
            logger.warning("the stream is not as it should be: %s", difference)
        check_payload(log.connection.max_payload)
        begin = self._begin = _Begin()

        async def ask() -> Position | None:
            return await self._start(log, begin)

        async with contextlib.aclosing(self._make_source(ask)) as source:
            await source.__aenter__()
            stream = source.stats().stream
            assert stream is not None
            self._identifier = stream.system_identifier
            foreign = self.foreign()
            if foreign is not None:
                raise LogError(foreign)
            self._nodes.begin_term()
            self.stats.terms += 1
            packer, first = self._continue(begin.tail, source.stats(), stream, log)
            logger.info("leading, behind message %d of the log", begin.sequence)
            term = Term(
                source,
                log,
                packer,
                begin.sequence,
                nodes=self._nodes,
                stats=self.stats,
                ack_delay=self._ack_delay,
                repeat=self._repeat,
                clock=self._clock,
            )
            term.put(first)
            self._source, self._term = source, term
            await term.run()

    async def _start(self, log: Log, begin: _Begin) -> Position | None:
        """Return where the source is to begin, now that it holds the slot."""
        begin.sequence, begin.tail = await log.tail()
        tail = begin.tail
        if tail is None or tail == self._refused:
            return None
        position = position_at(tail.last, tail.stream)
        if tail.stream.publications != self._publications:
            # A place within a transaction means nothing for other publications.
            return position.end_of_transaction()
        return position

    def _continue(
        self, tail: Envelope | None, stats: SourceStats, stream: StreamIdentity, log: Log
    ) -> tuple[Packer, list[Packed]]:
        """Return what packs the changes from now on, and what has to be appended before them."""
        options: dict[str, Any] = {
            "max_payload": log.connection.max_payload - _HEADERS,
            "is_read": self._is_read,
            "version": self._nodes.version(self._clock()),
        }
        if tail is None:
            mark = begin_of_log(stats.confirmed_lsn, stream)
            packed = Packed(encode(mark, options["version"]), mark.last, None)
            return Packer(mark.last, stream, **options), [packed]
        packer = Packer(tail.last, tail.stream, **options)
        if tail.stream == stream:
            if tail == self._refused:
                # The source has not begun there, and would yield again what the log has.
                self._refused = None
                raise LogError("the database is the one of the log again")
            if not _is_cut_off(tail, stats.confirmed_lsn):
                return packer, []
            # The slot is just behind the transaction, as it is when all of that was acknowledged,
            # so the source cannot know.
            gap = Gap(None, Position(stats.confirmed_lsn, 0, stream), GapReason.START_BEHIND_SLOT)
            logger.error(
                "the end of the last transaction in the log is lost, and the slot is behind it"
            )
            return packer, packer.feed(gap)
        reason, until = GapReason.OTHER_PUBLICATIONS, LSN(tail.last[1])
        if tail == self._refused:
            reason, until = GapReason.OTHER_CLUSTER, LSN(stats.confirmed_lsn - 1)
        logger.warning("the log goes on with another stream, %s behind %s", stream, tail.stream)
        return packer, packer.feed(Gap(None, Position(until, LAST_INDEX, stream), reason))


def _is_cut_off(tail: Envelope, confirmed: LSN) -> bool:
    """Return whether the log ends within a transaction of which the slot sends nothing any more."""
    _, lsn, index = tail.last
    # The place of an idle position or of a message outside of transactions is the last byte of a
    # record, which is odd: records begin at multiples of eight, and a commit's place is its begin.
    return confirmed == lsn + 1 and index != LAST_INDEX and lsn % 2 == 0


def check_payload(most: int) -> None:
    """Check how many bytes NATS lets messages have.

    Raises:
        LogError: if that is too few.
    """
    if most < LEAST_PAYLOAD:
        raise LogError(
            f"NATS takes messages of {most} bytes at most, too few for the largest rows; set "
            f"max_payload to {LEAST_PAYLOAD} or more in its configuration (1 MB by default)"
        )


async def _end_of(connection: NatsConnection) -> None:
    await connection.closed.wait()
    raise LogError("the connection to NATS has ended")
