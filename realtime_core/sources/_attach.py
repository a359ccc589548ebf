"""Attaching: from a connection string to a running stream, or a reason why not.

Everything is checked by SQL on the connection that then streams: the server, what the plugin
needs, the slot, and whether changes were missed since the last time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

import attrs
import psycopg
from psycopg import AsyncConnection

from ..changes import Begin, Change, Commit, GapReason
from ..errors import PositionMismatchError, SourceError, WalLevelError
from ..lsn import LSN
from ..positions import LAST_INDEX, Position, StreamIdentity
from ..replication.progress import Place
from ..replication.sequence import NOWHERE
from ..replication.timelines import switch_point
from . import catalog
from ._connection import ReplicationConnection
from ._errors import translate
from ._skips import Skips
from ._slots import check_slot, gap_reason, said_when_slow, slot_lost
from .catalog import ServerFacts, SlotStatus
from .options import StreamSettings

__all__ = ["Attachment", "ResumePoint", "OutputPlugin", "PayloadDecoder", "Untold", "attach"]

logger = logging.getLogger("realtime.source")

_PATIENCE: Final = 30.0
"""Seconds within which a server has to answer a question."""
_FAILOVER_SINCE: Final = 170000
_SKIPS_SINCE: Final = 180000
"""The first version that skips what it finds no publication for, and so needs no other slot."""
_PAUSE: Final = 0.1
"""Seconds between two looks at who is still writing."""
_MENTION: Final = 5.0
"""Seconds after which those are named in the log, and again ever after."""
_ENDS_WITH_ITS_SLOT: Final = {
    GapReason.LAG,
    GapReason.SLOT_INVALIDATED,
    GapReason.SLOT_OLDER_THAN_PUBLICATION,
    GapReason.WAL_REMOVED,
}


class PayloadDecoder(Protocol):
    """Turns what the plugin sends on one connection into changes, in commit order."""

    @property
    def in_transaction(self) -> bool:
        """Whether a Begin has come without its Commit."""
        ...

    def decode(self, payloads: Iterable[bytes]) -> Iterator[Change | Begin | Commit]:
        """Decode messages; what comes of one is yielded before the next is taken.

        Raises:
            DecodeError: if it is none.
        """
        ...

    def close(self) -> None:
        """Drop what is held."""
        ...


@attrs.define
class Untold:
    """Reasons for a gap that no look at the slot tells, as long as no stream tells them."""

    suspicion: GapReason | None = None
    """What the stream itself has complained of."""
    dropped_for: GapReason | None = None
    """Why the slot was dropped, which may be an attempt's last deed."""


class OutputPlugin(Protocol):
    """What one output plugin needs."""

    name: str
    identity: tuple[str, ...]
    """Goes into positions as the stream's publications: other names, other changes."""
    tells_commit_lsn: bool
    """Whether a position's LSN is a commit record's own, not one behind it: PostgreSQL may leave
    out then what lies before."""

    async def check(self, connection: AsyncConnection[Any], facts: ServerFacts) -> None:
        """Raise SourceError if the server has not what the plugin needs."""
        ...

    def options(self) -> dict[str, str]:
        """Return the options of START_REPLICATION."""
        ...

    def goes_on(self, message: memoryview) -> bool:
        """Say of a message whether more of its transaction is about to come."""
        ...

    def decoder(self, stream: StreamIdentity) -> PayloadDecoder:
        """Make a decoder for a new connection."""
        ...


@attrs.frozen
class ResumePoint:
    """Where a source stood when its last connection broke."""

    stream: StreamIdentity
    last: Place
    """Of the last change taken."""
    acknowledged: LSN
    skips: Skips


@attrs.frozen
class Attachment:
    """A running stream."""

    connection: ReplicationConnection
    stream: StreamIdentity
    start: LSN
    """From where it streams, unless it goes on where the former one stood."""
    reason: GapReason | None
    """Why changes may have been lost since the last time."""
    skips_until: LSN | None
    """Where that gap ends if the slot goes on all the same, and skips what lies before."""
    sender_timeout: float
    """In seconds; 0 for none."""
    database: str
    enums: dict[tuple[str, str], tuple[str, ...]]
    """The declared orders of enum types, by schema and name."""


async def attach(
    settings: StreamSettings,
    plugin: OutputPlugin,
    name: str,
    former: ResumePoint | None,
    untold: Untold,
    connected: Callable[[ReplicationConnection], None],
) -> Attachment:
    """Start the stream.

    Args:
        name: of the slot.
        former: None if this is the first time.
        untold: what is known of gaps; if this fails, the next attempt needs it as it is then.
        connected: told each connection as soon as there is one.

    Raises:
        SourceError: if that fails, saying why.
        PositionMismatchError: if ``start_at`` belongs to another stream.
    """
    connection = await ReplicationConnection.connect(
        settings.dsn,
        name,
        sender_timeout=settings.sender_timeout,
        names=settings.setting_names,
    )
    connected(connection)
    try:
        return await _Attaching(settings, plugin, name, former, untold, connection).run()
    except psycopg.Error as exc:
        connection.close()
        raise translate(exc, name) from exc
    except BaseException:
        connection.close()
        raise


@attrs.frozen
class _Attaching:
    settings: StreamSettings
    plugin: OutputPlugin
    name: str
    former: ResumePoint | None
    untold: Untold
    connection: ReplicationConnection

    async def run(self) -> Attachment:
        connection, settings = self.connection, self.settings
        with self._answers_soon():
            facts = await catalog.server_facts(connection.sql)
            if facts.wal_level != "logical":
                raise WalLevelError(facts.wal_level)
            self._check_version(facts)
            await self.plugin.check(connection.sql, facts)
            enums = await catalog.enum_orders(connection.sql)
            system, timeline = await connection.identify_system()
            stream = StreamIdentity(system, timeline, self.plugin.identity)
            self._check_start(stream)
            slot = await catalog.slot(connection.sql, self.name)
            if slot is not None:
                check_slot(
                    slot,
                    plugin=self.plugin.name,
                    database=facts.database,
                    temporary=settings.is_temporary,
                    names=settings.setting_names,
                )
            reason = await self._reason(stream, slot)
            is_skipped = (
                reason is GapReason.SLOT_OLDER_THAN_PUBLICATION and facts.version >= _SKIPS_SINCE
            )
            if reason is not None:
                must_replace = slot is not None and reason in _ENDS_WITH_ITS_SLOT and not is_skipped
                self._check_gap(reason, must_replace=must_replace)
                if must_replace:
                    await self._drop(reason)
                    slot = None
            reason = self.untold.dropped_for or reason
        start = await self._create() if slot is None else slot.confirmed_flush_lsn
        skips_until = None if slot is None or not is_skipped else await self._end_of_skips()
        with self._answers_soon():
            if slot is not None and settings.failover and not slot.failover:
                await connection.set_failover()
            # What has come before is left out already by the server, where it can be.
            known, may_skip = LSN(0), skips_until is not None
            if self.former is not None and (reason is None or may_skip):
                skips = self.former.skips
                known = max(self.former.acknowledged, skips.floor)
                may_skip = may_skip or skips.until is not None
            elif settings.start_at is not None and reason is None and self.plugin.tells_commit_lsn:
                known = settings.start_at.lsn
            plugin = self.plugin
            await connection.start(
                max(start, known), plugin.options(), plugin.goes_on, may_skip=may_skip
            )
        return Attachment(
            connection,
            stream,
            start,
            reason,
            skips_until,
            facts.wal_sender_timeout,
            facts.database,
            enums,
        )

    @contextlib.contextmanager
    def _answers_soon(self) -> Iterator[None]:
        """Find the connection broken if the server does not answer."""
        # Not asyncio.timeout: psycopg answers that by waiting for the server once more.
        loop = asyncio.get_running_loop()
        patience = loop.call_later(_PATIENCE, self.connection.abort)
        try:
            yield
        finally:
            patience.cancel()

    def _check_version(self, facts: ServerFacts) -> None:
        if self.settings.failover and facts.version < _FAILOVER_SINCE:
            raise SourceError(
                f"PostgreSQL {facts.version // 10000} has no failover slots, they came with 17; "
                "leave failover out"
            )

    def _check_start(self, stream: StreamIdentity) -> None:
        """Raise PositionMismatchError if the consumer's checkpoint says nothing of this stream."""
        start = self.settings.start_at
        if self.former is not None or start is None or start.stream is None:
            return
        theirs, ours = start.stream, stream
        if theirs.system_identifier != ours.system_identifier:
            raise PositionMismatchError(
                f"start_at is {start}, a place in the WAL of cluster {theirs.system_identifier}, "
                f"this is cluster {ours.system_identifier}; check the address, or leave start_at "
                "out to begin with what this slot has"
            )
        if theirs != ours and start.index != LAST_INDEX:
            raise PositionMismatchError(
                f"start_at is {start}, stored from a stream of {_listed(theirs)}, this source "
                f"streams {_listed(ours)}, where a transaction has other changes; choose the same "
                "as before, or, if all of that transaction is done with, go on from its end with "
                "start_at=position.end_of_transaction()"
            )

    async def _reason(self, stream: StreamIdentity, slot: SlotStatus | None) -> GapReason | None:
        former, start = self.former, self.settings.start_at
        if former is not None:
            if stream != former.stream:
                return GapReason.OTHER_CLUSTER
            timeline, last = former.stream.timeline, former.last[0]
        elif start is not None and start.stream is not None:
            timeline, last = start.stream.timeline, start.lsn
        else:
            timeline, last = stream.timeline, LSN(0)
        if timeline != stream.timeline and not await self._is_history(stream, timeline, last):
            return GapReason.NEW_TIMELINE
        # A slot that is not there any more cannot be what the stream complained of, unless it
        # went with the connection that was closed for it.
        suspicion = self.untold.suspicion
        is_ours = slot is not None or self.settings.is_temporary
        if suspicion is GapReason.LAG or (suspicion is not None and is_ours):
            return suspicion
        return gap_reason(
            slot,
            temporary=self.settings.is_temporary,
            acknowledged=None if former is None else former.acknowledged,
            start=start.lsn if former is None and start is not None else None,
        ) or self._lag(slot)

    async def _is_history(self, stream: StreamIdentity, timeline: int, last: int) -> bool:
        """Return whether what was handed over on an older timeline is part of this one's past."""
        if stream.timeline < timeline:
            # The former primary, which knows nothing of its successor.
            return False
        history = await self.connection.timeline_history(stream.timeline)
        until = switch_point(history, timeline)
        return until is not None and last < until

    def _lag(self, slot: SlotStatus | None) -> GapReason | None:
        limit = self.settings.max_lag_bytes
        if limit is None or slot is None or not slot.exceeds(limit):
            return None
        return GapReason.LAG if self.settings.on_lag == "gap" else None

    def _check_gap(self, reason: GapReason, *, must_replace: bool) -> None:
        """Raise SlotLostError unless the source was told to go on behind a gap."""
        settings, former, after = self.settings, self.former, self.settings.start_at
        may_continue = settings.on_gap == "continue"
        may_replace = settings.replace_slot or settings.is_temporary or not must_replace
        if may_continue and may_replace:
            return
        if former is not None and former.last > NOWHERE:
            after = Position(LSN(former.last[0]), former.last[1], former.stream)
        raise slot_lost(
            self.name, reason, after, may_continue=may_continue, may_replace=may_replace
        )

    async def _drop(self, reason: GapReason) -> None:
        await self.connection.drop_slot()
        logger.warning("slot %r was dropped: changes may be lost (%s)", self.name, reason.value)
        self.untold.suspicion, self.untold.dropped_for = None, reason

    async def _end_of_skips(self) -> LSN:
        """Return from where on everything that commits was written with the publications there.

        That is so when those have ended who were writing when the publications were checked.
        """
        with self._answers_soon():
            xid = await catalog.current_xid(self.connection.sql)
        loop = asyncio.get_running_loop()
        mention = loop.time() + _MENTION
        while True:
            with self._answers_soon():
                end = await catalog.wal_end_behind(self.connection.sql, xid)
                if end is not None:
                    return end
                if loop.time() >= mention:
                    writers = await catalog.writers_before(self.connection.sql, xid)
                    logger.warning(
                        "slot %r does not go on yet: it waits for write transactions to end that "
                        "may have begun before the publication was made: %s",
                        self.name,
                        ", ".join(map(str, writers)) or "none is seen now",
                    )
                    mention = loop.time() + _MENTION
            await asyncio.sleep(_PAUSE)

    async def _create(self) -> LSN:
        settings = self.settings
        making = self.connection.create_slot(
            self.plugin.name, temporary=settings.is_temporary, failover=settings.failover
        )
        return await said_when_slow(
            making, dsn=settings.dsn, name=self.name, pid=self.connection.pid
        )


def _listed(stream: StreamIdentity) -> str:
    return ", ".join(map(repr, stream.publications))
