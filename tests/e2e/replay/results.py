"""What long runs came to, a line of JSON for each part of them, so that they can be interrupted.

Where REPLAY_RESULTS names a file, each part of a long run adds its line, and a part that has one is
not run again. The file is summed up by::

    python -m tests.e2e.replay.results FILE
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

__all__ = ["note_part", "skip_if_noted"]

Counts = Mapping[str, Mapping[str, int]]
"""By client, what was counted of it."""


def skip_if_noted(**part: Any) -> None:
    """Skip the test if its part of a long run is in the file; nothing is skipped without one.

    Args:
        part: says which one it is.
    """
    if any(line["part"] == part for line in _lines(_path())):
        pytest.skip(f"{part} was run before")


def note_part(counts: Counts, **part: Any) -> None:
    """Add a part of a long run to the file, if there is one.

    Args:
        counts: what was counted of each client.
        part: says which one it is.
    """
    path = _path()
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps({"part": part, "clients": counts}) + "\n")


def _path() -> Path | None:
    name = os.environ.get("REPLAY_RESULTS")
    return None if not name else Path(name)


def _lines(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _sum_up(path: Path) -> None:
    sums: dict[str, dict[str, Counter[str]]] = {}
    parts: Counter[str] = Counter()
    for line in _lines(path):
        kind = line["part"]["kind"]
        parts[kind] += 1
        for client, counts in line["clients"].items():
            sums.setdefault(kind, {}).setdefault(client, Counter()).update(counts)
    for kind, clients in sums.items():
        print(f"{kind}: {parts[kind]} parts")
        for client, found in clients.items():
            print(f"  {client:24}", ", ".join(f"{found[each]} {each}" for each in found))


if __name__ == "__main__":
    _sum_up(Path(sys.argv[1]))
