"""pypgoutput's bare decoders, in an environment of its own.

    python pypgoutput_decoders.py CAPTURE

Only the module of the decoders is loaded: the package's own ``__init__`` would import psycopg2
and pydantic, which they do not need. Type messages have no decoder there and are passed over,
as its own reader does; protocol 1 has no other gap here. It reads the 32-bit xid of Begin as 64
bits and gets away with it, as the message ends there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Any

from worker import read_capture, serve


def _load_decoders() -> Any:
    package = importlib.metadata.distribution("pypgoutput")
    path = package.locate_file("pypgoutput/decoders.py")
    spec = importlib.util.spec_from_file_location("decoders", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["decoders"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


decoders = _load_decoders()
payloads = read_capture(Path(sys.argv[1]))

CLASSES = {
    ord("B"): decoders.Begin,
    ord("C"): decoders.Commit,
    ord("R"): decoders.Relation,
    ord("I"): decoders.Insert,
    ord("U"): decoders.Update,
    ord("D"): decoders.Delete,
    ord("T"): decoders.Truncate,
}


def decode() -> None:
    classes = CLASSES
    for payload in payloads:
        decoder = classes.get(payload[0])
        if decoder is not None:
            decoder(payload)


def check() -> dict[str, int]:
    """Count what was decoded, so that every contender is known to have read the same."""
    counts = {"messages": 0, "rows": 0, "texts": 0, "bytes": 0}
    for payload in payloads:
        decoder = CLASSES.get(payload[0])
        if decoder is None:
            continue
        message = decoder(payload)
        counts["messages"] += 1
        counts["rows"] += payload[:1] in (b"I", b"U", b"D")
        for row in (getattr(message, "old_tuple", None), getattr(message, "new_tuple", None)):
            for column in () if row is None else row.column_data:
                if column.col_data is not None:
                    counts["texts"] += 1
                    counts["bytes"] += len(column.col_data.encode())
    return counts


serve({"decode": decode, "check": check})
