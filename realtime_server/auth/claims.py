"""Claims: a token's JSON, read and written without a number being rounded.

Python's floats have 53 bits. Two tokens whose numbers become the same float would be one viewer
of row level security, and policies would read a number that nobody has signed. So a number that
is not simply an integer keeps its text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn

__all__ = ["ExactNumber", "NamedTwiceError", "dump_claims", "load_claims"]


class NamedTwiceError(ValueError):
    """An object that names a member twice: readers differ in which of the two they take."""


class ExactNumber(Decimal):
    """A JSON number that is written again as it was read."""

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> ExactNumber:
        try:
            number = super().__new__(cls, text)
        except InvalidOperation:
            raise ValueError(f"{text} is beyond all bounds") from None
        number.text = text
        return number


def load_claims(payload: str | bytes) -> Any:
    """Read JSON, each number as it is written.

    Raises:
        NamedTwiceError: if an object in it names a member twice.
        ValueError: if it is not JSON.
        RecursionError: if it is nested too deeply.
    """
    return _decoder.decode(payload if isinstance(payload, str) else payload.decode())


def dump_claims(claims: Mapping[str, Any]) -> str:
    """Write claims as JSON, members in one order, each number as it was read.

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
        raise NamedTwiceError("an object names a member twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decoder: Final = json.JSONDecoder(
    parse_float=ExactNumber,
    parse_int=_integer,
    parse_constant=_refuse,
    object_pairs_hook=_object,
)
