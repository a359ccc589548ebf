"""What the policies of ``realtime.messages`` are asked about one room, and what they answer."""

from __future__ import annotations

import enum

import attrs

from ...rls.viewers import Viewer

__all__ = ["Answer", "Extension", "Problem", "Question"]


class Extension(enum.Enum):
    """What a row of ``realtime.messages`` is for: its column ``extension``."""

    BROADCAST = "broadcast"
    PRESENCE = "presence"


class Problem(enum.Enum):
    """Why there is no answer, or none but no."""

    POLICY_FAILED = enum.auto()
    """A policy raises an error, which counts as no."""
    TIMED_OUT = enum.auto()
    """The policies take longer than RLS_CHECK_TIMEOUT."""
    AWAY = enum.auto()
    """The database cannot be asked now."""
    BUSY = enum.auto()
    """Too many questions wait."""
    NO_PARTITION = enum.auto()
    """``realtime.messages`` has no partition for the row."""
    UNKNOWN_ROLE = enum.auto()
    """The token's role is not in the database."""
    MAY_NOT_ACT = enum.auto()
    """The server may not act as the token's role."""

    @property
    def is_passing(self) -> bool:
        """Whether the same question may have an answer in a moment."""
        return self in (Problem.TIMED_OUT, Problem.AWAY, Problem.BUSY, Problem.NO_PARTITION)


@attrs.frozen
class Question:
    """What somebody may do in a room. Equal questions that wait have one answer."""

    viewer: Viewer
    """Who asks: role and claims."""
    headers: str = attrs.field(repr=False)
    """The headers of the request that policies can read, as a JSON object."""
    topic: str
    """The room's topic, without ``realtime:``."""
    extensions: tuple[Extension, ...]
    """What is asked about; each is answered by itself."""
    is_write: bool = False
    """Whether it is asked who may write, and not who may read."""


@attrs.frozen
class Answer:
    """The answer to a question."""

    granted: frozenset[Extension] = frozenset()
    """What policies allow, of what was asked about."""
    problem: Problem | None = None
    """Why nothing is granted, if it is not just that the policies say no."""
