"""HeldChannels: joined channels that wait until the journal says where their clients have been.

While a process begins, channels wait until everything older than the stream was read. Later a
channel whose client may come from another process waits until this process has read what was
written into the journal before the channel was joined. What the other process knows of the client
is in that: usually it is read already, but while the stream stands still it is as old as what came
last, and the client would get everything since then again. This process writes a record of its own
into the journal when the channel is joined, and has read enough when that record comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import attrs

from ..fanout.turns import Turn
from .membership import FIRST_REF, Membership
from .places import Place
from .standing import Standing

__all__ = ["HeldChannels", "Marks"]

_PATIENCE: Final = 10.0
"""Seconds for which a channel waits for a record that does not come, as while nobody reads the
database, or the stream is far behind."""
_MOST_GONE: Final = 10_000
"""Channels that are remembered of those that have ended while they waited."""


class Marks(Protocol):
    """The journal, as far as it says what of it was read."""

    @property
    def heard(self) -> int:
        """The number of the last record of this process that was read."""
        ...

    @property
    def has_company(self) -> bool:
        """Whether other processes write into the journal."""
        ...

    def mark(self) -> int:
        """Have a record written soon; return its number. What is in the journal by now was read
        when it was."""
        ...


@attrs.frozen
class _Wait:
    number: int
    """The number of the record that has to be read."""
    until: float
    """When the channel begins without that."""


class HeldChannels:
    """The channels that wait until it can be decided where they begin.

    Args:
        begin: called with each channel that has waited, unless it has ended.
        may_be_elsewhere: returns whether a channel's client may have been at another process.
    """

    def __init__(
        self,
        begin: Callable[[Membership], None],
        may_be_elsewhere: Callable[[Membership], bool],
    ) -> None:
        self._begin = begin
        self._may_be_elsewhere = may_be_elsewhere
        self.on_gone: Callable[[Standing], None] = lambda standing: None
        """Called, when the journal is known, with each channel that :meth:`put_off` has taken."""
        self.marks: Marks | None = None
        """The journal; None: there is none."""
        # The channels that wait for what is older than the stream; None once that is known. Whether
        # those need not wait that join with their first message. And the channels whose connections
        # were lost while they waited.
        self._early: dict[Membership, Standing] | None = None
        self._releases_new = False
        self._gone_early: dict[Standing, None] = {}
        # The channels that wait for a record, and those that have ended meanwhile, in order.
        self._waiting: dict[Membership, _Wait] = {}
        self._gone: dict[Standing, _Wait] = {}
        self._has_changed = asyncio.Event()

    # While a process begins

    def hold(self) -> None:
        """Delay the start of channels that may go on from former ones, until :meth:`release`."""
        self._early = {}

    async def release_new(self, place: Place) -> None:
        """Start the delayed channels whose clients have just begun, which the refs of their joins
        show.

        Args:
            place: the place at which they begin.
        """
        self._releases_new = True
        turn = Turn()
        for member, standing in list((self._early or {}).items()):
            if member.ref == FIRST_REF:
                self._release(member, standing, place)
                await turn.give_way()

    async def release(self, place: Place) -> None:
        """Start the channels that :meth:`hold` has delayed.

        Args:
            place: the place at which channels begin that go on from no former one.
        """
        turn = Turn()
        # Channels that come meanwhile wait behind the others.
        while self._early or self._gone_early:
            while self._gone_early:
                # Who has come back since waits behind them.
                standing = next(iter(self._gone_early))
                del self._gone_early[standing]
                standing.go_on(max(standing.began, place))
                self.on_gone(standing)
                await turn.give_way()
            for member, standing in list((self._early or {}).items()):
                self._release(member, standing, place)
                await turn.give_way()
        self._early = None

    def _release(self, member: Membership, standing: Standing, place: Place) -> None:
        """Let a channel begin, if it still waits."""
        if self._early is not None and self._early.pop(member, None) is not None:
            standing.go_on(max(standing.began, place))
            self._begin(member)

    # Channels

    def take(self, standing: Standing, *, is_new: bool) -> bool:
        """Hold a channel that was joined, if it has to wait; return whether it has.

        Args:
            standing: the place of the channel.
            is_new: whether its client has begun on this connection.
        """
        member = standing.member
        if self._early is not None and not (self._releases_new and member.ref == FIRST_REF):
            self._early[member] = standing
            return True
        wait = None if is_new or not self._has_to_wait(member) else self._wait()
        if wait is not None:
            self._waiting[member] = wait
        return wait is not None

    def _has_to_wait(self, member: Membership) -> bool:
        # One that has just ended here may be the same client's.
        return bool(self._gone) or self._may_be_elsewhere(member)

    def _wait(self) -> _Wait | None:
        """Return how long to wait from now on; None: there is nobody else."""
        if self.marks is None or not self.marks.has_company:
            return None
        self._has_changed.set()
        return _Wait(self.marks.mark(), asyncio.get_running_loop().time() + _PATIENCE)

    def has(self, member: Membership) -> bool:
        """Return whether a channel waits, and so has got nothing yet."""
        return self.is_early(member) or member in self._waiting

    def is_early(self, member: Membership) -> bool:
        """Return whether a channel waits for what is older than the stream."""
        return self._early is not None and member in self._early

    def discard(self, member: Membership) -> None:
        """Let a channel wait no more, because it has ended."""
        if self._early is not None:
            self._early.pop(member, None)
        self._waiting.pop(member, None)

    def put_off(self, standing: Standing) -> bool:
        """Have :attr:`on_gone` called with a channel that has ended while it waited, as soon as the
        journal says whether the channel would have gone on from another; return whether that is
        still to come."""
        if len(self._gone) + len(self._gone_early) >= _MOST_GONE:
            return False
        if self._early is not None:
            self._gone_early[standing] = None
            return True
        wait = self._wait()
        if wait is not None:
            self._gone[standing] = wait
        return wait is not None

    # What was read

    def look(self) -> None:
        """Note that more of the journal was read."""
        if self._waiting or self._gone:
            self._has_changed.set()

    async def run(self) -> None:
        """Let channels begin for which enough of the journal was read; never return."""
        while True:
            self._has_changed.clear()
            await self._release_some()
            waits = [next(iter(some.values())) for some in (self._gone, self._waiting) if some]
            until = min((wait.until for wait in waits), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._has_changed.wait()

    async def _release_some(self) -> None:
        turn = Turn()
        while True:
            # Who has come back since waits behind those that have gone.
            if self._is_first_over(self._gone.values()):
                standing = next(iter(self._gone))
                del self._gone[standing]
                self.on_gone(standing)
            elif self._is_first_over(self._waiting.values()):
                member = next(iter(self._waiting))
                del self._waiting[member]
                self._begin(member)
            else:
                return
            await turn.give_way()

    def _is_first_over(self, waits: Iterable[_Wait]) -> bool:
        """Return whether the first of some waits, which is over before all others, is over."""
        for wait in waits:
            is_read = self.marks is not None and self.marks.heard >= wait.number
            return is_read or asyncio.get_running_loop().time() >= wait.until
        return False
