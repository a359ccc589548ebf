"""Intervals: microseconds, where a month has 30 days, as PostgreSQL compares them."""

from __future__ import annotations

import math
import re
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final

from ._kind import Kind, UnreadableError

__all__ = ["INTERVAL"]

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

_NUMBER: Final = r"[+-]?(?:\d{1,20}(?:\.\d{1,40})?|\.\d{1,40})"
# Outside ISO 8601's form PostgreSQL wants a digit behind a sign.
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

_SPELLING: Final = "write it as 1 day 02:03:04, or as P1DT2H3M4S"


def _interval(text: str) -> int | float:
    stripped = text.strip()
    match stripped.lower():
        case "infinity" | "+infinity" | "inf":
            return math.inf
        case "-infinity" | "-inf":
            return -math.inf
    found = _ISO.fullmatch(stripped)
    if found is not None and len(stripped) > 1:
        total = _iso(found["date"], _ISO_DATE) + _iso(found["time"] or "", _ISO_TIME)
    else:
        total = _verbose(stripped)
    return total


def _iso(text: str, units: dict[str, int]) -> int:
    total = at = 0
    for found in _ISO_PART.finditer(text):
        total += _scaled(found[1], units[found[2]])
        at += len(found[0])
    if at < len(text):
        raise UnreadableError(_SPELLING)
    return total


def _verbose(text: str) -> int:
    ago = _AGO.search(text)
    if ago is not None:
        text = text[: ago.start()]
    at = 1 if text.startswith("@") else 0
    total = 0
    seen: list[int] = []
    while at < len(text) or not seen:
        found = _TOKEN.match(text, at)
        if found is None:
            raise UnreadableError(_SPELLING)
        at = found.end()
        number, units = _token(found, last=at == len(text), before_time=_TIME_FOLLOWS(text, at))
        total += number
        seen += units
        # Each unit once: so there are not many.
        if len(set(seen)) < len(seen):
            raise UnreadableError(f"it has a unit twice; {_SPELLING}")
    return -total if ago is not None else total


_TIME_FOLLOWS: Final = re.compile(r"\s*[+-]?\d+:", re.ASCII).match


def _token(found: re.Match[str], *, last: bool, before_time: object) -> tuple[int, tuple[int, ...]]:
    """Return a token's microseconds, and the units that it has."""
    if found["hour"]:
        minute = int(found["minute"])
        second = Decimal(found["second"] or 0)
        if minute > 59 or second > 60:
            raise UnreadableError("there is no such time")
        time = (int(found["hour"]) * 60 + minute) * 60 * _SECOND + _scaled(second, _SECOND)
        return -time if found["sign"] == "-" else time, _CLOCK_UNITS
    if found["years"]:
        months = int(found["months"])
        if months > 11:
            raise UnreadableError("a year has no more than 11 months besides")
        months = -months if found["years"].startswith("-") else months
        return int(found["years"]) * _YEAR + months * _MONTH, (_YEAR, _MONTH)
    unit = found["unit"].lower()
    if unit:
        if unit not in _UNITS:
            raise UnreadableError(f"it has a unit that there is not; {_SPELLING}")
        scale = _UNITS[unit]
    elif before_time:
        # A number alone is days before a time, and seconds at the end.
        scale = _DAY
    elif last:
        scale = _SECOND
    else:
        raise UnreadableError(_SPELLING)
    return _scaled(found["number"], scale), (scale,)


def _scaled(number: str | Decimal, unit: int) -> int:
    """Return a number of units in microseconds; of years only whole months count."""
    try:
        exact = Decimal(number)
    except InvalidOperation:
        raise UnreadableError(_SPELLING) from None
    if unit >= _YEAR:
        months = (exact * (unit // _MONTH)).to_integral_value(ROUND_HALF_EVEN)
        total = int(months) * _MONTH
    else:
        total = int((exact * unit).to_integral_value(ROUND_HALF_EVEN))
    # An interval has months and days of 32 bits, microseconds of 64.
    most = (1 << 31) * (_MONTH if unit >= _MONTH else _DAY) if unit >= _DAY else 1 << 63
    if not -most < total < most:
        raise UnreadableError("it is out of range")
    return total


INTERVAL: Final = Kind("interval", _interval, _interval)
