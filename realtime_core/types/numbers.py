"""Numbers: integers, numeric, floats and money, and identifiers that consist of numbers."""

from __future__ import annotations

import math
import re
from decimal import Decimal, InvalidOperation
from struct import Struct
from typing import Any, Final

from ..lsn import LSN
from .base import GREATEST, DataType, TextReader, UnreadableError

__all__ = ["NUMBERS", "NUMERIC_SCALE", "parse_numeric"]

_INTEGER: Final = re.compile(
    r"([+-]?)(?:(\d+(?:_\d+)*)|0x((?:_?[0-9a-f])+)|0o((?:_?[0-7])+)|0b((?:_?[01])+))",
    re.ASCII | re.IGNORECASE,
)
_UNSIGNED: Final = re.compile(r"0|[1-9]\d{0,19}", re.ASCII)
_NUMERIC: Final = re.compile(
    r"[+-]?(?:\d+(?:_\d+)*(?:\.(?:\d+(?:_\d+)*)?)?|\.\d+(?:_\d+)*)(?:e[+-]?\d+(?:_\d+)*)?",
    re.ASCII | re.IGNORECASE,
)
_FLOAT: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_INFINITY: Final = re.compile(r"([+-]?)inf(?:inity)?", re.IGNORECASE)
_MONEY: Final = re.compile(r"(-?)\$?(\d{1,3}(?:,\d{3})+|\d{1,20})(?:\.(\d{1,2}))?", re.ASCII)
_TID: Final = re.compile(r"\((\d{1,10}),(\d{1,5})\)", re.ASCII)

_MOST_CENTS: Final = (1 << 63) - 1
_MOST_DIGITS: Final = 400
"""Characters of an integer: more than any value of a type has, and too few to take long."""
_NUMERIC_DIGITS: Final = 131_072
"""The most digits that a numeric has before the decimal point."""
NUMERIC_SCALE: Final = 16_383
"""The most digits that a numeric has behind the decimal point."""

_float4: Final = Struct("=f")


def _integer(low: int, high: int) -> TextReader:
    def parse(text: str) -> int:
        found = _INTEGER.fullmatch(text.strip())
        if found is None:
            raise UnreadableError("it is not an integer")
        if len(text) > _MOST_DIGITS:
            raise UnreadableError("it is out of range")
        sign, decimal, *others = found.groups()
        if decimal is not None:
            value = int(decimal)
        else:
            base, digits = next(
                (base, digits) for base, digits in zip((16, 8, 2), others, strict=True) if digits
            )
            value = int(digits.lstrip("_"), base)
        value = -value if sign == "-" else value
        if not low <= value <= high:
            raise UnreadableError(f"it is out of range, which is {low} to {high}")
        return value

    return parse


def _unsigned(high: int) -> TextReader:
    """Return a reader of unsigned integers.

    It refuses numbers with leading zeros, which PostgreSQL reads as octal for these types.
    """

    def parse(text: str) -> int:
        if _UNSIGNED.fullmatch(text.strip()) is None:
            raise UnreadableError("it is not a number without a sign")
        value = int(text)
        if value > high:
            raise UnreadableError(f"it is out of range, which is 0 to {high}")
        return value

    return parse


def _read_numeric(text: str) -> Any:
    return GREATEST if text == "NaN" else Decimal(text)


def parse_numeric(text: str) -> Any:
    """Read what people write for a numeric."""
    text = text.strip()
    if text.lower() == "nan":
        return GREATEST
    if (infinity := _INFINITY.fullmatch(text)) is not None:
        return Decimal(f"{infinity[1]}Infinity")
    if _NUMERIC.fullmatch(text) is None:
        raise UnreadableError("it is not a number")
    try:
        value = Decimal(text.replace("_", ""))
    except InvalidOperation:
        raise UnreadableError("it is out of range") from None
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    if not value:
        # Of a zero PostgreSQL cuts the digits behind the decimal point that numeric cannot hold.
        return Decimal(0)
    if value.adjusted() >= _NUMERIC_DIGITS or -exponent > NUMERIC_SCALE:
        raise UnreadableError("it is out of range")
    return value


def _read_float(text: str) -> Any:
    value = float(text)
    return value if value == value else GREATEST


def _parse_float(text: str) -> Any:
    text = text.strip()
    if text.lower() in ("nan", "+nan", "-nan"):
        return GREATEST
    if _INFINITY.fullmatch(text) is not None:
        return float(text)
    if _FLOAT.fullmatch(text) is None:
        raise UnreadableError("it is not a number")
    value = float(text)
    if math.isinf(value) or (value == 0 and re.search("[1-9]", text.lower().partition("e")[0])):
        raise UnreadableError("it is out of range")
    return value


def _read_float4(text: str) -> Any:
    value = float(text)
    return _float4.unpack(_float4.pack(value))[0] if value == value else GREATEST


def _parse_float4(text: str) -> Any:
    value = _parse_float(text)
    if value is GREATEST or math.isinf(value) or value == 0:
        return value
    # To round to float8 and then to float4 can go wrong half-way between two of the latter. So the
    # first rounding must be to odd.
    exact = Decimal(text.strip())
    if Decimal(value) != exact and not int(math.ldexp(math.frexp(value)[0], 53)) & 1:
        value = math.nextafter(value, math.inf if exact > Decimal(value) else -math.inf)
    try:
        rounded = _float4.unpack(_float4.pack(value))[0]
    except OverflowError:
        rounded = math.inf
    if math.isinf(rounded) or rounded == 0:
        raise UnreadableError("it is out of range")
    return rounded


def _money(text: str) -> int:
    found = _MONEY.fullmatch(text.strip())
    if found is None:
        raise UnreadableError('money is read as in "$1,234.50", which is lc_monetary C or en_US')
    cents = int(found[2].replace(",", "")) * 100 + int((found[3] or "").ljust(2, "0"))
    if cents > _MOST_CENTS:
        raise UnreadableError("it is out of range")
    return -cents if found[1] else cents


def _lsn(text: str) -> int:
    try:
        return LSN.parse(text)
    except ValueError:
        raise UnreadableError("it is not a WAL position, as 16/B374D848 is") from None


def _tid(text: str) -> tuple[int, int]:
    found = _TID.fullmatch(text)
    if found is None:
        raise UnreadableError("it is not the place of a row, as (0,1) is")
    return int(found[1]), int(found[2])


def _integers(name: str, bits: int) -> DataType:
    return DataType(name, int, _integer(-(1 << bits - 1), (1 << bits - 1) - 1))


def _identifiers(name: str, bits: int, *, ordered: bool = True) -> DataType:
    return DataType(name, int, _unsigned((1 << bits) - 1), ordered=ordered)


NUMBERS: Final = {
    data_type.name: data_type
    for data_type in (
        _integers("int2", 16),
        _integers("int4", 32),
        _integers("int8", 64),
        _identifiers("oid", 32),
        _identifiers("xid", 32, ordered=False),
        _identifiers("cid", 32, ordered=False),
        _identifiers("xid8", 64),
        DataType("numeric", _read_numeric, parse_numeric),
        DataType("float4", _read_float4, _parse_float4),
        DataType("float8", _read_float, _parse_float),
        DataType("money", _money, _money),
        DataType("pg_lsn", _lsn, _lsn),
        DataType("tid", _tid, _tid),
    )
}
"""The types by name."""
