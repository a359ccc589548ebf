"""Whole streams: from an iterable of chunks, or from a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from ..changes import Begin, Change, Commit
from .decoder import Wal2JsonDecoder

__all__ = ["iter_changes", "parse_file"]

_BLOCK = 64 * 1024


class _File(Protocol):
    """An open file, text (UTF-8) or binary."""

    def readline(self, size: int = -1, /) -> str | bytes:
        """Return the rest of the line, but no more than ``size``."""
        ...


def iter_changes(
    chunks: Iterable[str | bytes], *, boundaries: bool = False
) -> Iterator[Change | Begin | Commit]:
    """Yield the changes of a stream that comes in pieces, cut anywhere.

    Args:
        chunks: whole texts, ``write-in-chunks``'s fragments, or blocks from a socket.
        boundaries: also yield ``Begin`` and ``Commit``.

    Raises:
        TruncatedMessageError: if the last text or transaction is not complete.
        DecodeError: if the stream is not wal2json's output.
    """
    decoder = Wal2JsonDecoder()
    for chunk in chunks:
        yield from _wanted(decoder.feed_chunk(chunk), boundaries)
    decoder.end()


def parse_file(file: _File, *, boundaries: bool = False) -> Iterator[Change | Begin | Commit]:
    """Yield the changes in a file, as pg_recvlogical writes it.

    It has one text after the other: in format 2 a message on each line, in format 1 objects on
    one line each or on several, or in fragments. Memory stays at the largest change, however
    large a transaction of format 1 is.

    Args:
        file: an open file, binary or text in UTF-8; it is read to its end and left open.
        boundaries: also yield ``Begin`` and ``Commit``.

    Raises:
        TruncatedMessageError: if the file ends within a text or transaction.
        DecodeError: if the file is not wal2json's output.
    """
    decoder = Wal2JsonDecoder()
    while line := file.readline(_BLOCK):
        if not decoder.in_text and _is_message(line):
            # A whole text, read in one go: the faster way.
            yield from _wanted(decoder.feed(line), boundaries)
        else:
            yield from _wanted(decoder.feed_chunk(line), boundaries)
    decoder.end()


def _is_message(line: str | bytes) -> bool:
    """Say whether a line is one message of format 2: it ends, and does not begin a second one.

    Within a value the quotes would have backslashes before them.
    """
    if isinstance(line, str):
        return line.startswith('{"action":') and line.endswith("\n") and '}{"action":' not in line
    return line.startswith(b'{"action":') and line.endswith(b"\n") and b'}{"action":' not in line


def _wanted(
    events: list[Change | Begin | Commit], boundaries: bool
) -> Iterable[Change | Begin | Commit]:
    if boundaries:
        return events
    return [event for event in events if not isinstance(event, (Begin, Commit))]
