"""Log lines, as text or as JSON objects; each event is one line.

The values of ``extra=`` become members of the JSON object. As text, a line has only those that its
message contains. docs/reference/logs.md lists the events.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from .config import LogFormat, LogLevel
from .fanout.topic_parser import shown_topic

__all__ = [
    "JsonFormatter",
    "LineHandler",
    "LineLimit",
    "TextFormatter",
    "configure",
    "named",
    "of_webhook",
    "peer_name",
]

_STANDARD: Final = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"))
"""The attributes that every log record has."""
_SHOWN: Final = {"topic": 200, "reason": 1000}
"""How many characters of a value are logged, for values that clients and endpoints can choose."""
# Characters that terminals act upon, and that some programs take for the end of a line.
_CONTROLS: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))},
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}

_TIME: Final = "%Y-%m-%d %H:%M:%S"
"""The time of a line as text, up to the second."""

_AT_ONCE: Final = 4096
"""Bytes of lines that are written together at most: a pipe takes them in one piece (pipe(7),
PIPE_BUF). Of more, lines of other processes could come in the middle of a line."""

_INTERVAL: Final = 10.0
"""Seconds from one line to the next of the same kind, for events that may concern thousands."""


def configure(level: LogLevel, style: LogFormat, *, worker: int | None = None) -> None:
    """Write log lines to standard error.

    Args:
        level: the level of the least important lines that are written.
        style: whether the lines are text or JSON.
        worker: the number of a process of several, which its lines name.
    """
    handler = LineHandler(sys.stderr)
    if worker is not None:

        def name_worker(record: logging.LogRecord) -> bool:
            record.worker = worker
            return True

        handler.addFilter(name_worker)
    handler.setFormatter(JsonFormatter() if style is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=level.value, handlers=[handler])
    # At lower levels websockets logs handshakes and frames, which contain tokens and rows.
    logging.getLogger("websockets").setLevel(logging.WARNING)
    # No line shows where in the code, and in which thread, it was logged, and to find that out
    # takes a third of its time (Python's Logging HOWTO, section "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def peer_name(address: Any) -> str:
    """Return a client's address and port, from the peer name of its socket; ``?`` for None.

    An IPv6 address is in brackets. IPv4 clients of a socket that takes both families are named as
    those of any other.
    """
    if not address:
        return "?"
    host, port = str(address[0]), address[1]
    ipv4 = host.removeprefix("::ffff:")
    return f"[{host}]:{port}" if ":" in ipv4 else f"{ipv4}:{port}"


def named(peer: str, event: str, **more: object) -> dict[str, object]:
    """Return the values of a line about a client, for ``extra=``.

    Args:
        peer: the client's address and port.
        event: the event's name in docs/reference/logs.md.
        more: further values.
    """
    topic = more.get("topic")
    if isinstance(topic, str):
        more["topic"] = shown_topic(topic)
    return {"event": event, "peer": peer, **_cut(more)}


def of_webhook(webhook: str, event: str, **more: object) -> dict[str, object]:
    """Return the values of a line about a webhook, for ``extra=``.

    Args:
        webhook: the webhook's name, never its endpoint's URL.
        event: the event's name in docs/reference/logs.md.
        more: further values.
    """
    return {"event": event, "webhook": webhook, **_cut(more)}


def _cut(values: dict[str, object]) -> dict[str, object]:
    """Return values with the first characters of those that others can choose."""
    return {
        name: value[: _SHOWN[name]] if name in _SHOWN and isinstance(value, str) else value
        for name, value in values.items()
    }


class TextFormatter(logging.Formatter):
    """``time level logger: message``; control characters in the message are escaped.

    The line of a worker has ``worker 2:`` before its message.
    """

    def __init__(self) -> None:
        super().__init__()
        # The last second of which there was a line, and how it is written.
        self._second = -1
        self._shown_second = ""

    def format(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._shown_second = second, self.formatTime(record, _TIME)
        message = record.getMessage().translate(_CONTROLS)
        worker = vars(record).get("worker")
        if worker is not None:
            message = f"worker {worker}: {message}"
        time = f"{self._shown_second},{int(record.msecs):03}"
        line = f"{time} {record.levelname} {record.name}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """A JSON object: time, level, logger, message, the values of ``extra=``, and a traceback."""

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


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes the lines of one round of the event loop together, when it ends.

    When thousands of clients connect and join within a second, there is a line for each, and to
    write one by itself takes as much time as a tenth of a join. From WARNING up, and where no event
    loop runs, a line is written at once, with those that wait before it.

    Args:
        stream: where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        # How many bytes they have at most.
        self._size = 0
        # Whose round the lines are written at the end of; None if no line waits for that.
        self._loop: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + self.terminator
            size = len(line) if line.isascii() else 4 * len(line)
            if self._size + size > _AT_ONCE:
                self.flush()
            self._lines.append(line)
            self._size += size
            if record.levelno < logging.WARNING:
                try:
                    loop = asyncio.get_running_loop()
                except RuntimeError:
                    pass
                else:
                    if loop is not self._loop:
                        self._loop = loop
                        loop.call_soon(self._end_round, record)
                    return
            self.flush()
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write the lines that wait."""
        self.acquire()
        try:
            lines, self._lines, self._size, self._loop = self._lines, [], 0, None
            if lines:
                self.stream.write("".join(lines))
            super().flush()
        finally:
            self.release()

    def _end_round(self, record: logging.LogRecord) -> None:
        try:
            self.flush()
        except Exception:
            self.handleError(record)


class LineLimit:
    """Lets one line of a kind into the log in ten seconds, and counts those that it leaves out."""

    __slots__ = ("_left_out", "_next_at")

    def __init__(self) -> None:
        self._next_at = 0.0
        self._left_out = 0

    def take(self) -> int | None:
        """Ask for a line.

        Returns:
            How many lines were left out since the last one; None if this one is left out, too.
        """
        now = asyncio.get_running_loop().time()
        if now < self._next_at:
            self._left_out += 1
            return None
        self._next_at = now + _INTERVAL
        left_out, self._left_out = self._left_out, 0
        return left_out
