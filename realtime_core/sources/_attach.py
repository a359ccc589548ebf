"""Attaching: connects to the database and starts the stream, or says why that is impossible.

The connection that will stream first checks everything by SQL: the server, what the output plugin
needs, the slot, and whether changes were missed since the last connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Final

import attrs
import psycopg

from ..changes import GapReason
from ..errors import SlotUnavailableError, SourceError, WalLevelError
from ..lsn import LSN
from ..positions import Position, StreamIdentity
from ..replication.progress import Place
from ..replication.sequence import NOWHERE
from . import catalog
from ._checkpoint import ask, check_stream, held_slot, is_history, reason_against
from ._plugin import PluginFacts
from ._postgres_errors import translate
from ._replication_connection import ReplicationConnection
from ._skips import Skips
from ._slot_checks import check_slot, end_of_skips, gap_reason, log_when_slow, slot_lost
from .catalog import ServerFacts, SlotStatus
from .stream_options import StreamSettings

__all__ = [
    "AttachedStream",
    "ResumePoint",
    "SnapshotNeeded",
    "SnapshotOrigin",
    "UnreportedGap",
    "attach",
]

logger = logging.getLogger("realtime.source")

_PATIENCE: Final = 30.0
"""Seconds within which a server has to answer a query."""
_UNDEFINED_OBJECT: Final = "42704"
"""SQLSTATE for a slot that does not exist."""
_FAILOVER_SINCE: Final = 170000
_SKIPS_SINCE: Final = 180000
"""The first version that skips changes for which it finds no publication. Older ones raise an error
there, and the slot has to be recreated."""
# The stream cannot go on from such a slot: it has to be dropped.
_ENDS_WITH_ITS_SLOT: Final = {
    GapReason.LAG,
    GapReason.SLOT_INVALIDATED,
    GapReason.SLOT_OLDER_THAN_PUBLICATION,
    GapReason.WAL_REMOVED,
}


@attrs.define
class UnreportedGap:
    """Reasons for a gap that the slot itself does not show, until the consumer was told of them."""

    suspicion: GapReason | None = None
    """The reason that the last stream has ended with."""
    dropped_for: GapReason | None = None
    """Why an attempt has dropped the slot, if it failed after that."""
    has_created: bool = False
    """Whether an attempt has created the slot."""


@attrs.frozen
class ResumePoint:
    """How far a source had come when its last connection broke."""

    stream: StreamIdentity
    last: Place
    """The place of the last change taken."""
    acknowledged: LSN
    skips: Skips


class SnapshotNeeded(Exception):
    """Raised instead of attaching if a snapshot has to be taken first.

    Attributes:
        reason: why changes may have been lost; None if nothing was handed over yet.
        stream: the stream that will be attached to.
        facts: the facts about the server.
    """

    def __init__(
        self, reason: GapReason | None, stream: StreamIdentity, facts: ServerFacts
    ) -> None:
        super().__init__()
        self.reason = reason
        self.stream = stream
        self.facts = facts


@attrs.frozen
class SnapshotOrigin:
    """A temporary slot behind whose snapshot the stream begins."""

    slot: str
    """Name of the slot. The source's own slot is made as a copy of it."""
    lsn: LSN
    """The LSN of the snapshot, from which the slot streams."""


@attrs.frozen
class AttachedStream:
    """A running stream."""

    connection: ReplicationConnection
    stream: StreamIdentity
    start: LSN
    """The slot's confirmed position when it was attached."""
    reason: GapReason | None
    """Why changes may have been lost since the last connection; None if none were."""
    skips_until: LSN | None
    """The end of the gap, if the slot stays in use and PostgreSQL skips the changes before it."""
    sender_timeout: float
    """``wal_sender_timeout`` in seconds; 0 for none."""
    database: str
    enums: dict[tuple[str, str], tuple[str, ...]]
    """The labels of enum types in their declared order, by schema and name."""
    start_at: Position | None = None
    """The consumer's own checkpoint, if it has one and the source attaches for the first time."""
    is_behind_snapshot: bool = False
    """Whether the stream begins anew, behind a snapshot."""
    has_created: bool = False
    """Whether its slot was created for it."""


async def attach(
    settings: StreamSettings,
    plugin: PluginFacts,
    name: str,
    former: ResumePoint | None,
    unreported: UnreportedGap,
    origin: SnapshotOrigin | None,
    connected: Callable[[ReplicationConnection], None],
) -> AttachedStream:
    """Connect, check the server and the slot, and start the stream.

    Args:
        settings: the source's settings.
        plugin: the output plugin.
        name: name of the slot.
        former: where the last connection has stopped; None if this is the first one.
        unreported: what is known of a gap. It is changed here; if this fails, the next attempt
            needs it as it is then.
        origin: the snapshot behind which the stream begins; None if none was taken.
        connected: called with the connection as soon as there is one.

    Raises:
        SnapshotNeeded: if a snapshot has to be taken first.
        SourceError: if that fails, saying why.
        PositionMismatchError: if ``start_at`` belongs to another stream.
        TypeError: if ``start_at`` is a function that returns something else.
    """
    connection = await ReplicationConnection.connect(
        settings.dsn,
        name,
        sender_timeout=settings.sender_timeout,
        settings=plugin.session_settings,
        names=settings.setting_names,
    )
    connected(connection)
    try:
        return await _Attaching(
            settings, plugin, name, former, unreported, origin, connection
        ).run()
    except psycopg.Error as exc:
        connection.close()
        raise translate(exc, name) from exc
    except BaseException:
        connection.close()
        raise


@attrs.frozen
class _Attaching:
    settings: StreamSettings
    plugin: PluginFacts
    name: str
    former: ResumePoint | None
    unreported: UnreportedGap
    origin: SnapshotOrigin | None
    connection: ReplicationConnection

    async def run(self) -> AttachedStream:
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
            start_at = settings.known_start
            if self.former is None:
                check_stream(start_at, stream)
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
            if self.origin is not None:
                if slot is not None and reason in _ENDS_WITH_ITS_SLOT:
                    await self._drop(reason)
                    slot = None
                if slot is not None and slot.confirmed_flush_lsn > self.origin.lsn:
                    raise SnapshotNeeded(GapReason.SLOT_MOVED, stream, facts)
                reason = None
            elif self._needs_snapshot(slot, reason):
                raise SnapshotNeeded(self.unreported.dropped_for or reason, stream, facts)
            is_skipped = (
                reason is GapReason.SLOT_OLDER_THAN_PUBLICATION and facts.version >= _SKIPS_SINCE
            )
            if reason is not None:
                must_replace = slot is not None and reason in _ENDS_WITH_ITS_SLOT and not is_skipped
                self._check_gap(reason, must_replace=must_replace, after=start_at)
                if must_replace:
                    await self._drop(reason)
                    slot = None
            if self.origin is None:
                reason = self.unreported.dropped_for or reason
        start = await self._create(stream, facts) if slot is None else slot.confirmed_flush_lsn
        skips_until = None
        if slot is not None and is_skipped:
            skips_until = await end_of_skips(connection.sql, self.name, self._answers_soon)
        with self._answers_soon():
            if slot is not None and settings.failover and not slot.failover:
                await connection.set_failover()
            # The server is asked to leave out what was taken already, where it can.
            known, ignores_missing = LSN(0), skips_until is not None
            if self.origin is not None:
                known = start = max(start, self.origin.lsn)
            elif self.former is not None and (reason is None or ignores_missing):
                skips = self.former.skips
                known = max(self.former.acknowledged, skips.floor)
                ignores_missing = ignores_missing or skips.until is not None
            elif start_at is not None and reason is None and self.plugin.tells_commit_lsn:
                known = start_at.lsn
            plugin = self.plugin
            asked_for = settings.start_at if callable(settings.start_at) else None
            history = ""
            if self.former is None and asked_for is not None:
                history = await self._history_of(stream)
            await connection.start(
                max(start, known),
                plugin.options(),
                plugin.expects_more,
                ignores_missing_publications=ignores_missing,
            )
        if self.former is None and asked_for is not None:
            start_at = await ask(asked_for)
            check_stream(start_at, stream)
            held = await held_slot(settings, self.name)
            start = held.confirmed_flush_lsn
            if start_at is not None and reason is None:
                reason = reason_against(
                    *(start_at, stream, history, None if slot is None else held),
                    temporary=settings.is_temporary,
                )
                if reason is not None:
                    self._check_gap(reason, must_replace=False, after=start_at)
        return AttachedStream(
            connection,
            stream,
            start,
            reason,
            skips_until,
            facts.wal_sender_timeout,
            facts.database,
            enums,
            start_at if self.origin is None else None,
            self.origin is not None,
            self.unreported.has_created,
        )

    @contextlib.contextmanager
    def _answers_soon(self) -> Iterator[None]:
        """Break the connection off if the server does not answer within 30 s."""
        # asyncio.timeout would not do: psycopg answers a cancellation by cancelling the server's
        # command, and waits for the server once more.
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

    async def _reason(self, stream: StreamIdentity, slot: SlotStatus | None) -> GapReason | None:
        former, start = self.former, self.settings.known_start
        if former is not None:
            if stream != former.stream:
                return GapReason.OTHER_CLUSTER
            timeline, last = former.stream.timeline, former.last[0]
        elif start is not None and start.stream is not None:
            timeline, last = start.stream.timeline, start.lsn
        else:
            timeline, last = stream.timeline, LSN(0)
        if timeline != stream.timeline and not is_history(
            await self._history_of(stream), stream, timeline, last
        ):
            return GapReason.NEW_TIMELINE
        # The last stream's complaint counts if the slot that it was about still exists, or was a
        # temporary one, which PostgreSQL dropped with the connection.
        suspicion = self.unreported.suspicion
        is_ours = slot is not None or self.settings.is_temporary
        if suspicion is GapReason.LAG or (suspicion is not None and is_ours):
            return suspicion
        return gap_reason(
            slot,
            temporary=self.settings.is_temporary,
            acknowledged=None if former is None else former.acknowledged,
            start=start.lsn if former is None and start is not None else None,
        ) or self._lag(slot)

    async def _history_of(self, stream: StreamIdentity) -> str:
        """Return the text of the history file of a stream's timeline; the first one has none."""
        if stream.timeline == 1:
            return ""
        return await self.connection.timeline_history(stream.timeline)

    def _lag(self, slot: SlotStatus | None) -> GapReason | None:
        limit = self.settings.max_lag_bytes
        if limit is None or slot is None or not slot.exceeds(limit):
            return None
        return GapReason.LAG if self.settings.on_lag == "gap" else None

    def _check_gap(self, reason: GapReason, *, must_replace: bool, after: Position | None) -> None:
        """Raise SlotLostError unless the settings allow to go on behind a gap."""
        settings, former = self.settings, self.former
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
        self.unreported.suspicion, self.unreported.dropped_for = None, reason

    def _needs_snapshot(self, slot: SlotStatus | None, reason: GapReason | None) -> bool:
        settings = self.settings
        if settings.snapshot == "never":
            return False
        if settings.snapshot == "when_needed" and reason is not None:
            return True
        if self.former is not None:
            return False
        return settings.start_at is None if settings.own_checkpoint else slot is None

    async def _create(self, stream: StreamIdentity, facts: ServerFacts) -> LSN:
        settings = self.settings
        if self.origin is not None:
            try:
                return await self.connection.copy_slot(
                    self.origin.slot, temporary=settings.is_temporary, failover=settings.failover
                )
            except SlotUnavailableError as exc:
                if exc.sqlstate == _UNDEFINED_OBJECT:
                    # The temporary slot has ended with its connection.
                    raise SnapshotNeeded(None, stream, facts) from exc
                raise
        making = self.connection.create_slot(
            self.plugin.name, temporary=settings.is_temporary, failover=settings.failover
        )
        # Nothing that was committed before is in it, whatever becomes of this attempt.
        self.unreported.has_created = True
        return await log_when_slow(
            making, dsn=settings.dsn, name=self.name, pid=self.connection.pid
        )
