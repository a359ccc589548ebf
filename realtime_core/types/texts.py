"""Texts, booleans, and types whose values compare by their bytes: bytea, uuid, bit strings."""

from __future__ import annotations

import re
from typing import Final

from .base import DataType, UnreadableError, as_is

__all__ = ["CITEXT", "TEXT", "TEXTS", "fold"]

_UUID: Final = re.compile(r"(\{?)((?:[0-9a-f]{4}-?){7}[0-9a-f]{4})(\}?)", re.IGNORECASE)
_HEX: Final = re.compile(r"(?:\s*[0-9a-f]{2})*\s*", re.ASCII | re.IGNORECASE)
_BYTE: Final = re.compile(rb"\\(\\|[0-3][0-7]{2})|\\")
_BITS: Final = re.compile(r"(?:[bB]?([01]*)|[xX]([0-9a-fA-F]*))")
_NAME_BYTES: Final = 63
_DOTTED_I: Final = "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}"
_SIGMA: Final = "\N{GREEK CAPITAL LETTER SIGMA}"
_SMALL_SIGMA: Final = "\N{GREEK SMALL LETTER SIGMA}"
_TRUTHS: Final = {
    **dict.fromkeys(("t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"), True),
    **dict.fromkeys(("f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"), False),
}


def fold(text: str) -> str:
    """Return a text in lower case, in which each letter has become one letter."""
    if text.isascii():
        return text.lower()
    # Python's lower case of one letter has two characters, and that of another one depends on the
    # letters around it.
    return text.replace(_DOTTED_I, "i").replace(_SIGMA, _SMALL_SIGMA).lower()


def _blank_padded(text: str) -> str:
    return text.rstrip(" ")


def _name(text: str) -> str:
    """Return a name cut to 63 bytes, as PostgreSQL does, without half a character at its end."""
    if len(text) <= _NAME_BYTES // 4:
        return text
    return text.encode()[:_NAME_BYTES].decode(errors="ignore")


def _read_char(text: str) -> bytes:
    """Return the byte of a ``"char"``. PostgreSQL writes a byte above 127 as ``\\ooo``, in
    octal."""
    if len(text) == 4 and text[0] == "\\":
        return bytes([int(text[1:], 8)])
    return text.encode()[:1] or b"\0"


def _read_bool(text: str) -> bool:
    return text == "t" or (text != "f" and _parse_bool(text))


def _parse_bool(text: str) -> bool:
    truth = _TRUTHS.get(text.strip().lower())
    if truth is None:
        raise UnreadableError("it is neither true nor false")
    return truth


def _parse_uuid(text: str) -> str:
    found = _UUID.fullmatch(text)
    if found is None or bool(found[1]) != bool(found[3]):
        raise UnreadableError("it is not a UUID, as a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11 is")
    digits = found[2].replace("-", "").lower()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _bytes(text: str) -> bytes:
    if text.startswith("\\x"):
        if _HEX.fullmatch(text, 2) is None:
            raise UnreadableError("it is not an even number of hexadecimal digits behind \\x")
        return bytes.fromhex(text[2:])

    def unescape(found: re.Match[bytes]) -> bytes:
        if found[1] is None:
            raise UnreadableError("write bytes as \\x00ff, or a backslash as two")
        return b"\\" if found[1] == b"\\" else bytes([int(found[1], 8)])

    return _BYTE.sub(unescape, text.encode())


def _bit_string(text: str) -> str:
    found = _BITS.fullmatch(text)
    if found is None:
        raise UnreadableError("it is not a bit string, as 1011 or x0B is")
    if found[2] is None:
        return found[1]
    return "".join(f"{int(digit, 16):04b}" for digit in found[2])


TEXT: Final = DataType("text", as_is, as_is, textual=True)

CITEXT: Final = DataType("citext", fold, fold, textual=True, ignores_case=True)
"""The type of the extension of that name, whose values compare in lower case."""

TEXTS: Final = {
    data_type.name: data_type
    for data_type in (
        TEXT,
        DataType("varchar", as_is, as_is, textual=True),
        # Blanks at the end do not belong to the value, but LIKE and regular expressions see them.
        DataType("bpchar", _blank_padded, _blank_padded, textual=True),
        DataType("name", as_is, _name, textual=True),
        DataType("char", _read_char, _read_char),
        DataType("bool", _read_bool, _parse_bool, boolean=True),
        # PostgreSQL writes UUIDs in lower case with hyphens, and these texts are in order.
        DataType("uuid", as_is, _parse_uuid),
        DataType("bytea", _bytes, _bytes),
        # A bit string comes before those that begin with it, as texts do.
        DataType("bit", as_is, _bit_string),
        DataType("varbit", as_is, _bit_string),
    )
}
"""The types by name."""
