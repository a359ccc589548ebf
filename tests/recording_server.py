"""``python -m tests.recording_server``: the server, and a record of what it hands over.

The ids of inserted rows go into the file that RECORD names, a line for each batch that was
published: written before the batch is acknowledged, as the promise is that none is skipped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from realtime_core import Event, Insert
from realtime_server import cli, server
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.turns import Steps
from realtime_server.rls import mode
from realtime_server.rls.delivery import Delivery
from realtime_server.rls.pending_changes import Decided

__all__ = ["RecordingDelivery", "RecordingHub", "read_record"]


class RecordingHub(Hub):
    """Publishes, then writes down what."""

    def publishing(self, events: Iterable[Event]) -> Steps:
        batch = list(events)
        yield from super().publishing(batch)
        _write_down(batch)


class RecordingDelivery(Delivery):
    """The same in RLS mode."""

    def handing_out(self, decided: Decided) -> Steps:
        yield from super().handing_out(decided)
        _write_down(candidate.change for candidate, _ in decided)


def _write_down(events: Iterable[Event]) -> None:
    # wal2json knows no publication.
    ids = [
        str(event.record["id"])
        for event in events
        if isinstance(event, Insert) and event.relation.schema == "public"
    ]
    if ids:
        with open(os.environ["RECORD"], "a", encoding="ascii") as record:
            record.write(f"{' '.join(ids)}\n")


def read_record(path: os.PathLike[str]) -> list[int]:
    """Return the ids of the file, in order."""
    with open(path, encoding="ascii") as record:
        # A line that was not finished belongs to a batch that was not acknowledged.
        finished = record.read().rpartition("\n")[0]
        return [int(number) for number in finished.split()]


if __name__ == "__main__":
    server.Hub = RecordingHub  # type: ignore[misc]
    mode.Delivery = RecordingDelivery  # type: ignore[misc]
    sys.exit(cli.main())
