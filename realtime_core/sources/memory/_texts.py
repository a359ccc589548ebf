"""Writes Python values as PostgreSQL's text."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from ...records import Column, Field, Unchanged
from ...types.columns import comparison_key

__all__ = ["field_of", "to_field"]

_KEYS_ARE_VALUES: Final = frozenset({"bool", "int2", "int4", "int8", "oid", "uuid"})
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST_DAY: Final = timedelta(days=1) // _MICROSECOND


def field_of(column: Column, value: Any) -> Field:
    """Return PostgreSQL's text of a value that is stored in a column.

    Raises:
        TypeError: if the value's type has no such text here.
        ValueError: if the column's type cannot hold it, saying why.
    """
    if column.type_name in ("json", "jsonb") and isinstance(value, bool | list):
        value = json.dumps(value, ensure_ascii=False)
    text = to_field(value)
    if not isinstance(text, str):
        return text
    if "\0" in text:
        raise ValueError("PostgreSQL has no text with the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it is no Unicode text: it has half of a surrogate pair") from None
    key = comparison_key(column, text)
    if column.type_schema != "pg_catalog":
        return text
    # A value that can be written in several ways is written as PostgreSQL does.
    if column.type_name in _KEYS_ARE_VALUES:
        return to_field(key)
    if column.type_name == "date" and 1 <= key <= date.max.toordinal():
        return to_field(date.fromordinal(key))
    if column.type_name in ("timestamp", "timestamptz"):
        since = key - _FIRST_DAY
        if 0 <= since <= (datetime.max - datetime.min) // _MICROSECOND:
            moment = datetime.min + since * _MICROSECOND
            zone = UTC if column.type_name == "timestamptz" else None
            return to_field(moment.replace(tzinfo=zone))
    return text


def to_field(value: Any) -> Field:
    """Return PostgreSQL's text of a value, with the settings that a source's session has.

    A string is taken to be that text already.

    Raises:
        TypeError: if the value's type has no such text here.
    """
    match value:
        case None | str() | Unchanged():
            return value
        case bool():
            return "t" if value else "f"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        case float() if math.isnan(value):
            return "NaN"
        case int() | Decimal() | UUID():
            return str(value)
        case float():
            return repr(value).removesuffix(".0")
        case bytes():
            return "\\x" + value.hex()
        case datetime() if value.tzinfo is not None:
            return _time(value.astimezone(UTC).replace(tzinfo=None).isoformat(" ")) + "+00"
        case datetime():
            return _time(value.isoformat(" "))
        case date():
            return value.isoformat()
        case time() if value.tzinfo is None:
            return _time(value.isoformat())
        case timedelta():
            return _interval(value)
        case list():
            return "{" + ",".join(map(_element, value)) + "}"
        case dict():
            return json.dumps(value, ensure_ascii=False)
    raise TypeError(
        f"a value of type {type(value).__name__} has no text here; give PostgreSQL's as a string"
    )


def _time(text: str) -> str:
    return text.rstrip("0") if "." in text else text


def _interval(value: timedelta) -> str:
    sign = "-" if value < timedelta(0) else ""
    value = abs(value)
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{value.microseconds:06}".rstrip("0") if value.microseconds else ""
    clock = f"{sign}{hours:02}:{minutes:02}:{seconds:02}{fraction}"
    if not value.days:
        return clock
    days = f"{sign}{value.days} day{'' if value.days == 1 and not sign else 's'}"
    return days if clock.lstrip("-") == "00:00:00" else f"{days} {clock}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        text = to_field(value)
        assert isinstance(text, str)
        return text
    text = to_field(value)
    if not isinstance(text, str):
        raise TypeError("an element of an array is a value or None")
    if text and text.upper() != "NULL" and not set(text) & set('{}",\\ \t\n\r\v\f'):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
