"""StreamOptions: what every source that streams from a slot can be told."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from random import Random
from typing import Any, Final, Literal, Self, TypeAlias, TypedDict

import attrs

from ..errors import ConfigError
from ..positions import Position
from ..replication.commands import check_slot_name
from ._dsn import parse_dsn
from ._filtering import filter_problems
from ._mistakes import check_names, check_start

__all__ = ["CommonOptions", "Dsn", "StreamOptions", "StreamSettings"]

Dsn: TypeAlias = str | Callable[[], Awaitable[str]]
"""A libpq connection string or URI, or a function that is asked for one before each attempt to
connect: addresses and passwords may change. It may raise :exc:`SourceError`."""


class CommonOptions(TypedDict, total=False):
    """Those of :class:`StreamOptions` that have nothing to say of which events come."""

    slot: str | None
    """Name of a permanent slot, made when it is missing and kept when the source closes. None:
    a temporary slot with a name of its own, gone with each connection, so that every reconnect
    is a gap."""
    temporary: bool
    """Make the named slot a temporary one."""
    failover: bool
    """Let standbys keep a copy of the slot, so that it survives a promotion (PostgreSQL 17 with
    ``sync_replication_slots`` on the standby); an existing slot is altered."""
    slot_in_use: Literal["fail", "wait"]
    """When another connection streams from the slot: raise :exc:`SlotInUseError`, or look each
    second whether it is free. The source's own connection that broke is always waited for. Read a
    ``start_at`` when nobody else can move it any more: it is not asked for again."""
    replace_slot: bool
    """Whether the slot may be dropped and made anew where that is the only way on: it is
    invalidated, WAL that it needs is gone, it is older than its publication, or ``on_lag`` says
    so. Without it such a slot raises, whatever ``on_gap`` says."""
    filter: str | Mapping[str, str] | None
    """Hand over only the row changes that pass a filter expression: one for all tables, or one by
    ``schema.table``, with ``*`` for those that are not named. Whatever else comes passes.
    Positions count what is left out, and acknowledging what came later acknowledges it. A filter
    that does not fit a table raises :exc:`FilterError` with the table's first change; a row that
    cannot be judged is left out, counted and logged."""
    auto_ack: bool
    """Acknowledge what was handed over when the next is asked for, and on leaving the ``async
    with`` block without an exception."""
    persistent: bool
    """Retry every error, the first attempt's included, each logged with its remedy. Otherwise
    the first attempt raises, and later on only what can pass by itself is retried. The ``async
    with`` block is entered at once, perhaps before there is a slot: await
    :meth:`ChangeSource.attached` before you write what must be seen."""
    max_lag_bytes: int | None
    """How much WAL the slot may retain on the server. It is checked on attaching and every
    ``lag_interval`` seconds."""
    on_lag: Literal["warn", "gap"]
    """What happens beyond ``max_lag_bytes``: a warning in the log; or, where the consumer is
    behind by as much on attaching or at two looks in a row, the slot is made anew, which is a
    gap and needs ``replace_slot``."""
    lag_interval: float
    """Seconds between two looks at the lag."""
    sender_timeout: float | None
    """``wal_sender_timeout`` of this connection in seconds, 0 for none: for consumers that
    block the event loop for longer than the server's own setting lets them."""
    status_interval: float
    """Seconds between status updates, at most; never more than a third of
    ``wal_sender_timeout``."""
    backoff: tuple[float, float]
    """Bounds in seconds of the delay between two attempts, which doubles each time."""
    random: Random | None
    """Source of jitter and of generated slots' names."""
    setting_names: Mapping[str, str] | None
    """What the application calls libpq's parameters, and values of them, as in
    ``{"user": "DB_USER", "sslmode=disable": "DB_SSL=false"}``, and ``slot`` and ``plugin`` where
    it can be told them: errors that say what to change name those."""


class StreamOptions(CommonOptions, total=False):
    """Keyword arguments of every source that streams from a slot. All of them are optional."""

    on_gap: Literal["raise", "continue"]
    """When changes may have been lost: raise :exc:`SlotLostError`, or go on with a
    :class:`Gap` in the stream."""
    start_at: Position | None
    """For a consumer that keeps its own checkpoint, ideally in the same transaction as its work:
    the position that it has stored, None as long as there is none. The source hands over what
    lies beyond it. It never lets the slot pass the position acknowledged last, and yields
    :class:`Idle` positions to be stored and acknowledged while nothing else comes, so that a
    slot which stands beyond ``start_at`` is known to be a gap. One that was stored with another
    list of publications raises :exc:`PositionMismatchError`: see
    :meth:`Position.end_of_transaction`."""
    boundaries: bool
    """Also yield :class:`Begin` and :class:`Commit`."""


@attrs.frozen(kw_only=True)
class StreamSettings:
    """The options, with their defaults, checked. ``start_at`` has been asked for or not."""

    dsn: Dsn
    slot: str | None = None
    temporary: bool = False
    failover: bool = False
    slot_in_use: Literal["fail", "wait"] = "fail"
    on_gap: Literal["raise", "continue"] = "raise"
    replace_slot: bool = False
    start_at: Position | None = None
    own_checkpoint: bool = False
    filter: str | Mapping[str, str] | None = None
    boundaries: bool = False
    auto_ack: bool = False
    persistent: bool = False
    max_lag_bytes: int | None = None
    on_lag: Literal["warn", "gap"] = "warn"
    lag_interval: float = 10.0
    sender_timeout: float | None = None
    status_interval: float = 10.0
    backoff: tuple[float, float] = (0.1, 30.0)
    random: Random | None = None
    setting_names: Mapping[str, str] | None = None

    @classmethod
    def from_options(cls, dsn: Dsn, options: StreamOptions, owner: type) -> Self:
        """Add what was not given.

        Args:
            dsn: what to connect to.
            options: what was given.
            owner: the source's class, for errors.

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
    def is_temporary(self) -> bool:
        """Whether the slot goes with its connection."""
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
        for name in ("status_interval", "lag_interval"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
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
        if self.failover and self.is_temporary:
            yield "failover needs a permanent slot: name one with slot, and leave temporary out"
        if self.on_lag == "gap" and not (self.replace_slot or self.is_temporary):
            yield "on_lag='gap' drops the slot: allow that with replace_slot=True"


_CHOICES: Final[dict[str, tuple[Any, ...]]] = {
    "slot_in_use": ("fail", "wait"),
    "on_gap": ("raise", "continue"),
    "on_lag": ("warn", "gap"),
}
_INT_MILLISECONDS: Final = 2_147_483
