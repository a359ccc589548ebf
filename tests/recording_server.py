"""``python -m tests.recording_server``: the server, and a record of what it hands over.

The ids of inserted rows go into the file that RECORD names, a line for each batch that was
published: written before the batch is acknowledged, as the promise is that none is skipped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

from realtime_core import Event, Insert
from realtime_server import cli, server
from realtime_server.hub import Hub

__all__ = ["RecordingHub", "read_record"]


class RecordingHub(Hub):
    """Publishes, then writes down what."""

    def publishing(self, events: Iterable[Event]) -> Iterator[None]:
        batch = list(events)
        yield from super().publishing(batch)
        ids = [str(event.record["id"]) for event in batch if isinstance(event, Insert)]
        if ids:
            with open(os.environ["RECORD"], "a", encoding="ascii") as record:
                record.write(f"{' '.join(ids)}\n")


def read_record(path: os.PathLike[str]) -> list[int]:
    """Return the ids of the file, in order."""
    with open(path, encoding="ascii") as record:
        return [int(number) for number in record.read().split()]


if __name__ == "__main__":
    server.Hub = RecordingHub  # type: ignore[misc]
    sys.exit(cli.main())
