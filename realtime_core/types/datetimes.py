"""Dates and times: their keys are integers, of days or microseconds, or infinities.

They are read in ISO 8601 and in PostgreSQL's own ISO style, with years BC. Other texts that
PostgreSQL accepts for a date (``January 8, 1999``, ``1/8/1999``, ``now``) depend on settings or on
the clock, and are refused.

Source: "Date/Time Types" in the PostgreSQL documentation, and its limits.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, TypeAlias

from .base import DataType, TextReader, UnreadableError

__all__ = ["DATETIMES", "LAST_DATE"]

Moment: TypeAlias = int | float
"""Days or microseconds; a float for the infinities."""

_DAY: Final = 86_400_000_000
_DATE: Final = r"(?:(?P<year>\d{4,7})-(?P<month>\d{1,2})-(?P<day>\d{1,2})|(?P<compact>\d{8}))"
_TIME: Final = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d*))?)?"
    r"|(?P<clock>\d{6})(?:\.(?P<clock_fraction>\d*))?"
)
_ZONE: Final = (
    r"(?P<zone>z|utc|gmt|(?P<sign>[+-])(?:(?P<zone_clock>\d{4})"
    r"|(?P<zone_hour>\d{1,2})(?::(?P<zone_minute>\d\d)(?::(?P<zone_second>\d\d))?)?))"
)
_FLAGS: Final = re.ASCII | re.IGNORECASE
_ERA: Final = r"(?P<era>bc|ad)"
_MOMENT: Final = re.compile(
    rf"\s*{_DATE}(?:(?:T|\s+)(?:{_TIME})\s*{_ZONE}?|\s*(?:z|utc|gmt))?(?:\s+{_ERA})?\s*", _FLAGS
)
_CLOCK: Final = re.compile(rf"\s*T?(?:{_TIME})\s*{_ZONE}?\s*", _FLAGS)
_SPECIAL: Final = {"infinity": math.inf, "-infinity": -math.inf}
_LONGEST: Final = 128
"""The most characters that are read, as in PostgreSQL. The patterns try white space in many
ways."""
_CYCLE: Final = 146_097
"""Days in 400 years, after which the calendar repeats."""


def _days(year: int, month: int, day: int) -> int:
    """Return the ordinal of a date, as Python's ``date.toordinal``. Year 0 is 1 BC."""
    cycles, year_of_cycle = divmod(year, 400)
    ordinal = date(2000 + year_of_cycle, month, day).toordinal()
    return ordinal + (cycles - 5) * _CYCLE


_UNIX_EPOCH: Final = _days(1970, 1, 1)
_FIRST_DAY: Final = _days(-4713, 11, 24)
LAST_DATE: Final = _days(5_874_897, 12, 31)
_FIRST: Final = _FIRST_DAY * _DAY
_LAST: Final = (_days(294_276, 12, 31) + 1) * _DAY - 1


def _special(text: str) -> float | None:
    return _SPECIAL.get(text.strip().lower())


def _moment(text: str, spelling: str) -> tuple[int, int, int | None]:
    """Return the day, the microseconds of the day, and the time zone in microseconds east of
    UTC."""
    if text.strip().lower() == "epoch":
        return _UNIX_EPOCH, 0, 0
    found = _MOMENT.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise UnreadableError(f"write it as {spelling}, or infinity")
    compact = found["compact"]
    if compact:
        year, month, day = int(compact[:4]), int(compact[4:6]), int(compact[6:])
    else:
        year, month, day = int(found["year"]), int(found["month"]), int(found["day"])
    if year == 0:
        raise UnreadableError("there is no year 0")
    if (found["era"] or "").lower() == "bc":
        year = 1 - year
    try:
        days = _days(year, month, day)
    except ValueError:
        raise UnreadableError("there is no such day") from None
    return days, _microseconds(found), _offset(found)


def _microseconds(found: re.Match[str]) -> int:
    clock = found["clock"]
    if clock:
        hour, minute, second = int(clock[:2]), int(clock[2:4]), int(clock[4:])
        fraction = found["clock_fraction"]
    elif found["hour"]:
        hour, minute, second = int(found["hour"]), int(found["minute"]), int(found["second"] or 0)
        fraction = found["fraction"]
    else:
        return 0
    total = ((hour * 60 + minute) * 60 + second) * 1_000_000
    if fraction:
        exact = Decimal(f"0.{fraction}") * 1_000_000
        total += int(exact.to_integral_value(ROUND_HALF_EVEN))
    if hour > 24 or minute > 59 or second > 60 or total > _DAY:
        raise UnreadableError("there is no such time of day")
    return total


def _offset(found: re.Match[str]) -> int | None:
    if not found["zone"]:
        return None
    if not found["sign"]:
        return 0
    clock = found["zone_clock"]
    if clock:
        hour, minute, second = int(clock[:2]), int(clock[2:]), 0
    else:
        hour, minute, second = (
            int(found[name] or 0) for name in ("zone_hour", "zone_minute", "zone_second")
        )
    # PostgreSQL would read 053600-15:30 as a date.
    if found["clock"] and found["zone_minute"]:
        raise UnreadableError("write the time zone without a colon, too")
    if hour > 15 or minute > 59 or second > 59:
        raise UnreadableError("there is no such time zone")
    offset = ((hour * 60 + minute) * 60 + second) * 1_000_000
    return -offset if found["sign"] == "-" else offset


def _in_range(first: int, last: int, read: TextReader) -> TextReader:
    """Return a reader of what people write, which refuses values out of the type's range.

    Values that PostgreSQL writes are read without it: when PostgreSQL rounds the first or the last
    value of the type, the result may be out of range.

    Args:
        first: the type's first value, in the unit of its keys.
        last: its last value.
        read: reads the text.
    """

    def parse(text: str) -> Moment:
        moment: Moment = read(text)
        if not first <= moment <= last and not math.isinf(moment):
            raise UnreadableError("it is out of range")
        return moment

    return parse


def _date(text: str) -> Moment:
    special = _special(text)
    if special is not None:
        return special
    days, _, _ = _moment(text, "2026-11-24")
    return days


def _timestamp(text: str, *, zoned: bool = False) -> Moment:
    special = _special(text)
    if special is not None:
        return special
    spelling = "2026-11-24T05:36:00Z" if zoned else "2026-11-24T05:36:00"
    days, microseconds, offset = _moment(text, spelling)
    total = days * _DAY + microseconds
    # A time without a zone is in UTC. A timestamp without time zone ignores the zone, as in
    # PostgreSQL.
    if zoned and offset:
        total -= offset
    return total


def _timestamptz(text: str) -> Moment:
    return _timestamp(text, zoned=True)


# datetime.fromisoformat takes a fifth of the time, and reads everything except infinity, years BC
# and years from 10000 on.
def _read_timestamp(text: str) -> Moment:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _timestamp(text)
    if moment.tzinfo is not None:
        return _timestamp(text)
    return _from_datetime(moment)


def _read_timestamptz(text: str) -> Moment:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _timestamptz(text)
    if moment.tzinfo is not UTC:
        return _timestamptz(text)
    return _from_datetime(moment)


def _from_datetime(moment: datetime) -> int:
    seconds = (moment.hour * 60 + moment.minute) * 60 + moment.second
    return moment.toordinal() * _DAY + seconds * 1_000_000 + moment.microsecond


def _read_date(text: str) -> Moment:
    try:
        return date.fromisoformat(text).toordinal()
    except ValueError:
        return _date(text)


def _clock(text: str, spelling: str) -> re.Match[str]:
    found = _CLOCK.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise UnreadableError(f"write it as {spelling}")
    return found


def _time(text: str) -> int:
    found = _clock(text, "05:36:00")
    _offset(found)
    return _microseconds(found)


def _timetz(text: str) -> tuple[int, int]:
    """Return a key that is ordered by the time in UTC, then by the zone, from east to west."""
    found = _clock(text, "05:36:00+02")
    offset = _offset(found) or 0
    return _microseconds(found) - offset, -offset


DATETIMES: Final[dict[str, DataType]] = {
    data_type.name: data_type
    for data_type in (
        DataType("date", _read_date, _in_range(_FIRST_DAY, LAST_DATE, _date)),
        DataType("timestamp", _read_timestamp, _in_range(_FIRST, _LAST, _timestamp)),
        DataType("timestamptz", _read_timestamptz, _in_range(_FIRST, _LAST, _timestamptz)),
        DataType("time", _time, _time),
        DataType("timetz", _timetz, _timetz),
    )
}
"""The types by name."""
