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

    Format 2 has a message on each line; format 1 has objects one after the other, on one
    line, on several, or in fragments. Memory stays at the largest change, in format 1 on a
    single line too.

    Args:
        file: an open file, binary or text in UTF-8; it is read to its end and left open.
        boundaries: also yield ``Begin`` and ``Commit``.

    Raises:
        TruncatedMessageError: if the file ends within a text or transaction.
        DecodeError: if the file is not wal2json's output.
    """
    decoder = Wal2JsonDecoder()
    while line := file.readline(_BLOCK):
        # A line of format 2 is a whole text, read in one go: the faster way.
        if not decoder.in_text and _is_format_2(line):
            while not _ends(line) and (more := file.readline(-1)):
                line += more  # type: ignore[operator]
            yield from _wanted(decoder.feed(line), boundaries)
            continue
        yield from _wanted(decoder.feed_chunk(line), boundaries)
    decoder.end()


def _is_format_2(line: str | bytes) -> bool:
    if isinstance(line, str):
        return line.startswith('{"action":')
    return line.startswith(b'{"action":')


def _ends(line: str | bytes) -> bool:
    return line.endswith("\n") if isinstance(line, str) else line.endswith(b"\n")


def _wanted(
    events: list[Change | Begin | Commit], boundaries: bool
) -> Iterable[Change | Begin | Commit]:
    if boundaries:
        return events
    return [event for event in events if not isinstance(event, (Begin, Commit))]
