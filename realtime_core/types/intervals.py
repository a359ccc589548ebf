"""Intervals: their keys are microseconds, with 30 days for a month, as PostgreSQL compares them.

Years, months, days and microseconds are read into a field each, as PostgreSQL does. A text is
refused if one of them is out of range, even if their sum is not.
"""

from __future__ import annotations

import math
import operator
import re
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final, TypeAlias

from .base import DataType, UnreadableError

__all__ = ["INTERVAL", "written_fields"]

_Parts: TypeAlias = tuple[int, int, int, int]
"""Years, months, days and microseconds."""

_SECOND: Final = 1_000_000
_DAY: Final = 86_400 * _SECOND
_MONTH: Final = 30 * _DAY
_YEAR: Final = 12 * _MONTH

_UNITS: Final = {
    **dict.fromkeys(("us", "usec", "usecs", "microsecond", "microseconds", "microsecon"), 1),
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds", "millisecon"), 1000),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), _SECOND),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60 * _SECOND),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600 * _SECOND),
    **dict.fromkeys(("d", "day", "days"), _DAY),
    **dict.fromkeys(("w", "week", "weeks"), 7 * _DAY),
    **dict.fromkeys(("mon", "mons", "month", "months"), _MONTH),
    **dict.fromkeys(("y", "yr", "yrs", "year", "years"), _YEAR),
    **dict.fromkeys(("dec", "decs", "decade", "decades"), 10 * _YEAR),
    **dict.fromkeys(("c", "cent", "century", "centuries"), 100 * _YEAR),
    **dict.fromkeys(("mil", "mils", "millennium", "millennia"), 1000 * _YEAR),
}
_ISO_DATE: Final = {"Y": _YEAR, "M": _MONTH, "W": 7 * _DAY, "D": _DAY}
_ISO_TIME: Final = {"H": 3600 * _SECOND, "M": 60 * _SECOND, "S": _SECOND}

_WRITTEN: Final = re.compile(
    r"(?:([+-]?\d+) years? ?)?(?:([+-]?\d+) mons? ?)?(?:([+-]?\d+) days? ?)?"
    r"(?:([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?",
    re.ASCII,
)
_NUMBER: Final = r"[+-]?(?:\d{1,20}(?:\.\d{1,40})?|\.\d{1,40})"
# Except in ISO 8601's form, PostgreSQL wants a digit behind a sign.
_VERBOSE_NUMBER: Final = r"(?:[+-]?\d{1,20}(?:\.\d{1,40})?|\.\d{1,40})"
_TOKEN: Final = re.compile(
    rf"\s*(?:(?P<sign>[+-]?)(?P<hour>\d{{1,10}}):(?P<minute>\d\d)(?::(?P<second>\d\d(?:\.\d{{0,40}})?))?"
    rf"|(?P<years>[+-]?\d{{1,9}})-(?P<months>\d{{1,2}})(?![\d.])"
    rf"|(?P<number>{_VERBOSE_NUMBER})\s*(?P<unit>[a-z]*))(?=\s|$)",
    re.ASCII | re.IGNORECASE,
)
_ISO: Final = re.compile(
    r"P(?P<date>(?:-?[\d.]{1,60}[YMWD])*)(?:T(?P<time>(?:-?[\d.]{1,60}[HMS])+))?", re.ASCII
)
_ISO_PART: Final = re.compile(rf"({_NUMBER})([A-Z])", re.ASCII)
_AGO: Final = re.compile(r"(?<=[a-z])\s+ago$", re.IGNORECASE)
_CLOCK_UNITS: Final = (3600 * _SECOND, 60 * _SECOND, _SECOND)

_LIMITS: Final[_Parts] = (1 << 31, 1 << 31, 1 << 31, 1 << 63)
_NOTHING: Final[_Parts] = (0, 0, 0, 0)
_LEAST: Final = (-(1 << 31), -(1 << 31), -(1 << 63))
_MOST: Final = ((1 << 31) - 1, (1 << 31) - 1, (1 << 63) - 1)
"""The months, days and microseconds by which PostgreSQL stores the infinities."""

_SPELLING: Final = "write it as 1 day 02:03:04, or as P1DT2H3M4S"


def written_fields(text: str) -> tuple[int, int, int] | None:
    """Return an interval's months, days and microseconds.

    Args:
        text: as PostgreSQL writes it with ``IntervalStyle`` ``postgres``:
            ``1 year 2 mons -3 days +04:05:06.789``.

    Returns:
        None if it is written in another way; so are the infinities.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None or not text:
        return None
    years, months, days, sign, hours, minutes, seconds, fraction = found.groups()
    microseconds = 0
    if hours:
        microseconds = ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * _SECOND
        if fraction:
            microseconds += int(fraction.ljust(6, "0"))
        if sign == "-":
            microseconds = -microseconds
    total_months = int(months) if months else 0
    if years:
        total_months += 12 * int(years)
    return total_months, int(days) if days else 0, microseconds


def _read(text: str) -> int | float:
    """Read what PostgreSQL writes. This takes a third of the time that any other text takes."""
    fields = written_fields(text)
    if fields is None:
        return _interval(text)
    months, days, microseconds = fields
    return months * _MONTH + days * _DAY + microseconds


def _interval(text: str) -> int | float:
    stripped = text.strip()
    match stripped.lower():
        case "infinity" | "+infinity" | "inf":
            return math.inf
        case "-infinity" | "-inf":
            return -math.inf
    found = _ISO.fullmatch(stripped)
    if found is not None and len(stripped) > 1:
        parts = _iso(found["date"], _ISO_DATE, _NOTHING)
        parts = _iso(found["time"] or "", _ISO_TIME, parts)
    else:
        parts = _verbose(stripped)
    years, months, days, microseconds = parts
    months += 12 * years
    if not -_LIMITS[1] <= months < _LIMITS[1]:
        raise UnreadableError("it is out of range")
    whole = (months, days, microseconds)
    if whole == _MOST:
        return math.inf
    return -math.inf if whole == _LEAST else months * _MONTH + days * _DAY + microseconds


def _iso(text: str, units: dict[str, int], total: _Parts) -> _Parts:
    at = 0
    for found in _ISO_PART.finditer(text):
        total = _sum(total, _scaled(found[1], units[found[2]]))
        at += len(found[0])
    if at < len(text):
        raise UnreadableError(_SPELLING)
    return total


def _verbose(text: str) -> _Parts:
    ago = _AGO.search(text)
    if ago is not None:
        text = text[: ago.start()]
    at = 1 if text.startswith("@") else 0
    total = _NOTHING
    seen: list[int] = []
    while at < len(text) or not seen:
        found = _TOKEN.match(text, at)
        if found is None:
            raise UnreadableError(_SPELLING)
        at = found.end()
        parts, units = _token(found, last=at == len(text), before_time=_TIME_FOLLOWS(text, at))
        total = _sum(total, parts)
        seen += units
        # Each unit may come once, so there are not many.
        if len(set(seen)) < len(seen):
            raise UnreadableError(f"it has a unit twice; {_SPELLING}")
    if ago is None:
        return total
    years, months, days, microseconds = total
    return _sum(_NOTHING, (-years, -months, -days, -microseconds))


def _sum(one: _Parts, other: _Parts) -> _Parts:
    years, months, days, microseconds = map(operator.add, one, other)
    for part, limit in zip((years, months, days, microseconds), _LIMITS, strict=True):
        if not -limit <= part < limit:
            raise UnreadableError("it is out of range")
    return years, months, days, microseconds


_TIME_FOLLOWS: Final = re.compile(r"\s*[+-]?\d+:", re.ASCII).match


def _token(
    found: re.Match[str], *, last: bool, before_time: object
) -> tuple[_Parts, tuple[int, ...]]:
    """Return the parts of a token, and the units that it has."""
    if found["hour"]:
        minute = int(found["minute"])
        second = Decimal(found["second"] or 0)
        if minute > 59 or second > 60:
            raise UnreadableError("there is no such time")
        time = (int(found["hour"]) * 60 + minute) * 60 * _SECOND + _rounded(second * _SECOND)
        return (0, 0, 0, -time if found["sign"] == "-" else time), _CLOCK_UNITS
    if found["years"]:
        months = int(found["months"])
        if months > 11:
            raise UnreadableError("the months behind years are 0 to 11")
        months = -months if found["years"].startswith("-") else months
        return (int(found["years"]), months, 0, 0), (_YEAR, _MONTH)
    unit = found["unit"].lower()
    if unit:
        if unit not in _UNITS:
            raise UnreadableError(f"it has an unknown unit; {_SPELLING}")
        scale = _UNITS[unit]
    elif before_time:
        # A number without a unit is days before a time, and seconds at the end.
        scale = _DAY
    elif last:
        scale = _SECOND
    else:
        raise UnreadableError(_SPELLING)
    return _scaled(found["number"], scale), (scale,)


def _scaled(number: str, unit: int) -> _Parts:
    """Return the parts that a number of units has.

    A fraction goes into smaller units, as in PostgreSQL; that of years into months only.
    """
    try:
        exact = Decimal(number)
    except InvalidOperation:
        raise UnreadableError(_SPELLING) from None
    if unit < _DAY:
        return 0, 0, 0, _rounded(exact * unit)
    whole = int(exact)
    fraction = exact - whole
    if unit >= _YEAR:
        years = unit // _YEAR
        return whole * years, _rounded(fraction * years * 12) if fraction else 0, 0, 0
    months, days = (whole, 0) if unit == _MONTH else (0, whole * (unit // _DAY))
    if not fraction:
        return 0, months, days, 0
    fraction *= unit // _DAY
    days += int(fraction)
    return 0, months, days, _rounded((fraction - int(fraction)) * _DAY)


def _rounded(number: Decimal) -> int:
    return int(number.to_integral_value(ROUND_HALF_EVEN))


INTERVAL: Final = DataType("interval", _read, _interval)
