"""StreamOptions: the keyword arguments of every source that streams from a slot."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from random import Random
from typing import Any, Final, Literal, Self, TypeAlias, TypedDict

import attrs

from ..errors import ConfigError
from ..positions import Position
from ..replication.commands import check_slot_name
from ..snapshot import SnapshotProgress
from ._argument_errors import check_names, check_start, type_of
from ._dsn import parse_dsn
from ._filtering import filter_problems
from .hooks import Hooks

__all__ = [
    "AskStart",
    "CommonOptions",
    "Dsn",
    "EventOptions",
    "SnapshotOptions",
    "StartAt",
    "StreamOptions",
    "StreamSettings",
    "TakeSnapshot",
]

Dsn: TypeAlias = str | Callable[[], Awaitable[str]]
"""A libpq connection string or URI, or a function that returns one. The function is called before
each attempt to connect, because addresses and passwords may change. It may raise
:exc:`SourceError`."""


AskStart: TypeAlias = Callable[[], Position | Awaitable[Position | None] | None]
"""A function, async or not, that returns the checkpoint of a consumer that stores its own."""

StartAt: TypeAlias = Position | AskStart | None
"""The checkpoint of a consumer that stores its own, or a function that returns it."""


TakeSnapshot: TypeAlias = Literal["never", "initial", "when_needed"]
"""When a source takes a snapshot."""


class CommonOptions(TypedDict, total=False):
    """The :class:`StreamOptions` that do not decide which kinds of events come."""

    slot: str | None
    """Name of a permanent slot, which is created if it is missing, and kept when the source closes.
    None stands for a temporary slot with a generated name. PostgreSQL drops it with each
    connection, so every reconnect is a gap."""
    temporary: bool
    """Whether the named slot is a temporary one."""
    failover: bool
    """Whether standbys keep a copy of the slot, so that it survives a promotion (PostgreSQL 17,
    with ``sync_replication_slots`` on the standby). An existing slot is altered."""
    slot_in_use: Literal["fail", "wait"]
    """What to do while another connection streams from the slot: raise :exc:`SlotInUseError`, or
    check every second whether the slot is free. A broken connection of this source is always
    waited for. With ``"wait"``, another process may still move the checkpoint meanwhile, so
    ``start_at`` has to be a function then, unless the checkpoint has a lock of its own."""
    replace_slot: bool
    """Whether the slot may be dropped and recreated where the stream cannot go on otherwise: the
    slot is invalidated, WAL that it needs was removed, it is older than its publication, or
    ``on_lag`` asks for it. If not, such a slot is an error, whatever ``on_gap`` says."""
    filter: str | Mapping[str, str] | None
    """Hand over only the row changes that pass a filter expression: one expression for all tables,
    or one for each ``schema.table``, where the one for ``*`` is for all other tables. Other events
    always pass. Changes that are left out count in positions, and acknowledging a later change
    acknowledges them. A filter that does not fit a table raises :exc:`FilterError` at the table's
    first change. A row for which it cannot be evaluated is left out, counted and logged."""
    auto_ack: bool
    """Whether to acknowledge an event when the next one is asked for, and on leaving the ``async
    with`` block without an exception."""
    persistent: bool
    """Whether to try again after every error, also after one in the first attempt; each error is
    logged with its remedy. Otherwise an error in the first attempt is raised, and later on the
    source only tries again after errors that can pass by themselves. A persistent source enters
    its ``async with`` block at once, perhaps before there is a slot: await
    :meth:`ChangeSource.attached` before you write rows that must be seen."""
    max_lag_bytes: int | None
    """How many bytes of WAL the slot may retain on the server. It is checked on attaching and every
    ``lag_interval`` seconds."""
    on_lag: Literal["warn", "gap"]
    """What to do beyond ``max_lag_bytes``: ``"warn"`` logs a warning. With ``"gap"`` the slot is
    recreated if the consumer is behind by as much on attaching, or at two checks in a row; that is
    a gap, and needs ``replace_slot``."""
    lag_interval: float
    """Seconds between two checks of the lag."""
    heartbeat_interval: float | None
    """After how many seconds without a transaction to write a logical message into the database,
    in no transaction itself, behind which the slot goes on; None to write none. A slot also goes on
    with what the server says it has read, so most programs need none: it is for a database that is
    quiet beside others that are not, and shows that the way from the database to the program works.
    A connection is opened for each message. The role needs EXECUTE on ``pg_logical_emit_message``,
    as every role has by default, and a standby cannot write; what keeps a message from being
    written is logged once. With ``messages``, it comes as a :class:`LogicalMessage` with the prefix
    ``realtime_core.heartbeat`` and the slot's name."""
    sender_timeout: float | None
    """``wal_sender_timeout`` of this connection in seconds, 0 for none. It is for consumers that
    block the event loop for longer than the server's own setting allows."""
    status_interval: float
    """The most seconds between two status updates. They are sent at least three times in each
    ``wal_sender_timeout``."""
    backoff: tuple[float, float]
    """The least and the most seconds between two attempts to attach; each delay is about twice
    the one before."""
    random: Random | None
    """The random numbers for delays and for the names of generated slots."""
    hooks: Hooks | None
    """Functions to call when the source was attached, the stream broke off, there is a gap, a
    transaction was read, and every ``lag_interval`` seconds."""
    setting_names: Mapping[str, str] | None
    """The names of the application's own settings, for errors that say what to change: by libpq's
    parameter, with or without a value, as in
    ``{"user": "DB_USER", "sslmode=disable": "DB_SSL=false"}``, and for ``slot`` and ``plugin``."""


class EventOptions(TypedDict, total=False):
    """The :class:`StreamOptions` that decide which kinds of events come, besides ``snapshot``."""

    on_gap: Literal["raise", "continue"]
    """What to do when changes may have been lost: raise :exc:`SlotLostError`, or yield a
    :class:`Gap` and go on."""
    start_at: StartAt
    """For a consumer that stores its own checkpoint, ideally in the same transaction as its work:
    the position that it has stored, or None before it has stored one; or a function that returns
    that, async or not. The source hands over the events behind that position. It never lets the
    slot pass the position acknowledged last, so a slot beyond ``start_at`` shows a gap. The
    position itself counts as acknowledged when it, or a later one, is given to ``ack()``. To let
    the slot of an idle database move all the same, the source yields :class:`Idle` positions to
    store and acknowledge. A position that was stored with another list of publications raises
    :exc:`PositionMismatchError`: see :meth:`Position.end_of_transaction`.

    A function is called once the source holds the slot, so that no other process that works on the
    slot can move the checkpoint any more, and before anything is handed over. It is called again if
    attaching fails, but not after it has succeeded. It may raise :exc:`SourceError`, and has to
    answer within ``wal_sender_timeout``. For a moment the source then needs a second connection."""
    boundaries: bool
    """Whether to yield :class:`Begin` and :class:`Commit`, too."""


class SnapshotOptions(TypedDict, total=False):
    """The :class:`StreamOptions` for a source that takes snapshots."""

    snapshot_connections: int
    """How many tables are copied at a time, each by a connection of its own."""
    snapshot_timeout: float | None
    """The most seconds from the moment of a snapshot until its last row is read; then it ends, and
    the next read raises :exc:`SnapshotTimeoutError`. Until its last row is read VACUUM removes no
    row of the database's tables that has died since, and ``ALTER TABLE`` and ``TRUNCATE`` wait.
    None for no bound: there is a warning in the log after 10 minutes, 20, 40 and so on."""
    snapshot_progress: Callable[[SnapshotProgress], object] | None
    """A function that is called with each step of a snapshot's progress, in the event loop."""


class StreamOptions(CommonOptions, EventOptions, SnapshotOptions, total=False):
    """The keyword arguments of every source that streams from a slot. All of them are optional."""

    snapshot: TakeSnapshot
    """Whether to hand over the rows that the tables have already, before the changes, without a gap
    and without a row twice: a :class:`SnapshotBegin`, a :class:`Snapshot` for each row, and a
    :class:`SnapshotComplete`. ``"initial"`` does so if there is no slot yet, or, for a consumer
    with its own checkpoint, if ``start_at`` is None. ``"when_needed"`` also does so where changes
    may have been lost, instead of a :class:`Gap` or an error; it drops a slot that is of no use.

    The tables are copied from one exported snapshot, with a temporary slot. A permanent slot is
    made when the SnapshotComplete is acknowledged; for a consumer with its own checkpoint, just
    before the SnapshotComplete is handed over. So a process that ends before that leaves no slot
    behind, and the next one takes a new snapshot. Meanwhile PostgreSQL keeps WAL, and dead rows of
    all tables. The role needs SELECT on the tables, and row level security must not apply to it.
    One replication slot and one connection more than ``snapshot_connections`` have to be free."""


@attrs.frozen(kw_only=True)
class StreamSettings:
    """The options of a source with their defaults, checked; :class:`StreamOptions` describes them.

    ``own_checkpoint`` tells whether ``start_at`` was given at all.
    """

    dsn: Dsn
    slot: str | None = None
    temporary: bool = False
    failover: bool = False
    slot_in_use: Literal["fail", "wait"] = "fail"
    on_gap: Literal["raise", "continue"] = "raise"
    replace_slot: bool = False
    start_at: StartAt = None
    own_checkpoint: bool = False
    filter: str | Mapping[str, str] | None = None
    boundaries: bool = False
    auto_ack: bool = False
    persistent: bool = False
    max_lag_bytes: int | None = None
    on_lag: Literal["warn", "gap"] = "warn"
    lag_interval: float = 10.0
    heartbeat_interval: float | None = None
    sender_timeout: float | None = None
    status_interval: float = 10.0
    backoff: tuple[float, float] = (0.1, 30.0)
    random: Random | None = None
    hooks: Hooks | None = None
    setting_names: Mapping[str, str] | None = None
    snapshot: TakeSnapshot = "never"
    snapshot_connections: int = 1
    snapshot_timeout: float | None = None
    snapshot_progress: Callable[[SnapshotProgress], object] | None = None

    @classmethod
    def from_options(cls, dsn: Dsn, options: StreamOptions, owner: type) -> Self:
        """Make settings of the options that were given, and the defaults of all others.

        Args:
            dsn: the connection string, or a function that returns it.
            options: the options that were given.
            owner: the class of the source, for errors.

        Raises:
            ConfigError: with every problem, if the options cannot work.
            TypeError: if there is no such option, or ``start_at`` is not what it has to be.
        """
        check_names(owner, options, StreamOptions.__annotations__)
        check_start(options.get("start_at"))
        settings = cls(dsn=dsn, own_checkpoint="start_at" in options, **options)
        problems = list(settings._problems())
        if problems:
            raise ConfigError(problems)
        return settings

    @property
    def known_start(self) -> Position | None:
        """The consumer's checkpoint; None if there is none, or if it has to be asked for."""
        return self.start_at if isinstance(self.start_at, Position) else None

    @property
    def is_temporary(self) -> bool:
        """Whether PostgreSQL drops the slot with its connection."""
        return self.temporary or self.slot is None

    def _problems(self) -> Iterator[str]:
        try:
            if isinstance(self.dsn, str):
                parse_dsn(self.dsn)
        except ValueError as exc:
            yield str(exc)
        if self.slot is not None:
            try:
                check_slot_name(self.slot)
            except ValueError as exc:
                yield f"slot {exc}"
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                yield f"{name} is {' or '.join(map(repr, known))}, not {value!r}"
        low, high = self.backoff
        if not 0 < low <= high < math.inf:
            yield f"backoff is (minimum, maximum) in seconds, 0 < minimum <= maximum: {low, high}"
        for name in ("status_interval", "lag_interval", "heartbeat_interval", "snapshot_timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                yield f"{name} is a number of seconds above 0, not {value}"
        if self.sender_timeout is not None and not 0 <= self.sender_timeout < _INT_MILLISECONDS:
            yield (
                f"sender_timeout is a number of seconds from 0 (none) to {_INT_MILLISECONDS}, not "
                f"{self.sender_timeout}"
            )
        if self.filter is not None:
            yield from filter_problems(self.filter)
        if self.max_lag_bytes is not None and self.max_lag_bytes <= 0:
            yield f"max_lag_bytes is a number of bytes above 0, not {self.max_lag_bytes}"
        lacking = [name for name in _HOOKS if not callable(getattr(self.hooks, name, None))]
        if self.hooks is not None and lacking:
            yield (
                f"hooks has no {lacking[0]}(): make an object of a class of your own that inherits "
                f"Hooks, not {type_of(self.hooks)}"
            )
        if self.failover and self.is_temporary:
            yield "failover needs a permanent slot: name one with slot, and leave temporary out"
        if self.snapshot_connections < 1:
            yield (
                f"snapshot_connections is a number of connections from 1, not "
                f"{self.snapshot_connections}"
            )
        if self.snapshot != "never" and callable(self.start_at):
            yield (
                "snapshot needs a start_at that is known before the slot is made: give the stored "
                "position, or None as long as none is stored, not a function"
            )
        if self.snapshot == "when_needed" and self.on_gap == "continue":
            yield (
                "snapshot='when_needed' takes a snapshot where there would be a Gap: leave on_gap "
                "out"
            )
        if self.on_lag == "gap" and not (self.replace_slot or self.is_temporary):
            yield "on_lag='gap' drops the slot: allow that with replace_slot=True"


_CHOICES: Final[dict[str, tuple[Any, ...]]] = {
    "slot_in_use": ("fail", "wait"),
    "on_gap": ("raise", "continue"),
    "on_lag": ("warn", "gap"),
    "snapshot": ("never", "initial", "when_needed"),
}
_HOOKS: Final = ("attached", "lost", "gap", "transaction", "lag")
_INT_MILLISECONDS: Final = 2_147_483
