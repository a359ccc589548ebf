"""Identity: the key by which a channel is known when its client comes back.

Stock clients say nothing of an earlier connection. They do have a parameter that the application
may choose, a token, and an address. The first of these that is there, and that the settings let
count, makes the key of a channel. The topic, the bindings of the join, and the subject of the token
are part of the key, too: nobody goes on where somebody else was.

A key is an HMAC. So it does not show who the client is, and nobody can make one up.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import attrs

from ..auth.authorizer import ConnectRequest
from ..config.choices import IdentityKind
from ..phoenix.joins import Binding

__all__ = ["LEAST_SESSION", "MOST_SESSION", "Identifier", "Key", "Visitor"]

LEAST_SESSION: Final = 16
"""Characters that the parameter ``session`` must have to count: fewer can be guessed."""
MOST_SESSION: Final = 128
"""Characters that the parameter ``session`` may have."""

_DIGEST_BYTES: Final = 16
_NAME_BYTES: Final = 8
_TOKENS: Final = ("apikey", "token")
"""Parameters of a handshake that change while the client stays the same."""


@attrs.frozen(weakref_slot=False)
class Key:
    """What a channel is known by when its client comes back."""

    digest: bytes
    is_exact: bool
    """Whether only one client has this key: its application has named a session."""
    whose: bytes = attrs.field(default=bytes(3 * _NAME_BYTES), eq=False)
    """Three names, one behind the other, of 8 bytes each: of the site and of the network from which
    the client came, and of whom its token is for. None can be chosen at will, as a session can; so
    these say who takes how much of the room for all."""

    def owner(self, level: int) -> bytes:
        """Return one of the names in :attr:`whose`: the first for level 0."""
        return self.whose[level * _NAME_BYTES : (level + 1) * _NAME_BYTES]


class Identifier:
    """Makes the keys of the channels of a server's clients.

    Args:
        secret: the key of the HMAC.
        kinds: which kinds count.
        claims: names of the claims that say who somebody is; the first that a token has counts.
    """

    def __init__(
        self, secret: bytes, *, kinds: Collection[IdentityKind], claims: Sequence[str]
    ) -> None:
        self._secret = secret
        self._kinds = frozenset(kinds)
        self._claims = tuple(claims)

    def visitor(self, request: ConnectRequest, address: str) -> Visitor:
        """Return who a connection's client is.

        Args:
            request: the connection's handshake.
            address: the client's, without a port; empty if it is not known.
        """
        session = request.query.get("session", "")
        if IdentityKind.SESSION not in self._kinds:
            session = ""
        origin = b""
        if IdentityKind.ADDRESS in self._kinds and address:
            headers = request.headers
            query = sorted(item for item in request.query.items() if item[0] not in _TOKENS)
            parts = [address, headers.get("user-agent"), headers.get("origin"), query]
            origin = self._digest(parts)
        return Visitor(
            session if LEAST_SESSION <= len(session) <= MOST_SESSION else "",
            self._claims if IdentityKind.CLAIMS in self._kinds else (),
            origin,
            b"".join(self._digest(["network", name])[:_NAME_BYTES] for name in _networks(address)),
            self._digest,
        )

    def _digest(self, parts: Any) -> bytes:
        text = json.dumps(parts, separators=(",", ":")).encode()
        return hmac.digest(self._secret, text, hashlib.sha256)[:_DIGEST_BYTES]


class Visitor:
    """The client of one connection. :meth:`Identifier.visitor` makes it."""

    __slots__ = ("_claims", "_digest", "_networks", "_origin", "_subject", "_whose", "session")

    def __init__(
        self, session: str, claims: Sequence[str], origin: bytes, networks: bytes, digest: Any
    ) -> None:
        self.session = session
        """The session that the handshake names; empty if none is named, or if it does not count."""
        self._claims = claims
        self._origin = origin
        self._networks = networks
        self._digest = digest
        # Of whom the last key was. Most connections have one token for all of their channels.
        self._subject: str | None = None
        self._whose = b""

    def key(
        self, claims: Mapping[str, Any], topic: str, bindings: Sequence[Binding] | None
    ) -> Key | None:
        """Return the key of a channel; None if nothing says who its client is.

        Args:
            claims: the claims of the channel's token; empty without a token.
            topic: the channel's topic.
            bindings: the bindings that the join asks for; None if the topic says what it asks for.
        """
        who = self._who(claims)
        if who is None:
            return None
        subject = _text(claims.get("sub")) or _text(claims.get("role"))
        asked = None
        if bindings is not None:
            asked = [
                [
                    *(one.event, one.schema, one.table, one.filter_text, one.leaves),
                    None if one.select is None else sorted(one.select),
                ]
                for one in bindings
            ]
        digest: bytes = self._digest([who, subject, topic, asked])
        if not self._whose or subject != self._subject:
            self._subject = subject
            self._whose = self._networks + self._digest(["subject", subject])[:_NAME_BYTES]
        return Key(digest, is_exact=bool(self.session), whose=self._whose)

    def _who(self, claims: Mapping[str, Any]) -> list[str] | None:
        if self.session:
            return [IdentityKind.SESSION.value, self.session]
        for name in self._claims:
            value = _text(claims.get(name))
            if value is not None:
                return [IdentityKind.CLAIMS.value, name, value]
        if self._origin:
            return [IdentityKind.ADDRESS.value, self._origin.hex()]
        return None


def _networks(address: str) -> tuple[str, str]:
    """Return the site and the network that an address is in.

    A network is what is given to one customer of a provider at least: an IPv4 address, or 64 bits
    of an IPv6 one. A site is what may be given to one customer: 48 bits of an IPv6 address
    (https://datatracker.ietf.org/doc/html/rfc6177), which are 65,536 networks.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        # A header may have anything.
        return address, address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return parsed.packed[:6].hex(), parsed.packed[:8].hex()
        parsed = parsed.ipv4_mapped
    return str(parsed), str(parsed)


def _text(claim: Any) -> str | None:
    """Return a claim that says who somebody is as text; None if it is not there, or says none."""
    match claim:
        case bool() | "":
            return None
        case str():
            return f"s{claim}"
        case int():
            return f"i{claim}"
        case _:
            return None
