"""Hooks: what a program is told of a source, besides what the source hands over."""

from __future__ import annotations

from ..changes import Commit, Gap
from ..errors import SourceError
from ..positions import StreamIdentity
from .base import SourceStats

__all__ = ["Hooks"]


class Hooks:
    """What a source tells a program, besides what it hands over: the option ``hooks``.

    Make a class of it with the methods that you want; the others do nothing. They are called in
    the event loop of the source, so they have to be quick. An exception in one of them changes
    nothing for the source; it is logged when the method raises for the first time.
    """

    def attached(self, stream: StreamIdentity, database: str, slot: str) -> None:
        """The source was attached, for the first time or again.

        Args:
            stream: the cluster, its timeline and the publications.
            database: the name of the database.
            slot: the name of the slot.
        """

    def lost(self, error: SourceError) -> None:
        """The stream broke off. The source attaches again, or raises the error."""

    def gap(self, gap: Gap) -> None:
        """Changes may have been lost, with ``on_gap="continue"``; otherwise that is an error."""

    def transaction(self, commit: Commit) -> None:
        """A transaction was read to its end. Its changes may still wait for the consumer."""

    def lag(self, stats: SourceStats) -> None:
        """``lag_interval`` seconds are over.

        Args:
            stats: the counters and positions of the moment; ``lag_bytes`` and ``lag_seconds`` say
                how far the consumer is behind.
        """
