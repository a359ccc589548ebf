"""What tests need of a journal."""

from __future__ import annotations

from realtime_server.replay.journal import Journal
from realtime_server.replay.ledger import Ledger

__all__ = ["read_message", "tell"]


def read_message(journal: Journal, content: bytes) -> None:
    """Take a message from the stream, as the server does, without giving way."""
    part = journal.verify(content)
    if part is not None:
        for _ in journal.steps(part):
            pass


def tell(ledger: Ledger) -> None:
    """Tell the journal what has changed, without giving way."""
    for _ in ledger.telling():
        pass
