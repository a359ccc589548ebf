"""ClientAddresses: finds the address of a client behind a trusted proxy.

A proxy names the address that a request came to it from in a header: ``X-Forwarded-For`` and its
like, which have a list of addresses, or ``Forwarded`` (RFC 7239). Each proxy adds one at the end of
the list; what is before that is what came with the request, and anybody may have written it. So
the list is read from its end, and only as far as the addresses are those of proxies that are
trusted: the first that is none is the client's. A header from anybody else is not read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

__all__ = ["ClientAddresses"]

logger = logging.getLogger("realtime.listener")

_Address = IPv4Address | IPv6Address

_MOST_SHOWN: Final = 100
"""Characters of a header that the log shows."""
# An address with a port: 192.0.2.1:4711, [2001:db8::1]:4711, or brackets without one.
_WITH_PORT: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^:]+))(?::[0-9]{1,5})?")
# A parameter of Forwarded, and what ends it. RFC 7239, section 4; token and quoted-string are those
# of RFC 9110, sections 5.6.2 and 5.6.4.
_PARAMETER: Final = re.compile(
    r"[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    r'(?:([!#$%&\'*+.^_`|~0-9A-Za-z-]+)|"((?:[^"\\]|\\.)*)"))?[ \t]*(;|,|\Z)'
)


class ClientAddresses:
    """Finds the addresses of clients in the header of trusted proxies.

    Args:
        header: the name of the header; None: none is read.
        trusted: the networks of the proxies whose header is read.
    """

    def __init__(self, header: str | None, trusted: Iterable[str]) -> None:
        self._header = (header or "").lower().encode("ascii")
        self._trusted = [ip_network(network) for network in trusted]

    def find(self, head: bytes, peer: str) -> str | None:
        """Return the address of the client whose request a trusted proxy passes on.

        None says that it is the peer's own, as there is no trusted proxy, or that cannot be told:
        the proxy has set no header, or none that can be read, which is logged.

        Args:
            head: the request's, without the blank line.
            peer: address of the other end of the connection.
        """
        if not self._trusted or not self._is_trusted(_parse(peer)):
            return None
        text = ",".join(self._values(head))
        if not text:
            return None
        found: _Address | None = None
        for entry in reversed(_split(text, is_rfc7239=self._header == b"forwarded")):
            address = _parse(entry)
            if address is None:
                logger.info(
                    "no address can be read from the end of %r (FORWARDED_HEADER): what %s passes "
                    "on counts as a request by %s",
                    text[-_MOST_SHOWN:],
                    peer,
                    found or peer,
                )
                break
            found = address
            if not self._is_trusted(address):
                break
        return None if found is None else str(found)

    def _is_trusted(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)

    def _values(self, head: bytes) -> Iterator[str]:
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == self._header:
                yield value.decode("latin-1").strip(" \t")


def _split(text: str, *, is_rfc7239: bool) -> list[str]:
    """Return what a header has for addresses; a text is empty where it has something else."""
    if not is_rfc7239:
        return [entry.strip(" \t") for entry in text.split(",")]
    addresses: list[str] = []
    element: str | None = None
    start = 0
    while match := _PARAMETER.match(text, start):
        name, token, quoted, end = match.groups()
        if name is not None and name.lower() == "for":
            element = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        if end != ";":
            addresses.append(element or "")
            element = None
        if not end:
            return addresses
        start = match.end()
    # Not even the end can be trusted: a quote that the client opened may reach as far.
    return [""]


def _parse(text: str) -> _Address | None:
    """Read an address, with a port or without; the interface of a link-local one is left out."""
    match = _WITH_PORT.fullmatch(text)
    try:
        address = ip_address((match[1] or match[2]) if match else text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    # A socket that takes both families has IPv4 clients as ::ffff:192.0.2.1.
    return address.ipv4_mapped or IPv6Address(int(address))
