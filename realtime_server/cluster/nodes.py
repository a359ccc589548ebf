"""Nodes: what the servers of a cluster say of themselves each second, and what follows from it.

A leader reads nothing more while a server is so far behind that the log might let go of what that
server has still to read. But it waits only for servers that make progress.

It does no I/O, and the time is passed in.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from math import inf
from typing import Any, Final

import attrs

from realtime_core import SourceStats

from .envelope import FIRST_VERSION, VERSION
from .source_stats import stats_from_json, stats_to_json

__all__ = ["HEARD_WITHIN", "PATIENCE", "Beat", "Nodes"]

HEARD_WITHIN: Final = 10.0
"""Seconds after which a server that is not heard of is taken to be gone."""
_NAME: Final = re.compile("[0-9a-f]{16}")
PATIENCE: Final = 30.0
"""Seconds without progress after which nobody waits for a server."""
_HEARS_ALL_AFTER: Final = 3.0
"""Seconds after which a server that hears others has heard all: each says something each second. A
server that has heard nobody for as long, not even itself, has lost NATS."""


@attrs.frozen
class Beat:
    """What a server says each second."""

    node: str
    """Its name, another one for each process."""
    sequence: int | None
    """The sequence of the last envelope that it has handed out to its clients; None if it has not
    begun to read the log."""
    source: SourceStats | None = None
    """What its source counts, if it leads; None if it does not."""
    is_last: bool = False
    """Whether the server ends."""
    writers: tuple[str, ...] = ()
    """The names of its processes that write into the journal which clients they have."""
    version: int = FIRST_VERSION
    """The newest version of envelopes that it reads."""
    slot: str = ""
    """The name of the slot that it reads, if it leads; empty if it does not, or does not say."""

    def to_json(self) -> bytes:
        """Return the beat as it is sent."""
        source = None if self.source is None else stats_to_json(self.source)
        values = {"node": self.node, "sequence": self.sequence, "source": source}
        values["version"] = self.version
        more = {"last": self.is_last, "writers": self.writers, "slot": self.slot}
        return json.dumps(values | {name: more[name] for name in more if more[name]}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Beat | None:
        """Read what :meth:`to_json` wrote; None if it is nothing like that."""
        try:
            match json.loads(data):
                case {
                    "node": str(node),
                    "sequence": int() | None as sequence,
                    "source": dict() | None as source,
                    **more,
                }:
                    counts = None if source is None else stats_from_json(source)
                    is_last = more.get("last") is True
                    slot = more.get("slot", "")
                    if not isinstance(slot, str):
                        return None
                    return cls(node, sequence, counts, is_last, _names(more), _version(more), slot)
        except (KeyError, RecursionError, TypeError, ValueError):
            pass
        return None


def _names(values: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return the names of processes in what a server has said; anybody may have said it."""
    names = values.get("writers")
    if not isinstance(names, list):
        return ()
    return tuple(name for name in names if isinstance(name, str) and _NAME.fullmatch(name))


def _version(values: Mapping[Any, Any]) -> int:
    """Return the version in what a server has said; servers that say none read the first."""
    version = values.get("version")
    return version if isinstance(version, int) else FIRST_VERSION


@attrs.define
class _Heard:
    beat: Beat
    at: float
    """When it was heard."""
    moved_at: float
    """When it made progress, or had nothing to do."""
    had_all: bool
    """Whether it had handed out everything then."""


class Nodes:
    """The servers that were heard.

    Args:
        max_bytes: how many bytes the log keeps.
    """

    def __init__(self, max_bytes: int) -> None:
        self._most_behind = max_bytes // 2
        self._heard: dict[str, _Heard] = {}
        # When a server was heard last that led, and what its source counted.
        self._led: tuple[float, SourceStats] | None = None
        # Since when all that is said is heard, and when something was heard last.
        self._hears_since = self._heard_at = -inf
        # Sequences of envelopes that this server has appended, and how many bytes it had appended
        # with each; no more than the log keeps.
        self._sequences: deque[int] = deque()
        self._bytes: deque[int] = deque()
        self._total = 0

    def hear(self, beat: Beat, now: float) -> None:
        """Take what a server says.

        Args:
            beat: what it says.
            now: the time, in seconds.
        """
        if self._is_deaf(now):
            self._hears_since = now
        self._heard_at = now
        if beat.is_last:
            self._heard.pop(beat.node, None)
            return
        if beat.source is not None:
            self._led = now, beat.source
        former, sequence = self._heard.get(beat.node), beat.sequence or 0
        has_moved = former is None or former.had_all or sequence > (former.beat.sequence or 0)
        moved_at = now if has_moved or former is None else former.moved_at
        # A server that has not begun to read begins with what comes then.
        has_all = beat.sequence is None or not self._sequences or sequence >= self._sequences[-1]
        self._heard[beat.node] = _Heard(beat, now, moved_at, has_all)

    def count(self, now: float) -> int:
        """Return how many servers are there."""
        self._forget(now)
        return len(self._heard)

    def writers(self, now: float) -> set[str]:
        """Return the names of the processes that are there and write into the journal."""
        self._forget(now)
        return {name for heard in self._heard.values() for name in heard.beat.writers}

    def version(self, now: float) -> int:
        """Return the newest version of envelopes that this server and all that are there read.

        As long as it is not certain that all have been heard, it is the oldest version.
        """
        self._forget(now)
        if self._is_deaf(now) or now - self._hears_since < _HEARS_ALL_AFTER:
            return FIRST_VERSION
        versions = (heard.beat.version for heard in self._heard.values())
        # Anybody may have said a number that is no version.
        return max(min((VERSION, *versions)), FIRST_VERSION)

    def leader(self, now: float) -> SourceStats | None:
        """Return what the source of the last server that led has counted; None if it was not heard
        lately.

        It may have ended, and another one is about to lead.
        """
        if self._led is None or now - self._led[0] > HEARD_WITHIN:
            return None
        return self._led[1]

    def foreign_leader(self, system_identifier: int, slot: str, now: float) -> str | None:
        """Return which other slot a server reads that leads, in words; None if none does.

        The servers of one database have one slot, which one of them holds at a time, so whoever
        leads with another slot, or that of another database cluster, is there by mistake.

        Args:
            system_identifier: of the database cluster of this server's slot.
            slot: the slot's name.
            now: the time, in seconds.
        """
        self._forget(now)
        for heard in self._heard.values():
            source, other = heard.beat.source, heard.beat.slot
            if source is None or source.stream is None:
                continue
            cluster = source.stream.system_identifier
            if cluster != system_identifier or other not in ("", slot):
                return f"slot {other or 'unknown'!r} of the database cluster {cluster}"
        return None

    def begin_term(self) -> None:
        """Note that this server begins to lead."""
        self._sequences.clear()
        self._bytes.clear()
        self._total = 0

    def appended(self, sequence: int, size: int) -> None:
        """Note an envelope that this server has appended."""
        self._total += size
        self._sequences.append(sequence)
        self._bytes.append(self._total)
        while self._total - self._bytes[0] > 2 * self._most_behind:
            self._sequences.popleft()
            self._bytes.popleft()

    def holding_back(self, now: float) -> str | None:
        """Return the server that is too far behind to append more; None if none is."""
        self._forget(now)
        for node, heard in self._heard.items():
            sequence = heard.beat.sequence
            is_far_behind = sequence is not None and self._behind(sequence) > self._most_behind
            if is_far_behind and now - heard.moved_at <= PATIENCE:
                return node
        return None

    def _behind(self, sequence: int) -> int:
        """Return how many bytes of what was appended here are behind a sequence."""
        at = bisect_right(self._sequences, sequence)
        if at == 0:
            return self._total if self._sequences else 0
        return self._total - self._bytes[at - 1]

    def _is_deaf(self, now: float) -> bool:
        """Return whether nothing has come that was said lately."""
        return now - self._heard_at > _HEARS_ALL_AFTER

    def _forget(self, now: float) -> None:
        gone = [node for node, heard in self._heard.items() if now - heard.at > HEARD_WITHIN]
        for node in gone:
            del self._heard[node]
