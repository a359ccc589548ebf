"""Makes texts that come from elsewhere fit into one line of a log or an error."""

from __future__ import annotations

__all__ = ["around", "one_line"]


def one_line(text: object) -> str:
    """Return a text, or an exception's, on one line: PostgreSQL's and libpq's have several."""
    return " ".join(str(text).split())


def around(text: str, position: int, reach: int = 40) -> str:
    """Return a text in quotes; of a long text, the part around a position."""
    start = position - reach if position > 2 * reach else 0
    end = position + reach
    before = "…" if start else ""
    after = "…" if len(text) > end + reach else ""
    return repr(before + text[start : end if after else None] + after)
