"""Dispatch: from messages for many to one write for each outbox, in slices of time.

What came for the same members is joined once. An outbox that is among several members gets
what came for all of them, in the order in which it came, and that is joined once for all
outboxes of which the same is true. So each is written to once, and its client's socket is
asked once to take what may be many messages.

Thousands of writes take a while. A dispatch gives way when its slice of time is over, so
that the event loop can serve whoever else has something to say. Order is kept: the next one
begins when this one has ended. Who leaves in between gets nothing more.

A large transaction can be written faster than any network takes it. While most of those who
just got something are behind, the next is held back for a moment, so that it does not cut
them off; the few who are slow are not waited for. Nor is anybody where the changes come no faster
than they would then: a hundred who read nothing would hold up each row for all others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import repeat
from operator import itemgetter
from typing import Final, Protocol, TypeAlias

from ..net.frames import Frames, TextFrame
from .turns import SLICE, Steps

__all__ = ["Dispatch", "Flow", "Members", "Outbox", "Subscriber"]

_MOST_BYTES: Final = 64 * 1024
"""Joined, about: a write should fit into what the kernel takes at once."""
_MUCH: Final = _MOST_BYTES // 4
"""Bytes after which it is worth a look whether those who got them are behind."""
_RUN: Final = 32 * 1024
"""Bytes that are written without a look at the clock, to one outbox at least."""
_PAUSE: Final = 0.005
_MOST_PAUSES: Final = 20
"""So many seconds, so often, those who are behind are waited for: 0.1 s for each write, in which
640 kB/s are enough not to fall behind further."""

_PACE: Final = _MOST_BYTES / (_PAUSE * _MOST_PAUSES)
_HEAD_START: Final = 4 * _MOST_BYTES
"""Bytes that may be written faster."""


class Outbox(Protocol):
    """Where a socket's frames go. It is bounded, and drops a socket that cannot keep up."""

    def write(self, frames: Frames) -> None:
        """Take frames, in order, at once."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether much of what it took still waits for its client."""
        ...


class Subscriber(Protocol):
    """One who gets messages as long as it is open."""

    @property
    def is_open(self) -> bool: ...


_NOBODY: Final[Mapping[Outbox, Subscriber]] = {}


class Members(dict[Outbox, Subscriber]):
    """Those who get the same messages, as they are at a time: others are another object."""

    __slots__ = ("is_current",)

    def __init__(
        self, subscribers: Mapping[Outbox, Subscriber] = _NOBODY, *, is_current: bool = False
    ) -> None:
        super().__init__(subscribers)
        self.is_current = is_current
        """Whether nobody has gone since, for sure; if not, each is asked for."""

    def still_has(self, outbox: Outbox) -> bool:
        """Say whether one of them is to get these messages now."""
        return self[outbox].is_open


class _Share:
    """What came for the same members: each message with its place among all."""

    __slots__ = ("members", "messages")

    def __init__(self, members: Members) -> None:
        self.members = members
        self.messages: list[tuple[int, TextFrame]] = []


_Shares: TypeAlias = tuple[_Share, ...]
_PLACE: Final = itemgetter(0)
_NOTHING: Final = Frames(())


class Flow:
    """How fast messages come, over several dispatches.

    Args:
        clock: seconds.
    """

    __slots__ = ("_ahead", "_clock", "_since")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ahead = 0.0
        self._since = clock()

    def add(self, size: int) -> None:
        """Note that so many bytes were written to each who got them."""
        self._pass()
        self._ahead += size

    def is_too_fast(self) -> bool:
        """Say whether it is more than those who are behind are waited for."""
        self._pass()
        return self._ahead > _HEAD_START

    def _pass(self) -> None:
        now = self._clock()
        self._ahead = max(self._ahead - (now - self._since) * _PACE, 0.0)
        self._since = now


class Dispatch:
    """What is to be handed out, and to whom.

    Args:
        clock: seconds.
        flow: of all that its owner hands out.
    """

    def __init__(self, clock: Callable[[], float], flow: Flow) -> None:
        self._clock = clock
        self._flow = flow
        self._until = clock() + SLICE
        # By the members' identity. They are kept, so it is theirs alone.
        self._shares: dict[int, _Share] = {}
        self._count = 0
        self._bytes = 0

    def add(self, members: Members, payload: bytes) -> None:
        """Take a message."""
        share = self._shares.get(id(members))
        if share is None:
            share = self._shares[id(members)] = _Share(members)
        share.messages.append((self._count, TextFrame(payload)))
        self._count += 1
        self._bytes += len(payload)

    def is_due(self) -> bool:
        """Say whether it is time to hand out what there is."""
        return self._bytes >= _MOST_BYTES or self._clock() >= self._until

    def is_over(self) -> bool:
        """Say whether the slice of time is over."""
        return self._clock() >= self._until

    def give_way(self) -> Steps:
        """Let others have their turn, if the slice of time is still over."""
        if self.is_over():
            yield 0.0
            self._until = self._clock() + SLICE

    def hand_out(self) -> Steps:
        """Write everything; whenever a slice is over, say for how many seconds to give way."""
        if not self._shares:
            return
        size = self._bytes
        all_shares = tuple(self._shares.values())
        self._shares, self._bytes = {}, 0
        recipients, turns = _turns(all_shares)
        clock = self._clock
        joined: dict[_Shares, Frames] = {}
        at_once, most_at_once = 0, _RUN // (size + 1) + 1
        last: _Shares = ()
        frames = _NOTHING
        are_all_there = _are_all_there(all_shares)
        for outbox, shares in turns:
            if not are_all_there:
                shares = _open_ones(outbox, shares)
                if not shares:
                    continue
            if shares is not last:
                last = shares
                if shares not in joined:
                    joined[shares] = _join(shares)
                frames = joined[shares]
            outbox.write(frames)
            at_once += 1
            if at_once >= most_at_once:
                at_once = 0
                if clock() >= self._until:
                    yield 0.0
                    self._until = clock() + SLICE
                    are_all_there = _are_all_there(all_shares)
        if size >= _MUCH:
            self._flow.add(size)
            yield from self._pause(recipients)

    def _pause(self, recipients: Collection[Outbox]) -> Steps:
        """Wait a while for those who are behind, if they are most."""
        for _ in range(_MOST_PAUSES):
            if not self._flow.is_too_fast():
                break
            if 2 * sum(outbox.is_behind for outbox in recipients) <= len(recipients):
                break
            yield _PAUSE
            self._until = self._clock() + SLICE


def _turns(shares: _Shares) -> tuple[Collection[Outbox], Iterable[tuple[Outbox, _Shares]]]:
    """Return all who get something, and each with its shares."""
    if len(shares) == 1:
        members = shares[0].members
        return members, zip(members, repeat(shares))
    found = _recipients(shares)
    return found, found.items()


def _are_all_there(shares: _Shares) -> bool:
    for share in shares:  # noqa: SIM110 (with every batch: a generator takes 0.5 µs)
        if not share.members.is_current:
            return False
    return True


def _open_ones(outbox: Outbox, shares: _Shares) -> _Shares:
    """Return those shares that an outbox still is to get."""
    if all(share.members.still_has(outbox) for share in shares):
        return shares
    return tuple(share for share in shares if share.members.still_has(outbox))


def _recipients(all_shares: Iterable[_Share]) -> dict[Outbox, _Shares]:
    """Return who gets which shares, in the order in which they came.

    Those who get the same have the same tuple: with one for each of them, the garbage
    collector would look at thousands of new objects, time and again.
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


def _join(shares: _Shares) -> Frames:
    if len(shares) == 1:
        messages = shares[0].messages
    else:
        messages = [message for share in shares for message in share.messages]
        messages.sort(key=_PLACE)
    return Frames([frame for _, frame in messages])
