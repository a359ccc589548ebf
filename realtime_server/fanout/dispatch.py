"""Dispatch: writes messages for groups of subscribers, with one write for each outbox.

The messages for one group are joined into frames once, for all its members. An outbox that is in
several groups gets the messages for all of them, in the order in which they came; these are joined
once, too, for all outboxes that are in the same groups. So each outbox is written to once, and each
socket is asked once to take what may be many messages.

Thousands of writes take a while. A dispatch gives way when its slice of time is over, so that the
event loop can serve other clients. The order is kept, as the next dispatch begins when this one has
ended. A subscriber that leaves in between gets nothing more.

A large transaction can be written faster than any network takes it. While most of the outboxes that
are written to are behind, the next write is held back for a moment, so that their clients are not
cut off. A few slow clients are not waited for, even if nobody else gets what they get: all other
clients would wait with them. Nor is any client if messages come no faster than they could be
written with the waits: otherwise a hundred clients that read nothing would delay each change for
all others.

An outbox in which bytes wait gives its socket more of them once in each round of the event loop: as
much as the socket's buffer takes. Several writes may fit into one round, so a client that reads all
it is sent would get less than the others, and fall behind further. So there is a round behind each
write while anybody is behind.

Where clients are to be brought back to where they were, each write has an ordinal, and a ping may
go behind its frames, see :mod:`realtime_server.replay.proofs`.

A message may leave one of the group's outboxes out, as a broadcast its sender's. That outbox gets
the others of the write by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain, repeat
from operator import itemgetter
from typing import Final, Protocol, TypeAlias

from .frames import Frame, Frames
from .output_rate import AUDIENCE_FOR, MAX_BYTES, MAX_PAUSES, PAUSE, OutputRate
from .turns import SLICE, Steps

__all__ = ["Dispatch", "Members", "Ordinals", "Outbox", "Subscriber"]

_CHECK_BYTES: Final = MAX_BYTES // 4
"""Bytes of a write from which on the outboxes are checked for being behind."""
_UNTIMED_BYTES: Final = 32 * 1024
"""Bytes that are written without reading the clock, to all outboxes together, but one write at
least."""


class Outbox(Protocol):
    """Where a client's frames go. It is bounded, and disconnects a client that is too slow."""

    def write(self, frames: Frames) -> None:
        """Take frames, in order, without waiting."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether so many bytes wait that its client may soon be cut off as too slow."""
        ...


class Ordinals(Protocol):
    """Numbers all writes to clients, so that pings can prove which of them have arrived."""

    @property
    def ordinal(self) -> int:
        """The last ordinal that was taken."""
        ...

    def mark(self, recipients: int) -> tuple[int, bytes]:
        """Number a write to ``recipients`` outboxes; return the number, and the ping after it."""
        ...


class Subscriber(Protocol):
    """A member of a group, who gets messages as long as it is open."""

    @property
    def is_open(self) -> bool:
        """Whether this subscriber still gets messages."""
        ...


_NO_ONE: Final[Mapping[Outbox, Subscriber]] = {}


class Members(dict[Outbox, Subscriber]):
    """The members that a group has at one time, by outbox.

    When a member comes or goes, the group makes another object, and this one stays as it is.
    """

    __slots__ = ("is_current",)

    def __init__(
        self,
        subscribers: Mapping[Outbox, Subscriber] = _NO_ONE,
        *,
        is_current: bool = False,
    ) -> None:
        super().__init__(subscribers)
        self.is_current = is_current
        """Whether it is certain that no member has left since; if not, each member is checked."""

    def still_includes(self, outbox: Outbox) -> bool:
        """Return whether a member has not left, and so gets these messages."""
        return self[outbox].is_open


_Message: TypeAlias = tuple[int, Frame, Outbox | None]
"""A message with its position among all of the dispatch, and the outbox that does not get it."""


class _Share:
    """The messages for one group."""

    __slots__ = ("members", "messages")

    def __init__(self, members: Members, messages: list[_Message]) -> None:
        self.members = members
        self.messages = messages

    def without(self, outbox: Outbox) -> _Share:
        """Return what the share has for an outbox that does not get all of it."""
        return _Share(self.members, [one for one in self.messages if one[2] is not outbox])


_Shares: TypeAlias = tuple[_Share, ...]
_POSITION: Final = itemgetter(0)
_NOTHING: Final = Frames(())


class Dispatch:
    """Collects messages for groups of subscribers, and writes them.

    Args:
        clock: seconds of any clock that only goes forward.
        output_rate: the hub's rate of output, over all its dispatches; None: slow clients are never
            waited for.
        ordinals: numbers the server's writes; None: writes have no ordinals.
        slice_seconds: after which it gives way.
        slice_writes: to outboxes, after which it does so, too.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        output_rate: OutputRate | None = None,
        ordinals: Ordinals | None = None,
        *,
        slice_seconds: float = SLICE,
        slice_writes: int = sys.maxsize,
    ) -> None:
        self._clock = clock
        self._output_rate = output_rate
        self._ordinals = ordinals
        self._slice_seconds = slice_seconds
        self._slice_writes = slice_writes
        # Of the current slice.
        self._writes_left = slice_writes
        now = clock()
        self._until = now + slice_seconds
        if output_rate is not None and now - output_rate.renewed_at >= AUDIENCE_FOR:
            output_rate.renew_audience(now)
        # By the identity of the members, which are kept alive by the share.
        self._shares: dict[int, _Share] = {}
        # The outboxes that do not get all that their groups get.
        self._left_out: set[Outbox] = set()
        self._count = 0
        self._bytes = 0

    def add(self, members: Members, frame: Frame, left_out: Outbox | None = None) -> None:
        """Add a message for the members of a group, but for one of them."""
        share = self._shares.get(id(members))
        if share is None:
            share = self._shares[id(members)] = _Share(members, [])
        share.messages.append((self._count, frame, left_out))
        if left_out is not None:
            self._left_out.add(left_out)
        self._count += 1
        self._bytes += len(frame.payload)

    def is_due(self) -> bool:
        """Return whether to write now: enough was added, or the slice of time is over."""
        return self._bytes >= MAX_BYTES or self.is_over()

    def is_over(self) -> bool:
        """Return whether the slice of time is over."""
        return self._writes_left <= 0 or self._clock() >= self._until

    def _begin_slice(self) -> None:
        self._writes_left = self._slice_writes
        self._until = self._clock() + self._slice_seconds

    def give_way(self) -> Steps:
        """Let other tasks run if the slice of time is over, and begin another slice."""
        if self.is_over():
            yield 0.0
            self._begin_slice()

    def hand_out(self) -> Steps:
        """Write everything that was added, in steps: one ends whenever the slice of time is
        over."""
        if not self._shares:
            return
        size = self._bytes
        all_shares = tuple(self._shares.values())
        self._shares, self._bytes = {}, 0
        recipients, due = _by_outbox(all_shares)
        if self._left_out:
            due = _leaving_out(self._left_out, all_shares, due)
            self._left_out = set()
        ordinals = self._ordinals
        ordinal, ping = (0, b"") if ordinals is None else ordinals.mark(len(recipients))
        joined: dict[_Shares, Frames] = {}
        # Of a bounded slice an eighth: what is bounded is also to be short.
        at_once, most_at_once = 0, min(_UNTIMED_BYTES // (size + 1), self._slice_writes // 8) + 1
        last: _Shares = ()
        frames = _NOTHING
        are_current = _are_current(all_shares)
        for outbox, shares in due:
            if not are_current:
                shares = _still_due(outbox, shares)
                if not shares:
                    continue
            if shares is not last:
                last = shares
                if shares not in joined:
                    joined[shares] = _join(shares, ordinal, ping)
                frames = joined[shares]
            outbox.write(frames)
            at_once += 1
            if at_once >= most_at_once:
                self._writes_left -= at_once
                at_once = 0
                if self.is_over():
                    yield 0.0
                    self._begin_slice()
                    are_current = _are_current(all_shares)
                    if ordinals is not None and ordinals.ordinal != ordinal:
                        # Others were written to meanwhile. What comes later has a higher ordinal.
                        ordinal, ping = ordinals.mark(len(recipients))
                        joined.clear()
                        last = ()
        self._writes_left -= at_once
        rate = self._output_rate
        if rate is None:
            return
        if len(recipients) > rate.audience:
            rate.audience = len(recipients)
        if size >= _CHECK_BYTES:
            rate.add(size)
            yield from self._pause(recipients, rate)

    def _pause(self, recipients: Collection[Outbox], rate: OutputRate) -> Steps:
        """Give outboxes that are behind a round of the event loop; if most of those that lately got
        something are, wait a while for them."""
        if not rate.is_too_fast() or not any(outbox.is_behind for outbox in recipients):
            return
        yield 0.0
        self._begin_slice()
        everybody = max(len(recipients), rate.lately())
        if 2 * len(recipients) <= everybody:
            return
        for _ in range(MAX_PAUSES):
            if not rate.is_too_fast():
                break
            if 2 * sum(outbox.is_behind for outbox in recipients) <= everybody:
                break
            yield PAUSE
            self._begin_slice()


def _by_outbox(shares: _Shares) -> tuple[Collection[Outbox], Iterable[tuple[Outbox, _Shares]]]:
    """Return all outboxes that get something, and each with its shares."""
    if len(shares) == 1:
        members = shares[0].members
        return members, zip(members, repeat(shares))
    found = _recipients(shares)
    return found, found.items()


def _leaving_out(
    left_out: Collection[Outbox], shares: _Shares, due: Iterable[tuple[Outbox, _Shares]]
) -> Iterable[tuple[Outbox, _Shares]]:
    """Return what is due, where some outboxes do not get all of it."""
    if len(shares) == 1:
        # To copy a thousand members takes 5 µs, and to look at each 30 µs.
        rest = dict(shares[0].members)
        for outbox in left_out:
            rest.pop(outbox, None)
        others: Iterable[tuple[Outbox, _Shares]] = zip(rest, repeat(shares))
    else:
        others = [one for one in due if one[0] not in left_out]
    apart = []
    for outbox in left_out:
        less = (share.without(outbox) for share in shares if outbox in share.members)
        if some := tuple(share for share in less if share.messages):
            apart.append((outbox, some))
    return chain(apart, others)


def _are_current(shares: _Shares) -> bool:
    for share in shares:  # noqa: SIM110 (with every batch: a generator takes 0.5 µs)
        if not share.members.is_current:
            return False
    return True


def _still_due(outbox: Outbox, shares: _Shares) -> _Shares:
    """Return the shares of the groups of which an outbox still is a member."""
    if all(share.members.still_includes(outbox) for share in shares):
        return shares
    return tuple(share for share in shares if share.members.still_includes(outbox))


def _recipients(all_shares: Iterable[_Share]) -> dict[Outbox, _Shares]:
    """Return which outboxes get which shares, in the order in which they came.

    Outboxes that get the same shares have the same tuple: with a tuple for each of them the garbage
    collector would visit thousands of new objects, time and again.
    """
    found: dict[Outbox, _Shares] = {}
    for share in all_shares:
        alone = (share,)
        with_this: dict[int, _Shares] = {}
        for outbox in share.members:
            shares = found.get(outbox)
            if shares is None:
                found[outbox] = alone
                continue
            more = with_this.get(id(shares))
            if more is None:
                more = with_this[id(shares)] = (*shares, share)
            found[outbox] = more
    return found


def _join(shares: _Shares, ordinal: int, ping: bytes) -> Frames:
    if len(shares) == 1:
        messages = shares[0].messages
    else:
        messages = [message for share in shares for message in share.messages]
        messages.sort(key=_POSITION)
    return Frames([frame for _, frame, _ in messages], ordinal, ping)
