"""Wal2JsonDecoder turns wal2json's texts into changes.

The decoder does no I/O. It recognizes from the text itself which of the two formats it is in, and
with which options the slot was read.
"""

from __future__ import annotations

import codecs
from contextlib import suppress
from typing import Any, TypeAlias

from ..changes import Begin, Change, Commit
from ..errors import DecodeError, TruncatedMessageError
from ..positions import StreamIdentity
from ._format1 import Format1
from ._format2 import Format2
from ._json import load
from ._splitter import Piece, Splitter
from ._tables import Tables

__all__ = ["Wal2JsonDecoder", "parse"]

Decoded: TypeAlias = list[Change | Begin | Commit]


class Wal2JsonDecoder:
    """Turns the texts of one slot into changes, in commit order.

    The decoder remembers the columns of every table, so that a column that a later UPDATE leaves
    out can be :data:`~realtime_core.UNCHANGED`, and the transaction that a message of format 2 with
    action B has begun. After a :exc:`~realtime_core.errors.DecodeError` it refuses further texts,
    because what it remembers may be wrong.

    Pass whole texts, one for each row that a slot returns, to :meth:`feed`. Pass text that is cut
    anywhere, as with ``write-in-chunks``, to :meth:`feed_chunk`, and call :meth:`end` after the
    last.

    Args:
        stream: the stream that every position belongs to; None if it is not known.
        place_by_end: in format 1, which does not have the LSN of a commit record, set
            ``commit_lsn`` to the LSN behind that record, so that positions order the changes of
            several transactions. It has no effect in format 2.
        successor_of: the decoder of an earlier connection to the same slot, whose knowledge of the
            tables this decoder takes over.
    """

    def __init__(
        self,
        stream: StreamIdentity | None = None,
        *,
        place_by_end: bool = False,
        successor_of: Wal2JsonDecoder | None = None,
    ) -> None:
        self._tables: Tables = Tables() if successor_of is None else successor_of._tables
        self._format1 = Format1(self._tables, stream, place_by_end=place_by_end)
        self._format2 = Format2(self._tables, stream)
        self._splitter = Splitter()
        # A byte of a message's content that is not UTF-8 becomes a lone surrogate.
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._broken = False

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and has not ended yet."""
        return self._format1.in_transaction or self._format2.in_transaction

    @property
    def in_text(self) -> bool:
        """Whether a text that comes in chunks has begun and has not ended yet."""
        return self._splitter.inside or self._in_character

    @property
    def _in_character(self) -> bool:
        return bool(self._utf8.getstate()[0])

    def feed(self, text: str | bytes) -> Decoded:
        """Decode one whole text: a transaction of format 1, or a message of format 2.

        Returns:
            What the text contains, in order: in format 1 ``Begin``, the changes and ``Commit``; in
            format 2 one change, ``Begin`` or ``Commit``. Without ``include-transaction``
            format 2 has no ``Begin`` and no ``Commit``.

        Raises:
            TruncatedMessageError: if the text ends within a value.
            DecodeError: if the text is not wal2json's output, or cannot follow the texts before.
        """
        self._check()
        try:
            if self.in_text:
                raise DecodeError("a whole text was fed before the end of one that came in chunks")
            return self._object(load(text))
        except DecodeError:
            self._broken = True
            raise

    def feed_chunk(self, chunk: str | bytes) -> Decoded:
        """Decode a part of one text, or of several texts, cut anywhere.

        Each change is returned as soon as it is complete, even before the end of its transaction in
        format 1.

        Raises:
            DecodeError: if the text is not wal2json's output, or cannot follow the texts before.
        """
        self._check()
        try:
            text = chunk if isinstance(chunk, str) else self._utf8.decode(chunk)
            if not self.in_text and _may_be_whole(text):
                # A whole text is read in half the time that its pieces take. If this one is not
                # whole after all, the splitter finds out.
                value = None
                with suppress(DecodeError):
                    value = load(text)
                if value is not None:
                    self._splitter.skip(text)
                    return self._object(value)
            events: Decoded = []
            for piece, part in self._splitter.feed(text):
                events += self._piece(piece, part)
            return events
        except DecodeError:
            self._broken = True
            raise

    def end(self) -> None:
        """Tell the decoder that the stream has ended.

        Raises:
            TruncatedMessageError: if the last text or transaction is not complete.
        """
        self._check()
        self._splitter.end()
        if self._in_character:
            raise TruncatedMessageError("the stream ends within a character")
        if self.in_transaction:
            raise TruncatedMessageError(
                "the stream ends within a transaction: the message with action C is missing"
            )

    def _check(self) -> None:
        if self._broken:
            raise DecodeError("this decoder has raised an error before: start with a new one")

    def _piece(self, piece: Piece, text: str) -> Decoded:
        match piece:
            case Piece.OBJECT:
                return self._object(load(text))
            case Piece.HEAD:
                self._format1.begin(load(f"{text}]}}"))
                return []
            case Piece.CHANGE:
                return [*self._format1.change(load(text))]
            case Piece.TAIL:
                load(f'{{"change":[{text}')
                return [*self._format1.commit()]

    def _object(self, value: Any) -> Decoded:
        if not isinstance(value, dict):
            raise DecodeError("not wal2json's output: the JSON text is not an object")
        if "action" in value:
            return [self._format2.message(value)]
        if "change" not in value:
            raise DecodeError("not wal2json's output: the object has no 'action' and no 'change'")
        changes = value["change"]
        if not isinstance(changes, list):
            raise DecodeError("'change' is not a list")
        self._format1.begin(value)
        events: Decoded = []
        for change in changes:
            events += self._format1.change(change)
        events += self._format1.commit()
        return events


def _may_be_whole(text: str) -> bool:
    """Say whether a chunk looks like exactly one whole text."""
    return (
        text.startswith("{")
        and text.endswith(("}", "}\n"))
        and "}\n{" not in text
        and '}{"action":' not in text
    )


def parse(text: str | bytes) -> list[Change]:
    """Decode a single text: a transaction of format 1, or a message of format 2.

    Nothing is known of earlier texts. So a column that an UPDATE leaves out is missing in the
    record, and the transaction of a change in format 2 has only what the options add to each
    message. Use :class:`Wal2JsonDecoder` for a stream.

    Returns:
        The changes; none for a message of format 2 that begins or ends a transaction.

    Raises:
        TruncatedMessageError: if the text ends within a value.
        DecodeError: if the text is not one text of wal2json's output.
    """
    value = load(text)
    if isinstance(value, dict) and value.get("action") == "C":
        return []
    decoder = Wal2JsonDecoder()
    return [event for event in decoder._object(value) if not isinstance(event, (Begin, Commit))]
