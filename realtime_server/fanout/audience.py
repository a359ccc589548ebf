"""Audience: those members of a room that get the same bytes."""

from __future__ import annotations

from typing import Protocol

from .dispatch import Members, Outbox, Subscriber

__all__ = ["Audience", "Listener"]


class Listener(Subscriber, Protocol):
    """A subscriber that knows where its frames go."""

    @property
    def outbox(self) -> Outbox:
        """Where its frames go."""
        ...


class Audience:
    """The members that get the same bytes, by outbox."""

    __slots__ = ("_current", "_members")

    def __init__(self) -> None:
        self._members: dict[Outbox, Listener] = {}
        self._current: Members | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, member: Listener) -> bool:
        return self._members.get(member.outbox) is member

    @property
    def members(self) -> Members:
        """The members now; the same object as long as none comes or goes."""
        if self._current is None:
            self._current = Members(self._members, is_current=True)
        return self._current

    def add(self, member: Listener) -> None:
        """Add a member."""
        self._members[member.outbox] = member
        self._change()

    def remove(self, member: Listener) -> None:
        """Take a member out, if it is there."""
        if member in self:
            del self._members[member.outbox]
            self._change()

    def take_over(self, other: Audience) -> None:
        """Take all members of another, which has none then."""
        self._members.update(other._members)
        other._members.clear()
        self._change()
        other._change()

    def _change(self) -> None:
        if self._current is not None:
            self._current.is_current = False
            self._current = None
