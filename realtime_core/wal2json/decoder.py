"""Decoder: wal2json's texts to changes.

It does no I/O. Which of the two formats a text is in, it sees from the text; which options
the slot was read with, it sees from what is there.
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

    It remembers the tables' columns, so that a column that a later UPDATE leaves out can be
    :data:`~realtime_core.UNCHANGED`, and the transaction that format 2 opens with B. After a
    :exc:`~realtime_core.errors.DecodeError` it refuses further texts: what it knows may be
    wrong.

    Give it whole texts, as a slot hands them out, with :meth:`feed`; or text that is cut
    anywhere, as with ``write-in-chunks``, with :meth:`feed_chunk` and a final :meth:`end`.

    Args:
        stream: goes into each position; None for a stream without a known source.
        place_by_end: in format 1, which does not tell a commit record's LSN, let ``commit_lsn``
            be the LSN behind it, so that positions order the changes of several transactions.
            Format 2 is not concerned.
        successor_of: the decoder of an earlier connection to the same slot: what it knows of
            the tables goes on to be known.
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
        # An undecodable byte of a message's content goes through as a lone surrogate.
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._broken = False

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and not ended."""
        return self._format1.in_transaction or self._format2.in_transaction

    @property
    def in_text(self) -> bool:
        """Whether a text that comes in chunks has begun and not ended."""
        return self._splitter.inside or self._in_character

    @property
    def _in_character(self) -> bool:
        return bool(self._utf8.getstate()[0])

    def feed(self, text: str | bytes) -> Decoded:
        """Take one whole text: a transaction of format 1, or a message of format 2.

        Returns:
            What it contains, in order: in format 1 ``Begin``, the changes, ``Commit``; in
            format 2 one change, ``Begin`` or ``Commit``. Without ``include-transaction``
            there is no ``Begin`` and ``Commit``.

        Raises:
            TruncatedMessageError: if the text ends too early.
            DecodeError: if it is not wal2json's output, or cannot come at this place.
        """
        self._check()
        try:
            if self.in_text:
                raise DecodeError("a whole text within one that came in chunks")
            return self._object(load(text))
        except DecodeError:
            self._broken = True
            raise

    def feed_chunk(self, chunk: str | bytes) -> Decoded:
        """Take a part of one text, or of several, cut anywhere.

        Each change is returned as soon as it is complete, also those of a transaction in
        format 1 that is still coming in.

        Raises:
            DecodeError: as :meth:`feed` does.
        """
        self._check()
        try:
            text = chunk if isinstance(chunk, str) else self._utf8.decode(chunk)
            if not self.in_text and _may_be_whole(text):
                # In one go, which takes half the time. If it is not whole, that shows below.
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
        """Say that nothing follows.

        Raises:
            TruncatedMessageError: if the last text or transaction is not complete.
        """
        self._check()
        self._splitter.end()
        if self._in_character:
            raise TruncatedMessageError("the stream ends within a character")
        if self.in_transaction:
            raise TruncatedMessageError("the stream ends within a transaction: its C is missing")

    def _check(self) -> None:
        if self._broken:
            raise DecodeError("this decoder met an error before: start with a new one")

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
    """Say whether a chunk looks like one whole text, not like a part or several."""
    return (
        text.startswith("{")
        and text.endswith(("}", "}\n"))
        and "}\n{" not in text
        and '}{"action":' not in text
    )


def parse(text: str | bytes) -> list[Change]:
    """Decode one text by itself: a transaction of format 1, or a message of format 2.

    Nothing is known of what came before, so a column that an UPDATE left out is absent, and a
    change of format 2 knows of its transaction what its own options say. For a stream use
    :class:`Wal2JsonDecoder`.

    Returns:
        The changes; none for a B or C of format 2.

    Raises:
        TruncatedMessageError: if the text ends too early.
        DecodeError: if it is not one text of wal2json.
    """
    value = load(text)
    if isinstance(value, dict) and value.get("action") == "C":
        return []
    decoder = Wal2JsonDecoder()
    return [event for event in decoder._object(value) if not isinstance(event, (Begin, Commit))]
