"""Splits a stream of text that is cut anywhere into pieces that can be read as JSON.

With ``write-in-chunks`` a message is a fragment that is not JSON, and a file or a socket is read in
blocks. The splitter finds where objects begin and end without reading them: it counts the brackets
outside of strings, and looks at each character once, whatever the sizes of the chunks.

A transaction of format 1 is split into its head, its changes and its tail, each of them a piece of
its own. So a transaction of any size passes through in constant memory.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Final

from ..errors import DecodeError, TruncatedMessageError

__all__ = ["Piece", "Scanner", "Splitter"]

# Plain characters and strings in turns. This is 1.5 times as fast as an alternation of both.
_PLAIN: Final = r'[^"{}\[\]]*+'
_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT: Final = rf"{_PLAIN}(?:{_STRING}{_PLAIN})*+"
# Everything up to a bracket that has brackets inside. Objects and lists without brackets inside are
# passed in one step, so a message with twenty columns takes six steps.
_PASS: Final = re.compile(rf"{_FLAT}(?:(?:\{{{_FLAT}\}}|\[{_FLAT}\]){_FLAT})*+", re.S)
_IN_STRING: Final = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.S)
_SPACE: Final = re.compile(r"[ \t\n\r]*+")
_CHANGES_KEY: Final = re.compile(r'"change"[ \t\n\r]*:[ \t\n\r]*\Z')


class Scanner:
    """Counts the open brackets outside of strings in a text that comes in several parts.

    Attributes:
        depth: how many brackets are open.
    """

    __slots__ = ("_escaped", "_in_string", "depth")

    def __init__(self) -> None:
        self.depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def inside(self) -> bool:
        """Whether a string or a bracket is open."""
        return self._in_string or self.depth > 0

    def scan(self, text: str) -> None:
        """Scan the next part of the text."""
        place = 0
        while place < len(text):
            place = self.step(text, place)

    def step(self, text: str, place: int) -> int:
        """Scan from ``place`` up to the next bracket.

        Returns:
            The place behind that bracket, or the end of the text.
        """
        if self._in_string:
            return self._string(text, place)
        # The first bracket begins a piece, so it must not be passed together with its content.
        end = place if text[place] in "{[" else _end(_PASS, text, place)
        if end == len(text):
            return end
        match text[end]:
            case "{" | "[":
                self.depth += 1
            case "}" | "]":
                self.depth -= 1
            case _:  # a string that does not end in this text
                self._in_string = True
        return end + 1

    def _string(self, text: str, place: int) -> int:
        if self._escaped:
            self._escaped = False
            place += 1
        end = _end(_IN_STRING, text, place)
        if end < len(text):
            # A closing quote, or a backslash whose character is in the next text.
            self._in_string = text[end] != '"'
            self._escaped = self._in_string
            end += 1
        return end


def _end(pattern: re.Pattern[str], text: str, place: int) -> int:
    """Return where the match of a pattern at ``place`` ends. The pattern matches everywhere."""
    match = pattern.match(text, place)
    assert match is not None
    return match.end()


class Piece(enum.Enum):
    """The kinds of pieces."""

    OBJECT = "object"
    """A whole object: a message of format 2, or a whole transaction."""
    HEAD = "head"
    """The beginning of a transaction of format 1, including the bracket behind ``"change":``."""
    CHANGE = "change"
    """One element of ``change`` in format 1."""
    TAIL = "tail"
    """The end of a transaction of format 1, from the bracket that closes ``change``."""


class _Expect(enum.Enum):
    """The text that must follow, after white space."""

    OBJECT = "an object"
    CHANGE_OR_END = "a change or ']'"
    CHANGE = "a change"
    COMMA_OR_END = "',' or ']'"
    REST = "the rest of a piece"


class Splitter:
    """Splits a stream of JSON objects into pieces, each as soon as it is complete."""

    def __init__(self) -> None:
        self._expect = _Expect.OBJECT
        self._scanner = Scanner()
        # The piece that has begun: its kind, and the texts that it consists of so far.
        self._piece = Piece.OBJECT
        self._parts: list[str] = []
        # Characters of the stream before the text that is being fed; for errors.
        self._consumed = 0
        # Whether the object may still turn out to be a transaction of format 1.
        self._undecided = False

    @property
    def inside(self) -> bool:
        """Whether an object has begun and has not ended yet."""
        return self._expect is not _Expect.OBJECT

    def feed(self, text: str) -> Iterator[tuple[Piece, str]]:
        """Yield the pieces that are complete with the next text.

        Iterate to the end: the text is read on the way.

        Raises:
            DecodeError: if the text is not a sequence of objects.
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
                    # The first list in an object has the changes, or in format 2 the columns.
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
        """Count a text of whole objects that has been read without the splitter."""
        self._consumed += len(text)

    def end(self) -> None:
        """Tell the splitter that the stream has ended.

        Raises:
            TruncatedMessageError: if an object has not ended.
        """
        if self.inside:
            raise TruncatedMessageError(
                f"the stream ends after {self._consumed} characters, where {self._expect.value} "
                "must follow"
            )

    def _begin(self, text: str, place: int) -> tuple[bool, int]:
        """Decide by a character what follows.

        Returns:
            Whether a piece begins with the character, and where to go on reading.
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
            # The brackets of the transaction's object and of its list of changes are open.
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
        """Return the piece that ends with ``last``."""
        if not self._parts:
            return last
        self._parts.append(last)
        piece = "".join(self._parts)
        self._parts.clear()
        return piece
