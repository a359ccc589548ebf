"""Standard output as a stream of lines, and standard error as a stream of single ones."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from .._text import one_line
from ..changes import Event
from .lines import Format

__all__ = ["Output", "OutputError", "complain", "use_utf_8"]


class OutputError(Exception):
    """Standard output takes no more, and somebody should know."""


class Output:
    """Writes events to standard output, a line each.

    Raises:
        BrokenPipeError: from each method, when whoever reads has had enough.
        OutputError: from each method, when nothing can be written for another reason.
    """

    def __init__(self, line: Format) -> None:
        self._line = line
        self._file = sys.stdout

    def write(self, events: Iterable[Event]) -> None:
        """Write some events, which may still be in a buffer afterwards."""
        write, line = self._file.write, self._line
        with _named_errors():
            for event in events:
                write(f"{line(event)}\n")

    def flush(self) -> None:
        """Send everything written so far on its way."""
        with _named_errors():
            self._file.flush()

    @staticmethod
    def give_up() -> None:
        """Make the interpreter's last flush harmless, when nothing can be written."""
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
    """Write UTF-8 to standard output whatever the locale says: JSON is."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def complain(kind: str, message: object) -> None:
    """Write one line to standard error."""
    print(f"{kind}: {one_line(message)}", file=sys.stderr, flush=True)
