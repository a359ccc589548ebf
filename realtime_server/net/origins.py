"""Local pages: which web pages may talk to a server that asks nobody for a token.

A server on a loopback address is out of strangers' reach, but not out of their pages': any page
that a browser on the same machine shows may connect to it, and read what it sends. A browser says
where its page is from (``Origin``, RFC 6454), and which name it has looked up (``Host``): a page
whose own name was made to mean 127.0.0.1 shows it there. Other programs send no ``Origin``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

__all__ = ["is_loopback", "why_refused"]

_MOST_SHOWN: Final = 100
"""Characters of a header in the log."""


def is_loopback(host: str) -> bool:
    """Say whether an address, or a name that resolves to one everywhere, is the machine's own.

    Args:
        host: without a port; an IPv6 address may be in brackets.
    """
    name = host.lower().removeprefix("[").removesuffix("]")
    # RFC 6761, section 6.3.
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        # An interface's name may stand behind it.
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def why_refused(head: bytes, allowed_origins: Collection[str]) -> str | None:
    """Return why a request to a loopback address is refused, and what to do; None if it is not.

    Args:
        head: the request's, without the blank line.
        allowed_origins: ``scheme://host[:port]`` in lower case, whose pages may connect.
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
