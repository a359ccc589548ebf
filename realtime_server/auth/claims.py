"""Claims: a token's JSON, read and written without rounding its numbers.

Python's floats have 53 bits. Two tokens whose numbers become the same float would count as the same
claims, and policies would read a number that nobody has signed. So a number that is not an integer
keeps its text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn

__all__ = ["ExactNumber", "NamedTwiceError", "dump_claims", "load_claims"]


class NamedTwiceError(ValueError):
    """A JSON object has a member twice. Parsers differ in which of the two they take."""


class ExactNumber(Decimal):
    """A JSON number that is written with the same text as it was read from."""

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> ExactNumber:
        try:
            number = super().__new__(cls, text)
        except InvalidOperation:
            raise ValueError(f"{text} is too large a number") from None
        number.text = text
        return number


def load_claims(payload: str | bytes) -> Any:
    """Read JSON, each number as it is written.

    Raises:
        NamedTwiceError: if an object in it has a member twice.
        ValueError: if it is not JSON.
        RecursionError: if it is nested too deeply.
    """
    return _decoder.decode(payload if isinstance(payload, str) else payload.decode())


def dump_claims(claims: Mapping[str, Any]) -> str:
    """Write claims as JSON, with the members sorted, and each number as it was read.

    Raises:
        RecursionError: if they are nested too deeply.
    """
    return _dump(claims)


def _dump(value: Any) -> str:
    match value:
        case str():
            return encode_basestring(value)
        case ExactNumber(text=text):
            return text
        case Mapping():
            members = (f"{encode_basestring(name)}: {_dump(value[name])}" for name in sorted(value))
            return f"{{{', '.join(members)}}}"
        case list():
            return f"[{', '.join(map(_dump, value))}]"
        case _:
            return json.dumps(value)


def _integer(text: str) -> int | ExactNumber:
    # PostgreSQL's json, unlike its jsonb, keeps the sign.
    return ExactNumber(text) if text == "-0" else int(text)


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise NamedTwiceError("an object has a member twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_decoder: Final = json.JSONDecoder(
    parse_float=ExactNumber,
    parse_int=_integer,
    parse_constant=_refuse,
    object_pairs_hook=_object,
)
