"""Timelines: where a promoted standby's history leaves its predecessor's.

See "Timelines" in the PostgreSQL documentation; a history file has a line for each ancestor:
its timeline, the LSN up to which it counts, and the reason.
"""

from __future__ import annotations

from ..errors import DecodeError
from ..lsn import LSN

__all__ = ["switch_point"]


def switch_point(history: str, timeline: int) -> LSN | None:
    """Return the LSN up to which an ancestor's WAL is part of this history.

    Args:
        history: text of the history file.
        timeline: the ancestor.

    Returns:
        None if it is no ancestor.

    Raises:
        DecodeError: if the text is no history file.
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
