"""Log lines, as text or as JSON objects; always one line for one event.

Values that a line names (``extra=``) are keys of its JSON object, and are in its text only
where the message says them. docs/reference/logs.md lists the events.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from .config import LogFormat, LogLevel
from .fanout.topics import shown_topic

__all__ = ["JsonFormatter", "TextFormatter", "configure", "named", "peer_name"]

_STANDARD: Final = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"))
"""What every record has."""
_SHOWN: Final = {"topic": 200, "reason": 1000}
"""Characters of what a client may have a hand in that a line names."""
# What a terminal acts upon, and what ends a line for some reader of it.
_CONTROLS: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))},
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


def configure(level: LogLevel, style: LogFormat) -> None:
    """Send log lines to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=level.value, handlers=[handler])
    # Below that, websockets writes down handshakes and frames, and so tokens and rows.
    logging.getLogger("websockets").setLevel(logging.WARNING)


def peer_name(address: Any) -> str:
    """Name a client by what its socket says of it; None where that is not known any more."""
    return f"{address[0]}:{address[1]}" if address else "?"


def named(peer: str, event: str, **more: object) -> dict[str, object]:
    """Return what a line about a client names besides its message, for ``extra=``."""
    topic = more.get("topic")
    if isinstance(topic, str):
        more["topic"] = shown_topic(topic)
    for name, most in _SHOWN.items():
        text = more.get(name)
        if isinstance(text, str):
            more[name] = text[:most]
    return {"event": event, "peer": peer, **more}


class TextFormatter(logging.Formatter):
    """``time level logger: message``; control characters in the message are escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.translate(_CONTROLS)
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """An object with time, level, logger, message, what the line names, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
