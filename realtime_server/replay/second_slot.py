"""SecondSlot: a second replication slot, behind the main one, keeps the WAL that clients may need.

Theory of operation. What clients have missed is in memory while the server lives. For a restart, a
second slot stays at the lowest place that a client may go on from; the main slot is never held
back. The second slot is a copy of the main one, and only a process that begins streams from it. To
move the slot, PostgreSQL reads the WAL again from the beginning of the slot's oldest transaction.
So the slot is moved now and then, by so much that the WAL is read a few times at most. On an idle
database it is not moved.

The WAL that the slot may keep is bounded, also by half of what PostgreSQL lets any slot keep, since
the slot would be lost as a whole beyond that. If the slot is lost all the same, or dropped, it is
made anew. Then a window has to pass until it keeps everything again.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import psycopg
from psycopg import AsyncConnection

from realtime_core import LSN, SlotStatus
from realtime_core.errors import SourceError
from realtime_core.sources import catalog
from realtime_core.sources.failures import one_line

from ..config.database.connections import Dsn, connect

__all__ = ["SUFFIX", "SecondSlot", "SlotState", "slots_left_over"]

logger = logging.getLogger("realtime.replay")

SUFFIX: Final = "_replay"
"""The end of a second slot's name, behind the main slot's name."""

_STEP: Final = 16 * 1024 * 1024
"""How many bytes of WAL the slot is moved by at least."""
_MEGABYTE: Final = 1_000_000

_SERVER: Final = """
    SELECT pg_is_in_recovery(),
           (SELECT setting::int8 * 1024 * 1024 FROM pg_settings
            WHERE name = 'max_slot_wal_keep_size'),
           coalesce((SELECT setting::float8 FROM pg_settings
                     WHERE name = 'idle_replication_slot_timeout'), 0),
           has_function_privilege('pg_replication_slot_advance(name, pg_lsn)', 'execute')
"""
_COPY: Final = "SELECT 1 FROM pg_copy_logical_replication_slot(%s, %s)"
_MOVE: Final = "SELECT end_lsn FROM pg_replication_slot_advance(%s, %s::pg_lsn)"
_DROP: Final = "SELECT pg_drop_replication_slot(%s)"


_LEFT_OVER: Final = """
    SELECT slot_name FROM pg_replication_slots AS second
    WHERE slot_type = 'logical' AND plugin = 'pgoutput' AND database = current_database()
      AND NOT active AND right(slot_name, %(length)s) = %(suffix)s
      AND NOT EXISTS (SELECT FROM pg_replication_slots AS main
                      WHERE main.slot_name = left(second.slot_name, -%(length)s))
    ORDER BY slot_name
"""


class SlotState(enum.Enum):
    """Whether there is a second slot, which keeps what clients may need."""

    UNKNOWN = "unknown"
    """The slot was not looked at yet."""
    KEPT = "kept"
    """The slot is there."""
    NONE = "none"
    """There is no slot: what clients have missed is lost when the server ends."""


@attrs.frozen
class _Look:
    """The two slots, and PostgreSQL's settings for slots."""

    main: SlotStatus | None
    second: SlotStatus | None
    in_recovery: bool
    keep_size: int
    """Bytes of WAL that any slot may keep; negative: without a bound."""
    idle_timeout: float
    """Seconds after which a slot that nobody uses is lost; 0: never."""
    may_move: bool
    """Whether the role may move a slot."""


@attrs.frozen
class _Move:
    """What :meth:`SecondSlot.keep` is called with."""

    needed: Callable[[], LSN | None]
    before_move: Callable[[LSN], Awaitable[bool]]
    least_step: int


class SecondSlot:
    """Creates the second slot, moves it on, and drops it.

    Args:
        dsn: returns the connection string, with the server's role.
        slot: name of the main slot, which is permanent.
        name: name of the second slot.
        max_bytes: how many bytes of WAL the second slot may keep (REPLAY_WAL_MB).
        clock: seconds of any clock that only goes forward.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        slot: str,
        name: str,
        max_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        """Name of the second slot."""
        self.state = SlotState.UNKNOWN
        """Whether the slot is there."""
        self.wal_bytes = 0
        """Bytes of WAL that the slot keeps."""
        self.lost = 0
        """How often the slot was lost."""
        self._dsn = dsn
        self._slot = slot
        self._max_bytes = max_bytes
        self._clock = clock
        # When the slot was used last, as far as is known.
        self._used_at = clock()
        # The last line in the log about what is wrong, so that it is there once.
        self._said = ""

    async def keep(
        self,
        needed: Callable[[], LSN | None],
        before_move: Callable[[LSN], Awaitable[bool]],
        *,
        least_step: int = 0,
    ) -> None:
        """Create the second slot if it is missing, or move it on.

        What fails is logged, once, and tried again with the next call.

        Args:
            needed: returns the LSN from which on commits have to be kept; None if no client needs a
                change that was handed out. It is called after the slots were looked at, and again
                right before the slot is moved, as a client may need more by then.
            before_move: called before the slot is moved, and when it was made, with an LSN that the
                stream has passed: everything that committed before it was handed out. It writes
                everything that is known of the clients into the WAL, waits until that is on the
                disk, and returns whether it did: what was written earlier may be gone afterwards.
            least_step: how many bytes of WAL the slot is moved by at least, since something is
                written before each move. If this is more than a quarter of what the slot may keep,
                the quarter counts.
        """
        move = _Move(needed, before_move, least_step)
        try:
            async with await connect(await self._dsn(), name="replay slot") as connection:
                # To move the slot may take long, and the role may have a limit.
                await connection.execute("SET statement_timeout = 0")
                await self._keep(connection, move)
        except psycopg.errors.ObjectInUse:
            # A process that begins is reading it.
            logger.debug("slot %r is in use", self.name)
        except psycopg.Error as exc:
            self._say(
                logger.warning, "slot %r cannot be looked after: %s", self.name, one_line(exc)
            )
        except SourceError as exc:
            # The stream notices that, too.
            logger.debug("slot %r cannot be looked after: %s", self.name, exc)

    async def find(self) -> SlotStatus | None:
        """Return the second slot if it can be read from; None if there is none.

        Raises:
            SourceError: if the database cannot be asked.
        """
        try:
            async with await connect(await self._dsn(), name="replay slot") as connection:
                look = await self._look(connection)
        except psycopg.Error as exc:
            raise SourceError(f"slot {self.name!r} cannot be found ({one_line(exc)})") from exc
        if look.in_recovery or not self._is_ours(look):
            return None
        return look.second

    async def give_up(self, why: str) -> None:
        """Drop the slot, because it cannot be read any more; :meth:`keep` creates it again."""
        self._lose(why)
        try:
            async with await connect(await self._dsn(), name="replay slot") as connection:
                await connection.execute(_DROP, [self.name])
        except (psycopg.Error, SourceError) as exc:
            logger.warning("slot %r cannot be dropped: %s", self.name, one_line(exc))

    async def _keep(self, connection: AsyncConnection[Any], move: _Move) -> None:
        look = await self._look(connection)
        main, second = look.main, look.second
        if look.in_recovery:
            self._none(logger.info, "the database is a standby, where no slot %r is made")
            return
        if main is None or main.temporary or main.is_lost or main.slot_type != "logical":
            # The stream says what is wrong with the main slot, and makes it anew.
            return
        if second is not None and second.is_lost:
            self._lose(second.invalidation_reason or "WAL that it needs was removed")
            await connection.execute(_DROP, [self.name])
            second = None
        elif second is None and self.state is SlotState.KEPT:
            self._lose("somebody dropped it")
        if not look.may_move:
            if second is not None and self._is_ours(look):
                await connection.execute(_DROP, [self.name])
            # Otherwise it would keep WAL until the disk is full.
            self._none(
                logger.warning,
                "slot %r is not kept: the role may not execute "
                "pg_replication_slot_advance(name, pg_lsn); grant that, or set REPLAY_WAL_MB=0",
            )
        elif second is None:
            await self._make(connection, move)
        elif not self._is_ours(look):
            self._none(
                logger.error,
                "slot %r is none of this database and output plugin: drop it, or choose another "
                "SLOT_NAME",
            )
        else:
            self._kept(second)
            await self._move(connection, look, main, second, move)

    async def _look(self, connection: AsyncConnection[Any]) -> _Look:
        ((in_recovery, keep_size, idle_timeout, may_move),) = await (
            await connection.execute(_SERVER)
        ).fetchall()
        return _Look(
            main=await catalog.slot(connection, self._slot),
            second=await catalog.slot(connection, self.name),
            in_recovery=in_recovery,
            keep_size=keep_size,
            idle_timeout=idle_timeout,
            may_move=may_move,
        )

    def _is_ours(self, look: _Look) -> bool:
        """Return whether the slot that has the second slot's name is one of ours that can be used:
        a permanent one of the main slot's plugin and database, whose WAL is still there."""
        main, second = look.main, look.second
        if second is None or second.is_lost or second.temporary:
            return False
        if main is None:
            return second.slot_type == "logical"
        return (second.plugin, second.database) == (main.plugin, main.database)

    async def _make(self, connection: AsyncConnection[Any], move: _Move) -> None:
        try:
            await connection.execute(_COPY, [self._slot, self.name])
        except psycopg.errors.DuplicateObject:
            return
        except psycopg.errors.ConfigurationLimitExceeded:
            self._none(
                logger.warning,
                "slot %r cannot be made: all of max_replication_slots are in use; raise that, or "
                "set REPLAY_WAL_MB=0",
            )
            return
        except psycopg.errors.InsufficientPrivilege:
            self._none(
                logger.warning,
                "slot %r cannot be made: the role may not execute "
                "pg_copy_logical_replication_slot(name, name); grant that, or set REPLAY_WAL_MB=0",
            )
            return
        self._used_at = self._clock()
        logger.info("made slot %r: from now on clients may come back after a restart", self.name)
        self._said = ""
        self.state = SlotState.KEPT
        # The main slot may have moved since it was looked at.
        made = await catalog.slot(connection, self.name)
        if made is not None:
            self._kept(made)
            await move.before_move(made.confirmed_flush_lsn)

    def _kept(self, second: SlotStatus) -> None:
        self.state = SlotState.KEPT
        self.wal_bytes = second.retained_bytes or 0

    async def _move(
        self,
        connection: AsyncConnection[Any],
        look: _Look,
        main: SlotStatus,
        second: SlotStatus,
        move: _Move,
    ) -> None:
        assert second.restart_lsn is not None
        confirmed, passed = second.confirmed_flush_lsn, main.confirmed_flush_lsn
        limit = self._max_bytes if look.keep_size < 0 else min(self._max_bytes, look.keep_size // 2)
        least = confirmed
        if self.wal_bytes > limit:
            end = second.restart_lsn + self.wal_bytes
            least = max(least, min(LSN(end - limit // 2), passed))

        def target() -> LSN:
            first = move.needed()
            return max(least, passed if first is None else min(first, passed))

        # PostgreSQL begins to read where the slot's oldest transaction does.
        again = confirmed - second.restart_lsn
        step = max(_STEP, again // 4, min(move.least_step, limit // 4))
        if target() - confirmed >= step:
            if not await move.before_move(passed) or (to := target()) <= confirmed:
                return
            if (first := move.needed()) is not None and first < least:
                self._say(
                    logger.warning,
                    "slot %r keeps no more than %d MB (REPLAY_WAL_MB, and half of "
                    "max_slot_wal_keep_size): clients that were away before may be told of a gap "
                    "after a restart",
                    self.name,
                    limit // _MEGABYTE,
                )
        elif look.idle_timeout and self._clock() - self._used_at > look.idle_timeout / 3:
            # The slot is used without being moved. What was written of the clients is behind it.
            to = confirmed
        else:
            return
        await connection.execute(_MOVE, [self.name, str(to)])
        self._used_at = self._clock()
        moved = await catalog.slot(connection, self.name)
        if moved is not None:
            self._kept(moved)
        logger.debug("moved slot %r to %s", self.name, to)

    def _lose(self, why: str) -> None:
        self.lost += 1
        self.state = SlotState.NONE
        self.wal_bytes = 0
        logger.error(
            "slot %r was lost (%s): after a restart within the next REPLAY_WINDOW clients that "
            "come back may be told of a gap",
            self.name,
            why,
        )

    def _none(self, log: Callable[..., None], text: str) -> None:
        self.state = SlotState.NONE
        self.wal_bytes = 0
        self._say(log, text, self.name)

    def _say(self, log: Callable[..., None], text: str, *arguments: object) -> None:
        """Log a line about the slot, unless it was the last one."""
        line = text % arguments
        if line != self._said:
            self._said = line
            log(text, *arguments)


async def slots_left_over(dsn: str) -> list[str]:
    """Return the second slots of the database whose main slots are not there any more.

    Args:
        dsn: where to connect, with the server's role.

    Raises:
        SourceError: if the database cannot be asked.
    """
    try:
        async with await connect(dsn, name="replay slots") as connection:
            values = {"suffix": SUFFIX, "length": len(SUFFIX)}
            rows = await (await connection.execute(_LEFT_OVER, values)).fetchall()
    except psycopg.Error as exc:
        raise SourceError(f"the slots cannot be listed ({one_line(exc)})") from exc
    return [name for (name,) in rows]
