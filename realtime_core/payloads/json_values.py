"""Values as JSON: converts PostgreSQL's text of a value to the JSON that ``to_jsonb`` makes.

Integers and ``numeric`` keep every digit. NaN and the infinities, which JSON does not have, become
strings. Booleans, ``json``, ``jsonb`` and arrays become the same in JSON, and timestamps become
ISO 8601. A value of any other type is a string with its text.

The text is not checked: the database wrote it, in a session with fixed settings (DateStyle ISO,
TimeZone UTC, bytea_output hex).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Final, TypeAlias

from ..records import Column
from ..types.arrays import split_array

__all__ = ["Renderer", "renderer"]

Renderer: TypeAlias = Callable[[str], str]
"""Returns the JSON of a field that is not NULL, from its text."""

_CATALOG: Final = "pg_catalog"
_BOX_DELIMITER: Final = ";"
_ZONE_WITHOUT_MINUTES: Final = re.compile(r"(:\d\d(?:\.\d+)?[+-]\d\d)(?=$| )", re.ASCII)


def renderer(column: Column) -> Renderer:
    """Return the function that converts the values of a column to JSON."""
    name = column.type_name
    if column.type_schema == _CATALOG:
        if name in _RENDERERS:
            return _RENDERERS[name]
        if name.startswith("_"):
            delimiter = _BOX_DELIMITER if name == "_box" else ","
            return _array(_RENDERERS.get(name[1:], encode_basestring), delimiter)
    elif name.startswith("_"):
        # The stream has no more than the name that PostgreSQL gave the array's type.
        return _array_or_text
    return encode_basestring


def _as_it_is(text: str) -> str:
    return text


def _boolean(text: str) -> str:
    return "true" if text == "t" else "false"


def _number(text: str) -> str:
    # NaN, Infinity and -Infinity; nothing else ends with a letter.
    return f'"{text}"' if text[-1] in "Ny" else text


def _timestamp(text: str) -> str:
    return f'"{text.replace(" ", "T", 1)}"'


def _timestamptz(text: str) -> str:
    if text.endswith("+00"):
        return f'"{text[:-3].replace(" ", "T", 1)}+00:00"'
    return _timestamp(_ZONE_WITHOUT_MINUTES.sub(r"\1:00", text))


def _vector(element: Renderer) -> Renderer:
    def render(text: str) -> str:
        return f"[{','.join([element(item) for item in text.split()])}]"

    return render


_RENDERERS: Final[dict[str, Renderer]] = {
    "bool": _boolean,
    "float4": _number,
    "float8": _number,
    "int2": _as_it_is,
    "int4": _as_it_is,
    "int8": _as_it_is,
    "int2vector": _vector(_as_it_is),
    "json": _as_it_is,
    "jsonb": _as_it_is,
    "numeric": _number,
    "oidvector": _vector(encode_basestring),
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
}


def _array(element: Renderer, delimiter: str) -> Renderer:
    def render(text: str) -> str:
        elements, lengths, _ = split_array(text, delimiter)
        items = ["null" if each is None else element(each) for each in elements]
        if len(lengths) > 1:
            for length in lengths[:0:-1]:
                items = [
                    f"[{','.join(items[at : at + length])}]" for at in range(0, len(items), length)
                ]
        return f"[{','.join(items)}]"

    return render


_array_of_texts: Final = _array(encode_basestring, ",")


def _array_or_text(text: str) -> str:
    """Render an array of a type that somebody made, or a type that is merely named like one."""
    try:
        return _array_of_texts(text)
    except ValueError:
        return encode_basestring(text)
