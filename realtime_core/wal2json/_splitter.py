"""Splitter: a stream of text, cut anywhere, to pieces that are JSON.

With ``write-in-chunks`` a message is a fragment that is not JSON by itself, and a file or a
socket cuts where it likes. The splitter finds where objects begin and end without reading
them: it counts brackets outside of strings, each character once, whatever the pieces' sizes.

A transaction of format 1 is not waited for: its head, each of its changes and its tail are
pieces of their own, so one of any size passes in constant memory.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Final

from ..errors import DecodeError, TruncatedMessageError

__all__ = ["Piece", "Scanner", "Splitter"]

# Runs of plain characters and strings, in the order that alternates them: 1.5 times as fast as
# an alternation of both.
_PLAIN: Final = r'[^"{}\[\]]*+'
_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT: Final = rf"{_PLAIN}(?:{_STRING}{_PLAIN})*+"
# All up to a bracket that has brackets inside: flat objects and lists go in one step, which
# makes six steps of a message with twenty columns.
_PASS: Final = re.compile(rf"{_FLAT}(?:(?:\{{{_FLAT}\}}|\[{_FLAT}\]){_FLAT})*+", re.S)
_IN_STRING: Final = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.S)
_SPACE: Final = re.compile(r"[ \t\n\r]*+")
_CHANGES_KEY: Final = re.compile(r'"change"[ \t\n\r]*:[ \t\n\r]*\Z')


class Scanner:
    """Counts brackets outside of strings, over any number of texts."""

    __slots__ = ("_escaped", "_in_string", "depth")

    def __init__(self) -> None:
        self.depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def inside(self) -> bool:
        """Whether a string or bracket is open."""
        return self._in_string or self.depth > 0

    def scan(self, text: str) -> None:
        """Scan the whole text."""
        place = 0
        while place < len(text):
            place = self.step(text, place)

    def step(self, text: str, place: int) -> int:
        """Go on from ``place``; return the place behind the next bracket, or the text's end."""
        if self._in_string:
            return self._string(text, place)
        # The first bracket opens the piece, so it must not be passed with all that it holds.
        end = place if text[place] in "{[" else _end(_PASS, text, place)
        if end == len(text):
            return end
        match text[end]:
            case "{" | "[":
                self.depth += 1
            case "}" | "]":
                self.depth -= 1
            case _:  # a string that this text does not end
                self._in_string = True
        return end + 1

    def _string(self, text: str, place: int) -> int:
        if self._escaped:
            self._escaped = False
            place += 1
        end = _end(_IN_STRING, text, place)
        if end < len(text):
            # A closing quote, or a backslash whose character comes with the next text.
            self._in_string = text[end] != '"'
            self._escaped = self._in_string
            end += 1
        return end


def _end(pattern: re.Pattern[str], text: str, place: int) -> int:
    """Return where the pattern, which matches everywhere, ends its match at ``place``."""
    match = pattern.match(text, place)
    assert match is not None
    return match.end()


class Piece(enum.Enum):
    """What a piece is."""

    OBJECT = "object"
    """A whole object: a message of format 2, or a transaction that came at once."""
    HEAD = "head"
    """Format 1, up to and with the bracket behind ``"change":``."""
    CHANGE = "change"
    """Format 1: one element of ``change``."""
    TAIL = "tail"
    """Format 1, from the bracket that closes ``change``."""


class _Expect(enum.Enum):
    """What may come next; white space may come before it."""

    OBJECT = "an object"
    CHANGE_OR_END = "a change or ']'"
    CHANGE = "a change"
    COMMA_OR_END = "',' or ']'"
    REST = "the rest of a piece"


class Splitter:
    """Cuts a stream of JSON objects into pieces, as they are completed."""

    def __init__(self) -> None:
        self._expect = _Expect.OBJECT
        self._scanner = Scanner()
        self._piece = Piece.OBJECT
        self._parts: list[str] = []
        self._consumed = 0
        # Whether the object may still turn out to be a transaction of format 1.
        self._undecided = False

    @property
    def inside(self) -> bool:
        """Whether an object has begun and not ended."""
        return self._expect is not _Expect.OBJECT

    def feed(self, text: str) -> Iterator[tuple[Piece, str]]:
        """Yield the pieces that ``text`` completes; iterate to the end.

        Raises:
            DecodeError: if something comes where it cannot.
        """
        place = 0
        while place < len(text):
            if self._expect is not _Expect.REST:
                place = _end(_SPACE, text, place)
                if place == len(text):
                    break
                opened, place = self._begin(text, place)
                if not opened:
                    continue
            start = place
            while place < len(text):
                place = self._scanner.step(text, place)
                if self._scanner.depth == 0 and not self._scanner.inside:
                    self._expect = (
                        _Expect.COMMA_OR_END if self._piece is Piece.CHANGE else _Expect.OBJECT
                    )
                    yield self._piece, self._cut(text[start:place])
                    break
                if self._undecided and self._scanner.depth == 2 and text[place - 1] == "[":
                    # The first list of an object is the changes, or the columns of format 2.
                    self._undecided = False
                    head = self._cut(text[start:place])
                    if _CHANGES_KEY.search(head, 0, len(head) - 1):
                        self._expect = _Expect.CHANGE_OR_END
                        yield Piece.HEAD, head
                        break
                    self._parts.append(head)
                    start = place
            else:
                self._parts.append(text[start:])
        self._consumed += len(text)

    def skip(self, text: str) -> None:
        """Pass over whole objects that somebody else has read."""
        self._consumed += len(text)

    def end(self) -> None:
        """Say that nothing follows.

        Raises:
            TruncatedMessageError: if an object has not ended.
        """
        if self.inside:
            raise TruncatedMessageError(
                f"the stream ends after {self._consumed} characters, where {self._expect.value} "
                "must follow"
            )

    def _begin(self, text: str, place: int) -> tuple[bool, int]:
        """Look at the character that decides what follows.

        Returns:
            Whether a piece begins with it, and where to go on.
        """
        expect, character = self._expect, text[place]
        if character == "{" and expect is _Expect.OBJECT:
            return self._open(Piece.OBJECT, 0), place
        if character == "{" and expect in (_Expect.CHANGE, _Expect.CHANGE_OR_END):
            return self._open(Piece.CHANGE, 0), place
        if character == "," and expect is _Expect.COMMA_OR_END:
            self._expect = _Expect.CHANGE
            return False, place + 1
        if character == "]" and expect in (_Expect.COMMA_OR_END, _Expect.CHANGE_OR_END):
            # The bracket of the transaction's object and that of its changes are open.
            return self._open(Piece.TAIL, 2), place
        raise DecodeError(
            f"not wal2json's output: {character!r} at character {self._consumed + place} of the "
            f"stream, where {expect.value} must follow"
        )

    def _open(self, piece: Piece, depth: int) -> bool:
        self._expect = _Expect.REST
        self._piece = piece
        self._scanner.depth = depth
        self._undecided = piece is Piece.OBJECT
        return True

    def _cut(self, last: str) -> str:
        """Return the piece so far and begin a new one."""
        if not self._parts:
            return last
        self._parts.append(last)
        piece = "".join(self._parts)
        self._parts.clear()
        return piece
