"""Verifying JSON Web Tokens (RFC 7519).

joserfc checks the signature, and authlib the times. Claims are compared here, because authlib
accepts a list that contains the expected value. The time is an argument. With which algorithms a
key may have signed a token is decided in :mod:`.keys_and_algorithms`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final
from urllib.parse import unquote

from authlib.oauth2.claims import JWTClaims
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jws import CompactSignature, JWSRegistry, extract_compact

from ..errors import TokenError
from ..phoenix.reasons import TokenReason
from .claims import ExactNumber, NamedTwiceError, dump_claims, load_claims
from .keys_and_algorithms import VerificationKey

__all__ = ["TokenVerifier"]

_LIMITS: Final = JWSRegistry()
"""Has joserfc's limits on a token's size."""
_MOST_KNOWN: Final = 500
"""Tokens whose claims are kept."""
_MOST_CHARACTERS: Final = 2048
"""Characters of one that is kept."""


class TokenVerifier:
    """Verifies tokens with a set of keys.

    Args:
        keys: the keys, any of which may have signed a token.
        validators: the claims that every token must have, with exactly these values.
    """

    def __init__(
        self, keys: Sequence[VerificationKey], validators: Mapping[str, Any] | None = None
    ) -> None:
        self._keys = tuple(keys)
        self._validators = dict(validators or {})
        # The claims of tokens that were verified lately, in the order of their last use. A client
        # sends its token when it connects, and again with each channel that it joins.
        self._known: dict[str, dict[str, Any]] = {}

    def verify(self, token: str, now: float) -> dict[str, Any]:
        """Return a token's claims.

        Percent-encoding and white space in the token are accepted. ``exp`` and ``nbf`` are checked
        if the token has them, without leeway; the caller decides whether it must have ``exp``.

        Args:
            token: the token, as the client sent it.
            now: the time, as seconds since 1970.

        Raises:
            TokenError: if the token is not valid. No message quotes the token.
        """
        claims = self._known.pop(token, None)
        if claims is None:
            claims = self._verify(token)
        if len(token) <= _MOST_CHARACTERS:
            self._known[token] = claims
            if len(self._known) > _MOST_KNOWN:
                del self._known[next(iter(self._known))]
        _check_times(claims, now)
        return claims

    def _verify(self, token: str) -> dict[str, Any]:
        """Return a token's claims, whatever time it is."""
        signature = _extract("".join(unquote(token).split()))
        self._check_signature(signature)
        claims = _load_claims(signature.payload)
        for name, expected in self._validators.items():
            if name not in claims or not _is_equal(claims[name], expected):
                raise TokenError(TokenReason.CLAIM.told(name=name))
        return claims

    def _check_signature(self, signature: CompactSignature) -> None:
        header = signature.headers()
        if not isinstance(header, dict):
            raise TokenError(TokenReason.HEADER.told())
        if header.get("typ") != "JWT":
            raise TokenError(TokenReason.TYPE.told())
        if "crit" in header:
            # RFC 7515, section 4.1.11: a critical extension has to be understood.
            raise TokenError(TokenReason.CRITICAL.told())
        algorithm, kid = header.get("alg"), header.get("kid")
        named = [key for key in self._keys if key.kid is not None and key.kid == kid]
        nameless = [key for key in self._keys if key.kid is None]
        candidates = named or (self._keys if kid is None else nameless)
        if not candidates:
            raise TokenError(TokenReason.KEY_ID.told())
        fitting = [key for key in candidates if algorithm in key.algorithms]
        if not fitting:
            raise TokenError(TokenReason.ALGORITHM.told())
        if not any(key.verifies(signature) for key in fitting):
            raise TokenError(TokenReason.SIGNATURE.told())


def _extract(token: str) -> CompactSignature:
    try:
        return extract_compact(token.encode(), registry=_LIMITS)
    except (JoseError, ValueError, RecursionError):
        raise TokenError(TokenReason.NO_TOKEN.told()) from None


def _load_claims(payload: bytes) -> dict[str, Any]:
    try:
        claims = load_claims(payload)
    except NamedTwiceError:
        raise TokenError(TokenReason.NAMED_TWICE.told()) from None
    except (ValueError, RecursionError):
        raise TokenError(TokenReason.NO_JSON.told()) from None
    if not isinstance(claims, dict):
        raise TokenError(TokenReason.NO_OBJECT.told())
    if b"\\u" in payload:
        try:
            # Half of a surrogate pair is not a character: PostgreSQL and the log refuse it.
            dump_claims(claims).encode()
        except UnicodeEncodeError:
            raise TokenError(TokenReason.HALF_CHARACTER.told()) from None
        except RecursionError:
            raise TokenError(TokenReason.NESTED_TOO_DEEPLY.told()) from None
    return claims


def _check_times(claims: dict[str, Any], now: float) -> None:
    exp, nbf = claims.get("exp"), claims.get("nbf", 0)
    if type(exp) is int and type(nbf) is int and nbf <= now < exp:
        # As nearly all are: what follows takes ten times as long.
        return
    # Not iat: many tokens have one that is a second ahead of the server's clock.
    times = {
        name: float(time) if isinstance(time, ExactNumber) else time
        for name, time in claims.items()
        if name in ("exp", "nbf")
    }
    try:
        JWTClaims(times, {}).validate(now=now, leeway=0)
    except ExpiredTokenError:
        raise TokenError(TokenReason.EXPIRED.told()) from None
    except JoseError:
        nbf = times.get("nbf")
        if isinstance(nbf, int | float) and nbf > now:
            raise TokenError(TokenReason.NOT_YET.told()) from None
        raise TokenError(TokenReason.NO_TIME.told()) from None


def _is_equal(value: Any, expected: Any) -> bool:
    """Compare two JSON values; Python itself would take true for 1."""
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            _is_equal(value[name], expected[name]) for name in value
        )
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(_is_equal, value, expected))
    if isinstance(expected, float):
        # Compare the number as it was written: the float 0.1 is not exactly 0.1.
        expected = Decimal(repr(expected))
    return bool(value == expected)
