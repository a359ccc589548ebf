"""realtime_core.wal2json against ``json.loads`` of the same texts.

python wal2json_texts.py FOLDER_OF_CAPTURES
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

from worker import read_capture, serve

from realtime_core.wal2json import Wal2JsonDecoder

folder = Path(sys.argv[1])
format_1 = read_capture(folder / "wal2json_v1_mixed.txt.gz")
format_2 = gzip.decompress((folder / "wal2json_v2_mixed.txt.gz").read_bytes()).splitlines()


def changes(texts: list[bytes]) -> None:
    feed = Wal2JsonDecoder().feed
    for text in texts:
        for _ in feed(text):
            pass


def loads(texts: list[bytes]) -> None:
    for text in texts:
        json.loads(text)


def count(texts: list[bytes]) -> dict[str, int]:
    feed = Wal2JsonDecoder().feed
    events = [event for text in texts for event in feed(text)]
    return {"messages": len(texts), "rows": sum(hasattr(event, "relation") for event in events)}


serve(
    {
        "check format 1": lambda: count(format_1),
        "check format 2": lambda: count(format_2),
        "format 1": lambda: changes(format_1),
        "format 2": lambda: changes(format_2),
        "format 1 json.loads": lambda: loads(format_1),
        "format 2 json.loads": lambda: loads(format_2),
    }
)
