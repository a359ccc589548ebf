"""Questions of who may see which rows of a table, and their answers."""

from __future__ import annotations

import enum

import attrs

from ..viewers import Viewer

__all__ = ["Answer", "Failure", "Question", "Row"]


class Failure(enum.Enum):
    """Why it is not known whether a viewer may see a row."""

    ERROR = "error"
    """A policy raised an error."""
    TIMEOUT = "timeout"
    """A policy ran longer than it could be waited for."""
    UNASKED = "unasked"
    """Nobody asked, or what came before has taken all the time that there was."""


@attrs.frozen
class Row:
    """A row to look for."""

    key: tuple[str, ...]
    """The primary key's values as text."""
    values: str = "{}"
    """A JSON object: texts that columns must still have, by name."""


@attrs.frozen
class Question:
    """Which of these rows may the viewer see?"""

    viewer: Viewer
    places: tuple[int, ...]
    """In the list of rows."""


@attrs.define
class Answer:
    """Which rows a viewer may see, and of which that is not known, by their places."""

    visible: set[int] = attrs.field(factory=set)
    failed: dict[int, Failure] = attrs.field(factory=dict)
    seconds: float = attrs.field(default=0.0, eq=False)
    """That its policies took."""

    @property
    def is_whole(self) -> bool:
        """Whether the viewer was asked about all of it."""
        return Failure.UNASKED not in self.failed.values()
