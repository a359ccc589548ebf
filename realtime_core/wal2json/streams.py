"""Decodes whole streams: an iterable of chunks, or a file."""

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
        """Return the rest of the line, but at most ``size`` characters or bytes of it."""
        ...


def iter_changes(
    chunks: Iterable[str | bytes], *, boundaries: bool = False
) -> Iterator[Change | Begin | Commit]:
    """Yield the changes of a stream that comes in chunks, cut anywhere.

    Args:
        chunks: whole texts, the fragments of ``write-in-chunks``, or blocks read from a socket.
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
    """Yield the changes in a file that pg_recvlogical has written.

    Such a file has one text after the other. In format 2 each message is a line; in format 1 an
    object may be one line or several, or come in fragments. No more than one change is in memory,
    however large a transaction of format 1 is.

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
            # Whole texts are read faster than chunks.
            yield from _wanted(decoder.feed(line), boundaries)
        else:
            yield from _wanted(decoder.feed_chunk(line), boundaries)
    decoder.end()


def _is_message(line: str | bytes) -> bool:
    """Say whether a line is exactly one message of format 2.

    The text that begins a second message cannot occur in a value, where quotes have a backslash.
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
