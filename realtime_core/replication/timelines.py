"""Timelines: up to which LSN a new timeline shares the WAL of an older one.

See "Timelines" in the PostgreSQL documentation. A timeline's history file has a line for each
timeline that it comes from: its number, the LSN up to which its WAL belongs to the history, and
the reason.
"""

from __future__ import annotations

from ..errors import DecodeError
from ..lsn import LSN

__all__ = ["switch_point"]


def switch_point(history: str, timeline: int) -> LSN | None:
    """Return the LSN up to which an older timeline's WAL belongs to a history.

    Args:
        history: text of the history file.
        timeline: the older timeline.

    Returns:
        None if the history does not come from that timeline.

    Raises:
        DecodeError: if the text is not that of a history file.
    """
    for line in history.splitlines():
        fields = line.split("#", 1)[0].split(None, 2)
        if not fields:
            continue
        try:
            ancestor, until = int(fields[0]), LSN.parse(fields[1])
        except (ValueError, IndexError) as exc:
            raise DecodeError(f"not a line of a timeline history file: {line!r}") from exc
        if ancestor == timeline:
            return until
    return None
