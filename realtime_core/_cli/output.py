"""Output: writes events as lines to standard output, and complaints to standard error."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from .._text import one_line
from ..changes import Event
from ..snapshot import SnapshotEvent
from .lines import Format

__all__ = ["Output", "OutputError", "complain", "log_lines", "use_utf_8"]


class OutputError(Exception):
    """Standard output cannot be written to, for another reason than a closed pipe."""


class Output:
    """Writes each event as a line to standard output.

    Args:
        line: makes the line of an event.

    Raises:
        BrokenPipeError: from each method, if the program that reads the output has ended.
        OutputError: from each method, if it cannot be written for another reason.
    """

    def __init__(self, line: Format) -> None:
        self._line = line
        self._file = sys.stdout

    def write(self, events: Iterable[Event | SnapshotEvent]) -> None:
        """Write events; they may stay in a buffer until :meth:`flush`."""
        write, line = self._file.write, self._line
        with _named_errors():
            for event in events:
                write(f"{line(event)}\n")

    def flush(self) -> None:
        """Write the contents of the buffer."""
        with _named_errors():
            self._file.flush()

    @staticmethod
    def give_up() -> None:
        """Keep the interpreter's last flush from failing, after an error."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise OutputError(f"cannot write to standard output: {exc.strerror}") from exc


def use_utf_8() -> None:
    """Write UTF-8 to standard output whatever the locale says, because JSON is UTF-8."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def complain(kind: str, message: object) -> None:
    """Write a line to standard error, as ``error: …`` for the kind "error"."""
    print(f"{kind}: {one_line(message)}", file=sys.stderr, flush=True)


@contextmanager
def log_lines(*, quiet: bool) -> Iterator[None]:
    """Write the library's log records to standard error, a line each.

    Args:
        quiet: whether to write only warnings and errors.
    """
    logger = logging.getLogger("realtime")
    handler, level = _Lines(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(record.levelname.lower(), record.getMessage())
