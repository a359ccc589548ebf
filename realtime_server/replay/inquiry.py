"""Inquiry: whether the clients of open connections are still there.

A connection whose network has gone looks open for as long as nobody writes to it, and then some.
When somebody joins who may be its client, come back on another connection, it is asked with a ping.
Those who join with the same key meanwhile wait for the next inquiry. So they are decided on in the
order in which they came, and each connection is asked once, however many wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Final

from .memberships import Membership

__all__ = ["Inquiries"]

WITHIN: Final = 1.0
"""Seconds that a client has for its answer."""


class Inquiries:
    """Asks, for those who join, whether the clients of other memberships are still there.

    Args:
        others: returns the open memberships that may be former ones of a membership's client.
        ask: asks a membership's client; the callback hears whether it has answered, or that its
            connection has ended before.
        decide: called for each that was waiting, with those who did not answer.
    """

    def __init__(
        self,
        others: Callable[[Membership], Iterable[Membership]],
        ask: Callable[[Membership, Callable[[bool], None]], None],
        decide: Callable[[Membership, Collection[Membership]], None],
    ) -> None:
        self._others = others
        self._ask = ask
        self._decide = decide
        # By key.
        self._running: dict[bytes, _Inquiry] = {}

    def add(self, member: Membership) -> None:
        """Decide on a membership, when it is known who is there; at once if nobody is to be asked.

        Args:
            member: that has just been entered.
        """
        digest = member.key.digest
        running = self._running.get(digest)
        if running is None:
            self._begin(digest, {member: None})
        else:
            running.later[member] = None

    def remove(self, member: Membership) -> None:
        """Do not decide on a membership any more."""
        running = self._running.get(member.key.digest)
        if running is not None:
            running.waiting.pop(member, None)
            running.later.pop(member, None)

    def close(self) -> None:
        """Ask nobody any more."""
        for one in self._running.values():
            one.timer.cancel()
        self._running.clear()

    def _begin(self, digest: bytes, waiting: dict[Membership, None]) -> None:
        asked = {one for member in waiting for one in self._others(member)}
        if not asked:
            for member in waiting:
                self._decide(member, ())
            return
        loop = asyncio.get_running_loop()
        one = _Inquiry(waiting, asked)
        self._running[digest] = one
        one.timer = loop.call_later(WITHIN, self._end, digest, one)
        for member in list(asked):
            self._ask(member, partial(self._answered, digest, one, member))

    def _answered(self, digest: bytes, one: _Inquiry, member: Membership, is_there: bool) -> None:
        if self._running.get(digest) is not one:
            # It comes too late: others may be asked by now.
            return
        # Whose connection has ended is away now, and no open membership any more.
        one.silent.discard(member)
        if not one.silent:
            # Not at once: this is called while a client's pong is read.
            one.timer.cancel()
            one.timer = asyncio.get_running_loop().call_soon(self._end, digest, one)

    def _end(self, digest: bytes, one: _Inquiry) -> None:
        del self._running[digest]
        for member in list(one.waiting):
            if member in one.waiting:
                self._decide(member, one.silent)
        if one.later:
            self._begin(digest, one.later)


class _Inquiry:
    """One question to all who may be former clients."""

    __slots__ = ("later", "silent", "timer", "waiting")

    timer: asyncio.Handle

    def __init__(self, waiting: dict[Membership, None], silent: set[Membership]) -> None:
        self.waiting = waiting
        self.silent = silent
        # Who has come since.
        self.later: dict[Membership, None] = {}
