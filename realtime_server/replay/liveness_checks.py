"""LivenessChecks: pings open connections to find out whether their clients are still there.

A connection whose network has gone looks open until a write to it has failed, which may take many
seconds. When a client joins that may be the same client on another connection, the server sends a
ping on the old one. Clients that join with the same key meanwhile wait for the next check. So
joins are decided on in the order in which they came, and each connection is asked once, however
many joins wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Final

from .membership import Membership

__all__ = ["WITHIN", "LivenessChecks"]

logger = logging.getLogger("realtime.replay")

WITHIN: Final = 1.0
"""Seconds that a client may take to answer."""


class LivenessChecks:
    """Pings, for a client that joins, the clients that may be the same one on an older connection.

    Args:
        others: returns the open memberships that may be former ones of a membership's client.
        charge: called with a membership and the number of clients that are asked because of it.
        ask: asks a membership's client. The callback is called with True when the client has
            answered, and with False when its connection has ended before.
        decide: called for each membership that waited, with the memberships whose clients did not
            answer.
        on_failure: called, while the exception is handled, for a membership on which the decision
            failed. The others that wait are decided on all the same.
    """

    def __init__(
        self,
        others: Callable[[Membership], Iterable[Membership]],
        charge: Callable[[Membership, int], None],
        ask: Callable[[Membership, Callable[[bool], None]], None],
        decide: Callable[[Membership, Collection[Membership]], None],
        *,
        on_failure: Callable[[Membership], None],
    ) -> None:
        self._others = others
        self._charge = charge
        self._ask = ask
        self._decide = decide
        self._on_failure = on_failure
        # The checks that run, by key.
        self._running: dict[bytes, _LivenessCheck] = {}
        self.failures = 0
        """Clients that could not be asked, because of a bug."""

    def add(self, member: Membership) -> None:
        """Ping the clients that may be the same on an older connection, then call ``decide``.

        While others of the same key are being asked about, the membership waits.

        Args:
            member: the membership, which has just been entered.
        """
        digest = member.key.digest
        running = self._running.get(digest)
        if running is None:
            self._begin(digest, {member: None})
        else:
            running.later[member] = None

    def remove(self, member: Membership) -> None:
        """Have nothing decided for a membership any more."""
        running = self._running.get(member.key.digest)
        if running is not None:
            running.waiting.pop(member, None)
            running.later.pop(member, None)

    def close(self) -> None:
        """Send no more pings, since the server stops."""
        for one in self._running.values():
            one.timer.cancel()
        self._running.clear()

    def _begin(self, digest: bytes, waiting: dict[Membership, None]) -> None:
        asked: set[Membership] = set()
        for member in list(waiting):
            try:
                others = list(self._others(member))
                if others:
                    self._charge(member, len(others))
                    asked.update(others)
            except Exception:
                del waiting[member]
                self._on_failure(member)
        if not asked:
            self._decide_on_all(waiting, ())
            return
        loop = asyncio.get_running_loop()
        one = _LivenessCheck(waiting, asked)
        self._running[digest] = one
        one.timer = loop.call_later(WITHIN, self._end, digest, one)
        for member in list(asked):
            try:
                self._ask(member, partial(self._answered, digest, one, member))
            except Exception:
                # The client counts as one that does not answer.
                self.failures += 1
                logger.exception(
                    "a client cannot be asked (a bug in realtime_server: please report it)"
                )

    def _answered(
        self, digest: bytes, one: _LivenessCheck, member: Membership, is_there: bool
    ) -> None:
        if self._running.get(digest) is not one:
            # The answer comes too late: another check may run by now.
            return
        # A membership whose connection has ended has left an absence, and is no open one any more.
        one.silent.discard(member)
        if not one.silent:
            # Not at once: this is called while a client's pong is read.
            one.timer.cancel()
            one.timer = asyncio.get_running_loop().call_soon(self._end, digest, one)

    def _end(self, digest: bytes, one: _LivenessCheck) -> None:
        del self._running[digest]
        self._decide_on_all(one.waiting, one.silent)
        if one.later:
            self._begin(digest, one.later)

    def _decide_on_all(
        self, waiting: Mapping[Membership, None], silent: Collection[Membership]
    ) -> None:
        for member in list(waiting):
            # A decision may end others.
            if member in waiting:
                try:
                    self._decide(member, silent)
                except Exception:
                    self._on_failure(member)


class _LivenessCheck:
    """One check, for all memberships of a key."""

    __slots__ = ("later", "silent", "timer", "waiting")

    timer: asyncio.Handle

    def __init__(self, waiting: dict[Membership, None], silent: set[Membership]) -> None:
        self.waiting = waiting
        self.silent = silent
        # Who has come since.
        self.later: dict[Membership, None] = {}
