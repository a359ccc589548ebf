"""Keys that verify tokens, each pinned to the algorithms that it may be used with.

A token's header names its algorithm, so that name is only compared with the algorithms that the
key allows: a public key is never used as a shared secret, and no key allows ``none``. Of a JSON
Web Key (RFC 7517) only the public part is kept, and no message quotes a key.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, OctKey
from joserfc.jws import CompactSignature, JWSRegistry, validate_compact

__all__ = ["VerificationKey", "import_jwks", "import_secret"]

logger = logging.getLogger("realtime.auth")

_HMAC: Final = ("HS256", "HS384", "HS512")
_RSA: Final = ("RS256", "RS384", "RS512")
_RSA_PSS: Final = ("PS256", "PS384", "PS512")
_CURVES: Final = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    # RFC 8037 calls both EdDSA, RFC 9864 each by its curve.
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
    ("OKP", "Ed448"): ("EdDSA", "Ed448"),
}
_PUBLIC_MEMBERS: Final = frozenset({"kty", "k", "n", "e", "crv", "x", "y"})


class _Registry(JWSRegistry):
    """Allows the algorithms of one key, and header members that joserfc does not know."""

    def __init__(self, algorithms: tuple[str, ...]) -> None:
        super().__init__(algorithms=algorithms, strict_check_header=False)

    def get_alg(self, name: str) -> Any:
        # joserfc warns about EdDSA, which leaves the curve open; the key's algorithm names it.
        assert self.allowed is not None
        return super().get_alg(tuple(self.allowed)[-1] if name == "EdDSA" else name)


@attrs.frozen
class VerificationKey:
    """A key, and the algorithms that it verifies."""

    key: Key = attrs.field(repr=False)
    algorithms: tuple[str, ...]
    """The names that a token's header may give as ``alg``."""
    kid: str | None = None
    """The name that a token's header may give as ``kid``; None if the key has none."""

    def verifies(self, signature: CompactSignature) -> bool:
        """Return whether a signature was made with this key, and with one of its algorithms."""
        try:
            return validate_compact(signature, self.key, registry=_Registry(self.algorithms))
        except (JoseError, ValueError):
            return False


def import_secret(secret: str) -> VerificationKey:
    """Return a shared secret as a key for HS256, HS384 and HS512.

    Raises:
        ValueError: if it cannot be a shared secret; the message continues the variable's name.
    """
    with _warnings_logged("JWT_SECRET"):
        try:
            return VerificationKey(OctKey.import_key(secret), _HMAC)
        except ValueError:
            # joserfc refuses public keys: everybody who has the public key could sign with it.
            raise ValueError(
                "is empty or a public key; use a long random secret, and JWT_JWKS for public keys"
            ) from None


def import_jwks(jwks: Mapping[str, Any]) -> tuple[VerificationKey, ...]:
    """Return the keys of a JSON Web Key Set; keys that are not for signatures are left out.

    Args:
        jwks: the set, which has a list ``keys`` of objects.

    Raises:
        ValueError: if the set has no key that verifies signatures, or one that cannot be read;
            the message continues the variable's name.
    """
    keys = [
        key
        for number, member in enumerate(jwks["keys"], 1)
        if (key := _import_jwk(member, f"key {number}")) is not None
    ]
    if not keys:
        raise ValueError("has no key that verifies signatures; add an oct, RSA, EC or OKP key")
    return tuple(keys)


def _import_jwk(member: Mapping[str, Any], place: str) -> VerificationKey | None:
    kid = member.get("kid")
    if kid is not None:
        place = f"{place} (kid {kid!r})"
        if not isinstance(kid, str):
            raise ValueError(f"has a {place} that is no string")
    if member.get("use", "sig") != "sig":
        return None
    possible = _possible_algorithms(member)
    if possible is None:
        # RFC 7517, section 5: keys of unknown types are to be ignored.
        logger.warning("JWT_JWKS: %s is left out: its kty and crv are not supported", place)
        return None
    algorithm = member.get("alg")
    if algorithm is not None:
        if algorithm not in possible:
            raise ValueError(f"has a {place} whose alg is {algorithm!r}; use one of {possible}")
        pinned = (algorithm,) if algorithm != "EdDSA" else possible
    else:
        pinned = possible if member["kty"] != "RSA" else _RSA
    public = {name: member[name] for name in _PUBLIC_MEMBERS & member.keys()}
    with _warnings_logged(f"JWT_JWKS: {place}"):
        try:
            return VerificationKey(JWKRegistry.import_key(public), pinned, kid)
        except (JoseError, ValueError, TypeError, AttributeError):
            raise ValueError(f"has a {place} whose values cannot be read; export it anew") from None


def _possible_algorithms(member: Mapping[str, Any]) -> tuple[str, ...] | None:
    match member.get("kty"):
        case "oct":
            return _HMAC
        case "RSA":
            return _RSA + _RSA_PSS
        case "EC" | "OKP" as kind:
            curve = member.get("crv")
            return _CURVES.get((kind, curve)) if isinstance(curve, str) else None
    return None


@contextlib.contextmanager
def _warnings_logged(place: str) -> Iterator[None]:
    """Log joserfc's warnings about short keys."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        logger.warning("%s is weak: %s", place, warning.message)
