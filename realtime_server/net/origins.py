"""Origins: which web pages may connect to the server.

ALLOWED_ORIGINS lists the pages that may, if it is set. A server that asks for no token needs more
than that.

A server on a loopback address cannot be reached from other machines, but any page that a browser on
the same machine shows may connect to it, and read what it sends. The browser says where the page
comes from (``Origin``, RFC 6454), and which name it has looked up (``Host``). A page can have its
own name resolve to 127.0.0.1 (DNS rebinding): then ``Host`` is that name. Programs that are no
browsers send no ``Origin``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

__all__ = ["is_allowed", "is_loopback", "why_refused"]

_MOST_SHOWN: Final = 100
"""Characters of a header that the log shows."""


def is_allowed(origin: str | None, allowed_origins: Collection[str]) -> bool:
    """Return whether ALLOWED_ORIGINS lets a page connect.

    Args:
        origin: of the page; None for programs that are no browsers, which always may.
        allowed_origins: ``scheme://host[:port]`` in lower case; empty: every page may.
    """
    return not allowed_origins or origin is None or origin.lower() in allowed_origins


def is_loopback(host: str) -> bool:
    """Return whether an address, or a name that resolves to it everywhere, is a loopback address.

    Args:
        host: without a port; an IPv6 address may be in brackets.
    """
    name = host.lower().removeprefix("[").removesuffix("]")
    # RFC 6761, section 6.3.
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        # The name of a network interface may follow an address.
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def why_refused(head: bytes, allowed_origins: Collection[str]) -> str | None:
    """Return why a request to a loopback address is refused, and what to do about it, or None.

    Args:
        head: the request's, without the blank line.
        allowed_origins: ``scheme://host[:port]`` in lower case: pages of these may connect.
    """
    host, origin = _header(head, b"host"), _header(head, b"origin")
    if host is not None:
        name = _name_of(host)
        names = {_name_of(one.partition("://")[2]) for one in allowed_origins}
        if not is_loopback(name) and name not in names:
            return (
                f"the request's Host is {_short(host)!r}, not a name of this machine's such as "
                "localhost; where that is meant, set SECURE_CHANNELS=true, or ALLOWED_ORIGINS to "
                "the origins of the pages that may connect"
            )
    if origin is None or origin in allowed_origins:
        return None
    if host is not None and origin.partition("://")[2] == host:
        return None
    return (
        f"a page of {_short(origin)!r} asked, and without tokens every page could read the "
        f"database; where that is meant, set ALLOWED_ORIGINS='[\"{_short(origin)}\"]'"
    )


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _name_of(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _header(head: bytes, wanted: bytes) -> str | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == wanted:
            return value.strip().decode("latin-1").lower()
    return None
