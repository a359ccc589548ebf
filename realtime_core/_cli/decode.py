"""``decode``: writes the events of captures as lines. It needs no database and no driver."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from gzip import BadGzipFile

from ..changes import Begin, Commit
from ..errors import RealtimeError
from .captures import Capture, open_file
from .lines import Format
from .output import Output, complain

__all__ = ["decode"]


def decode(paths: Sequence[str], *, line: Format, boundaries: bool) -> int:
    """Write the events of one capture after the other.

    Args:
        paths: files with a capture each; ``-`` stands for standard input.
        line: makes the line of an event.
        boundaries: whether to write Begin and Commit, too.

    Returns:
        The exit code: 0; 1 if a file is not a whole capture; 2 if one cannot be read.
    """
    output = Output(line)
    for path in paths:
        name = "standard input" if path == "-" else path
        capture = None
        try:
            with open_file(path) as file:
                capture = Capture(file)
                for event in capture:
                    if boundaries or not isinstance(event, (Begin, Commit)):
                        output.write((event,))
                        if path == "-":
                            output.flush()
        except (RealtimeError, EOFError, BadGzipFile, zlib.error) as exc:
            output.flush()
            begun = capture is not None and capture.messages
            complain("error", f"{name}, message {begun}: {exc}" if begun else f"{name}: {exc}")
            return 1
        except BrokenPipeError:
            raise
        except OSError as exc:
            output.flush()
            complain("error", f"cannot read {name}: {exc.strerror or exc}")
            return 2
    output.flush()
    return 0
