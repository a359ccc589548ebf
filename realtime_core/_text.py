"""Makes texts that come from elsewhere fit into one line of a log or an error."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(text: object) -> str:
    """Return a text, or an exception's, on one line: PostgreSQL's and libpq's have several."""
    return " ".join(str(text).split())
