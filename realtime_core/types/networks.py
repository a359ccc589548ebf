"""Network addresses: inet, cidr, macaddr and macaddr8."""

from __future__ import annotations

import re
from ipaddress import ip_interface
from typing import Final, TypeAlias

from .base import Compare, DataType, UnreadableError

__all__ = ["NETWORKS"]

Address: TypeAlias = tuple[int, str, str]
"""The IP version, the bits of the network and all bits. In this order addresses compare as in
PostgreSQL, where a network comes before the addresses in it."""

_MAC: Final = re.compile(
    r"\s*(?:(?:[0-9a-f]{2}([:-]))(?:[0-9a-f]{2}\1){4}(?:[0-9a-f]{2}\1[0-9a-f]{2}\1)?[0-9a-f]{2}"
    r"|[0-9a-f]{6}[:-][0-9a-f]{6}|(?:[0-9a-f]{4}[.-]){2,3}[0-9a-f]{4}|[0-9a-f]{12}(?:[0-9a-f]{4})?"
    r")\s*",
    re.ASCII | re.IGNORECASE,
)
_SEPARATORS: Final = re.compile(r"[:.\s-]")
_SHORT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3}){0,2})(/(?:0|[1-9]\d?))", re.ASCII)
"""10/8 stands for 10.0.0.0/8."""
_ADDRESS: Final = re.compile(r"[0-9a-f.:]{1,50}(?:/(?:0|[1-9]\d{0,2}))?", re.ASCII | re.IGNORECASE)
"""The form of addresses that PostgreSQL reads. Python's ipaddress reads more, such
as 10.0.0.0/255.0.0.0."""


def _read(text: str) -> Address:
    try:
        interface = ip_interface(text)
    except ValueError:
        raise UnreadableError("it is not an address, as 192.168.0.1 or ::1/64 is") from None
    bits = f"{int(interface.ip):0{interface.max_prefixlen}b}"
    return interface.version, bits[: interface.network.prefixlen], bits


def _parse(text: str) -> Address:
    """Read what people write for an inet or a cidr, which PostgreSQL compares as inet."""
    short = _SHORT.fullmatch(text)
    if short is not None and int(short[2][1:]) <= 8 * (short[1].count(".") + 1):
        text = f"{short[1]}{'.0' * (3 - short[1].count('.'))}{short[2]}"
    if _ADDRESS.fullmatch(text) is None:
        raise UnreadableError("it is not an address, as 192.168.0.1 or ::1/64 is")
    return _read(text)


def _mac(text: str) -> str:
    if _MAC.fullmatch(text) is None:
        raise UnreadableError("it is not a MAC address, as 08:00:2b:01:02:03 is")
    return _SEPARATORS.sub("", text).lower()


def _macaddr(text: str) -> str:
    digits = _mac(text)
    if len(digits) != 12:
        raise UnreadableError("a macaddr has six bytes")
    return digits


def _macaddr8(text: str) -> str:
    digits = _mac(text)
    return digits if len(digits) == 16 else f"{digits[:6]}fffe{digits[6:]}"


def _inside(one: Address, other: Address) -> bool:
    """Say whether an address or network lies strictly within another network."""
    return one[0] == other[0] and len(one[1]) > len(other[1]) and one[1].startswith(other[1])


def _around(one: Address, other: Address) -> bool:
    return _inside(other, one)


def _overlap(one: Address, other: Address) -> bool:
    return one[0] == other[0] and (one[1].startswith(other[1]) or other[1].startswith(one[1]))


# For addresses << and >> mean containment. There is no @>.
_NETWORK_RELATIONS: Final[dict[str, Compare]] = {
    "<<": _inside,
    ">>": _around,
    "&&": _overlap,
}

NETWORKS: Final = {
    data_type.name: data_type
    for data_type in (
        DataType("inet", _read, _parse, relations=_NETWORK_RELATIONS),
        DataType("cidr", _read, _parse, relations=_NETWORK_RELATIONS),
        DataType("macaddr", _macaddr, _macaddr),
        DataType("macaddr8", _macaddr8, _macaddr8),
    )
}
"""The types by name."""
